"""A pretraining run that does each step twice: with TorchEngine and with DeepSpeed's ZeRO-1.

    python -m torch.distributed.run --standalone --nproc-per-node=2 \
        tools/bench/engines_in_turn.py RUN.yaml TIMES.json

Both start with the same weights and see the same micro-batches; they alternate in going first, so
that noise of the machine affects both. TIMES.json gets the seconds of each step by engine, as
measured on rank 0.
"""

import copy
import json
import time
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import torch.distributed as dist
import typer
from rich.console import Console

import embre.pretrain
from embre.cli.options import run_script
from embre.config import PretrainConfig, load_config
from embre.engines.build import build_engine
from embre.engines.engine import Engine, MicroBatch, StepResult
from embre.launch.driver import run_job

TORCH, ZERO_1 = "torch", "deepspeed"


class InTurns:
    """An engine that does each step on all engines, and otherwise behaves as TorchEngine."""

    def __init__(self, engines: dict[str, Engine]):
        self._engines = engines
        self.seconds: dict[str, list[float]] = {name: [] for name in engines}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engines[TORCH], name)

    def step(self, micro_batches: Sequence[MicroBatch], step: int, lr: float) -> StepResult:
        results = {}
        for name in list(self._engines)[:: -1 if step % 2 else 1]:
            dist.barrier()
            started = time.perf_counter()
            results[name] = self._engines[name].step(micro_batches, step, lr)
            self.seconds[name].append(time.perf_counter() - started)
        return results[TORCH]


def main(
    run: Annotated[Path, typer.Argument(help="YAML file of a pretraining run.")],
    times: Annotated[Path, typer.Argument(help="JSON file to write.")],
) -> None:
    """Run the pretraining on both engines."""
    made: list[InTurns] = []

    def build_both(config: PretrainConfig, model: Any, *rest: Any) -> InTurns:
        engines = {
            name: build_engine(config.model_copy(update={"engine": name}), whose, *rest)
            for name, whose in ((TORCH, model), (ZERO_1, copy.deepcopy(model)))
        }
        made.append(InTurns(engines))
        return made[0]

    embre.pretrain.build_engine = build_both
    run_job("pretrain", load_config(PretrainConfig, run), Console(file=StringIO()))
    if made[0].world.rank == 0:
        times.write_text(json.dumps(made[0].seconds))


if __name__ == "__main__":
    run_script(main)
