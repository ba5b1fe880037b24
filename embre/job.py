"""A job: what every rank of a run receives."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from embre.config import RunConfig
from embre.provenance import folder_digest
from embre.tracking.runs import RunHandle

Config = TypeVar("Config", bound=RunConfig)


@dataclass(frozen=True, slots=True)
class Job(Generic[Config]):
    """A run's config, its folder (shared by all ranks) and the handle of its MLflow run."""

    config: Config
    folder: Path
    handle: RunHandle | None

    def fingerprint(self, *data_digests: str) -> str:
        """SHA-256 over config, backbone and data, which must be the same in a resumed run."""
        parts = (self.config.fingerprint(), folder_digest(self.config.encoder.path), *data_digests)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
