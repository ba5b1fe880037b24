"""Exactness, memory and arithmetic of the entity head at millions of concepts.

    python tools/bench/entity_head.py --quick       up to 10,000 concepts, about a minute
    python tools/bench/entity_head.py               up to 10 million, some minutes, 16 GB of memory

Four results: the error of the chunked loss and its gradients against F.cross_entropy in float64;
the memory of a micro-batch besides the table and its gradient, against F.cross_entropy over all
logits; the FLOPs relative to a step of BERT-base, and the bytes moved for them; memory and time per
rank, of one matrix under AdamW against rows sharded over ranks. Memory is that of a separate
process (Linux), on a GPU that of torch. The last line is one JSON object.
"""

import gc
import json
import multiprocessing as mp
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.table import Table
from step_traffic import Traffic
from torch import Tensor

from embre.cli.options import run_script
from embre.config import OptimizerConfig
from embre.engines.flops import training_flops_per_token
from embre.engines.step import adamw
from embre.model.chunked_softmax import CHUNK_LOGITS, cross_entropy_sum, full_block
from embre.model.concept_table import ConceptTable
from embre.model.sharded_table import ShardedTable
from embre.model.table_rows import TableRows
from embre.refused import Refused
from embre.world import World, current_world

MB = 1 << 20
MENTIONS = 512  # hidden mentions of a micro-batch with a concept in the vocabulary
MATRIX, SHARED, NAIVE = "one matrix", "shared rows", "all logits"
# A step of 65,536 tokens: 33 mentions in 340 tokens (BioRED), a fifth of them hidden.
STEP_TOKENS, STEP_MENTIONS = 1 << 16, 1270
# Shares of mentions in BioRED and of concepts in PubTator: genes, diseases, chemicals, species,
# variants.
TYPE_MIX = ((0.328, 0.26), (0.272, 0.013), (0.217, 0.078), (0.107, 0.13), (0.068, 0.519))
ONE_TYPE = ((1.0, 1.0),)
OPTIMIZER = OptimizerConfig()


def main(
    quick: Annotated[
        bool, typer.Option("--quick", help="Small tables: no figures to quote.")
    ] = False,
) -> None:
    """Measure the entity head."""
    console = Console(soft_wrap=True, highlight=False)
    millions = (0.01,) if quick else (0.1, 1.0, 3.0, 10.0)
    error = max_abs_error()
    console.print(f"loss and gradients in float64: at most {error:.1e} from F.cross_entropy's")
    memory = [memory_row(m, dimension) for m in millions for dimension in (128, 256)]
    columns = ("concepts", "dimension", *(f"{way}, MB" for way in (MATRIX, SHARED, NAIVE)), "s")
    show(console, f"beside table and gradient, {MENTIONS} mentions", columns, memory)
    flat, by_type = (flops_share(mix) for mix in (ONE_TYPE, TYPE_MIX))
    console.print(
        f"arithmetic of 1 M x 256 in a step of BERT-base: {by_type:.1%} by type, {flat:.1%} if all "
        "were one type"
    )
    moved, moved_flat = (gb_moved(mix) for mix in (TYPE_MIX, ONE_TYPE))
    console.print(
        f"bytes that its operations read and write: {moved:.0f} and {moved_flat:.0f} GB, one for "
        f"{head_flops(TYPE_MIX) / 1e9 / moved:.0f} operations"
    )
    sharing = list(
        sharing_rows((0.001,) if quick else (0.01, 0.1, 1.0), (1, 2) if quick else (1, 2, 4))
    )
    columns = ("concepts x 128", "ranks", "table", "MB a rank", "ms a step")
    show(console, "forward, backward, reduction, update", columns, sharing)
    result = {
        "max_abs_error_fp64": error,
        "extra_mb_1m": next((row[3] for row in memory if row[:2] == ("1,000,000", 256)), None),
        "flops_share_1m": round(by_type, 4),
        "flops_share_1m_one_type": round(flat, 4),
        "gb_moved_1m": round(moved, 1),
        "gb_moved_1m_one_type": round(moved_flat, 1),
        "memory": memory,
        "sharing": sharing,
    }
    print(json.dumps(result))


def max_abs_error() -> float:
    """The maximum error of loss and gradients over a few shapes, in float64.

    Raises Refused if a gradient differs from the numeric one.
    """
    worst, several = 0.0, 5 * CHUNK_LOGITS // 2 // 200  # rows that take three chunks
    for seed, (num, rows, dimension) in enumerate(((1, 1, 4), (7, 50, 8), (200, several, 32))):
        random = torch.Generator().manual_seed(seed)
        vectors, table = (
            torch.randn(n, dimension, dtype=torch.float64, generator=random).requires_grad_()
            for n in (num, rows)
        )
        labels = torch.randint(rows, (num,), generator=random)
        losses = chunked(vectors, table, labels), naive(vectors, table, labels)
        gradients = [torch.autograd.grad(loss, (vectors, table)) for loss in losses]
        pairs = [losses, *zip(*gradients, strict=True)]
        worst = max(worst, *(float((one - other).abs().max().detach()) for one, other in pairs))
        if num < 10 and not torch.autograd.gradcheck(
            lambda v, t, names=labels: chunked(v, t, names), (vectors, table)
        ):
            raise Refused("the gradient differs from the numeric one")
    return worst


def chunked(vectors: Tensor, table: Tensor, labels: Tensor) -> Tensor:
    blocks = [full_block(slice(0, len(vectors)), 0, len(table), labels)]
    return cross_entropy_sum(vectors, table, blocks)


def naive(vectors: Tensor, table: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(vectors @ table.T, labels, reduction="sum")


def memory_row(millions: float, dimension: int) -> tuple[Any, ...]:
    """Memory and time by method at one size; None if it would not fit into memory."""
    rows = round(millions * 1e6)
    found: list[Any] = [
        in_process(extra_memory, way, rows, dimension) if fits(way, rows, dimension) else None
        for way in (MATRIX, SHARED, NAIVE)
    ]
    return f"{rows:,}", dimension, *(one and one[0] for one in found), found[0] and found[0][1]


def fits(way: str, rows: int, dimension: int) -> bool:
    """Whether table, gradient and logits take less than 60 % of the memory of device or machine."""
    if torch.cuda.is_available():
        _, memory = torch.cuda.mem_get_info()
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    numbers = 2 * rows * dimension + (3 * rows * MENTIONS if way == NAIVE else 0)
    return 4 * numbers < 0.6 * memory


def extra_memory(way: str, rows: int, dimension: int) -> tuple[float, float]:
    """Peak MB of a forward and backward pass, besides the table and the gradient of an earlier
    micro-batch of the step; and its seconds."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vectors = torch.ones(MENTIONS, dimension, device=device, requires_grad=True)
    labels = torch.arange(MENTIONS, device=device) % rows
    if way == SHARED:
        mine = TableRows([rows], dimension, World(device=device), OPTIMIZER, seed=0)
        shared = ShardedTable(mine, sample_above=1 << 62, sample_share=1.0)
    table = torch.full((rows if way != SHARED else 1, dimension), 0.01, device=device)
    table.requires_grad_()
    before, seconds = 0, 0.0
    for _ in range(2):
        before = start_of_peak(device)
        started = time.perf_counter()
        if way == SHARED:
            loss = shared(vectors, labels, [MENTIONS])[0]
        else:
            loss = (chunked if way == MATRIX else naive)(vectors, table, labels)
        loss.backward()
        del loss
        seconds = time.perf_counter() - started
    return round((peak_bytes(device) - before) / MB, 1), round(seconds, 2)


def start_of_peak(device: torch.device) -> int:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return resident_bytes("VmRSS")


def peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    return resident_bytes("VmHWM")


def resident_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def flops_share(mix: Sequence[tuple[float, float]]) -> float:
    """FLOPs of the head at 1 M x 256 divided by those of a step of BERT-base."""
    step = STEP_TOKENS * training_flops_per_token(12, 768, 3072, 30522, 364, 0.15, 0.2)
    return head_flops(mix) / step


def head_flops(mix: Sequence[tuple[float, float]]) -> float:
    """FLOPs of the mentions of a step at 1 M x 256; `mix` has the shares of mentions and concepts
    of each type.

    Four products of mentions and rows: the logits, their recomputation, and the two gradients.
    """
    products = sum(STEP_MENTIONS * mentions * 1e6 * concepts for mentions, concepts in mix)
    return 4 * 2 * 256 * products


def gb_moved(mix: Sequence[tuple[float, float]], rows: int = 20_000) -> float:
    """GB read and written by the same forward and backward pass: counted at `rows` concepts and
    scaled linearly."""
    sizes = [round(rows * concepts) for _, concepts in mix]
    counts = [round(STEP_MENTIONS * mentions) for mentions, _ in mix]
    table = ConceptTable(sizes, 256, sample_above=1 << 62, sample_share=1.0)
    vectors = torch.randn(sum(counts), 256).requires_grad_()
    with Traffic() as traffic:
        table(vectors, torch.zeros(len(vectors), dtype=torch.int64), counts)[0].backward()
    return sum(traffic.num_bytes.values()) / 1e9 * 1e6 / rows


def sharing_rows(
    millions: Sequence[float], sizes: Sequence[int]
) -> Iterator[tuple[str, int, str, float, float]]:
    for million in millions:
        rows = round(million * 1e6)
        for size in sizes:
            for way in (MATRIX, SHARED):
                found = on_ranks(size, way, rows)
                memory, ms = max(m for m, _ in found), median(t for _, t in found)
                yield f"{rows:,}", size, way, memory, round(ms, 1)


def rank_step(world: World, way: str, rows: int, steps: int = 3) -> tuple[float, float]:
    """Peak MB of a rank for the table, and milliseconds per step."""
    before = start_of_peak(world.device)
    step = shared_step(world, rows) if way == SHARED else matrix_step(world, rows)
    times = []
    for number in range(steps):
        started = time.perf_counter()
        step(number)
        times.append(1000 * (time.perf_counter() - started))
    return round((peak_bytes(world.device) - before) / MB, 1), median(times[1:])


def mentions_of(world: World, rows: int, number: int) -> tuple[Tensor, Tensor, list[int]]:
    num = MENTIONS // world.size
    random = torch.Generator().manual_seed(number * world.size + world.rank)
    vectors = torch.randn(num, 128, generator=random).requires_grad_()
    return vectors, torch.randint(rows, (num,), generator=random), [num]


def matrix_step(world: World, rows: int) -> Callable[[int], None]:
    table = ConceptTable([rows], 128, sample_above=1 << 62, sample_share=1.0)
    optimizer = adamw(table, OPTIMIZER)

    def step(number: int) -> None:
        table(*mentions_of(world, rows, number))[0].backward()
        if world.size > 1:
            dist.all_reduce(table.weight.grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def shared_step(world: World, rows: int) -> Callable[[int], None]:
    mine = TableRows([rows], 128, world, OPTIMIZER, seed=0)
    table = ShardedTable(mine, sample_above=1 << 62, sample_share=1.0)

    def step(number: int) -> None:
        table(*mentions_of(world, rows, number))[0].backward()
        mine.update(1e-4, scale=1.0)

    return step


def in_process(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a new process, so that its memory can be measured."""
    with mp.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


def on_ranks(size: int, way: str, rows: int) -> list[tuple[float, float]]:
    with tempfile.TemporaryDirectory() as folder, mp.get_context("spawn").Pool(size) as pool:
        return pool.starmap(rank, [(number, size, folder, way, rows) for number in range(size)], 1)


def rank(number: int, size: int, folder: str, way: str, rows: int) -> tuple[float, float]:
    torch.set_num_threads(1)
    if size > 1:
        dist.init_process_group("gloo", f"file://{folder}/ranks", rank=number, world_size=size)
    try:
        return rank_step(current_world(torch.device("cpu")), way, rows)
    finally:
        if size > 1:
            dist.destroy_process_group()


def show(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence]) -> None:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*("–" if cell is None else str(cell) for cell in row))
    console.print(table)


if __name__ == "__main__":
    run_script(main)
