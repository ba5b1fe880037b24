"""The complete DeepSpeed config of a run."""

from collections.abc import Mapping
from typing import Any

from embre.config import OptimizerConfig
from embre.world import World

# The default bucket of 5e8 elements is filled on every backward: on a CPU it looks like a hang.
CPU_BUCKET = 500_000


def deepspeed_json(
    given: Mapping[str, Any], optimizer: OptimizerConfig, micro_batches_per_rank: int, world: World
) -> dict[str, Any]:
    """The complete DeepSpeed config of a run; `given` is its `deepspeed:` section."""
    zero: dict[str, Any] = {"stage": 1, **given.get("zero_optimization", {})}
    if world.device.type == "cpu":
        zero = {"reduce_bucket_size": CPU_BUCKET, "allgather_bucket_size": CPU_BUCKET, **zero}
    return {
        "steps_per_print": 10**9,
        **given,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": micro_batches_per_rank,
        "train_batch_size": micro_batches_per_rank * world.size,
        "gradient_clipping": optimizer.max_grad_norm,
    }
