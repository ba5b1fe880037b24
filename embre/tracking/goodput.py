"""Compute goodput and the cost of restarts from the events of a run.

Goodput is useful time / wall time (as in Google's ML Goodput). Useful is the time of steps that no
restart repeated; wall time runs from the first start to the last event, without the time in which
the run was finished.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

# Events of a new attempt that come before its `started`.
EARLY = ("vocabulary", "checkpoint_skipped", "changed", "waiting")


def goodput(events: Iterable[dict[str, Any]]) -> float:
    """Goodput in 0..1; 0 if nothing was trained."""
    events = list(events)
    starts = [event for event in events if event["event"] == "started"]
    if not starts:
        return 0.0
    turns = [event for event in events if event["event"] in ("started", "finished")]
    idle_s = sum(  # finished, until a start with more steps
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
    """The part of a window of steps up to step `limit`."""
    kept = min(last, limit)
    return first, kept, seconds * (kept - first) / max(last - first, 1)


def lost_by_restart(events: Iterable[dict[str, Any]], step: int, now: float) -> dict[str, Any]:
    """The cost of a restart at `step` of a run with these events: the number of the `attempt`, the
    number of repeated steps (`lost_steps`), and the seconds since the last event (`down_s`)."""
    events = [event for event in events if event["event"] not in EARLY]
    starts = [at for at, event in enumerate(events) if event["event"] == "started"]
    attempt = 1 + len(starts)
    last = events[starts[-1] :] if starts else []
    # Without an older heartbeat.
    last = [event for event in last if event["time"] >= last[0]["time"]]
    done = max((event["step"] for event in last if event["event"] == "step"), default=0)
    down_s = round(now - max(event["time"] for event in last), 1) if last else 0.0
    down_s = max(0.0, down_s)  # rank 0 may come back on a machine whose clock is behind
    return {"attempt": attempt, "lost_steps": max(0, done - step), "down_s": down_s}
