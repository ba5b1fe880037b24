"""How long something took, here or in a process of its own, and the middle of several times."""

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds by the clock and of processors, and the memory of the largest process."""

    wall_s: float
    cpu_s: float
    peak_bytes: int = 0

    def without(self, startup: "Cost") -> "Cost":
        """The cost of the work alone; never nothing, or a rate would have no end."""
        wall_s = max(self.wall_s - startup.wall_s, 1e-3)
        return Cost(wall_s, max(self.cpu_s - startup.cpu_s, 1e-3), self.peak_bytes)

    @property
    def core_s(self) -> float:
        """Seconds of one core: threads beside the main one are paid for, and so is waiting."""
        return max(self.wall_s, self.cpu_s)


@dataclass(frozen=True, slots=True)
class Rate:
    """Documents per second, each time that it was measured."""

    each: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.each)

    @property
    def spread(self) -> float:
        """From the slowest to the fastest, in parts of the median."""
        return (max(self.each) - min(self.each)) / self.median

    def as_json(self) -> dict[str, Any]:
        each = [round(rate, 1) for rate in self.each]
        return {"median": round(self.median, 1), "spread": round(self.spread, 3), "each": each}


def cost_of_call(function: Callable[[], object]) -> Cost:
    """What a call costs in this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def cost_of_command(command: Sequence[str]) -> Cost:
    """What a command costs with all its processes, on one thread each.

    Raises RuntimeError with what it wrote where it fails.
    """
    alone = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    wall = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | alone
    )
    assert process.stdout is not None
    with process.stdout as stream:
        said = stream.read().decode(errors="replace")
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - wall
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}\nended with {process.returncode}:\n{said[-3000:]}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
