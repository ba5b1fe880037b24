"""The local launcher: runs the recipe in this process, alone or as a rank of torchrun."""

import os
import socket
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist

from embre.config import ConfigError
from embre.interrupts import stoppable
from embre.job import Job
from embre.launch.errors import RunFailed, with_disk_advice
from embre.launch.rank import run_rank
from embre.world import World, allocator_settings

# As in Ray, and as long as rank 0 waits for the parts of a checkpoint; NCCL's default is 10 min.
TIMEOUT = timedelta(minutes=30)


def run_local(recipe: Callable[[Job, World], None], job: Job) -> None:
    """Run the recipe here. Under torchrun (RANK, WORLD_SIZE, …) join its process group.

    Raises ConfigError if a GPU is configured and there is none; RunFailed for a ValueError or
    OSError of the recipe, which only before its start means a wrong request.
    """
    gpu = job.config.launch.use_gpu
    os.environ.update(allocator_settings(os.environ))
    if gpu and not torch.cuda.is_available():
        raise ConfigError("launch.use_gpu: no CUDA device here; set launch.use_gpu=false")
    deepspeed_alone = job.config.engine == "deepspeed" and "RANK" not in os.environ
    added = _group_of_one() if deepspeed_alone else {}
    os.environ.update(added)
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if gpu else "cpu"
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if gpu else "gloo", timeout=TIMEOUT)
    try:
        with stoppable(job.folder):
            run_rank(recipe, job, torch.device(device), job.folder)
    except (ValueError, OSError) as error:
        raise RunFailed(f"{job.config.name}: {with_disk_advice(error)}") from error
    finally:
        for name in added:  # or the next run in this process would take itself for a torchrun rank
            del os.environ[name]


def _group_of_one() -> dict[str, str]:
    """Environment of a process group of one, without which DeepSpeed would look for MPI."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    return {**ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
