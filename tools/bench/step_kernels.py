"""Where a step spends its time: the kernels of a profiled variant, and the gaps between them."""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

NUM_STEPS = 2
NUM_GAPS = 20
# Kinds of kernels by parts of their names; the first that matches, else "other".
KINDS = {
    "attention": ("flash", "fmha"),
    "fused by the compiler": ("triton_",),
    "matrix products": ("gemm", "nvjet", "cutlass", "splitk", "::mm", "::addmm", "::bmm"),
    "optimizer": ("multi_tensor", "fused_adam"),
    "copies": ("memcpy", "memset", "::copy_"),
}


@dataclass(frozen=True, slots=True)
class Kernel:
    """A call of a kernel, or on a CPU of an operation; times in microseconds."""

    name: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Gap:
    """Microseconds without a kernel, and the kernels before and after."""

    length: float
    before: str
    after: str


def profiled(step: Callable[[int], object], first: int, device: torch.device) -> list[Kernel]:
    """The kernels of NUM_STEPS steps from number `first` on, by start."""
    cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as found:
        for number in range(first, first + NUM_STEPS):
            step(number)
        if cuda:
            torch.cuda.synchronize(device)
    events = found.events() or []
    if cuda:
        events = [event for event in events if event.device_type.name == "CUDA"]
    else:
        events = [event for event in events if event.cpu_parent is None]
    kernels = [Kernel(e.name, e.time_range.start, e.time_range.end) for e in events]
    return sorted(kernels, key=lambda kernel: kernel.start)


def gaps(kernels: list[Kernel]) -> list[Gap]:
    """The times in which no kernel runs, the longest first."""
    found, last = [], kernels[0]
    for kernel in kernels:
        if kernel.start > last.end:
            found.append(Gap(kernel.start - last.end, last.name, kernel.name))
        if kernel.end > last.end:
            last = kernel
    return sorted(found, key=lambda gap: -gap.length)


def kind_of(name: str) -> str:
    lower = name.lower()
    for kind, parts in KINDS.items():
        if any(part in lower for part in parts):
            return kind
    return "other"


def longest_first(times: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(times.items(), key=lambda of_name: -of_name[1])


def write_kernels(file: Path, kernels: list[Kernel]) -> None:
    """Write milliseconds per step by kind and by kernel, and the longest gaps in microseconds."""
    kinds: dict[str, float] = defaultdict(float)
    times: dict[str, float] = defaultdict(float)
    calls = Counter(kernel.name for kernel in kernels)
    for kernel in kernels:
        kinds[kind_of(kernel.name)] += kernel.end - kernel.start
        times[kernel.name] += kernel.end - kernel.start
    idle, per_step = gaps(kernels), 1000 * NUM_STEPS
    span = max(kernel.end for kernel in kernels) - kernels[0].start
    lines = [f"{span / per_step:10.2f} ms per step, of which"]
    lines += [f"{us / per_step:10.2f}  {kind}" for kind, us in longest_first(kinds)]
    lines += [f"{sum(gap.length for gap in idle) / per_step:10.2f}  without a kernel", ""]
    lines += ["ms and calls per step, by kernel"]
    lines += [
        f"{us / per_step:10.3f} {calls[name] / NUM_STEPS:8.1f}  {name}"
        for name, us in longest_first(times)
    ]
    lines += ["", f"the {NUM_GAPS} longest gaps of {NUM_STEPS} steps: us, between two kernels"]
    lines += [f"{g.length:10.1f}  {g.before[:70]} | {g.after[:70]}" for g in idle[:NUM_GAPS]]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
