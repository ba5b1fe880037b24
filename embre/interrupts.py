"""What a run is asked from outside: to stop, or to save and go on; all ranks after the same step.

A launcher asks, from a signal handler or through a file that all ranks see; the question travels
with the sums of the next step, so every rank learns of it at once.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

STOP, SAVE = "stop", "save"  # files in the folder of a run, or of an attempt: each byte asks
LOOK_EVERY_S = 1.0


@dataclass(slots=True)
class _Asked:
    """What this process was asked."""

    folder: Path | None = None  # whose files ask it
    stop: bool = False
    saves_answered: int = 0
    looked: dict[str, float] = field(default_factory=dict)  # when at which file


_asked = _Asked()


class Interrupted(Exception):
    """The run was asked to stop and saved its state; the same command goes on."""


class TakenOver(RuntimeError):
    """Another attempt at the run writes its checkpoints now; it says nothing of the run itself."""


@contextmanager
def stoppable(folder: Path) -> Iterator[None]:
    """While the body runs, SIGTERM asks all ranks that watch `folder` to stop.

    Where no step comes to its end any more, a second SIGTERM does what it always did.
    """

    def ask(*_: object) -> None:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
        _asked.stop = True
        with suppress(OSError):  # a full disk; this process knows, and there is a second SIGTERM
            _ask(folder / STOP)

    forget(folder)
    # There from the start: a network file system may remember for a minute that a file is missing.
    for name in (STOP, SAVE):
        (folder / name).touch()
    if threading.current_thread() is not threading.main_thread():  # where no signal arrives
        yield
        return
    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
        forget(folder)


def ask_to_save(folder: Path) -> None:
    """Ask the ranks that watch `folder` to save after their next step and go on."""
    _ask(folder / SAVE)


def watch(folder: Path) -> None:
    """From now on the files STOP and SAVE in a folder ask this process.

    What SAVE asked before was asked of an earlier attempt: this one begins at a checkpoint.
    """
    _asked.folder, _asked.saves_answered = folder, _times_asked(folder / SAVE)


def forget(folder: Path) -> None:
    """What was asked before, of this process or by the files in a folder, counts no more."""
    _asked.folder, _asked.stop, _asked.saves_answered = None, False, 0
    for name in (STOP, SAVE):
        (folder / name).unlink(missing_ok=True)


def asked_to_stop() -> bool:
    """Whether this process was asked."""
    _asked.stop = _asked.stop or _look(STOP) > 0
    return _asked.stop


def asked_to_save() -> bool:
    """Whether this process was asked since it last answered: yes is said once."""
    before = _asked.saves_answered
    _asked.saves_answered = max(before, _look(SAVE))
    return _asked.saves_answered > before


def _look(name: str) -> int:
    """How often a file has asked: it is looked at once a second, and 0 is said in between."""
    now = time.monotonic()
    if _asked.folder is None or now - _asked.looked.get(name, 0.0) <= LOOK_EVERY_S:
        return 0
    _asked.looked[name] = now
    return _times_asked(_asked.folder / name)


def _ask(file: Path) -> None:
    with file.open("ab") as opened:
        opened.write(b".")


def _times_asked(file: Path) -> int:
    """Read, not only measured: a network file system remembers sizes for seconds."""
    with suppress(OSError):
        return len(file.read_bytes())
    return 0
