"""The files that record the origin of runs and models, and the digest of a folder."""

import hashlib
import json
from pathlib import Path
from typing import Any

CONFIG = "config.yaml"  # in a run's folder: its resolved config
LINEAGE = "embre.json"  # beside a model's weights
CARD = "README.md"  # beside them too; users may edit it


def read_lineage(folder: str | Path) -> dict[str, Any]:
    """The lineage recorded in a model's folder; empty if there is none."""
    path = Path(folder) / LINEAGE
    return json.loads(path.read_text()) if path.exists() else {}


def folder_digest(path: str | Path) -> str:
    """SHA-256 over all files below a folder, except cards, or of a single file."""
    digest = hashlib.sha256()
    files = [Path(path)] if Path(path).is_file() else sorted(Path(path).rglob("*"))
    for file in files:
        if file.is_file() and file.name != CARD:
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()
