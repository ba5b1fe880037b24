"""What the machinery costs: Ray, ZeRO-1, the stream of micro-batches, a restart.

    python tools/bench/overheads.py --quick     one round, a few minutes on two cores
    python tools/bench/overheads.py             three rounds

Runs of the same small pretraining take turns: two ranks of torchrun with TorchEngine, the same with
DeepSpeed's ZeRO-1, and two Ray workers with TorchEngine. A step's time is the median over all steps
but the first ones; a ratio is of medians within a round, and the median of rounds is given. The
last line is one JSON object: `ray_overhead` and `zero1_overhead` are shares (0.01 is 1 % slower).
"""

import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from dump_files import write_text
from fault_scene import Scene, fault_happened, steps_of
from made_up_tokenizer import save_made_up_tokenizer
from rich.console import Console
from rich.table import Table

from embre.batch import StreamSource
from embre.config import DataConfig, EntitiesConfig, MaskingConfig
from embre.pretrain import chosen
from embre.sharding import ShardSettings, shard
from embre.shards import ShardSet
from embre.stream import stream_batches
from embre.tokenization import load_tokenizer
from embre.tracking import read_events

WARM_UP = 30
SHAPE = {"layers": 2, "hidden": 192, "heads": 3, "feed_forward": 768}
WAYS: dict[str, dict[str, Any]] = {
    "torchrun, TorchEngine": {"engine": "torch", "launch": {"launcher": "local"}},
    "torchrun, ZeRO-1": {"engine": "deepspeed", "launch": {"launcher": "local"}},
    "Ray, TorchEngine": {"engine": "torch", "launch": {"launcher": "ray", "workers": 2}},
}


def main(
    quick: Annotated[bool, typer.Option(help="Few steps, one round: no figures to quote.")] = False,
) -> None:
    """Measure the overheads."""
    console = Console(soft_wrap=True, highlight=False)
    rounds, steps = (1, 60) if quick else (3, 230)
    with tempfile.TemporaryDirectory() as folder:
        streaming = stream_rate(Path(folder), documents=4000 if quick else 32_000)
        scene = Scene.build(Path(folder))
        each: dict[str, list[float]] = {way: [] for way in WAYS}
        waited: list[float] = []
        for number in range(rounds):
            for way in list(WAYS)[:2] if quick else WAYS:
                found = run(scene, way, f"round-{number}-{way}", steps)
                each[way].append(median(event["seconds"] for event in found))
                waited += [event["waited_share"] for event in found]
        recovery = {} if quick else recover(scene)
    base = each["torchrun, TorchEngine"]
    overhead = {way: share_over(base, times) for way, times in each.items() if times}
    show(console, each, overhead)
    result = {
        "ray_overhead": overhead.get("Ray, TorchEngine"),
        "zero1_overhead": overhead["torchrun, ZeRO-1"],
        "stream_docs_per_s": round(median(streaming)),
        "stream_each": [round(rate) for rate in streaming],
        "waited_share": round(median(waited), 4),
        "recovery_s": recovery,
        "step_ms": {way: [round(1000 * s, 2) for s in times] for way, times in each.items()},
    }
    console.print(
        f"stream, masking and packing: {result['stream_docs_per_s']:,} documents/s and core"
    )
    console.print(f"waiting for data: {result['waited_share']:.2%} of the time, in the rank itself")
    if recovery:
        parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in recovery.items())
        console.print(f"from kill -9 of a worker to its next step: {parts}", markup=False)
    print(json.dumps(result))


def run(scene: Scene, way: str, name: str, steps: int) -> list[dict[str, Any]]:
    """One run on two ranks; its steps after the warm-up."""
    name = name.replace(" ", "-").replace(",", "")
    config = scene.config(
        name,
        encoder__new=SHAPE,
        data__strip_tokens=1024,
        train__steps=steps,
        train__save_every_steps=steps,
        train__validate_every_steps=steps,
        **WAYS[way],
    )
    ranks = 2 if WAYS[way]["launch"]["launcher"] == "local" else 0
    code, said = scene.start(config, ranks=ranks).wait(600)
    if code:
        raise RuntimeError(f"{way} failed with {code}:\n{said[-3000:]}")
    found = steps_of(scene.run_folder(name))
    return [event for step, event in found.items() if step > WARM_UP]


def stream_rate(folder: Path, documents: int) -> list[float]:
    """Documents per second of one core out of shards, masked and packed; three times."""
    inputs = write_text(folder / "dump", documents, seed=0)
    save_made_up_tokenizer(folder / "tokenizer")
    shard(inputs, folder / "stream", folder / "tokenizer", [], ShardSettings(shard_documents=8192))
    torch.set_num_threads(1)
    shard_set = ShardSet.open(folder / "stream")
    data = DataConfig(shards=shard_set.url, streams=1)
    entities = chosen(shard_set, EntitiesConfig())
    tokenizer = load_tokenizer(folder / "tokenizer")
    source = StreamSource.build(shard_set, data, MaskingConfig(), entities, tokenizer, seed=0)
    rates = []
    for _ in range(3):
        started, num_documents = time.process_time(), 0
        for batch in stream_batches(source, 0):
            if batch.state.epoch:
                break
            num_documents += len(batch.doc_ids)
        rates.append(num_documents / (time.process_time() - started))
    return rates


def recover(scene: Scene) -> dict[str, float]:
    """Seconds from the kill of a Ray worker to its next step, by part."""
    config, folder = scene.config("recover"), scene.run_folder("recover")
    code, said = scene.start(config, fault="step:7:kill9:1").wait()
    if code or not fault_happened(folder):
        raise RuntimeError(f"the run did not recover: {code}\n{said[-3000:]}")
    killed = max(path.stat().st_mtime for path in folder.glob("fault-*"))
    begun = max(event["time"] for event in read_events(folder, "started"))
    stepped = min(e["time"] for e in read_events(folder, "step") if e["time"] > begun)
    return {
        "noticed, restarted, restored": round(begun - killed, 1),
        "first step": round(stepped - begun, 1),
        "all": round(stepped - killed, 1),
    }


def share_over(base: list[float], times: list[float]) -> float:
    """How much longer a step takes than the base's, the median over rounds."""
    return round(median(ours / theirs for ours, theirs in zip(times, base, strict=True)) - 1, 4)


def show(console: Console, each: dict[str, list[float]], overhead: dict[str, float]) -> None:
    table = Table(title="milliseconds of a step, median of each round", title_justify="left")
    for column in ("", "rounds", "over the first"):
        table.add_column(column)
    for way, share in overhead.items():
        rounds = "  ".join(f"{1000 * seconds:.1f}" for seconds in each[way])
        table.add_row(way, rounds, f"{share:+.1%}")
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
