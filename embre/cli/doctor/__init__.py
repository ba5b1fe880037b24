"""The checks of `embre doctor`; each finding names its remedy."""

from pathlib import Path

import torch

from embre.cli.doctor.machine import (
    Check,
    accelerator,
    compiled_ops,
    nccl,
    packages,
    python,
    storage,
    toolchain,
    tracking,
)
from embre.cli.doctor.run import (
    cluster,
    compiling,
    expected,
    job,
    precision,
    ray_answers,
    shard_files,
)
from embre.config import (
    FinetuneConfig,
    PretrainConfig,
    RunConfig,
    load_config,
    read_values,
    refuse_secrets,
)


def examine(config_path: Path | None, overrides: list[str] | None = None) -> list[Check]:
    """Run all checks of this machine, and those of a run if its config is given."""
    found = [python(), *packages(), accelerator(), *nccl(), *compiled_ops()]
    if config_path is None:
        found += [toolchain(gpu=True)] if torch.cuda.is_available() else []
        return [*found, storage(Path("runs")), tracking(Path("runs"), None)]
    kind, config = read_any(config_path, overrides or [])
    from embre.launch.request_checks import refuse_what_cannot_be

    try:
        refuse_secrets(config)  # which other findings would show
        refuse_what_cannot_be(config, under_torchrun=False)
    except ValueError as error:
        return [*found, Check("error", "config", str(error))]
    folder = Path(config.storage)
    found += [storage(folder), tracking(folder, config.tracking.uri)]
    found += [cluster(config), *ray_answers(config), precision(config), *compiling(config)]
    found.append(job(kind, config))
    if isinstance(config, PretrainConfig) and found[-1].level == "ok":
        found.append(shard_files(config.data.shards))
        if not config.encoder.path.startswith("models:/"):
            found += expected(config)
    return found


def read_any(path: Path, overrides: list[str]) -> tuple[str, RunConfig]:
    """Load a config of either kind; its `data` section decides which."""
    data = read_values(path)[0].get("data")
    shards = any(override.startswith("data.shards=") for override in overrides)
    if shards or not isinstance(data, dict) or "shards" in data:
        return "pretrain", load_config(PretrainConfig, path, overrides)
    return "finetune", load_config(FinetuneConfig, path, overrides)
