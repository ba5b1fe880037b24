"""The `deepspeed:` section, in DeepSpeed's own keys: in the YAML, or in a JSON file.

DeepSpeed ignores unknown keys and does not resolve "auto": both are handled here.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embre.refused import Refused
from embre.wording import nearest

AUTO = "auto"
# Keys set from the run's own config; a second value could only contradict it.
FILLED_IN = {
    "train_batch_size": "data.streams or data.micro_batches",
    "train_micro_batch_size_per_gpu": "data.strip_tokens or data.passes_per_micro_batch",
    "gradient_accumulation_steps": "the number of workers",
    "gradient_clipping": "optimizer.max_grad_norm",
    "optimizer": "optimizer",
    "scheduler": "optimizer.warmup_steps and optimizer.final_lr_share",
    "bf16": "encoder.precision",
    "fp16": "encoder.precision",
    "amp": "encoder.precision",
    "torch_autocast": "encoder.precision",
    "gradient_allreduce_op": "the engine, whose losses are scaled for a mean over the ranks",
}
# Allowed beside "auto" in these keys, because the run uses the same.
AGREED = {"optimizer": {"type": "AdamW"}, "scheduler": {"type": "WarmupDecayLR"}}
# Without the keys that hand model or data to DeepSpeed.
KNOWN = tuple(
    """
    zero_optimization zero_allow_untested_optimizer zero_force_ds_cpu_optimizer
    communication_data_type seq_parallel_communication_data_type disable_allgather
    prescale_gradients gradient_predivide_factor data_types
    activation_checkpointing aio checkpoint compile dataloader_drop_last disable_python_gc
    steps_per_print wall_clock_breakdown memory_breakdown dump_state log_level timers
    comms_logger flops_profiler tensorboard wandb csv_monitor comet
    """.split()
)
KNOWN_OF_ZERO = tuple(
    """
    stage contiguous_gradients reduce_scatter reduce_bucket_size use_multi_rank_bucket_allreduce
    allgather_partitions allgather_bucket_size overlap_comm compute_grad_norm
    load_from_fp32_weights elastic_checkpoint offload_param offload_optimizer zenflow
    sub_group_size stage3_prefetch_bucket_size stage3_param_persistence_threshold
    stage3_model_persistence_threshold stage3_max_live_parameters stage3_max_reuse_distance
    stage3_gather_16bit_weights_on_model_save stage3_module_granularity_threshold
    stage3_use_all_reduce_for_fetch_params stage3_allgather_sequential ignore_unused_parameters
    legacy_stage1 round_robin_gradients parameter_alignment zero_hpz_partition_size
    zero_quantized_weights zero_quantized_nontrainable_weights zero_quantized_gradients
    memory_efficient_linear pipeline_loading_checkpoint override_module_apply
    log_trace_cache_warnings enable_sanity_checks save_muon_momentum_buffer_in_memory leaf_module
    """.split()
)


def deepspeed_section(given: Any) -> dict[str, Any]:
    """Check the section and remove "auto" values, which the run or DeepSpeed fills in.

    A string is the path of a JSON file with the section. Raises Refused naming file and key for
    unknown keys, for keys that the run sets elsewhere, and for a norm that is not computed.

    >>> deepspeed_section({"gradient_clipping": "auto", "zero_optimization": {"stage": 2}})
    {'zero_optimization': {'stage': 2}}
    """
    if isinstance(given, str):
        return _of_file(Path(given))
    if not isinstance(given, Mapping):
        raise Refused("give a mapping of DeepSpeed's keys, or the path of a JSON file with them")
    if not isinstance(given.get("zero_optimization", {}), Mapping):
        raise Refused("zero_optimization must be a mapping, as {stage: 1}")
    _refuse_unknown("", given, (*KNOWN, *FILLED_IN))
    zero = given.get("zero_optimization", {})
    _refuse_unknown("zero_optimization.", zero, KNOWN_OF_ZERO)
    if zero.get("compute_grad_norm", AUTO) not in (True, AUTO):
        raise Refused(
            "zero_optimization.compute_grad_norm: the norm is needed to clip gradients "
            "(optimizer.max_grad_norm) and to skip updates that are not finite; remove the key"
        )
    for key in FILLED_IN.keys() & given.keys():
        if not _left_to_the_run(key, given[key]):
            raise Refused(f"{key}: set by {FILLED_IN[key]}; remove the key")
    return _without_auto({key: given[key] for key in given if key not in FILLED_IN})


def _of_file(path: Path) -> dict[str, Any]:
    try:
        return deepspeed_section(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise Refused(f"{path}: no such file; give a JSON file of DeepSpeed's keys") from error
    except Refused as error:
        raise Refused(f"{path}: {error}") from error
    except (OSError, ValueError) as error:
        raise Refused(f"{path}: not a JSON file: {error}") from error


def _refuse_unknown(within: str, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in given:
        if key not in known:
            raise Refused(f"{within}{key}: unknown DeepSpeed key; {nearest(key, known)}")


def _left_to_the_run(key: str, value: Any) -> bool:
    if not isinstance(value, Mapping):
        return value == AUTO
    left = _without_auto(value)
    return value.get("enabled") == AUTO or (left != value and left in ({}, AGREED.get(key)))


def _without_auto(section: Mapping[str, Any]) -> dict[str, Any]:
    """Remove "auto" values at any depth, and sections that become empty by it."""
    left: dict[str, Any] = {}
    for key, value in section.items():
        inner = _without_auto(value) if isinstance(value, Mapping) else value
        if value != AUTO and (inner or not value):
            left[key] = inner
    return left
