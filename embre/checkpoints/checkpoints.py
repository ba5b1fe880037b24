"""Saves and restores the checkpoints of a run. The manifest, written last, commits a checkpoint.

    save ─copies the state─▶ training continues
      every rank, in a thread: rank-NNN.safetensors ─▶ rank-NNN.json, its size and SHA-256
      rank 0, when all notes are there: manifest.json ─▶ the folder is renamed to its final name

A run resumes from the newest folder that all ranks find intact. It is found by scanning: neither a
pointer file nor a framework's own record is trusted. The state is keyed by parameter name, so any
number of ranks can load it.
"""

import logging
import shutil
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from embre import watchdog
from embre.atomic_files import PERMANENT_ERRNOS
from embre.checkpoints.folder import PREFIX, committed_in, lost, step_of
from embre.checkpoints.lease import Lease
from embre.checkpoints.manifest import CheckpointError, CheckpointManifest, read_manifest, verify
from embre.checkpoints.parts import StoredState
from embre.checkpoints.saving import Save
from embre.engines.engine import Engine
from embre.loader import Loader
from embre.world import World

log = logging.getLogger(__name__)

REMEDY = "Free space or repair the storage and run the same command again"
SETTLE_S = 10.0  # not longer: a killed rank never writes its part
WHY_DRIFTED = "for example after a GPU or memory error, or on hardware that rounds differently"


class NotWritten(RuntimeError):
    """A checkpoint could not be written, for a reason that may be transient."""


@dataclass(slots=True)
class Checkpoints:
    """The checkpoints of one run. `fingerprint` is that of its config and data.

    Rank 0 waits at most `timeout_s` for the others to have written their parts.
    """

    folder: Path
    world: World
    fingerprint: str
    keep: int
    timeout_s: float = 1800.0
    _lease: Lease = field(init=False)  # taken by `restore`
    _save: Save | None = None  # in progress, or to be asked how it ended
    _missed: bool = False  # whether the save before it failed
    _skipped: list[Path] = field(default_factory=list)  # by `restore`
    _damaged: list[Path] = field(default_factory=list)  # those of them that may be removed

    def save(
        self,
        step: int,
        engine: Engine,
        loader: Loader,
        committed: Callable[[int], None] = lambda step: None,
        missed: Callable[[int, str], None] = lambda step, why: None,
    ) -> None:
        """Copy the state after `step` steps; it is written and committed while training continues.

        Rank 0 calls `committed` from a thread after the commit. Waits for the previous save and
        raises its failure on every rank: CheckpointError if permanent, TakenOver if another attempt
        has begun, NotWritten for the second transient failure in a row; the first is logged as a
        warning, and `missed` is called with its step.
        """
        before = self._save
        why = self._join(go_on=not self._missed)
        if before and why:
            log.warning("%s; training continues", why)
            with suppress(OSError):  # the storage may still fail
                missed(before.step, why)
        self._missed = bool(why)
        state = engine.state()
        parts = self.world.all_gather((uuid.uuid4().hex[:8], loader.state(), engine.checksum()))
        _refuse_drift(self.folder, step, [checksum for *_, checksum in parts])
        merged = {stream: at for _, part, _ in parts for stream, at in part.items()}
        partial = self.folder / f"{PREFIX}{step:09d}.partial-{parts[0][0]}"
        manifest = CheckpointManifest(step, self.world.size, self.fingerprint, merged, {})
        conclude = (self._clean, lambda final: committed(step))
        self._save = Save(
            partial,
            manifest,
            self.world.rank,
            self._lease,
            self.timeout_s,
            self._skipped,
            conclude,
        )
        self._save.start(state)

    def finish(self) -> None:
        """Wait until the last save is committed on every rank; raises as `save` does, but for the
        first transient failure too."""
        self._join(go_on=False)

    def settle(self) -> None:
        """Wait at most SETTLE_S for a save in progress, before this process exits."""
        if self._save is not None:
            self._save.join(SETTLE_S)

    def restore(
        self,
        engine: Engine,
        loader: Loader,
        on_skipped: Callable[[int, str], None] = lambda step, why: None,
        last_saved: int = 0,
    ) -> int:
        """Load the newest checkpoint that all ranks find intact; returns its step, 0 without one.

        `on_skipped` is called for each newer one. `last_saved` is the last step that rank 0 knows
        to be saved, 0 if none. From here on no earlier attempt at this run can commit. Raises
        CheckpointError if no checkpoint is intact, if all are missing although one was saved, or if
        the newest belongs to another config or data.
        """
        self._lease = Lease(self.folder, self.world.all_gather(uuid.uuid4().hex)[0])
        if self.world.rank == 0:
            self._lease.take()
        # Rank 0 scans for all: on a network file system each rank may see another state.
        found, last_saved = self.world.all_gather((committed_in(self.folder), last_saved))[0]
        if last_saved and not found:
            raise CheckpointError(lost(self.folder, last_saved))
        for path in reversed(found):
            flaws = [flaw for flaw in self.world.all_gather(verify(path, self.world)) if flaw]
            if flaws:
                on_skipped(step_of(path), f"{path}: {flaws[0].why}")
                self._skipped.append(path)
                if not all(flaw.may_pass for flaw in flaws):
                    self._damaged.append(path)
                continue
            manifest = read_manifest(path)
            if manifest.fingerprint != self.fingerprint:
                raise CheckpointError(
                    f"{path}: made with another config or other data; give the run another name, "
                    "or restore the config it was started with"
                )
            engine.load_state(StoredState.open([path / name for name in manifest.files]))
            loader.restore(manifest.loader)
            return manifest.step
        if found:
            raise CheckpointError(
                f"{self.folder}: none of its {len(found)} checkpoints is intact; "
                "restore the folder from a copy, or start under another name"
            )
        return 0

    def _join(self, go_on: bool) -> str:
        """Wait until every rank has finished the last save; a failure on any rank is raised on all.

        If it is transient and the run may `go_on`, its message is returned instead.
        """
        save, self._save = self._save, None
        with watchdog.extended_limit(self.timeout_s):
            mine = None
            if save is not None:
                save.join()
                mine = self._verdict(save)
            faults = [one for one in (mine, *self.world.all_gather(mine)) if one]
        for fault in faults:
            if not isinstance(fault, NotWritten):
                raise fault
        if not faults:
            return ""
        if go_on:
            return str(faults[0])
        raise NotWritten(f"{faults[0]}. {REMEDY}") from faults[0]

    def _verdict(self, save: Save) -> Exception | None:
        """How a save failed on this rank, if it did: NotWritten if that may be transient."""
        fault = save.fault
        if fault is None:
            return None
        with suppress(OSError):
            if overtaken := self._lease.overtaken(self.folder):  # it may have removed the files
                return overtaken
        if isinstance(fault, CheckpointError):
            return fault
        why = (
            f"{self.folder}: the checkpoint of step {save.step} could not be written "
            f"({fault}); earlier ones are unchanged"
        )
        passes = isinstance(fault, OSError) and fault.errno not in PERMANENT_ERRNOS
        error = NotWritten(why) if passes else CheckpointError(f"{why}. {REMEDY}")
        error.__cause__ = fault
        return error

    def _clean(self, newest: Path) -> None:
        """Remove old checkpoints, damaged ones that this attempt skipped, and remains of killed
        saves. Any other newer checkpoint belongs to a successor and is kept."""
        if self._lease.overtaken(newest):
            return
        found = committed_in(self.folder)
        at = found.index(newest)
        damaged = [path for path in found[at + 1 :] if path in self._damaged]
        for path in [*found[: max(0, at + 1 - self.keep)], *damaged]:
            shutil.rmtree(path)
        for path in self.folder.glob(f"{PREFIX}*.partial-*"):
            shutil.rmtree(path, ignore_errors=True)  # a surviving rank may still write there


def _refuse_drift(folder: Path, step: int, checksums: list[int]) -> None:
    """Raise CheckpointError if the weights that ranks replicate differ."""
    (usual, times), *rest = Counter(checksums).most_common(2)
    if rest and rest[0][1] == times:
        raise CheckpointError(
            f"{folder}: after step {step} the weights differ between ranks, {WHY_DRIFTED}, without "
            "a majority; nothing was saved. Run the same command again to resume from the previous "
            "checkpoint"
        )
    if others := [rank for rank, checksum in enumerate(checksums) if checksum != usual]:
        ranks = ", ".join(map(str, others))
        raise CheckpointError(
            f"{folder}: after step {step} the weights of rank {ranks} differ from the others, "
            f"{WHY_DRIFTED}; nothing was saved. Run the same command again to resume from the "
            "previous checkpoint; if it recurs, exclude the machine of that rank"
        )
