"""Sets up a rank and runs its recipe, whichever launcher started it."""

import faulthandler
import os
import socket
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from embre import faults, interrupts
from embre.config import PretrainConfig
from embre.job import Job
from embre.launch.errors import RunFailed
from embre.tracking.endings import ending_noted, leave_note, name_of_start
from embre.tracking.events import next_attempt
from embre.tracking.sending import system_metrics
from embre.watchdog import exit_if_stalled
from embre.world import World, current_world

FAULT = "EMBRE_FAULT"


def run_rank(
    recipe: Callable[[Job, World], None], job: Job, device: torch.device, requests: Path
) -> None:
    """Run the recipe as one rank under a watchdog. The first rank of each node logs system metrics.

    Files in the folder `requests` request a stop or a save. Raises RunFailed with a remedy if the
    GPU runs out of memory.
    """
    world = current_world(device)
    start = name_of_start(job.folder, next_attempt(job.folder))
    with ending_noted(job.folder, world, start):
        prepare(job, world)
        # Rank 0's for all: the traceback of a rank that fails at once changes what others find.
        start = world.all_gather(start)[0]
    with ending_noted(job.folder, world, start):
        interrupts.watch(requests)
        first = os.environ.get("LOCAL_RANK", "0") == "0"
        watched = system_metrics(job.handle if first else None, socket.gethostname())
        note = partial(leave_note, job.folder, world.rank)
        limit_s = job.config.launch.step_timeout_s
        with watched, exit_if_stalled(limit_s, job.folder, world.rank, note):
            try:
                recipe(job, world)
            except torch.OutOfMemoryError as error:
                raise RunFailed(f"{error} {memory_advice(job)}") from error


def memory_advice(job: Job) -> str:
    """Advice on settings that need less GPU memory."""
    if isinstance(job.config, PretrainConfig):
        return (
            "Set encoder.activation_checkpointing=true, with which this run can resume; or start "
            f"another one with data.strip_tokens below {job.config.data.strip_tokens}"
        )
    return "Start another run with fewer data.passes_per_micro_batch, more data.micro_batches"


def prepare(job: Job, world: World) -> None:
    """Set up this process: threads, warnings, injected faults, its device."""
    faulthandler.enable()
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if world.device.type == "cpu" and "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
        torch.set_float32_matmul_precision("high")
    if text := os.environ.get(FAULT):
        faults.arm(text, job.folder, world.rank)
