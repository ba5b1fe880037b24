"""Weights in the buffers of ZeRO are where compiled code expects them."""

import pytest
from torch import Tensor, nn

from embre.config import OptimizerConfig
from embre.engines.deepspeed_config import deepspeed_json
from embre.engines.deepspeed_engine import DeepSpeedEngine
from embre.engines.step import ALIGNED_BYTES
from embre.world import World
from tests.ranks import run_ranks


class OddFirst(nn.Module):
    """The first bias of each group has an odd size, as BERT's one per word piece."""

    def __init__(self) -> None:
        super().__init__()
        self.bert = nn.Sequential(nn.Linear(8, 7), nn.Linear(7, 16), nn.Linear(16, 4))
        self.heads = nn.Sequential(nn.Linear(4, 30), nn.Linear(30, 8), nn.LayerNorm(8))

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        return {"loss": self.heads(self.bert(batch)).sum()}


def addresses(world: World, stage: int) -> dict[str, tuple[int, int]]:
    """Sizes and addresses of the parameters in bytes."""
    optimizer = OptimizerConfig()
    settings = deepspeed_json({"zero_optimization": {"stage": stage}}, optimizer, 1, world)
    engine = DeepSpeedEngine(OddFirst(), optimizer, {"loss": 1.0}, world, 0, settings)
    return {name: (p.nbytes, p.data_ptr()) for name, p in engine.module.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2])
def test_all_weights_but_those_of_odd_size_are_aligned(stage: int) -> None:
    for found in run_ranks(addresses, 2, stage):
        even = {name: at for name, (size, at) in found.items() if size % ALIGNED_BYTES == 0}
        assert len(even) == len(found) - 2, "two biases are of odd size"
        assert {name for name, at in even.items() if at % ALIGNED_BYTES} == set()
