"""A run that is asked to stop: all ranks save after the same step, and end in order.

A launcher asks, from a signal handler or through a file in the run's folder; the question travels
with the sums of the next step, so every rank learns of it at once.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STOP = "stop"  # the file in a run's folder that asks
LOOK_EVERY_S = 1.0

_asked = threading.Event()
_file: list[Path] = []
_looked = [0.0]


class Interrupted(Exception):
    """The run was asked to stop and saved its state; the same command goes on."""


@contextmanager
def stoppable(folder: Path) -> Iterator[None]:
    """While the body runs, SIGTERM asks all ranks of the run in `folder` to stop.

    Where no step comes to its end any more, a second SIGTERM does what it always did.
    """

    def ask(*_: object) -> None:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
        _asked.set()
        (folder / STOP).touch()

    forget(folder)
    if threading.current_thread() is not threading.main_thread():  # where no signal arrives
        yield
        return
    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
        forget(folder)


def watch(folder: Path) -> None:
    """From now on the file STOP in a folder asks this process to stop."""
    _file[:] = [folder / STOP]


def forget(folder: Path) -> None:
    """What was asked before, of this process or by the file in a folder, counts no more."""
    _asked.clear()
    _file.clear()
    (folder / STOP).unlink(missing_ok=True)


def asked_to_stop() -> bool:
    """Whether this process was asked; a file is looked for once a second."""
    now = time.monotonic()
    if _file and now - _looked[0] > LOOK_EVERY_S:
        _looked[0] = now
        if _file[0].exists():
            _asked.set()
    return _asked.is_set()
