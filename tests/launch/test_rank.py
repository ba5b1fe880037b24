"""What every rank does before its recipe, and what it says when a GPU is too small for it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from embre.config import FinetuneConfig, PretrainConfig, check_config
from embre.job import Job
from embre.launch.errors import RunFailed
from embre.launch.rank import carry_out
from embre.tracking.endings import why_ended
from embre.world import World


@pytest.mark.parametrize(
    ("kind", "data", "remedy"),
    [
        (PretrainConfig, {"shards": "-"}, "encoder.activation_checkpointing=true"),
        (FinetuneConfig, {"train": "-", "dev": "-"}, "less data.passes_per_micro_batch"),
    ],
)
def test_too_little_memory_of_a_gpu_is_said_with_what_takes_less(
    tmp_path: Path, kind: Any, data: dict[str, str], remedy: str
) -> None:
    values = {"name": "small", "encoder": {"path": "-"}, "data": data, "train": {"steps": 1}}
    job = Job(check_config(kind, values, "test"), tmp_path, None)

    def recipe(job: Job, world: World) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    with pytest.raises(RunFailed, match=f"CUDA out of memory.*{remedy}"):
        carry_out(recipe, job, torch.device("cpu"), tmp_path)
    assert "CUDA out of memory" in why_ended(tmp_path, 1)
