"""A recipe of stand-ins: the whole loop, with checkpoints and events, around no work at all."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from embre import interrupts
from embre.checkpoints.checkpoints import Checkpoints
from embre.checkpoints.folder import FOLDER
from embre.config import PretrainConfig, check_config
from embre.engines.engine import StepResult
from embre.job import Job
from embre.tracking import Tracker
from embre.train import train
from embre.world import World


def config_of(storage: str, steps: int = 4, **sections: Any) -> PretrainConfig:
    """A run that saves and logs each step; its backbone is the folder `backbone` in the storage."""
    values = {
        "name": "small",
        "storage": storage,
        "encoder": {"path": f"{storage}/backbone", "new": {}},
        "data": {"shards": storage},
        "train": {"steps": steps, "save_every_steps": 1, "log_every_steps": 1},
        **sections,
    }
    return check_config(PretrainConfig, values, "test")


class Counts:
    """Stands in for an engine: its state is the number of its steps."""

    def __init__(self, world: World):
        self.world, self.steps = world, 0

    def step(self, micro_batches: list[Any], step: int, lr: float) -> StepResult:
        self.steps += 1
        asked = [
            interrupts.stop_requested(),
            self.world.rank == 0 and interrupts.take_save_request(),
        ]
        stop, save = self.world.all_reduce([float(value) for value in asked])
        return StepResult({"token": 1.0}, 0.5, 100, 7, stop > 0, save > 0)

    def state(self) -> dict[str, Tensor]:
        return {f"steps/{self.world.rank}": torch.tensor(self.steps)}

    def checksum(self) -> int:
        return 0

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.steps = int(state["steps/0"])


class Nothing:
    """Stands in for a loader."""

    per_rank = 1

    def step(self) -> list[Any]:
        return []

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass


def recipe(job: Job, world: World, loader: Any = None) -> None:
    """One rank of a run; the number of steps that its engine made is in its last checkpoint."""
    engine: Any = Counts(world)
    checkpoints = Checkpoints(job.folder / FOLDER, world, job.fingerprint(), keep=2)
    tracker = Tracker(job.folder, world, job.config.train.log_every_steps)
    config = job.config
    loader = loader or Nothing()
    train(engine, loader, checkpoints, tracker, config.train, config.optimizer, lambda engine: {})
    assert engine.steps == config.train.steps
