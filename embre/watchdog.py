"""A rank that hangs: no micro-batch, step or save of it comes to its end any more.

A collective has a limit of its own, thirty minutes; one rank alone, or a read that the storage does
not answer, has none. So a thread of each rank counts how long nothing was heard of its training,
and ends the process, for whoever started it to start it again.
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
WAITING_RANK_GRACE_S = 10.0  # a rank that waits for others lets the one that hangs say so before it
NOTE_TIMEOUT_S = 10.0  # for what is told on a storage that may be what hangs
OURS = Path(__file__).parent


@dataclass(slots=True)
class _Progress:
    """What was heard of the training of this process."""

    times: int = 0
    step: int | None = None  # None while nothing is watched
    more_s: float = 0.0
    thread: int = 0


_progress = _Progress()


def report_step(step: int) -> None:
    """Training, in this thread, has done `step` or what is due after it; it is watched now."""
    _progress.thread, _progress.step = threading.get_ident(), step
    report_progress()


def report_progress() -> None:
    """A part of a step or a validation is done: of a large model on a CPU they take long."""
    _progress.times += 1


@contextmanager
def extended_limit(more_s: float) -> Iterator[None]:
    """What the body waits for has a limit of its own: nothing need be heard for so much longer."""
    _progress.more_s = more_s
    report_progress()
    try:
        yield
    finally:
        _progress.more_s = 0.0
        report_progress()


def disarm() -> None:
    """Training has come to its end: what follows may take its time."""
    _progress.step = None


@contextmanager
def exit_if_stalled(
    limit_s: float, folder: Path, rank: int, note: Callable[[str], None]
) -> Iterator[None]:
    """While the body runs, end this process where nothing was heard of it for `limit_s`.

    `note` is told why, and the stacks of all threads are in `folder`. It begins with the first word
    of training, so that nothing is watched while a run is set up and does its first step.
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
    # Counted in looks and not by the clock: a process that is stopped for a while does not hang.
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
            "launch.step_timeout_s where it was only slow"
        )
        _end(why, stacks, note)


def _end(why: str, stacks: Path, note: Callable[[str], None]) -> None:
    def tell() -> None:
        with suppress(OSError):
            note(why)
        with suppress(OSError), stacks.open("w") as file:
            faulthandler.dump_traceback(file)

    print(f"{stacks.parent}: this rank {why}", file=sys.stderr, flush=True)
    telling = threading.Thread(target=tell, daemon=True)
    telling.start()
    telling.join(NOTE_TIMEOUT_S)
    os._exit(1)


def _place(thread: int) -> str:
    """Where in our code a thread is, as `world.py:28 all_reduce`."""
    for frame in _outwards(sys._current_frames().get(thread)):
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(OURS):
            return f"{path.relative_to(OURS)}:{frame.f_lineno} {frame.f_code.co_name}"
    return "code of others"


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
