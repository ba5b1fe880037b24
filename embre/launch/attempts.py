"""Attempts at a run under Ray. Each has a folder of its own, through which its ranks and its driver
exchange notes.
"""

from dataclasses import dataclass
from pathlib import Path

from embre.interrupts import TakenOver, is_stop_in
from embre.launch.errors import RunFailed

ATTEMPTS = "attempts"  # in a run's folder
# In ATTEMPTS, as many bytes as the number of the last attempt that started a rank.
LATEST = "latest"
RESERVED_BYTES = 4096  # of a note, allocated at the start: it can be written on a full disk


class NotBegun(RunFailed):
    """No rank of this attempt started. Another attempt may be running: the run's status stays."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One start of the driver, with all workers that Ray starts and restarts for it."""

    attempts: Path
    number: int

    @classmethod
    def new(cls, run_folder: Path) -> "Attempt":
        """Create the next attempt. It takes the run over from earlier ones when its first rank
        starts; while it waits for resources, a running attempt is not disturbed."""
        attempts = run_folder / ATTEMPTS
        attempts.mkdir(parents=True, exist_ok=True)
        number = max((int(p.name) for p in attempts.glob("[0-9]*")), default=0)
        while True:
            number += 1
            attempt = cls(attempts, number)
            try:
                attempt.folder.mkdir()
            except FileExistsError:  # another driver started at the same time
                continue
            # Created now: network file systems may cache that a file is missing.
            for file in (attempt.failed, attempt.stopped):
                file.write_bytes(b" " * RESERVED_BYTES)
            (attempts / LATEST).touch()
            return attempt

    @property
    def folder(self) -> Path:
        """The folder of this attempt."""
        return self.attempts / f"{self.number:06d}"

    @property
    def failed(self) -> Path:
        """File with the error that is not worth a restart; blank until there is one."""
        return self.folder / "failed.txt"

    @property
    def stopped(self) -> Path:
        """File with the note that it saved and stopped on request; blank until then."""
        return self.folder / "stopped.txt"

    def begin(self) -> bool:
        """Claim the run for this attempt before a rank starts; False if it failed, was stopped or
        requested to stop, or was superseded by a later attempt.

        A superseded attempt cannot claim the run back, however late it writes: its byte lies within
        the file, and nothing shortens the file.
        """
        if read(self.failed) or read(self.stopped) or is_stop_in(self.folder):
            return False
        with (self.attempts / LATEST).open("r+b") as file:
            file.seek(self.number - 1)
            file.write(b".")
        return not self.taken_over()

    def begun(self) -> bool:
        """Whether a rank of this attempt has started."""
        return self._latest() >= self.number

    def taken_over(self) -> bool:
        """Whether a rank of a later attempt has started."""
        return self._latest() > self.number

    def refuse_taken_over(self, name: str) -> None:
        """Raise TakenOver if a later attempt has started."""
        if self.taken_over():
            raise TakenOver(
                f"{name}: the same run was started again after this attempt; follow that one"
            )

    def _latest(self) -> int:
        # Read, because a network file system caches sizes for seconds.
        return len((self.attempts / LATEST).read_bytes())


def write(file: Path, text: str) -> None:
    """Write a note into the preallocated file `failed` or `stopped`: this works on a full disk.

    Cut to RESERVED_BYTES.
    """
    with file.open("r+b") as opened:
        opened.write(text.encode()[:RESERVED_BYTES].ljust(RESERVED_BYTES))


def read(file: Path) -> str:
    """The note in `failed` or `stopped`; '' if there is none."""
    return file.read_text(errors="replace").strip()
