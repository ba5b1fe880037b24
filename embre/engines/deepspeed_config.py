"""The complete DeepSpeed config of a run, out of what its own config says."""

from collections.abc import Mapping
from typing import Any

from embre.config import OptimizerConfig
from embre.refused import Refused
from embre.world import World

# What the run already says. Naming it again in `deepspeed:` could only contradict it.
FILLED_IN = {
    "train_batch_size": "data.streams or data.micro_batches",
    "train_micro_batch_size_per_gpu": "data.strip_tokens or data.passes_per_micro_batch",
    "gradient_accumulation_steps": "the number of workers",
    "gradient_clipping": "optimizer.clip_norm",
    "optimizer": "optimizer",
    "scheduler": "optimizer.warmup_steps and optimizer.final_lr_share",
    "bf16": "encoder.precision",
    "fp16": "encoder.precision",
    "amp": "encoder.precision",
    "torch_autocast": "encoder.precision",
}
# The default bucket of 5e8 elements is filled on every backward: on a CPU it looks like a hang.
CPU_BUCKET = 500_000


def deepspeed_json(
    given: Mapping[str, Any], optimizer: OptimizerConfig, micro_batches_per_rank: int, world: World
) -> dict[str, Any]:
    """The complete DeepSpeed config of a run, from its `deepspeed:` section.

    Raises Refused for a key that the run says elsewhere and for values left at "auto", which
    DeepSpeed itself does not resolve.
    """
    for key, place in FILLED_IN.items():
        if key in given:
            raise Refused(f"deepspeed.{key}: the run says this by {place}; remove the key")
    if _has_auto(given):
        raise Refused('deepspeed: "auto" is resolved by nobody; remove the key or give a value')
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
        "gradient_clipping": optimizer.clip_norm,
    }


def _has_auto(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_has_auto(part) for part in value.values())
    return value == "auto"
