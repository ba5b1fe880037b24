"""Where a run and its models came from: the files that say so, and the digest of a folder."""

import hashlib
import json
from pathlib import Path
from typing import Any

CONFIG = "config.yaml"  # in a run's folder: what it was told, resolved
LINEAGE = "embre.json"  # beside a model's weights: what it came from
CARD = "README.md"  # beside them too: for people, who may edit it


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
