"""The share of the entity head in the time of a pretraining step, by number of concepts.

    python tools/bench/head_time.py             BERT-base in bf16 on CUDA, else a small model
    python tools/bench/head_time.py --quick     a smaller model on a CPU: no figures to quote

The whole step is rung d of pretrain_step.py, not compiled. The head is timed alone: forward and
backward pass for the mentions of the same micro-batches, and the update of its weights. Alone it
waits for its own kernel launches, which a step hides behind the backbone, so the shown share is an
upper bound. Above `entities.shard_above` concepts the table is sharded, as in a run. The last line
is one JSON object.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Annotated

import torch
import typer
from pretrain_step import CPU, CPU_QUICK, CUDA, Size
from rich.console import Console
from rich.table import Table
from step_rungs import OPTIMIZER, Rung, Setting, ours
from step_texts import made_up_texts
from torch import Tensor

from embre.cli.options import run_script
from embre.engines.step import adamw
from embre.model.heads import EntityHead
from embre.model.pretraining_model import PretrainingModel
from embre.model.sharded_table import ShardedTable
from embre.world import World

NUM_STEPS = 4  # distinct steps, repeated


@dataclass(frozen=True, slots=True)
class Share:
    """Milliseconds of a whole step and of the head alone, at a number of concepts."""

    concepts: int
    table: str
    mentions: int
    step_ms: float
    head_ms: float
    share: float


def main(quick: Annotated[bool, typer.Option("--quick", help="Small, on a CPU.")] = False) -> None:
    """Measure the share of the head."""
    cuda = torch.cuda.is_available() and not quick
    device = torch.device("cuda" if cuda else "cpu")
    size = CUDA if cuda else (CPU_QUICK if quick else CPU)
    if cuda:
        torch.set_float32_matmul_precision("high")  # as a run does
    else:
        torch.set_num_threads(1)
    concepts = (100, 1000) if quick else (10_000, 100_000, 1_000_000)
    repeats = 2 if quick else 10
    shares = [measured(size, number, repeats, device) for number in concepts]
    show(shares, size)
    print(json.dumps([asdict(share) for share in shares]))


def measured(size: Size, concepts: int, repeats: int, device: torch.device) -> Share:
    """Measure at one number of concepts."""
    num_strips = NUM_STEPS * size.micro_batches
    texts = made_up_texts(size.strip_tokens, num_strips, size.vocabulary, concepts)
    half = device.type == "cuda"
    setting = Setting(
        World(device=device),
        size.shape,
        half,
        size.strip_tokens,
        size.micro_batches,
        NUM_STEPS,
        texts,
    )
    rung = ours(setting, "entity_token", compile_it=False)
    model = rung.engine.module
    assert isinstance(model, PretrainingModel)
    shared = isinstance(model.entity_head.concepts, ShardedTable)
    mentions = sum(batch.counts["identifier"] for batch in rung.batches) / NUM_STEPS
    step_ms = milliseconds(rung.step, repeats, device)
    alone = head_step(model.entity_head, rung, size.shape.hidden, device)
    head_ms = milliseconds(alone, repeats, device)
    return Share(
        concepts,
        "shared rows" if shared else "one matrix",
        round(mentions),
        round(step_ms, 2),
        round(head_ms, 2),
        round(head_ms / step_ms, 4),
    )


def head_step(
    head: EntityHead, rung: Rung, hidden: int, device: torch.device
) -> Callable[[int], None]:
    """A function that does forward, backward and update of the head for the mentions of a step,
    with random vectors."""
    batches = [batch.to(device) for batch in rung.batches]
    vectors = [
        torch.randn(len(b.mention_types), hidden, device=device).requires_grad_() for b in batches
    ]
    optimizer = adamw(head, OPTIMIZER)
    rows = head.concepts.rows if isinstance(head.concepts, ShardedTable) else None

    def step(number: int) -> None:
        optimizer.zero_grad(set_to_none=True)
        first = number * rung.per_step % len(batches)
        for at in range(first, first + rung.per_step):
            batch = batches[at]
            losses: dict[str, Tensor] = head(
                vectors[at], batch.mention_types, batch.mention_ids, batch.num_known_by_type
            )
            torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        if rows is not None:
            rows.update(1e-4, scale=1.0)

    return step


def milliseconds(step: Callable[[int], object], repeats: int, device: torch.device) -> float:
    """The median of `repeats` steps, after NUM_STEPS of warm-up."""
    times = []
    for number in range(NUM_STEPS + repeats):
        wait(device)
        started = time.perf_counter()
        step(number)
        wait(device)
        times.append(1000 * (time.perf_counter() - started))
    return median(times[NUM_STEPS:])


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def show(shares: list[Share], size: Size) -> None:
    table = Table(
        title=f"{size.shape.layers} layers of {size.shape.hidden}, {size.micro_batches} x "
        f"{size.strip_tokens:,} tokens a step"
    )
    for column in ("concepts", "table", "mentions", "ms a step", "ms of the head", "share"):
        table.add_column(column, justify="right")
    for one in shares:
        table.add_row(
            f"{one.concepts:,}",
            one.table,
            str(one.mentions),
            f"{one.step_ms:,.1f}",
            f"{one.head_ms:,.1f}",
            f"{one.share:.1%}",
        )
    Console(width=100, highlight=False).print(table)


if __name__ == "__main__":
    run_script(main)
