"""Watchdog of a rank: end the process if training makes no progress.

Collectives have a timeout of their own, thirty minutes; a single rank, or a read from a storage
that does not respond, has none. So a thread of each rank measures the time without progress and
ends the process, so that the launcher can restart it.
"""

import faulthandler
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

LOOK_EVERY_S = 1.0
WAITING_RANK_GRACE_S = 10.0  # a rank waiting in a collective lets the one that hangs report first
NOTE_TIMEOUT_S = 10.0  # for writes to a storage that may itself hang
OURS = Path(__file__).parent


@dataclass(slots=True)
class _Progress:
    """Progress of the training of this process."""

    times: int = 0
    step: int | None = None  # None: not watching
    more_s: float = 0.0
    thread: int = 0


_progress = _Progress()


def report_step(step: int) -> None:
    """Report that training, in this thread, finished `step` or the work due after it.

    Watching begins with the first call.
    """
    _progress.thread, _progress.step = threading.get_ident(), step
    report_progress()


def report_progress() -> None:
    """Report a part of a step or validation: those of a large model take long on a CPU."""
    _progress.times += 1


@contextmanager
def extended_limit(more_s: float) -> Iterator[None]:
    """Extend the limit by `more_s` in the body, which waits with a timeout of its own."""
    _progress.more_s = more_s
    report_progress()
    try:
        yield
    finally:
        _progress.more_s = 0.0
        report_progress()


def disarm() -> None:
    """Stop watching: training has ended, and what follows may take any time."""
    _progress.step = None


@contextmanager
def exit_if_stalled(
    limit_s: float, folder: Path, rank: int, note: Callable[[str], None]
) -> Iterator[None]:
    """While the body runs, end this process after `limit_s` seconds without progress.

    Calls `note` with the reason and writes the stacks of all threads into `folder`. Watching begins
    with the first `report_step`, so the setup and the first step are not limited.
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
    # Counted in polls, not by the clock: a process that was suspended does not hang.
    times, silent_s = 0, 0.0
    while not done.wait(LOOK_EVERY_S):
        step = _progress.step
        if step is None or times != _progress.times:
            times, silent_s = _progress.times, 0.0
            continue
        silent_s += LOOK_EVERY_S
        over_s = silent_s - limit_s - _progress.more_s
        place = _place(_progress.thread)
        if over_s < (WAITING_RANK_GRACE_S if place.startswith("world.py") else 0.0):
            continue
        why = (
            f"hung in {place}, {silent_s:.0f} s after step {step}; see {stacks.name}, and raise "
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
    """The innermost frame of a thread in our code, as `world.py:28 all_reduce`."""
    for frame in _outwards(sys._current_frames().get(thread)):
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(OURS):
            return f"{path.relative_to(OURS)}:{frame.f_lineno} {frame.f_code.co_name}"
    return "code of others"


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
