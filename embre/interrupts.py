"""Requests to a run from outside: stop, or save and continue; all ranks act after the same step.

A launcher sends a request from a signal handler or through a file that all ranks see. It is
all-reduced with the sums of the next step, so every rank learns of it at once.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

STOP, SAVE = "stop", "save"  # files in a run's or attempt's folder: one byte per request
LOOK_EVERY_S = 1.0


@dataclass(slots=True)
class _Requests:
    """The requests that this process has received."""

    folder: Path | None = None  # of the request files
    stop: bool = False
    saves_done: int = 0
    looked: dict[str, float] = field(default_factory=dict)  # time of the last look, by file


_requests = _Requests()


class Interrupted(Exception):
    """The run stopped on request and saved its state; the same command resumes it."""


class TakenOver(RuntimeError):
    """Another attempt at the run writes its checkpoints now; the run itself did not fail."""


@contextmanager
def stoppable(folder: Path) -> Iterator[None]:
    """While the body runs, SIGTERM requests all ranks that watch `folder` to stop.

    A second SIGTERM has its previous effect, in case no step ends any more.
    """

    def request_stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
        _requests.stop = True
        with suppress(OSError):  # disk full; this process knows, and SIGTERM can be sent again
            _add_request(folder / STOP)

    forget(folder)
    # Created first: a network file system may cache for a minute that a file is missing.
    for name in (STOP, SAVE):
        (folder / name).touch()
    if threading.current_thread() is not threading.main_thread():  # signals arrive only there
        yield
        return
    before = signal.signal(signal.SIGTERM, request_stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
        forget(folder)


def ask_to_save(folder: Path) -> None:
    """Request the ranks that watch `folder` to save after their next step and continue."""
    _add_request(folder / SAVE)


def watch(folder: Path) -> None:
    """From now on, read requests from the files STOP and SAVE in `folder`.

    Earlier SAVE requests are ignored: they were for an earlier attempt.
    """
    _requests.folder, _requests.saves_done = folder, _num_requests(folder / SAVE)


def forget(folder: Path) -> None:
    """Clear all requests to this process and in the files of `folder`."""
    _requests.folder, _requests.stop, _requests.saves_done = None, False, 0
    for name in (STOP, SAVE):
        (folder / name).unlink(missing_ok=True)


def asked_to_stop() -> bool:
    """Whether a stop was requested."""
    _requests.stop = _requests.stop or _look(STOP) > 0
    return _requests.stop


def asked_to_save() -> bool:
    """Whether a save was requested since the last call; each request counts once."""
    before = _requests.saves_done
    _requests.saves_done = max(before, _look(SAVE))
    return _requests.saves_done > before


def _look(name: str) -> int:
    """The number of requests in a file, read at most once per second; 0 in between."""
    now = time.monotonic()
    if _requests.folder is None or now - _requests.looked.get(name, 0.0) <= LOOK_EVERY_S:
        return 0
    _requests.looked[name] = now
    return _num_requests(_requests.folder / name)


def _add_request(file: Path) -> None:
    with file.open("ab") as opened:
        opened.write(b".")


def _num_requests(file: Path) -> int:
    """The number of bytes of a file. Reads it: a network file system caches sizes for seconds."""
    with suppress(OSError):
        return len(file.read_bytes())
    return 0
