"""The engine of a run, by its name in the config."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from embre.config import RunConfig
from embre.engine import Engine, TorchEngine
from embre.engine_deepspeed import DeepSpeedEngine, deepspeed_json
from embre.world import World


def build_engine(
    config: RunConfig,
    model: nn.Module,
    loss_weights: Mapping[str, float],
    world: World,
    micro_batches_per_rank: int,
) -> Engine:
    """The engine that `config.engine` names, around a model."""
    if config.engine == "torch":
        return TorchEngine(model, config.optimizer, loss_weights, world, config.seed)
    settings = engine_json(config, world, micro_batches_per_rank)
    return DeepSpeedEngine(model, config.optimizer, loss_weights, world, config.seed, settings)


def engine_json(config: RunConfig, world: World, micro_batches_per_rank: int) -> dict[str, Any]:
    """The DeepSpeed config as the engine gets it: logged with the run."""
    return deepspeed_json(config.deepspeed, config.optimizer, micro_batches_per_rank, world)
