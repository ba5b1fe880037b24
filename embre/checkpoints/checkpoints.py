"""Saves and restores the checkpoints of a run. The manifest, written last, commits a checkpoint.

    save ─copies the state─▶ training continues
      every rank, in a thread: rank-NNN.safetensors ─▶ rank-NNN.json, its size and SHA-256
      rank 0, when all notes are there: manifest.json ─▶ the folder is renamed to its final name

A run resumes from the newest folder that all ranks find intact. It is found by scanning: neither a
pointer file nor a framework's own record is trusted. The state is keyed by parameter name, so any
number of ranks can load it.
"""

import json
import logging
import shutil
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import Tensor

from embre import watchdog
from embre.atomic_files import PERMANENT_ERRNOS, fsync_path, write_atomic
from embre.checkpoints.folder import PREFIX, committed_in, lost, step_of
from embre.checkpoints.manifest import (
    FORMAT,
    MANIFEST,
    CheckpointError,
    CheckpointManifest,
    read_manifest,
    sha256_of,
    verify,
)
from embre.checkpoints.parts import StoredState, read_note, save_state, write_note
from embre.engines.engine import Engine
from embre.faults import fault_point
from embre.interrupts import TakenOver
from embre.loader import Loader
from embre.world import World

log = logging.getLogger(__name__)

LEASE = "lease"
LOOK_EVERY_S = 0.05
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
    _lease: str = ""
    _writer: threading.Thread | None = None
    _writing: int = 0  # step of the last save
    _missed: bool = False  # whether the save before it failed
    _faults: list[Exception] = field(default_factory=list)
    _damaged: list[Path] = field(default_factory=list)

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
        why = self._join(go_on=not self._missed)
        if why:
            log.warning("%s; training continues", why)
            with suppress(OSError):  # the storage may still fail
                missed(self._writing, why)
        self._missed, self._writing = bool(why), step
        state = engine.state()
        parts = self.world.all_gather((uuid.uuid4().hex[:8], loader.state(), engine.checksum()))
        _refuse_drift(self.folder, step, [checksum for *_, checksum in parts])
        merged = {stream: at for _, part, _ in parts for stream, at in part.items()}
        partial = self.folder / f"{PREFIX}{step:09d}.partial-{parts[0][0]}"
        manifest = CheckpointManifest(step, self.world.size, self.fingerprint, merged, {})
        self._writer = threading.Thread(
            target=self._write, args=(partial, state, manifest, committed), daemon=True
        )
        self._writer.start()

    def finish(self) -> None:
        """Wait until the last save is committed on every rank; raises as `save` does, but for the
        first transient failure too."""
        self._join(go_on=False)

    def settle(self) -> None:
        """Wait at most SETTLE_S for a save in progress, before this process exits."""
        if self._writer is not None:
            self._writer.join(SETTLE_S)

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
        self._lease = self.world.all_gather(uuid.uuid4().hex)[0]
        if self.world.rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(self.folder / LEASE, self._lease.encode())
        # Rank 0 scans for all: on a network file system each rank may see another state.
        found, last_saved = self.world.all_gather((committed_in(self.folder), last_saved))[0]
        if last_saved and not found:
            raise CheckpointError(lost(self.folder, last_saved))
        for path in reversed(found):
            flaws = [flaw for flaw in self.world.all_gather(verify(path, self.world)) if flaw]
            if flaws:
                on_skipped(step_of(path), f"{path}: {flaws[0].why}")
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
        with watchdog.extended_limit(self.timeout_s):
            if self._writer is not None:
                self._writer.join()
                self._writer = None
            mine = self._fault()
            faults = [one for one in (mine, *self.world.all_gather(mine)) if one]
        for fault in faults:
            if not isinstance(fault, NotWritten):
                raise fault
        if not faults:
            return ""
        if go_on:
            return str(faults[0])
        raise NotWritten(f"{faults[0]}. {REMEDY}") from faults[0]

    def _fault(self) -> Exception | None:
        """This rank's failure in the last save, if any: NotWritten if it may be transient."""
        if not self._faults:
            return None
        fault = self._faults.pop()
        with suppress(OSError):
            if overtaken := self._overtaken(self.folder):  # which may have removed the files
                return overtaken
        if isinstance(fault, CheckpointError):
            return fault
        why = (
            f"{self.folder}: the checkpoint of step {self._writing} could not be written "
            f"({fault}); earlier ones are unchanged"
        )
        passes = isinstance(fault, OSError) and fault.errno not in PERMANENT_ERRNOS
        error = NotWritten(why) if passes else CheckpointError(f"{why}. {REMEDY}")
        error.__cause__ = fault
        return error

    def _write(
        self,
        partial: Path,
        state: dict[str, Tensor],
        manifest: CheckpointManifest,
        committed: Callable[[int], None],
    ) -> None:
        """Write this rank's file and its note; rank 0 commits when all notes are there."""
        file, notes = partial / f"rank-{self.world.rank:03d}.safetensors", self._notes_in(partial)
        try:
            partial.mkdir(parents=True, exist_ok=True)
            if self.world.rank == 0:
                # Created now: network file systems cache for half a minute that a file is missing.
                for path in notes:
                    path.touch()
            save_state(state, file)
            fsync_path(file)
            note = {file.name: (file.stat().st_size, sha256_of(file))}
            fault_point("checkpoint_written")
            write_note(notes[self.world.rank], note)
            if self.world.rank == 0:
                final = self._commit(partial, manifest)
                self._conclude(final, committed)
        except Exception as fault:  # `_join` raises it in the thread of the caller
            self._faults.append(fault)
            with suppress(OSError):
                file.unlink(missing_ok=True)  # the disk may be full
            if self.world.rank == 0:
                shutil.rmtree(partial, ignore_errors=True)
            else:
                with suppress(OSError):  # rank 0 waits for this note
                    failed = {"error": str(fault), "errno": getattr(fault, "errno", None)}
                    write_note(notes[self.world.rank], failed)

    def _commit(self, partial: Path, manifest: CheckpointManifest) -> Path:
        for path in self._notes_in(partial):
            manifest.files.update(self._note_of(path))
        write_atomic(
            partial / MANIFEST,
            json.dumps({"format": FORMAT, **asdict(manifest)}, indent=1).encode(),
        )
        final = self.folder / f"{PREFIX}{manifest.step:09d}"
        if overtaken := self._overtaken(partial):
            raise overtaken
        if final.exists():  # damaged: a restart skipped it
            shutil.rmtree(final)
        partial.rename(final)
        fsync_path(self.folder)
        return final

    def _conclude(self, final: Path, committed: Callable[[int], None]) -> None:
        """Clean up and report the commit; a failure here leaves the checkpoint valid."""
        for act in (
            lambda: fault_point("checkpoint_committed"),
            lambda: self._clean(final),
            lambda: committed(step_of(final)),
        ):
            try:
                act()
            except Exception as error:
                log.warning("%s is committed, but a later action failed: %s", final, error)

    def _overtaken(self, path: Path) -> TakenOver | None:
        """TakenOver if another attempt holds the lease, else None."""
        if (self.folder / LEASE).read_text() == self._lease:
            return None
        return TakenOver(f"{path}: another attempt at this run has taken over")

    def _notes_in(self, partial: Path) -> list[Path]:
        return [partial / f"rank-{rank:03d}.json" for rank in range(self.world.size)]

    def _note_of(self, path: Path) -> dict[str, tuple[int, str]]:
        deadline = time.monotonic() + self.timeout_s
        while (note := read_note(path)) is None:
            if overtaken := self._overtaken(path):
                raise overtaken
            if time.monotonic() > deadline:
                raise CheckpointError(f"{path}: this rank has not written its part in time")
            time.sleep(LOOK_EVERY_S)
        if "error" in note:
            why = f"{path}: this rank could not write its part: {note['error']}"
            raise OSError(note["errno"], why) if note["errno"] else CheckpointError(why)
        return note

    def _clean(self, newest: Path) -> None:
        """Remove old checkpoints, damaged ones that this attempt skipped, and remains of killed
        saves. Any other newer checkpoint belongs to a successor and is kept."""
        if self._overtaken(newest):
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
