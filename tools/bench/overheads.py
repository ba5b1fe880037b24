"""The overheads of Ray, ZeRO-1, the stream of micro-batches and a restart.

    python tools/bench/overheads.py --quick     few steps, without Ray, two to four minutes
    python tools/bench/overheads.py             three rounds, half an hour

Runs of the same small pretraining alternate: two ranks of torchrun with TorchEngine, and two Ray
workers. The time of a step is the median over all steps after the warm-up; a ratio is that of
medians within a round, of which the median over rounds is given. Both engines are compared within
one torchrun run that does each step on both; that ratio is the median over steps. The overhead of
ZeRO-1 is constant per step, so it is measured at two step sizes, of which the larger counts;
pretraining steps have 65,536 tokens and more. The last line is one JSON object: `ray_overhead` and
`zero1_overhead` are fractions (0.01 is 1 % slower).
"""

import json
import tempfile
import time
from pathlib import Path
from statistics import mean, median, quantiles
from typing import Annotated, Any

import torch
import typer
from dump_files import write_text
from fault_scene import Scene, fault_happened, steps_of
from made_up_tokenizer import save_made_up_tokenizer
from rich.console import Console
from rich.table import Table

from embre.checkpoints.checkpoints import Checkpoints
from embre.cli.options import run_script
from embre.config import DataConfig, MaskingConfig, OptimizerConfig
from embre.engines import training_state
from embre.engines.torch_engine import TorchEngine
from embre.sharding.shard import ShardSettings, shard
from embre.shards.entities import choose_entities
from embre.shards.shard_set import ShardSet
from embre.stream.order import stream_batches
from embre.stream.source import StreamSource
from embre.tokenization.tokenizer import load_tokenizer
from embre.tracking import read_events
from embre.world import World

STATE_PARTS = (training_state.WEIGHT, *training_state.MOMENTS)
WARM_UP = 30
IN_TURN = Path(__file__).with_name("engines_in_turn.py")
STREAMS, STRIP_TOKENS, LONG_STRIP_TOKENS = 4, 1024, 4096
SHAPE = {"layers": 2, "hidden": 192, "heads": 3, "feed_forward": 768}
ALONE, RAY = "torchrun", "Ray"
WAYS: dict[str, dict[str, Any]] = {
    ALONE: {"launcher": "local"},
    RAY: {"launcher": "ray", "workers": 2},
}


def main(
    quick: Annotated[
        bool, typer.Option("--quick", help="Few steps, one round: no figures to quote.")
    ] = False,
) -> None:
    """Measure the overheads."""
    console = Console(soft_wrap=True, highlight=False)
    rounds, steps = (1, 45) if quick else (3, 230)
    with tempfile.TemporaryDirectory() as folder:
        saving = save_cost(Path(folder))
        streaming = stream_rate(Path(folder), documents=2000 if quick else 32_000)
        scene = Scene.build(Path(folder))
        each: dict[str, list[float]] = {way: [] for way in WAYS}
        waited: list[float] = []
        for number in range(rounds):
            for way in [ALONE] if quick else WAYS:
                found = run(scene, way, f"round-{number}-{way}", steps)
                each[way].append(median(event["seconds"] for event in found))
                waited += [event["waited_share"] for event in found]
        small = zero_overhead(scene, steps, STRIP_TOKENS)
        zero = small if quick else zero_overhead(scene, steps, LONG_STRIP_TOKENS)
        loaded = run(scene, ALONE, "loaded", steps, data__loader_workers=4)
        recovery = {} if quick else recover(scene)
    base = each[ALONE]
    overhead = {way: share_over(base, times) for way, times in each.items() if times}
    show(console, each, overhead)
    result = {
        "ray_overhead": overhead.get(RAY),
        "zero1_overhead": round(median(zero) - 1, 4),
        "zero1_quartiles": [round(quantile - 1, 4) for quantile in quantiles(zero)[::2]],
        "zero1_overhead_small_steps": round(median(small) - 1, 4),
        "stream_docs_per_s": round(median(streaming)),
        "stream_each": [round(rate) for rate in streaming],
        "waited_share": round(median(waited), 4),
        "waited_share_4_workers": round(mean(event["waited_share"] for event in loaded), 4),
        "save_stall_s": saving[0],
        "save_all_s": saving[1],
        "recovery_s": recovery,
        "step_ms": {way: [round(1000 * s, 2) for s in times] for way, times in each.items()},
    }
    low, high = result["zero1_quartiles"]
    console.print(
        f"ZeRO-1 over TorchEngine, steps in turns: {result['zero1_overhead']:+.1%}, half of the "
        f"steps from {low:+.1%} to {high:+.1%}; with {STREAMS * STRIP_TOKENS:,} tokens a step "
        f"{result['zero1_overhead_small_steps']:+.1%}"
    )
    console.print(
        f"stream, masking and packing: {result['stream_docs_per_s']:,} documents/s and core"
    )
    stall_s, all_s = saving
    console.print(
        f"a checkpoint of 22 M parameters: {stall_s:.2f} s of {all_s:.2f} s stop training"
    )
    console.print(
        f"waiting for data: {result['waited_share']:.2%} of the time, in the rank itself; "
        f"{result['waited_share_4_workers']:.2%} with 4 loader processes"
    )
    if recovery:
        parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in recovery.items())
        console.print(f"from kill -9 of a worker to its next step: {parts}", markup=False)
    print(json.dumps(result))


def run(scene: Scene, way: str, name: str, steps: int, **more: Any) -> list[dict[str, Any]]:
    """Run on two ranks (one if loader processes need the other core); the steps after warm-up."""
    config = config_of(scene, name, steps, launch=WAYS[way], **more)
    ranks = 0 if more or way == RAY else 2
    code, output = scene.start(config, ranks=ranks).wait(600)
    if code:
        raise RuntimeError(f"{way} failed with {code}:\n{output[-3000:]}")
    found = steps_of(scene.run_folder(name))
    return [event for step, event in found.items() if step > WARM_UP]


def config_of(
    scene: Scene, name: str, steps: int, strip_tokens: int = STRIP_TOKENS, **more: Any
) -> Path:
    return scene.config(
        name,
        encoder__new=SHAPE,
        engine="torch",
        data__streams=STREAMS,
        data__strip_tokens=strip_tokens,
        train__steps=steps,
        train__save_every_steps=steps,
        train__validate_every_steps=steps,
        **{"data__loader_workers": 0, **more},
    )


def zero_overhead(
    scene: Scene, steps: int, strip_tokens: int, warm_up: int = WARM_UP
) -> list[float]:
    """The ratio of the times of each step under ZeRO-1 and TorchEngine, on two ranks."""
    times = scene.folder / "times.json"
    config = config_of(scene, f"in-turn-{strip_tokens}", steps, strip_tokens, launch=WAYS[ALONE])
    code, output = scene.start_ranks(2, [str(IN_TURN), str(config), str(times)]).wait(1800)
    if code:
        raise RuntimeError(f"the engines in turn failed with {code}:\n{output[-3000:]}")
    found = json.loads(times.read_text())
    pairs = zip(found["deepspeed"], found["torch"], strict=True)
    return [zero / plain for zero, plain in pairs][warm_up:]


def stream_rate(folder: Path, documents: int) -> list[float]:
    """Documents per second of one core, from shards, masked and packed; three measurements.

    Starts with the second micro-batch: before the first one an epoch opens the shards that it
    mixes, here a third of all, in PubTator's dump one in sixty.
    """
    inputs = write_text(folder / "dump", documents, seed=0)
    save_made_up_tokenizer(folder / "tokenizer")
    shard(inputs, folder / "stream", folder / "tokenizer", [], ShardSettings(shard_documents=1024))
    torch.set_num_threads(1)
    shard_set = ShardSet.open(folder / "stream")
    data = DataConfig(shards=shard_set.url, streams=1)
    entities = choose_entities(shard_set, min_count=2, max_per_type=1_000_000)
    tokenizer = load_tokenizer(folder / "tokenizer")
    source = StreamSource.build(shard_set, data, MaskingConfig(), entities, tokenizer, seed=0)
    rates = []
    for _ in range(3):
        batches, num_documents = stream_batches(source, 0), 0
        next(batches)
        started = time.process_time()
        for batch in batches:
            if batch.state.epoch:
                break
            num_documents += len(batch.doc_ids)
        rates.append(num_documents / (time.process_time() - started))
    return rates


def save_cost(folder: Path) -> tuple[float, float]:
    """Seconds that training waits for a checkpoint of 22 M parameters, and seconds until it is
    committed; medians of five."""
    layer = torch.nn.TransformerEncoderLayer(384, 12, 1536, batch_first=True)
    model = torch.nn.ModuleDict(
        {
            "embeddings": torch.nn.Embedding(30_522, 384),
            "layers": torch.nn.TransformerEncoder(layer, 6, enable_nested_tensor=False),
        }
    )
    engine = TorchEngine(model, OptimizerConfig(), {}, World(), seed=0)
    updates = {training_state.UPDATES: torch.tensor(1), **engine.guard.state()}
    for name, parameter in model.named_parameters():
        updates |= {f"{part}/{name}": parameter.detach() for part in STATE_PARTS}
    engine.load_state(updates)
    checkpoints = Checkpoints(folder / "checkpoints", World(), "bench", keep=1)
    loader = EmptyLoader()
    checkpoints.restore(engine, loader)
    stalls, ends = [], []
    for step in range(5):
        started = time.perf_counter()
        checkpoints.save(step, engine, loader)
        stalls.append(time.perf_counter() - started)
        checkpoints.finish()
        ends.append(time.perf_counter() - started)
    return round(median(stalls), 3), round(median(ends), 3)


class EmptyLoader:
    """A loader without data or state."""

    per_rank = 0

    def step(self) -> list[Any]:
        return []

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None: ...


def recover(scene: Scene) -> dict[str, float]:
    """Seconds from the kill of a Ray worker to the next step, by part."""
    config, folder = scene.config("recover"), scene.run_folder("recover")
    code, output = scene.start(config, fault="step:7:kill9:1").wait()
    if code or not fault_happened(folder):
        raise RuntimeError(f"the run did not recover: {code}\n{output[-3000:]}")
    killed = max(path.stat().st_mtime for path in folder.glob("fault-*"))
    begun = max(event["time"] for event in read_events(folder, "started"))
    stepped = min(e["time"] for e in read_events(folder, "step") if e["time"] > begun)
    return {
        "noticed, restarted, restored": round(begun - killed, 1),
        "first step": round(stepped - begun, 1),
        "all": round(stepped - killed, 1),
    }


def share_over(base: list[float], times: list[float]) -> float:
    """The relative overhead of a step over the base, median over rounds."""
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
    run_script(main)
