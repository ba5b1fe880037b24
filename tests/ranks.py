"""Run a function on several real ranks of this machine and collect what each returns."""

import multiprocessing as mp
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from embre.world import World, current_world

# Imported once by the fork server instead of once by every rank.
PRELOAD = [
    "torch",
    "transformers",
    "tests.cpu_deepspeed",
    "embre.pretrain",
    "embre.finetune",
    "embre.sharding.shard",
    "pytest",
]
TIMEOUT_S = 240


def fork_server(preload: list[str]) -> ForkServerContext:
    """Processes that have imported these modules when they start.

    Python has one fork server at a time; that of an earlier test may lack them.
    """
    context = mp.get_context("forkserver")
    if forkserver._forkserver._preload_modules != preload:
        forkserver._forkserver._stop()
        context.set_forkserver_preload(preload)
    return context


def run_ranks(
    function: Callable[..., Any], size: int, *args: Any, device: str = "cpu"
) -> list[Any]:
    """What `function(world, *args)` returns on each of `size` ranks; fails as soon as one does.

    The ranks talk by gloo, on the device "cuda" by NCCL.
    """
    # A fork of a process that has only looked for a GPU cannot use it.
    context = fork_server(PRELOAD) if device == "cpu" else mp.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        results = context.Queue()
        ranks = [
            context.Process(
                target=_rank, args=(function, rank, size, folder, results, device, args)
            )
            for rank in range(size)
        ]
        for process in ranks:
            process.start()
        try:
            found = dict(_take(results.get(timeout=TIMEOUT_S)) for _ in ranks)
        finally:
            for process in ranks:
                process.join(10)
                process.kill()
    return [found[rank] for rank in range(size)]


def _take(result: tuple[int, Any, str]) -> tuple[int, Any]:
    rank, value, error = result
    if error:
        raise AssertionError(f"rank {rank} failed:\n{error}")
    return rank, value


def _rank(
    function: Callable[..., Any],
    rank: int,
    size: int,
    folder: str,
    results: Any,
    device: str,
    args: tuple,
) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    store = Path(folder) / "store"
    backend = "gloo" if device == "cpu" else "nccl"
    dist.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=size)
    world: World = current_world(torch.device("cpu" if device == "cpu" else f"{device}:{rank}"))
    try:
        results.put((rank, function(world, *args), ""))
    except BaseException:
        results.put((rank, None, traceback.format_exc()))
    results.close()
    results.join_thread()
    sys.stdout.flush()
    os._exit(0)  # an orderly exit of gloo's threads aborts now and then, after all work is done
