"""Checkpoints: a folder is one when its manifest says so, and its manifest is written last.

Every rank writes its part into one partial folder of the storage; rank 0 records the size and
SHA-256 of every file, then moves the folder to its final name. What a run resumes from is the
newest folder that verifies on every rank, found by looking: no pointer file, no framework's own
record is trusted.
"""

import hashlib
import json
import logging
import shutil
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from embre.durable import sync
from embre.engine import Engine
from embre.faults import fault_point
from embre.loader import Loader
from embre.world import World

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
PREFIX = "step-"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used; the message names it and the remedy."""


@dataclass(frozen=True, slots=True)
class CheckpointManifest:
    """What a checkpoint is: files by relative path with (bytes, SHA-256), and where the run was."""

    step: int
    world_size: int
    fingerprint: str
    loader: dict[str, Any]
    files: dict[str, tuple[int, str]]


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoints of one run. `fingerprint` is that of its config and data."""

    folder: Path
    world: World
    fingerprint: str
    keep: int

    def save(self, step: int, engine: Engine, loader: Loader) -> Path:
        """Commit the state after `step` steps; returns the checkpoint's folder."""
        token = self.world.gather(uuid.uuid4().hex[:8])[0]
        partial = self.folder / f"{PREFIX}{step:09d}.partial-{token}"
        final = self.folder / f"{PREFIX}{step:09d}"
        partial.mkdir(parents=True, exist_ok=True)
        engine.save(partial)
        fault_point("checkpoint_written")
        merged: dict[str, Any] = {}
        for state in self.world.gather(loader.state()):
            merged.update(state)
        if self.world.rank == 0:
            self._commit(partial, final, step, merged)
        self.world.wait()
        fault_point("checkpoint_committed")
        return final

    def restore(self, engine: Engine, loader: Loader) -> int:
        """Load the newest checkpoint that all ranks find sound; returns its step, 0 without one.

        Raises CheckpointError where there are checkpoints and none is sound, or where the newest
        belongs to another config, data or number of workers.
        """
        # Rank 0 looks for all: a network file system may show each rank another moment.
        found = self.world.gather(_committed(self.folder))[0]
        for path in reversed(found):
            problems = [p for p in self.world.gather(_verify(path, self.world)) if p]
            if problems:
                log.warning("checkpoint %s is damaged, trying an older one: %s", path, problems[0])
                continue
            manifest = read_manifest(path)
            self._check(path, manifest, engine.any_world_size)
            engine.load(path)
            loader.restore(manifest.loader)
            return manifest.step
        if found:
            raise CheckpointError(
                f"{self.folder}: none of its {len(found)} checkpoints is sound; "
                "restore the folder from a copy, or start under another name"
            )
        return 0

    def _check(self, path: Path, manifest: CheckpointManifest, any_world_size: bool) -> None:
        if manifest.fingerprint != self.fingerprint:
            raise CheckpointError(
                f"{path}: made with another config or other data; give the run another name, "
                "or restore the config it was started with"
            )
        if manifest.world_size != self.world.size and not any_world_size:
            raise CheckpointError(
                f"{path}: made by {manifest.world_size} workers, this run has {self.world.size}; "
                f"resume with launch.workers={manifest.world_size}"
            )

    def _commit(self, partial: Path, final: Path, step: int, loader: dict[str, Any]) -> None:
        files = {}
        for path in sorted(p for p in partial.rglob("*") if p.is_file()):
            sync(path)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            files[str(path.relative_to(partial))] = (path.stat().st_size, digest)
        manifest = CheckpointManifest(step, self.world.size, self.fingerprint, loader, files)
        (partial / MANIFEST).write_text(json.dumps(asdict(manifest), indent=1))
        sync(partial / MANIFEST)
        if final.exists():  # a damaged one that a restart went back behind
            shutil.rmtree(final)
        partial.rename(final)
        sync(self.folder)
        self._clean(final)

    def _clean(self, newest: Path) -> None:
        """Remove what no resume will ask for: old checkpoints, damaged ones that a restart went
        back behind, and what a killed save left."""
        found = _committed(self.folder)
        at = found.index(newest)
        for path in [*found[: max(0, at + 1 - self.keep)], *found[at + 1 :]]:
            shutil.rmtree(path)
        for path in self.folder.glob(f"{PREFIX}*.partial-*"):
            shutil.rmtree(path)


def _committed(folder: Path) -> list[Path]:
    """The folders that bear a checkpoint's final name, oldest first."""
    return sorted(p for p in folder.glob(f"{PREFIX}*") if ".partial" not in p.name)


def read_manifest(path: Path) -> CheckpointManifest:
    """The manifest of a checkpoint folder."""
    values = json.loads((path / MANIFEST).read_text())
    files = {name: (size, digest) for name, (size, digest) in values.pop("files").items()}
    return CheckpointManifest(files=files, **values)


def _verify(path: Path, world: World) -> str:
    """What is wrong with a checkpoint, or ''. The ranks share its files among them."""
    try:
        files = read_manifest(path).files
    except (OSError, ValueError, TypeError, KeyError) as error:
        return f"no manifest that can be read ({error})"
    for name, (size, digest) in sorted(files.items())[world.rank :: world.size]:
        file = path / name
        if not file.is_file() or file.stat().st_size != size:
            return f"{name} is missing or not {size} bytes long"
        if hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            return f"{name} has another SHA-256 than its manifest says"
    return ""
