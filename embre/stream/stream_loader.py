"""The pretraining data loader: one rank's micro-batches of each step, from its streams."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from embre.refused import Refused
from embre.stream.batch import Batch, empty_batch
from embre.stream.order import stream_batches
from embre.stream.source import StreamSource, StreamState
from embre.workers import sendable
from embre.world import World

Steps = Generator[list[Batch], None, None]


class StreamLoader:
    """Rank r of W reads the streams r, r + W, …; each step has as many micro-batches on every rank.

    With `loader_workers` the rank's streams are distributed over processes; the micro-batches do
    not change. The caller of `step` must call `close`: Python waits at exit for processes that are
    still running. `waited_s` is the total time that `step` has waited for data. Raises Refused if
    there are more ranks than streams.
    """

    def __init__(self, source: StreamSource, world: World):
        streams = range(source.data.streams)
        if world.size > len(streams):
            raise Refused(
                f"{world.size} workers for {len(streams)} streams: "
                "raise data.streams or use fewer workers"
            )
        self.source = source
        self.mine = list(streams[world.rank :: world.size])
        self.per_rank = -(-len(streams) // world.size)
        self.waited_s = 0.0
        self._states = {stream: StreamState() for stream in self.mine}
        self._steps: Steps | None = None

    def step(self) -> list[Batch]:
        started = time.perf_counter()
        if self._steps is None:
            self._steps = self._open()
        batches = next(self._steps)
        self.waited_s += time.perf_counter() - started
        for batch in batches:
            self._states[batch.slot] = batch.state
        missing = self.per_rank - len(batches)
        return batches + [empty_batch(self.source.settings)] * missing

    def state(self) -> dict[str, Any]:
        return {str(stream): list(state) for stream, state in self._states.items()}

    def restore(self, state: dict[str, Any]) -> None:
        self.close()
        self._states = {stream: StreamState(*state[str(stream)]) for stream in self.mine}

    def close(self) -> None:
        """End the prefetching processes; the next `step` starts new ones."""
        if self._steps is not None:
            self._steps.close()
            self._steps = None

    def _open(self) -> Steps:
        workers = min(self.source.data.loader_workers, len(self.mine))
        dataset = StepDataset(self.source, [(s, self._states[s]) for s in self.mine])
        if workers == 0:
            return dataset.steps()
        # spawn: a fork of a process with communication threads may deadlock.
        parts = iter(
            DataLoader(
                dataset,
                batch_size=None,
                num_workers=workers,
                multiprocessing_context="spawn",
                prefetch_factor=2,
                worker_init_fn=_live_as_long_as_the_rank,
            )
        )
        return _ahead(_merge(parts, workers))


def _live_as_long_as_the_rank(_: int) -> None:
    """Ignore SIGTERM, which goes to all processes of a job, because the rank still has to save;
    exit when the rank is killed."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_rank, daemon=True).start()


def _end_with_the_rank() -> None:
    rank = multiprocessing.parent_process()
    assert rank is not None
    rank.join()
    # Not sys.exit: it waits until the rank has read the pipe.
    os._exit(0)


class StepDataset(IterableDataset):
    """A rank's micro-batches of every step, one per stream; a loader process yields its share."""

    def __init__(self, source: StreamSource, streams: list[tuple[int, StreamState]]):
        self.source = source
        self.streams = streams

    def steps(self, first: int = 0, apart: int = 1) -> Steps:
        """Yield the steps of streams first, first + apart, … of this rank."""
        mine = self.streams[first::apart]
        readers = [stream_batches(self.source, stream, state) for stream, state in mine]
        while True:
            yield [next(reader) for reader in readers]

    def __iter__(self) -> Iterator[list[Batch] | Exception]:
        """Yield a worker's part of each step; after an error, yield that error.

        Sent as a value the exception keeps its type; torch would send its traceback as text.
        """
        worker = get_worker_info()
        assert worker is not None
        try:
            yield from self.steps(worker.id, worker.num_workers)
        except Exception as error:
            while True:
                yield sendable(error)


def _merge(parts: Iterator[list[Batch] | Exception], workers: int) -> Steps:
    """Merge the parts that the workers yield in turn into whole steps, sorted by slot; raise an
    error that a worker sent."""
    try:
        while True:
            batches: list[Batch] = []
            for _ in range(workers):
                part = next(parts)
                if isinstance(part, Exception):
                    raise part
                batches += part
            yield sorted(batches, key=lambda batch: batch.slot)
    finally:
        # A traceback keeps this frame alive, and its iterator would keep the processes alive.
        del parts


def _ahead(steps: Steps) -> Steps:
    """Prefetch the next step in a thread: a micro-batch is about a megabyte, which takes
    milliseconds to come through a pipe."""
    with closing(steps), ThreadPoolExecutor(1, "loader") as reader:
        coming = reader.submit(next, steps)
        while True:
            batches, coming = coming.result(), reader.submit(next, steps)
            yield batches
