"""The processes of a loader live as long as their rank, and no longer."""

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import psutil
import pytest

from embre.shards.shard_set import ShardSet
from embre.stream.stream_loader import StreamLoader
from embre.world import World
from tests.shard_sets import source_of, write_shards

PIPE_BYTES = 1 << 16  # when so much is in it the writer waits
GONE_WITHIN_S = 10.0


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody waited for does not."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def be_killed(shards: str, told: Connection) -> None:
    """A rank that dies while its loader's process waits to write a micro-batch."""
    source = source_of(ShardSet.open(shards), streams=1, strip_tokens=8000, loader_workers=1)
    loader = StreamLoader(source, World())
    (batch,) = loader.step()
    assert len(ForkingPickler.dumps(batch)) > PIPE_BYTES
    (child,) = multiprocessing.active_children()
    time.sleep(1)  # the pipe fills
    told.send(child.pid)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_rank_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, 40).url
    context = multiprocessing.get_context("spawn")
    told, tells = context.Pipe(duplex=False)
    rank = context.Process(target=be_killed, args=(shards, tells))
    rank.start()
    tells.close()  # or nobody says so where the rank fails
    child = told.recv()
    rank.join()
    deadline = time.monotonic() + GONE_WITHIN_S
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = alive(child)
    if left:
        os.kill(child, signal.SIGKILL)
    assert rank.exitcode == -signal.SIGKILL and not left
