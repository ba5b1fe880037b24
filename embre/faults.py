"""Fault injection: `fault_point("name")` marks a place where tests and the demo inject a fault.

A launcher arms faults as `name:n:action` or `name:n:action:rank`, separated by commas: the action
happens when the rank passes the point for the n-th time, once per run, so that a restarted worker
gets past it. An unarmed point costs one comparison. The actions `nan` and `spike` (a loss that is
not finite, or far too large) are returned to the caller, which carries them out.
"""

import errno
import os
import re
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from embre.refused import Refused

BY_CALLER = ("nan", "spike")
ACTIONS = ("kill9", "stop", "exit", "raise", "enospc", "sleep", *BY_CALLER)
FORM = re.compile(rf"(\w+):(\d+):({'|'.join(ACTIONS)})(?::(\d+))?")
SLEEP_S = 20.0  # time for a test to inject a fault elsewhere


@dataclass
class Fault:
    """One armed fault. `marker` is the file that records that it has happened."""

    name: str
    hit: int
    action: str
    rank: int
    marker: Path
    seen: Counter[str] = field(default_factory=Counter)


_armed: list[Fault] = []


def arm(text: str, marker_folder: Path, rank: int) -> None:
    """Arm the faults for this rank. Raises Refused if `text` is malformed."""
    for one in text.split(","):
        parsed = FORM.fullmatch(one)
        if parsed is None:
            raise Refused(
                f"{one!r} is not a fault; write name:n:action or name:n:action:rank, such as "
                f"step:7:kill9; actions are {', '.join(ACTIONS)}"
            )
        name, hit, action, only = parsed.groups()
        if only is None or int(only) == rank:
            marker = marker_folder / f"fault-{name}-{hit}-{rank}"
            _armed.append(Fault(name, int(hit), action, rank, marker))


def fault_point(name: str) -> str | None:
    """Carry out the fault of this name that is due, if any; return an action of BY_CALLER."""
    action = None
    for fault in _armed:
        if fault.name != name or fault.marker.exists():
            continue
        fault.seen[name] += 1
        if fault.seen[name] == fault.hit:
            fault.marker.touch()
            if fault.action in BY_CALLER:
                action = fault.action
            else:
                _break(fault)
    return action


def _break(fault: Fault) -> None:
    print(f"injected fault: {fault.action} at {fault.name} in rank {fault.rank}", flush=True)
    if fault.action == "kill9":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault.action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif fault.action == "exit":
        os._exit(1)
    elif fault.action == "sleep":
        time.sleep(SLEEP_S)
        return
    elif fault.action == "enospc":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), fault.name)
    raise RuntimeError(f"injected fault at {fault.name}")
