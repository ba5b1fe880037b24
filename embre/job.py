"""A job: a run's config and folder as they are handed to every rank."""

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
    """What a rank is told. `folder` is the run's, seen by all ranks; `handle` its MLflow run."""

    config: Config
    folder: Path
    handle: RunHandle | None

    def fingerprint(self, *data_digests: str) -> str:
        """SHA-256 over the config, the backbone and the data: a resumed run must have the same."""
        parts = (self.config.fingerprint(), folder_digest(self.config.encoder.path), *data_digests)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
