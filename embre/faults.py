"""Fault injection for tests and the demo.

`fault_point(name)` in the code is a place where a fault can be injected. A fault is armed by
`name:n:action` or `name:n:action:rank`, for example `step:7:kill9:1`; several are separated by
commas. It is executed when the process calls `fault_point(name)` for the n-th time, and only once
per run, so that a restarted process gets past it: a marker file records it. Actions:

    kill9    SIGKILL to this process
    stop     SIGSTOP to this process: it hangs
    exit     exit with status 1, without cleaning up
    raise    a RuntimeError
    enospc   an OSError: no space left on the device
    sleep    wait for SLEEP_S, then continue
    nan      executed by the caller: the loss becomes NaN
    spike    executed by the caller: the loss becomes far too large
"""

import errno
import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from embre.refused import Refused

CALLER_ACTIONS = ("nan", "spike")
ACTIONS = ("kill9", "stop", "exit", "raise", "enospc", "sleep", *CALLER_ACTIONS)
PATTERN = re.compile(rf"(\w+):(\d+):({'|'.join(ACTIONS)})(?::(\d+))?")
SLEEP_S = 20.0  # time for a test to inject another fault meanwhile


@dataclass
class Fault:
    """An armed fault: `action` at the `count`-th call of `fault_point(name)`; `calls` so far."""

    name: str
    count: int
    action: str
    rank: int
    marker: Path
    calls: int = 0


_armed: list[Fault] = []


def arm(text: str, marker_folder: Path, rank: int) -> None:
    """Arm those faults of `text` that are meant for this rank or for all.

    The markers are created in `marker_folder`. Raises Refused if `text` is malformed.
    """
    for one in text.split(","):
        parsed = PATTERN.fullmatch(one)
        if parsed is None:
            raise Refused(
                f"{one!r} is not a fault; write name:n:action or name:n:action:rank, such as "
                f"step:7:kill9; actions are {', '.join(ACTIONS)}"
            )
        name, count, action, only = parsed.groups()
        if only is None or int(only) == rank:
            marker = marker_folder / f"fault-{name}-{count}-{rank}"
            _armed.append(Fault(name, int(count), action, rank, marker))


def fault_point(name: str) -> str | None:
    """Execute the faults due at this call. Returns the action if it is one of CALLER_ACTIONS, which
    the caller has to execute, else None."""
    action = None
    for fault in _armed:
        if fault.name != name or fault.marker.exists():
            continue
        fault.calls += 1
        if fault.calls == fault.count:
            fault.marker.touch()
            if fault.action in CALLER_ACTIONS:
                action = fault.action
            else:
                _execute(fault)
    return action


def _execute(fault: Fault) -> None:
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
