"""Requests to a running job: stop, or save and continue. All ranks act after the same step.

A launcher sends a request from a signal handler or by a file that all ranks can read. The training
step all-reduces the requests of the ranks (`engines/step`), so that all learn of them in the same
step.
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
    saves_taken: int = 0
    last_read: dict[str, float] = field(default_factory=dict)  # monotonic time in s, by file name


_requests = _Requests()


class Interrupted(Exception):
    """The run stopped on request and saved its state; the same command resumes it."""


class TakenOver(RuntimeError):
    """Another attempt at the run writes its checkpoints now; the run itself did not fail."""


@contextmanager
def stoppable(folder: Path) -> Iterator[None]:
    """Context in which SIGTERM requests all ranks that watch `folder` to stop.

    Clears earlier requests on entry and on exit. The first SIGTERM restores the previous handler,
    so a second one ends a process whose steps no longer end.
    """

    def request_stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
        _requests.stop = True
        with suppress(OSError):  # a full disk: this process still stops
            _add_request(folder / STOP)

    clear(folder)
    # Created before any rank reads them: a network file system may cache for a minute that a file
    # is missing.
    for name in (STOP, SAVE):
        (folder / name).touch()
    if threading.current_thread() is not threading.main_thread():  # only it may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, request_stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
        clear(folder)


def request_save(folder: Path) -> None:
    """Request the ranks that watch `folder` to save a checkpoint after their next step and
    continue."""
    _add_request(folder / SAVE)


def watch(folder: Path) -> None:
    """From now on, read requests from the files STOP and SAVE in `folder`.

    SAVE requests already there are ignored: they were for an earlier attempt.
    """
    _requests.folder, _requests.saves_taken = folder, _num_requests(folder / SAVE)


def clear(folder: Path) -> None:
    """Clear all requests to this process and in the files of `folder`."""
    _requests.folder, _requests.stop, _requests.saves_taken = None, False, 0
    for name in (STOP, SAVE):
        (folder / name).unlink(missing_ok=True)


def stop_requested() -> bool:
    """Whether a stop was requested, by SIGTERM to this process or through the file STOP."""
    _requests.stop = _requests.stop or _read(STOP) > 0
    return _requests.stop


def take_save_request() -> bool:
    """Whether a save was requested since the last call. Consumes the requests."""
    before = _requests.saves_taken
    _requests.saves_taken = max(before, _read(SAVE))
    return _requests.saves_taken > before


def _read(name: str) -> int:
    """The number of requests in a file, read every LOOK_EVERY_S; 0 in between."""
    now = time.monotonic()
    if _requests.folder is None or now - _requests.last_read.get(name, 0.0) <= LOOK_EVERY_S:
        return 0
    _requests.last_read[name] = now
    return _num_requests(_requests.folder / name)


def _add_request(file: Path) -> None:
    with file.open("ab") as opened:
        opened.write(b".")


def _num_requests(file: Path) -> int:
    """The number of bytes in a file. Reads it, because network file systems cache sizes."""
    with suppress(OSError):
        return len(file.read_bytes())
    return 0
