"""Watchdog of a rank: ends the process if training makes no progress.

Collectives time out after thirty minutes, but a read from a storage that does not respond, or an
endless loop, never does. So a thread of each rank measures the time without progress and ends the
process, and the launcher can restart it.
"""

import faulthandler
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

LOOK_EVERY_S = 1.0
WAITING_RANK_GRACE_S = 10.0  # a rank waiting in a collective lets the hanging one report first
NOTE_TIMEOUT_S = 10.0  # for writes to a storage that may itself hang
PACKAGE = Path(__file__).parent


@dataclass(slots=True)
class _Progress:
    """Progress of the training of this process."""

    num_reports: int = 0
    step: int | None = None  # None: not watching
    extra_s: float = 0.0
    thread: int = 0  # id of the training thread


_progress = _Progress()


def report_step(step: int) -> None:
    """Report that training, in this thread, finished `step` or the work due after it (validation,
    checkpoint). The first call starts the clock."""
    _progress.thread, _progress.step = threading.get_ident(), step
    report_progress()


def report_progress() -> None:
    """Report progress within a step or a validation, each of which may take longer than the
    limit."""
    _progress.num_reports += 1


@contextmanager
def extended_limit(extra_s: float) -> Iterator[None]:
    """Context with a limit longer by `extra_s`, for waits that have a timeout of their own."""
    _progress.extra_s = extra_s
    report_progress()
    try:
        yield
    finally:
        _progress.extra_s = 0.0
        report_progress()


def disarm() -> None:
    """Stop watching: training has ended, and what follows may take any time."""
    _progress.step = None


@contextmanager
def exit_if_stalled(
    limit_s: float, folder: Path, rank: int, note: Callable[[str], None]
) -> Iterator[None]:
    """Context in which this process is ended after `limit_s` seconds without progress.

    Before it ends, `note` is called with the reason, and the stacks of all threads are written to
    `folder/stacks-RANK.txt`. Setup and first step are not limited: the clock starts with the first
    `report_step`.
    """
    done = threading.Event()
    stacks = folder / f"stacks-{rank}.txt"
    arguments = (limit_s, stacks, note, done)
    disarm()
    threading.Thread(target=_watch, args=arguments, daemon=True).start()
    try:
        yield
    finally:
        done.set()
        disarm()


def _watch(
    limit_s: float, stacks: Path, note: Callable[[str], None], done: threading.Event
) -> None:
    # Polls are counted instead of seconds, because a suspended process does not hang.
    num_reports, idle_s = 0, 0.0
    while not done.wait(LOOK_EVERY_S):
        step = _progress.step
        if step is None or num_reports != _progress.num_reports:
            num_reports, idle_s = _progress.num_reports, 0.0
            continue
        idle_s += LOOK_EVERY_S
        over_s = idle_s - limit_s - _progress.extra_s
        place = _place(_progress.thread)
        in_collective = place.startswith("world.py")
        if over_s < (WAITING_RANK_GRACE_S if in_collective else 0.0):
            continue
        why = (
            f"hung in {place}, {idle_s:.0f} s after step {step}; see {stacks.name}, and raise "
            "launch.step_timeout_s if it was only slow"
        )
        _end(why, stacks, note)


def _end(why: str, stacks: Path, note: Callable[[str], None]) -> None:
    def report() -> None:
        with suppress(OSError):
            note(why)
        with suppress(OSError), stacks.open("w") as file:
            faulthandler.dump_traceback(file)

    print(f"{stacks.parent}: this rank {why}", file=sys.stderr, flush=True)
    reporting = threading.Thread(target=report, daemon=True)
    reporting.start()
    reporting.join(NOTE_TIMEOUT_S)
    os._exit(1)


def _place(thread: int) -> str:
    """The innermost frame of a thread in this package, such as `world.py:28 all_reduce`."""
    frame = sys._current_frames().get(thread)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            return f"{path.relative_to(PACKAGE)}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "code outside embre"
