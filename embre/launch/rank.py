"""What every rank does before its recipe, whoever started it."""

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
from embre.tracking.endings import ending_noted, leave_note
from embre.tracking.sending import system_metrics
from embre.watchdog import exit_if_stalled
from embre.world import World, current_world

FAULT = "EMBRE_FAULT"


def run_rank(
    recipe: Callable[[Job, World], None], job: Job, device: torch.device, asked_in: Path
) -> None:
    """Run the recipe as one rank, which ends where it hangs; the first of each node watches the
    machine.

    Files in the folder `asked_in` ask it to stop or to save. Raises RunFailed with a remedy where
    the GPU's memory is too small.
    """
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    world = prepare(job, device)
    interrupts.watch(asked_in)
    watched = system_metrics(job.handle if first else None, socket.gethostname())
    note = partial(leave_note, job.folder, world.rank)
    hung = exit_if_stalled(job.config.launch.step_timeout_s, job.folder, world.rank, note)
    with watched, ending_noted(job.folder, world), hung:
        try:
            recipe(job, world)
        except torch.OutOfMemoryError as error:
            raise RunFailed(f"{error} {smaller(job)}") from error


def smaller(job: Job) -> str:
    """What makes a run take less of a GPU's memory."""
    if isinstance(job.config, PretrainConfig):
        return (
            "Set encoder.activation_checkpointing=true, with which this run can go on; or begin "
            f"another one with data.strip_tokens below {job.config.data.strip_tokens}"
        )
    return "Begin another run with less data.passes_per_micro_batch and more data.micro_batches"


def prepare(job: Job, device: torch.device) -> World:
    """Set up this process: threads, warnings, faults on purpose; returns its world."""
    faulthandler.enable()
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if device.type == "cpu" and "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
    world = current_world(device)
    if text := os.environ.get(FAULT):
        faults.arm(text, job.folder, world.rank)
    return world
