"""One save of a checkpoint: each rank writes its part in a thread, and rank 0 commits them."""

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from embre.atomic_files import fsync_path, write_atomic
from embre.checkpoints.folder import PREFIX
from embre.checkpoints.lease import Lease
from embre.checkpoints.manifest import (
    FORMAT,
    MANIFEST,
    CheckpointError,
    CheckpointManifest,
    sha256_of,
)
from embre.checkpoints.parts import read_note, save_state, write_note
from embre.faults import fault_point

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.05


@dataclass(slots=True)
class Save:
    """A save of one rank into the folder `partial`, which all ranks of the save share.

    Rank 0 waits at most `timeout_s` for the parts of the others and calls the functions in
    `conclude` with the committed folder; the commit replaces a checkpoint of the same step only if
    it is in `skipped`. What made the save fail is in `fault` after `join`.
    """

    partial: Path
    manifest: CheckpointManifest
    rank: int
    lease: Lease
    timeout_s: float
    skipped: Collection[Path]
    conclude: Iterable[Callable[[Path], None]]
    fault: Exception | None = None
    _thread: threading.Thread | None = None

    @property
    def step(self) -> int:
        """The number of steps after which the state was copied."""
        return self.manifest.step

    def start(self, state: dict[str, Tensor]) -> None:
        """Write and commit `state` in a thread."""
        self._thread = threading.Thread(target=self._run, args=(state,), daemon=True)
        self._thread.start()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for the thread, at most `timeout_s` if given."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self, state: dict[str, Tensor]) -> None:
        """Write this rank's file and its note; rank 0 commits when all notes are there."""
        file, notes = self.partial / f"rank-{self.rank:03d}.safetensors", self._notes()
        try:
            self.partial.mkdir(parents=True, exist_ok=True)
            if self.rank == 0:
                # Created now: network file systems cache for half a minute that a file is missing.
                for path in notes:
                    path.touch()
            save_state(state, file)
            fsync_path(file)
            note = {file.name: (file.stat().st_size, sha256_of(file))}
            fault_point("checkpoint_written")
            write_note(notes[self.rank], note)
            if self.rank == 0:
                self._conclude(self._commit())
        except Exception as fault:  # raised in the thread that asks for it after `join`
            self.fault = fault
            with suppress(OSError):
                file.unlink(missing_ok=True)  # the disk may be full
            if self.rank == 0:
                shutil.rmtree(self.partial, ignore_errors=True)
            else:
                with suppress(OSError):  # rank 0 waits for this note
                    failed = {"error": str(fault), "errno": getattr(fault, "errno", None)}
                    write_note(notes[self.rank], failed)

    def _commit(self) -> Path:
        for path in self._notes():
            self.manifest.files.update(self._note_of(path))
        write_atomic(
            self.partial / MANIFEST,
            json.dumps({"format": FORMAT, **asdict(self.manifest)}, indent=1).encode(),
        )
        final = self.lease.folder / f"{PREFIX}{self.step:09d}"
        if overtaken := self.lease.overtaken(self.partial):
            raise overtaken
        if final in self.skipped and final.exists():
            shutil.rmtree(final)
        self.partial.rename(final)  # fails if a successor has committed this step since
        fsync_path(self.lease.folder)
        return final

    def _conclude(self, final: Path) -> None:
        """Do what follows a commit; a failure here leaves the checkpoint valid."""
        for act in (lambda _: fault_point("checkpoint_committed"), *self.conclude):
            try:
                act(final)
            except Exception as error:
                log.warning("%s is committed, but a later action failed: %s", final, error)

    def _notes(self) -> list[Path]:
        return [self.partial / f"rank-{rank:03d}.json" for rank in range(self.manifest.world_size)]

    def _note_of(self, path: Path) -> dict[str, tuple[int, str]]:
        deadline = time.monotonic() + self.timeout_s
        while (note := read_note(path)) is None:
            if overtaken := self.lease.overtaken(path):
                raise overtaken
            if time.monotonic() > deadline:
                raise CheckpointError(f"{path}: this rank has not written its part in time")
            time.sleep(LOOK_EVERY_S)
        if "error" in note:
            why = f"{path}: this rank could not write its part: {note['error']}"
            raise OSError(note["errno"], why) if note["errno"] else CheckpointError(why)
        return note
