"""Faults on purpose: `fault_point("name")` stands where a test or the demo may break something.

A fault is armed by a launcher as `name:n:action` or `name:n:action:rank`, several with commas
between: at the n-th time that this rank comes by, do it; once per run, so that a restarted worker
gets past it. Not armed, a point costs one comparison. Two faults are done by who asks: a loss that
is no number, and one far too large.
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

ASKED_FOR = ("nan", "spike")  # told to who asks, which does it
ACTIONS = ("kill9", "stop", "exit", "raise", "enospc", "sleep", *ASKED_FOR)
FORM = re.compile(rf"(\w+):(\d+):({'|'.join(ACTIONS)})(?::(\d+))?")
SLEEP_S = 20.0  # time for somebody else to break something


@dataclass
class Fault:
    """One armed fault. `marker` is the file that says it has happened."""

    name: str
    hit: int
    action: str
    rank: int
    marker: Path
    seen: Counter[str] = field(default_factory=Counter)


_armed: list[Fault] = []


def arm(text: str, marker_folder: Path, rank: int) -> None:
    """Arm what is meant for this rank; Refused for another form."""
    for one in text.split(","):
        found = FORM.fullmatch(one)
        if found is None:
            raise Refused(
                f"{one!r} is no fault; write name:n:action or name:n:action:rank, as step:7:kill9, "
                f"with an action of {', '.join(ACTIONS)}"
            )
        name, hit, action, only = found.groups()
        if only is None or int(only) == rank:
            marker = marker_folder / f"fault-{name}-{hit}-{rank}"
            _armed.append(Fault(name, int(hit), action, rank, marker))


def fault_point(name: str) -> str | None:
    """Break here if a fault of this name is due; the action where it is the caller's to do."""
    asked = None
    for fault in _armed:
        if fault.name != name or fault.marker.exists():
            continue
        fault.seen[name] += 1
        if fault.seen[name] == fault.hit:
            fault.marker.touch()
            if fault.action in ASKED_FOR:
                asked = fault.action
            else:
                _break(fault)
    return asked


def _break(fault: Fault) -> None:
    print(f"fault on purpose: {fault.action} at {fault.name} in rank {fault.rank}", flush=True)
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
    raise RuntimeError(f"fault on purpose at {fault.name}")
