"""Attempts at a run under Ray: each has a folder, by which its ranks and its driver hear of each
other, and no attempt touches that of another.
"""

from dataclasses import dataclass
from pathlib import Path

from embre.atomic_files import write_atomic
from embre.interrupts import TakenOver
from embre.launch.errors import RunFailed

ATTEMPTS = "attempts"  # in a run's folder
LATEST = "latest"  # in it, the number of the last attempt of which a rank began
RESERVED_BYTES = 4096  # of a note, allocated at the start: it can be written on a full disk


class NotBegun(RunFailed):
    """No rank of this attempt began, so it says nothing of the run, at which another may work."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One start of the driver, and all workers that Ray starts and restarts for it."""

    attempts: Path
    number: int

    @classmethod
    def new(cls, run_folder: Path) -> "Attempt":
        """The next one. It takes the run over from earlier ones when its first rank begins; until
        then, waiting for room, it disturbs none that works."""
        attempts = run_folder / ATTEMPTS
        attempts.mkdir(parents=True, exist_ok=True)
        number = max((int(p.name) for p in attempts.glob("[0-9]*")), default=0)
        while True:
            number += 1
            attempt = cls(attempts, number)
            try:
                attempt.folder.mkdir()
            except FileExistsError:  # of a driver that started at the same time
                continue
            # There from the start: a network file system may remember that a file is missing.
            for file in (attempt.failed, attempt.stopped):
                file.write_bytes(b" " * RESERVED_BYTES)
            (attempts / LATEST).touch()
            return attempt

    @property
    def folder(self) -> Path:
        """Its folder."""
        return self.attempts / f"{self.number:06d}"

    @property
    def failed(self) -> Path:
        """Why it failed in a way that is not worth a restart; blank till then."""
        return self.folder / "failed.txt"

    @property
    def stopped(self) -> Path:
        """That it was asked to stop and saved; blank till then."""
        return self.folder / "stopped.txt"

    def begin(self) -> bool:
        """A rank is about to begin; False where it would only end in the way others have."""
        # Taken over: each attempt would take the run back from the other.
        if self.taken_over() or read(self.failed) or read(self.stopped):
            return False
        if not self.begun():
            write_atomic(self.attempts / LATEST, str(self.number).encode())
        return True

    def begun(self) -> bool:
        """Whether one of its ranks has begun."""
        return self._latest() >= self.number

    def taken_over(self) -> bool:
        """Whether a rank of a later attempt has begun."""
        return self._latest() > self.number

    def refuse_taken_over(self, name: str) -> None:
        """TakenOver, for the driver."""
        if self.taken_over():
            raise TakenOver(
                f"{name}: the same run was started again after this attempt; follow that one"
            )

    def _latest(self) -> int:
        return int((self.attempts / LATEST).read_text() or 0)


def write(file: Path, text: str) -> None:
    """Say why an attempt ended, in `failed` or `stopped`, without a byte more on the disk."""
    with file.open("r+b") as opened:
        opened.write(text.encode()[:RESERVED_BYTES].ljust(RESERVED_BYTES))


def read(file: Path) -> str:
    """What was written there, nothing till then."""
    return file.read_text(errors="replace").strip()
