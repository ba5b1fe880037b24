"""The speed of a pretraining step, optimization by optimization from Hugging Face's padded BERT.

    python tools/bench/pretrain_step.py             BERT-base in bf16 on CUDA, else a small model
    python tools/bench/pretrain_step.py --quick     a smaller one, a minute: no figures to quote
    python tools/bench/pretrain_step.py --compile   the compiled rungs on a CPU too (minutes)
    python tools/bench/pretrain_step.py --shards FOLDER     the documents of a shard set
    python tools/bench/pretrain_step.py --rungs cdf --kernels FOLDER     these, and where time goes

Each rung is a variant of the step. All train on texts of BioRED's lengths, without dropout, with
the same engine, AdamW (fused on CUDA) and number of tokens per step. They take turns in a random
order, so that noise of the machine affects all. Rates count tokens that are not padding. FLOPs per
token are computed, including padding and a head on every token; so the MFU, relative to a matrix
product measured between the turns, shows how well a rung uses the device and not how much it has to
do. Recompilations, graph breaks and device allocations are those of the timed steps. The vocabulary
of the small model makes the token head as large a part of it as of BERT-base. With --lock, several
processes can compile their rungs side by side and measure one after the other. The last line is one
JSON object; null means not measured.
"""

import fcntl
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median
from typing import Annotated, Any

import torch
import torch.distributed as dist
import typer
from measuring import Rate
from rich.console import Console
from rich.table import Table
from step_kernels import profiled, write_kernels
from step_rungs import (
    ENTITIES,
    HF_COMPILED,
    HF_PADDED,
    ONE_STRIP,
    ZERO_1,
    Rung,
    Setting,
    ladder,
)
from step_texts import made_up_texts, texts_of
from torch._dynamo.utils import counters

from embre.cli.options import run_script
from embre.config import NewEncoder
from embre.engines.flops import product_flops_per_s
from embre.world import World, allocator_settings


@dataclass(frozen=True, slots=True)
class Size:
    """The model and the amount of work: `turns` per rung, each of `steps`."""

    shape: NewEncoder
    vocabulary: int
    concepts: int
    strip_tokens: int
    micro_batches: int
    warm_up: int
    turns: int
    steps: int


BASE = NewEncoder(layers=12, hidden=768, heads=12, feed_forward=3072)
SMALL = NewEncoder(layers=4, hidden=256, heads=4, feed_forward=1024)
TINY = NewEncoder(layers=4, hidden=128, heads=2, feed_forward=512)
CUDA = Size(BASE, 30_522, 1_000_000, 16_384, 4, warm_up=20, turns=5, steps=10)
CUDA_QUICK = Size(BASE, 30_522, 1_000_000, 16_384, 4, warm_up=5, turns=3, steps=10)
CPU = Size(SMALL, 3_200, 20_000, 4096, 1, warm_up=1, turns=7, steps=1)
CPU_QUICK = Size(TINY, 1_600, 2000, 2048, 2, warm_up=1, turns=3, steps=1)


@dataclass(slots=True)
class Measured:
    """The measurements of a rung; `peak_bytes` is None if the device does not report it."""

    rung: Rung
    own_bytes: int
    done: int = 0
    rates: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    compiled_again: int = 0
    graph_breaks: int = 0
    allocations: int = 0

    @property
    def rate(self) -> Rate:
        return Rate(tuple(self.rates))

    def mfu(self, product: float) -> float:
        """The FLOP/s of the rung divided by those of a matrix product."""
        return self.rate.median * self.rung.flops / product

    def as_json(self, product: float) -> dict[str, Any]:
        peak = None if self.peak_bytes is None else round(self.peak_bytes / 1e9, 2)
        of_token = {"mflop_per_token": round(self.rung.flops / 1e6, 1), "peak_gb": peak}
        of_token["allocations"] = self.allocations
        return self.rate.as_json() | {"mfu": round(self.mfu(product), 4)} | of_token


def main(
    quick: Annotated[bool, typer.Option("--quick", help="A minute: no figures to quote.")] = False,
    compile_it: Annotated[bool, typer.Option("--compile", help="Compile on a CPU too.")] = False,
    shards: Annotated[Path | None, typer.Option(help="A shard set with its tokenizer.")] = None,
    rungs: Annotated[str, typer.Option(help="Letters of the variants to measure.")] = "",
    kernels: Annotated[
        Path | None, typer.Option(help="Folder for the kernel times of each variant.")
    ] = None,
    lock: Annotated[
        Path | None, typer.Option(help="File that is locked during the measurement.")
    ] = None,
) -> None:
    """Measure the ladder."""
    console = Console(width=120, highlight=False)
    cuda = torch.cuda.is_available()
    os.environ.update(allocator_settings(os.environ))  # as a run does
    device = torch.device("cuda" if cuda else "cpu")
    size = (CUDA_QUICK if quick else CUDA) if cuda else (CPU_QUICK if quick else CPU)
    if cuda:
        torch.set_float32_matmul_precision("high")  # as a run does
    else:
        torch.set_num_threads(1)  # two threads would wait for each other on a shared machine
    num_steps = 4  # distinct steps, repeated
    num_strips = num_steps * size.micro_batches
    if shards is None:
        texts = made_up_texts(size.strip_tokens, num_strips, size.vocabulary, size.concepts)
    else:
        texts = texts_of(shards, size.strip_tokens, num_strips)
    world = World(device=device)
    setting = Setting(
        world, size.shape, cuda, size.strip_tokens, size.micro_batches, num_steps, texts
    )
    found: dict[str, Measured] = {}
    steps = ladder(setting, compile_it or cuda)
    letters = "".join(name[0] for name in steps)
    if unknown := set(rungs) - set(letters):
        raise typer.BadParameter(f"no variants {''.join(sorted(unknown))} here, only {letters}")
    for name, build in steps.items():
        if name[0] not in (rungs or letters):
            continue
        started = time.perf_counter()
        try:
            found[name] = prepare(build, size, device)
            seconds = time.perf_counter() - started
            console.print(f"warm after {seconds:.0f} s: {name}", markup=False)
        except (ImportError, OSError, RuntimeError) as error:
            if name != ZERO_1:
                raise
            console.print(f"ZeRO-1 left out: {error}", markup=False)
    products, in_turn, drawn = [], list(found.values()), Random(0)
    if cuda:
        torch.cuda.empty_cache()  # other processes may compile meanwhile
    with locked(lock):
        for _ in range(size.turns):
            products.append(product_flops_per_s(device, torch.bfloat16 if cuda else torch.float32))
            drawn.shuffle(in_turn)
            for one in in_turn:
                take_turn(one, size.steps, device)
        if kernels is not None:
            kernels.mkdir(parents=True, exist_ok=True)
            for name, one in found.items():
                times = profiled(one.rung.step, one.done, device)
                write_kernels(kernels / f"{name[0]}.txt", times)
    with suppress(ValueError, AssertionError, RuntimeError):
        dist.destroy_process_group()
    show(console, found, median(products), size)
    print(json.dumps(summary(found, median(products))))


@contextmanager
def locked(file: Path | None) -> Iterator[None]:
    """Hold an exclusive lock on a file, if one is given."""
    if file is None:
        yield
        return
    with file.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def prepare(build: Any, size: Size, device: torch.device) -> Measured:
    """Build and warm up a rung; measures the memory that it keeps between steps."""
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    rung = build()
    for number in range(size.warm_up):
        rung.step(number)
    own = torch.cuda.memory_allocated(device) - before if device.type == "cuda" else 0
    return Measured(rung, own, done=size.warm_up)


def take_turn(one: Measured, steps: int, device: torch.device) -> None:
    graphs, breaks = counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())
    before, calls = 0, allocator_calls(device)
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    num_tokens = sum(one.rung.step(number) for number in range(one.done, one.done + steps))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    one.rates.append(num_tokens / (time.perf_counter() - started))
    one.done += steps
    if device.type == "cuda":
        peak = one.own_bytes + torch.cuda.max_memory_allocated(device) - before
        one.peak_bytes = max(one.peak_bytes or 0, peak)
    one.allocations += allocator_calls(device) - calls
    one.compiled_again += counters["stats"]["unique_graphs"] - graphs
    one.graph_breaks += sum(counters["graph_break"].values()) - breaks


def allocator_calls(device: torch.device) -> int:
    """Number of CUDA allocations and frees, which synchronize the device."""
    if device.type != "cuda":
        return 0
    of_device = torch.cuda.memory_stats(device)
    return sum(of_device.get(f"num_device_{what}", 0) for what in ("alloc", "free"))


def ratio(found: Mapping[str, Measured], over: str, under: str) -> float | None:
    """The ratio of two rates, median over turns; None if one is missing."""
    if over not in found or under not in found:
        return None
    pairs = zip(found[over].rates, found[under].rates, strict=True)
    return round(median(one / other for one, other in pairs), 3)


def show(console: Console, found: Mapping[str, Measured], product: float, size: Size) -> None:
    shape = size.shape
    table = Table(
        title=f"{shape.layers} layers of {shape.hidden}, {size.micro_batches} x "
        f"{size.strip_tokens:,} tokens a step; a matrix product does {product / 1e12:.3g} TFLOP/s"
    )
    for column in (
        "",
        "tokens/s",
        "spread",
        "x a",
        "MFLOP/token",
        "MFU",
        "peak GB",
        "compiled again",
        "graph breaks",
        "allocations",
    ):
        table.add_column(column, justify="right" if column else "left", no_wrap=not column)
    for name, one in found.items():
        table.add_row(
            name,
            f"{one.rate.median:,.0f}",
            f"{one.rate.spread:.0%}",
            f"{ratio(found, name, HF_PADDED) or math.nan:.2f}",
            f"{one.rung.flops / 1e6:,.1f}",
            f"{one.mfu(product):.1%}",
            "" if one.peak_bytes is None else f"{one.peak_bytes / 1e9:.1f}",
            str(one.compiled_again),
            str(one.graph_breaks),
            str(one.allocations),
        )
    console.print(table)


def summary(found: Mapping[str, Measured], product: float) -> dict[str, Any]:
    """The JSON of the last line; rung d is the complete step of a run, or else f."""
    complete = ENTITIES if ENTITIES in found else ONE_STRIP
    ours = found.get(complete)
    return {
        "tokens_per_s": ours and round(ours.rate.median, 1),
        "mfu": ours and round(ours.mfu(product), 4),
        "product_tflops": round(product / 1e12, 1),
        "ratio_to_hf_padded": ratio(found, complete, HF_PADDED),
        "ratio_to_hf_compiled": ratio(found, complete, HF_COMPILED),
        "zero1_ratio": ratio(found, ZERO_1, ENTITIES),
        "compiled_again": sum(one.compiled_again for one in found.values()),
        "rungs": {name.strip(): one.as_json(product) for name, one in found.items()},
    }


if __name__ == "__main__":
    run_script(main)
