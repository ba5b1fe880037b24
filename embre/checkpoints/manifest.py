"""The manifest of a checkpoint, and the verification of its files against it."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from embre.world import World

FORMAT = 6  # raised also when the drawing of masks or the fingerprint changes
MANIFEST = "manifest.json"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used or written; the message names it and the remedy."""


@dataclass(frozen=True, slots=True)
class CheckpointManifest:
    """Files of a checkpoint by relative path with (bytes, SHA-256), and the state of the run."""

    step: int
    world_size: int
    fingerprint: str
    loader: dict[str, Any]
    files: dict[str, tuple[int, str]]


class Flaw(NamedTuple):
    """Why a checkpoint is skipped; `may_pass` marks a read error that may be transient."""

    why: str
    may_pass: bool = False


def read_manifest(path: Path) -> CheckpointManifest:
    """Read the manifest of a checkpoint folder. Raises CheckpointError if it has another format."""
    values = json.loads((path / MANIFEST).read_text())
    if values.pop("format", 1) != FORMAT:
        raise CheckpointError(
            f"{path}: written by another version of embre; finish the run with that version, or "
            "start under another name"
        )
    files = {name: (size, digest) for name, (size, digest) in values.pop("files").items()}
    return CheckpointManifest(files=files, **values)


def verify(path: Path, world: World) -> Flaw | None:
    """The flaw of a checkpoint, None if this rank's share of its files is intact."""
    try:
        files = read_manifest(path).files
        for name, (size, digest) in sorted(files.items())[world.rank :: world.size]:
            file = path / name
            if file.stat().st_size != size:
                return Flaw(f"the size of {name} is not {size} bytes")
            if sha256_of(file) != digest:
                return Flaw(f"the SHA-256 of {name} is not that of the manifest")
    except FileNotFoundError as error:
        return Flaw(f"{Path(error.filename).name} is missing")
    except OSError as error:
        return Flaw(f"it cannot be read ({error})", may_pass=True)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return Flaw(f"its manifest cannot be read ({error})")
    return None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
