"""Measure the cost of calls and commands, and summarize rates."""

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Cost:
    """Wall-clock and CPU seconds, and the peak memory of the largest process."""

    wall_s: float
    cpu_s: float
    peak_bytes: int = 0

    def without(self, startup: "Cost") -> "Cost":
        """The cost without that of `startup`; at least 1 ms, so that rates are finite."""
        wall_s = max(self.wall_s - startup.wall_s, 1e-3)
        return Cost(wall_s, max(self.cpu_s - startup.cpu_s, 1e-3), self.peak_bytes)

    @property
    def core_s(self) -> float:
        """Seconds of one core: the longer of wall-clock and CPU time."""
        return max(self.wall_s, self.cpu_s)


@dataclass(frozen=True, slots=True)
class Rate:
    """Documents per second, of each measurement."""

    each: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.each)

    @property
    def spread(self) -> float:
        """The range of the measurements divided by their median."""
        return (max(self.each) - min(self.each)) / self.median

    def as_json(self) -> dict[str, Any]:
        each = [round(rate, 1) for rate in self.each]
        return {"median": round(self.median, 1), "spread": round(self.spread, 3), "each": each}


def cost_of_call(function: Callable[[], object]) -> Cost:
    """Measure a call in this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def cost_of_command(command: Sequence[str]) -> Cost:
    """Measure a command with all its processes, one thread each.

    Raises RuntimeError with its output if it fails.
    """
    alone = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    wall = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | alone
    )
    assert process.stdout is not None
    with process.stdout as stream:
        output = stream.read().decode(errors="replace")
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - wall
    if process.returncode:
        raise RuntimeError(
            f"{' '.join(command)}\nexit code {process.returncode}:\n{output[-3000:]}"
        )
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
