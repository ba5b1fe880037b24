"""The demo: the whole pipeline on a made-up corpus, in a few minutes on two cores.

Each stage calls the same code as a real run, with smaller sizes; so a stopped demo resumes too.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from embre.atomic_files import write_atomic
from embre.checkpoints.folder import newest_step
from embre.config import FinetuneConfig, PretrainConfig, check_config
from embre.corpora import write_pubtator
from embre.demo.corpus import make_corpus
from embre.finetune import REPORT
from embre.launch.driver import run_job
from embre.launch.rank import FAULT
from embre.launch.tables import scores_table
from embre.register import register_run
from embre.sharding.shard import TOKENIZER, ShardSettings, shard
from embre.tracking import read_events

TRAIN_DOCUMENTS, DEV_DOCUMENTS = 640, 100
ENCODER_NAME, MODEL_NAME = "embre-demo-encoder", "embre-demo"
ALIAS = "champion"
BEGUN = "demo-seed.txt"  # in the demo's folder, written first
STEPS, FINETUNE_STEPS = 300, 500
KILL_AT = 180  # step at which rank 1 is killed; there is a checkpoint to resume from
SETTINGS = ShardSettings(
    block_documents=16, shard_documents=64, validation_share=0.08, vocabulary=1000
)


@dataclass
class Stages:
    """Prints and times the stages."""

    console: Console
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Announce a stage and time it."""
        self.console.print(f"\n[bold]{len(self.seconds) + 1}. {title}[/]")
        started = time.perf_counter()
        yield
        self.seconds[title] = time.perf_counter() - started

    def table(self) -> Table:
        """The stages, their seconds, and the sum."""
        times = Table(box=None, pad_edge=False)
        times.add_column("stage")
        times.add_column("seconds", justify="right")
        for title, seconds in self.seconds.items():
            times.add_row(title, f"{seconds:.0f}")
        times.add_row("all", f"{sum(self.seconds.values()):.0f}")
        return times


def run_demo(out: Path, seed: int, console: Console) -> None:
    """Make a corpus, shard, pretrain while a worker is killed, fine-tune, register, predict in a
    new process and print a summary. Resumes a stopped demo of the same seed.

    Raises FileExistsError if something else is in `out`.
    """
    begin(out, seed)
    out = out.absolute()
    os.environ.pop("RAY_ADDRESS", None)
    stages = Stages(console)
    with stages.stage("corpus"):
        if (out / "finetune.yaml").exists():  # written last; sharding refuses changed inputs
            console.print(f"as before, in {out}", markup=False)
        else:
            make_files(out, seed, console)
            write_configs(out, seed)
    with stages.stage("shards"):
        manifest, _ = shard(
            [str(out / "train.PubTator")],
            out / "shards",
            tokenizer_folder=None,
            hold_out=[str(out / "dev.PubTator")],
            settings=SETTINGS,
        )
        total = manifest.total()
        console.print(
            f"{total.documents} documents, {total.tokens:,} tokens in {len(manifest.shards)} shards"
        )
    with stages.stage("pretraining (Ray Train, 2 workers, DeepSpeed ZeRO-1, one is killed)"):
        encoder_run = pretrain_with_a_fault(out, console)
    with stages.stage("fine-tuning (relations and novelty)"):
        values = yaml.safe_load((out / "finetune.yaml").read_text())
        config = check_config(FinetuneConfig, values, "finetune.yaml")
        model_run = run_job("finetune", config, console)
    with stages.stage("registry"):
        for run, name in ((encoder_run, ENCODER_NAME), (model_run, MODEL_NAME)):
            model = register_run(run, name, ALIAS)
            console.print(f"{model.kind}: models:/{name}@{ALIAS} (version {model.version})")
    with stages.stage("prediction in a new process"):
        predict_anew(out, console)
    summary(out, encoder_run, model_run, stages, console)


def begin(out: Path, seed: int) -> None:
    """Mark an empty folder as that of a demo. Raises FileExistsError if it is not empty, nor that
    of a demo with this seed."""
    mark, text = out / BEGUN, f"{seed}\n"
    if mark.is_file() and mark.read_text() == text:
        return
    if out.exists() and any(out.iterdir()):
        what = "a demo with another --seed" if mark.is_file() else "not empty"
        raise FileExistsError(f"{out}: {what}; remove it or give another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(mark, text.encode())


def make_files(out: Path, seed: int, console: Console) -> None:
    """Write the training documents, the held-out ones, and the same without relations."""
    docs = make_corpus(TRAIN_DOCUMENTS + DEV_DOCUMENTS, seed)
    write_pubtator(out / "train.PubTator", docs[:TRAIN_DOCUMENTS])
    held = docs[TRAIN_DOCUMENTS:]
    write_pubtator(out / "dev.PubTator", held)
    bare = [replace(doc, relations=()) for doc in held]
    write_pubtator(out / "unread.PubTator", bare)
    console.print(f"{len(docs)} documents in {out}, one of them:", markup=False)
    console.print(f"  {docs[0].text}", markup=False, style="italic")
    for relation in docs[0].relations:
        novel = "novel" if relation.novel else "known"
        console.print(f"  {relation.head} — {relation.type} — {relation.tail} ({novel})")


def write_configs(out: Path, seed: int) -> None:
    """Write the configs of both runs, so that they can be read, changed and run again."""
    backbone = {"layers": 2, "hidden": 128, "heads": 2, "feed_forward": 512, "max_positions": 256}
    shared = {
        "seed": seed,
        "storage": str(out / "runs"),
        # On this machine, whatever server the environment names.
        "tracking": {"uri": tracking(out)},
    }
    pretrain = {
        "name": "demo-encoder",
        **shared,
        "encoder": {"path": str(out / "shards" / TOKENIZER), "new": backbone, "dropout": 0.0},
        "data": {
            "shards": str(out / "shards"),
            "streams": 4,
            "strip_tokens": 1024,
            "max_document_tokens": 256,
        },
        "masking": {"objective": "entity_token"},
        "entities": {"min_count": 2, "dimension": 64},
        "optimizer": {"peak_lr": 2e-3, "warmup_steps": 40},
        "train": {
            "steps": STEPS,
            "save_every_steps": 50,
            "log_every_steps": 50,
            "validate_every_steps": 150,
        },
        "engine": "deepspeed",
        "deepspeed": {"zero_optimization": {"stage": 1}},
        "launch": {"launcher": "ray", "workers": 2},
    }
    finetune = {
        "name": "demo-relations",
        **shared,
        "encoder": {"path": str(out / "runs" / "demo-encoder" / "encoder"), "dropout": 0.1},
        "data": {
            "train": str(out / "train.PubTator"),
            "dev": str(out / "dev.PubTator"),
            "passes_per_micro_batch": 4,
            "micro_batches": 1,
            "max_document_tokens": 256,
        },
        # With 1e-3 novelty is learnt by some seeds only (docs/RESULTS.md).
        "optimizer": {"peak_lr": 5e-4, "warmup_steps": 20},
        "train": {
            "steps": FINETUNE_STEPS,
            "save_every_steps": 250,
            "log_every_steps": 50,
            "validate_every_steps": 250,
        },
    }
    for name, values in (("pretrain", pretrain), ("finetune", finetune)):
        text = f"# embre {name} {out / name}.yaml\n{yaml.safe_dump(values, sort_keys=False)}"
        write_atomic(out / f"{name}.yaml", text.encode())


def pretrain_with_a_fault(out: Path, console: Console) -> Path:
    """Pretrain while worker 1 is killed, so that the run resumes from its newest checkpoint."""
    values = yaml.safe_load((out / "pretrain.yaml").read_text())
    config = check_config(PretrainConfig, values, "pretrain.yaml")
    done = newest_step(out / "runs" / config.name)  # by a demo that was stopped
    if done < KILL_AT:
        console.print(f"worker 1 will be killed (SIGKILL) at step {KILL_AT}; Ray will report it")
        os.environ[FAULT] = f"step:{KILL_AT - done}:kill9:1"  # counted from here
    try:
        folder = run_job("pretrain", config, console)
    finally:
        os.environ.pop(FAULT, None)
    starts = [event["step"] for event in read_events(folder, "started")]
    resumed = max(step for step in starts if step <= KILL_AT)
    if resumed == 0:
        raise RuntimeError(f"the killed run did not resume from a checkpoint: it began at {starts}")
    console.print(f"killed at step {KILL_AT}, resumed from the checkpoint of step {resumed}")
    return folder


def tracking(out: Path) -> str:
    """The URI of the demo's MLflow store."""
    return f"sqlite:///{out}/runs/mlflow.db"


def predict_anew(out: Path, console: Console) -> None:
    """Run `embre predict` in a new process."""
    command = [
        *(sys.executable, "-m", "embre", "predict", f"models:/{MODEL_NAME}@{ALIAS}"),
        *(str(out / "unread.PubTator"), "--out", str(out / "predicted")),
        *("--tracking-uri", tracking(out)),
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"embre predict failed: {result.stderr.strip()}")
    console.print(result.stdout.strip(), markup=False)


def summary(
    out: Path, encoder_run: Path, model_run: Path, stages: Stages, console: Console
) -> None:
    """Print scores, losses, times, the paths of results, and commands to try next."""
    console.print("\n[bold]Result[/]")
    console.print(scores_table(model_run))
    losses = Table(box=None, pad_edge=False)
    for column in ("pretraining loss", "first", "last", "accuracy (validation)"):
        losses.add_column(column, justify="left" if column.startswith("pre") else "right")
    steps, validations = (list(read_events(encoder_run, event)) for event in ("step", "validation"))
    for name in ("token", "type", "identifier"):
        values = [steps[0], steps[-1]]
        accuracy = validations[-1][f"validation/accuracy/{name}"]
        losses.add_row(name, *(f"{v[f'loss/{name}']:.3f}" for v in values), f"{accuracy:.3f}")
    console.print(losses)
    console.print(stages.table())
    places: dict[str, Any] = {
        "report, held-out documents against gold": model_run / REPORT,
        "report, predicted": out / "predicted" / "report.html",
        "predicted file": out / "predicted" / "unread.PubTator",
    }
    for what, path in places.items():
        console.print(f"{what}: {path}", markup=False)
    console.print("\nNext, try:")
    command = Path(sys.argv[0]) if Path(sys.argv[0]).name == "embre" else "embre"
    gold, found = out / "dev.PubTator", out / "predicted" / "unread.PubTator"
    console.print(f"  {command} evaluate --gold {gold} --pred {found}", markup=False)
    console.print(
        f"  {command} predict {model_run}/relation_model YOUR.PubTator --out predicted",
        markup=False,
    )
