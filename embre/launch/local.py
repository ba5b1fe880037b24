"""The local launcher: this process, alone or as the rank that torchrun made it."""

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
from embre.world import ALLOCATOR, GROWING, World

# As Ray's, and as long as rank 0 waits for the parts of a checkpoint; NCCL's own is ten minutes.
TIMEOUT = timedelta(minutes=30)


def run_local(recipe: Callable[[Job, World], None], job: Job) -> None:
    """Run the recipe here. Under torchrun (RANK, WORLD_SIZE, …) join its process group.

    Raises RunFailed where the recipe finds what before it began would have been a wrong request.
    """
    gpu = job.config.launch.use_gpu
    os.environ.setdefault(ALLOCATOR, GROWING)
    if gpu and not torch.cuda.is_available():
        raise ConfigError("launch.use_gpu: no CUDA device here; set launch.use_gpu=false")
    alone = _alone() if job.config.engine == "deepspeed" and "RANK" not in os.environ else {}
    os.environ.update(alone)
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if gpu else "cpu"
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if gpu else "gloo", timeout=TIMEOUT)
    try:
        with stoppable(job.folder):
            run_rank(recipe, job, torch.device(device), job.folder)
    except (ValueError, OSError) as error:
        raise RunFailed(f"{job.config.name}: {with_disk_advice(error)}") from error
    finally:
        for name in alone:  # or the next run here would think that torchrun started it
            del os.environ[name]


def _alone() -> dict[str, str]:
    """DeepSpeed needs a process group even for one process; without these it looks for MPI."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    return {**alone, "MASTER_PORT": str(port)}
