"""A job: a run's config and folder as they are handed to every rank."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from embre.config import RunConfig
from embre.tracking.runs import RunHandle

CONFIG = "config.yaml"  # in a run's folder: what it was told, resolved
LINEAGE = "embre.json"  # beside a model's weights: what it came from
CARD = "README.md"  # beside them too: for people, who may edit it

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


def read_lineage(folder: str | Path) -> dict[str, Any]:
    """What a model came from, nothing of one that others made."""
    path = Path(folder) / LINEAGE
    return json.loads(path.read_text()) if path.exists() else {}


def folder_digest(path: str | Path) -> str:
    """SHA-256 over all files in a folder and below, but for cards; or of a single file."""
    digest = hashlib.sha256()
    files = [Path(path)] if Path(path).is_file() else sorted(Path(path).rglob("*"))
    for file in files:
        if file.is_file() and file.name != CARD:
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()
