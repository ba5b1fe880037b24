"""Builds the engine of a run."""

import json
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from embre.config import RunConfig
from embre.engines.deepspeed_config import deepspeed_json
from embre.engines.deepspeed_engine import DeepSpeedEngine
from embre.engines.engine import Engine
from embre.engines.torch_engine import TorchEngine
from embre.model.table_rows import TableRows
from embre.world import World

DEEPSPEED_JSON = "deepspeed.json"


def build_engine(
    config: RunConfig,
    model: nn.Module,
    loss_weights: Mapping[str, float],
    world: World,
    micro_batches_per_rank: int,
    folder: Path,
    rows: TableRows | None = None,
) -> Engine:
    """Build the engine that `config.engine` names around a model.

    `rows` are this rank's rows of a sharded concept table. The complete DeepSpeed config is written
    to DEEPSPEED_JSON in the run's `folder`.
    """
    if config.engine == "torch":
        return TorchEngine(model, config.optimizer, loss_weights, world, config.seed, rows)
    settings = deepspeed_json(config.deepspeed, config.optimizer, micro_batches_per_rank, world)
    if world.rank == 0:
        (folder / DEEPSPEED_JSON).write_text(json.dumps(settings, indent=1))
    return DeepSpeedEngine(
        model, config.optimizer, loss_weights, world, config.seed, settings, rows
    )
