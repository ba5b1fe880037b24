"""What restarts cost a run, out of its events.

Useful is the time of the steps that were kept: those that no restart went back behind. Goodput is
its share of the time from the first start to the last event (Google's ML Goodput counts alike), but
for that in which the run was finished.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

# What a start says before its first step: of the attempt that begins, and before `started`.
EARLY = ("vocabulary", "checkpoint_skipped", "changed")


def goodput(events: Iterable[dict[str, Any]]) -> float:
    """The share, 0 where nothing was trained."""
    events = list(events)
    starts = [event for event in events if event["event"] == "started"]
    if not starts:
        return 0.0
    turns = [event for event in events if event["event"] in ("started", "finished")]
    idle_s = sum(  # a run that was finished, till somebody gave it more steps
        after["time"] - before["time"]
        for before, after in pairwise(turns)
        if (before["event"], after["event"]) == ("finished", "started")
    )
    wall_s = events[-1]["time"] - starts[0]["time"] - idle_s
    return min(1.0, _useful_s(events) / wall_s) if wall_s > 0 else 0.0


def _useful_s(events: list[dict[str, Any]]) -> float:
    useful: list[tuple[int, int, float]] = []  # step before, last step, seconds of the steps
    before = 0
    for event in events:
        if event["event"] == "started":
            before = event["step"]
            useful = [_up_to(before, *window) for window in useful if window[0] < before]
        elif event["event"] == "step":
            useful.append((before, event["step"], event.get("seconds", 0.0)))
            before = event["step"]
    return sum(seconds for _, _, seconds in useful)


def _up_to(limit: int, first: int, last: int, seconds: float) -> tuple[int, int, float]:
    """The part of some steps up to one of them."""
    kept = min(last, limit)
    return first, kept, seconds * (kept - first) / max(last - first, 1)


def lost_by_restart(events: Iterable[dict[str, Any]], step: int, now: float) -> dict[str, Any]:
    """What a start at `step` means for a run with these events: which attempt it is, how many
    steps are done again, and the seconds since the run was last heard of."""
    events = [event for event in events if event["event"] not in EARLY]
    starts = [at for at, event in enumerate(events) if event["event"] == "started"]
    attempt = 1 + len(starts)
    last = events[starts[-1] :] if starts else []
    last = [event for event in last if event["time"] >= last[0]["time"]]  # no older heartbeat
    done = max((event["step"] for event in last if event["event"] == "step"), default=0)
    down_s = round(now - max(event["time"] for event in last), 1) if last else 0.0
    down_s = max(0.0, down_s)  # rank 0 may come back on a machine whose clock is behind
    return {"attempt": attempt, "lost_steps": max(0, done - step), "down_s": down_s}
