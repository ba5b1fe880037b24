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
    passed_on: Path | None = None  # folder into which a stop is written for other ranks
    noticing: bool = False  # whether SIGTERM is a request
    stop: bool = False
    saves_taken: int = 0
    last_read: dict[str, float] = field(default_factory=dict)  # monotonic time in s, by file name


_requests = _Requests()


class Interrupted(Exception):
    """The run stopped on request, after saving what it had done; the same command resumes it."""


class StoppedEarly(Interrupted):
    """The run was stopped before a rank of this attempt started; another attempt may be running."""


class TakenOver(RuntimeError):
    """Another attempt at the run writes its checkpoints now; the run itself did not fail."""


@contextmanager
def sigterm_noticed() -> Iterator[None]:
    """Context in which SIGTERM requests this process to stop, and those that `stoppable` reaches.

    The first SIGTERM restores the default action, so a second one ends a process whose steps no
    longer end. Does nothing within another such context, nor in other threads than the main one,
    which alone may set handlers.
    """

    def request_stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _requests.stop = True
        _pass_on()

    if _requests.noticing or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, request_stop)
    _requests.noticing = True
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
        _requests.noticing = _requests.stop = False


@contextmanager
def stoppable(folder: Path) -> Iterator[None]:
    """Context in which SIGTERM requests all ranks that watch `folder` to stop.

    Clears earlier requests in `folder` on entry and all on exit; a SIGTERM that `sigterm_noticed`
    has noticed before counts.
    """
    _clear_files(folder)
    # Created before any rank reads them: a network file system may cache for a minute that a file
    # is missing.
    for name in (STOP, SAVE):
        (folder / name).touch()
    with sigterm_noticed():
        _requests.passed_on = folder
        if _requests.stop:
            _pass_on()
        try:
            yield
        finally:
            _requests.passed_on = None
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
    _clear_files(folder)


def stop_requested() -> bool:
    """Whether a stop was requested, by SIGTERM to this process or through the file STOP."""
    _requests.stop = _requests.stop or _read(STOP) > 0
    return _requests.stop


def take_save_request() -> bool:
    """Whether a save was requested since the last call. Consumes the requests."""
    before = _requests.saves_taken
    _requests.saves_taken = max(before, _read(SAVE))
    return _requests.saves_taken > before


def is_stop_in(folder: Path) -> bool:
    """Whether the ranks that watch `folder` were requested to stop."""
    return _num_requests(folder / STOP) > 0


def _clear_files(folder: Path) -> None:
    for name in (STOP, SAVE):
        (folder / name).unlink(missing_ok=True)


def _pass_on() -> None:
    if _requests.passed_on is not None:
        with suppress(OSError):  # a full disk: this process still stops
            _add_request(_requests.passed_on / STOP)


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
