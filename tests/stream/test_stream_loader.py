"""A rank's share of each step: the same micro-batches whatever the ranks, workers and restarts; and
the processes of a loader live as long as their rank, and no longer."""

import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embre.shards.shard_set import Block, DamagedShard, ShardEntry, ShardSet
from embre.stream.batch import Batch
from embre.stream.source import StreamSource
from embre.stream.stream_loader import StreamLoader, _ahead
from embre.world import World
from tests.shard_sets import SMALL, source_of, write_shards
from tests.stream.steps import Contents, open_ranks, saved, take

PIPE_BYTES = 1 << 16  # when so much is in it the writer waits
GONE_WITHIN_S = 10.0


@pytest.mark.parametrize("streams", [3, 5])
@pytest.mark.parametrize("size", [2, 3])
def test_any_number_of_ranks_trains_on_the_same_micro_batches(
    shard_set: ShardSet, streams: int, size: int
) -> None:
    source = source_of(shard_set, streams=streams)
    alone = take(open_ranks(source, 1), 12)
    assert all(list(step) == list(range(streams)) for step in alone)
    assert {state.epoch for step in alone for *_, state in step.values()} >= {0, 1}
    assert take(open_ranks(source, size), 12) == [dict(sorted(s.items())) for s in alone]


def test_what_fails_a_step_ahead_fails_in_its_turn() -> None:
    def steps() -> Iterator[list[Batch]]:
        yield []
        raise DamagedShard("shard 7")

    ahead = _ahead(steps())
    assert next(ahead) == []
    with pytest.raises(DamagedShard, match="shard 7"):
        next(ahead)


@pytest.mark.slow
def test_loader_processes_can_be_set_back_with_a_step_on_its_way(shard_set: ShardSet) -> None:
    (loader,) = open_ranks(source_of(shard_set, loader_workers=2), 1)
    start = saved([loader])
    first = take([loader], 2)
    loader.restore(start)
    assert take([loader], 2) == first
    for child in multiprocessing.active_children():
        child.kill()
    with pytest.raises(RuntimeError, match="exited unexpectedly|killed"):
        take([loader], 20)


@pytest.mark.slow
def test_loader_processes_give_the_same_micro_batches(shard_set: ShardSet) -> None:
    alone = open_ranks(source_of(shard_set), 1)
    workers = open_ranks(source_of(shard_set, loader_workers=2), 1)
    found, wanted = take(workers, 3), take(alone, 6)
    children = multiprocessing.active_children()
    assert len(children) == 2
    for child in children:  # as when SIGTERM goes to all processes of a job
        os.kill(child.pid or 0, signal.SIGTERM)
    found += take(workers, 3)
    assert found == wanted
    assert [list(step) for step in found] == [list(step) for step in wanted], "order of slots"
    assert saved(workers) == saved(alone)


@pytest.mark.parametrize("stop", [0, 1, 5, 11])
@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1), (3, 2)])
def test_a_restored_run_goes_on_at_another_number_of_ranks(
    shard_set: ShardSet, stop: int, before: int, after: int
) -> None:
    source = source_of(shard_set, streams=4)
    whole = take(open_ranks(source, 1), stop + 6)
    stopped = open_ranks(source, before)
    assert take(stopped, stop) == whole[:stop]
    resumed = open_ranks(source, after)
    for rank in resumed:
        rank.restore(saved(stopped))
    assert saved(resumed) == saved(stopped)
    assert take(resumed, 6) == whole[stop:]


def test_a_resumed_run_reads_the_shards_that_mix_and_no_more(
    shard_set: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(shard_set, streams=1, shuffle_shards=3)
    (loader,) = open_ranks(source, 1)
    states = []
    while not states or states[-1]["0"][0] < 2:
        loader.step()
        states.append(saved([loader]))
    read: list[str] = []
    real = ShardSet.load

    def load(self: ShardSet, shard: ShardEntry) -> list[Block]:
        read.append(shard.name)
        return real(self, shard)

    monkeypatch.setattr(ShardSet, "load", load)
    for state in states:
        loader.restore(state)
        read.clear()
        loader.step()
        # Those of its round, and where the strip goes on in the next what that one opens: a shard,
        # or all of its own at the beginning of an epoch.
        last = state["0"][1] == len(shard_set.shards("train")) - 1
        assert 3 <= len(read) <= (6 if last else 4)


def test_a_loader_can_be_set_back(source: StreamSource) -> None:
    (loader,) = open_ranks(source, 1)
    start = saved([loader])
    first = take([loader], 3)
    loader.restore(start)
    assert take([loader], 3) == first


def test_the_state_names_every_stream_once_and_says_what_was_given(source: StreamSource) -> None:
    ranks = open_ranks(source, 2)
    assert saved(ranks) == {str(stream): [0, 0, 0] for stream in range(3)}
    (step,) = take(ranks, 1)
    assert saved(ranks) == {str(slot): list(found[-1]) for slot, found in step.items()}


@pytest.fixture(scope="module")
def tiny_set() -> Iterator[ShardSet]:
    """Six shards of one or two documents: an epoch is over after a few steps."""
    with tempfile.TemporaryDirectory() as folder:
        yield write_shards(
            Path(folder), 11, replace(SMALL, block_documents=1, shard_documents=2), seed=5
        )


@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    streams=st.integers(1, 6),
    shuffle_shards=st.integers(1, 7),
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    stops=st.lists(st.integers(0, 7), min_size=3, max_size=3),
)
def test_any_history_of_stops_and_world_sizes_gives_the_same_steps(
    tiny_set: ShardSet, streams: int, shuffle_shards: int, sizes: list[int], stops: list[int]
) -> None:
    source = source_of(tiny_set, streams=streams, shuffle_shards=shuffle_shards)
    lengths = stops[: len(sizes) - 1] + [3]
    walked: list[Contents] = []
    state = None
    for size, num_steps in zip(sizes, lengths, strict=True):
        ranks = open_ranks(source, min(size, streams))
        for rank in ranks:
            if state is not None:
                rank.restore(state)
        walked += take(ranks, num_steps)
        state = saved(ranks)
    assert walked == take(open_ranks(source, 1), sum(lengths))


def test_more_workers_than_streams_is_an_error_with_a_remedy(source: StreamSource) -> None:
    with pytest.raises(ValueError, match=r"4 workers for 3 streams: raise data\.streams"):
        StreamLoader(source, World(0, 4))


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
