"""Pools of workers: this process, several of this machine, or (in `launch`) a Ray cluster.

Each runs the calls of an iterable and yields their results in any order. Only a few calls are taken
ahead of time, so memory does not grow with the work.
"""

import importlib.util
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, Protocol, TypeVar

Result = TypeVar("Result")
CALLS_AHEAD = 1  # queued calls per process


def num_cores() -> int:
    """Number of cores that this process may use: Slurm and taskset may allow only some."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Workers(Protocol):
    """Runs a function many times, `number` calls at once."""

    @property
    def number(self) -> int: ...

    def run(
        self, function: Callable[..., Result], calls: Iterable[tuple[Any, ...]]
    ) -> Iterator[Result]:
        """Yield `function(*one)` for each of `calls`, in any order; raises the first error."""
        ...


class OneProcess:
    """Runs the calls in this process, one after the other."""

    number = 1

    def __enter__(self) -> "OneProcess":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def run(
        self, function: Callable[..., Result], calls: Iterable[tuple[Any, ...]]
    ) -> Iterator[Result]:
        return (function(*one) for one in calls)


def call(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function in a worker process; an error is raised in a form that can be pickled."""
    try:
        return function(*arguments)
    except Exception as error:
        if (picklable := sendable(error)) is error:
            raise
        raise picklable from error


def sendable(error: Exception) -> Exception:
    """An error that can be unpickled in another process; those of some libraries cannot."""
    if type(error).__module__.split(".")[0] in ("builtins", "embre"):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")


def _end_with_the_parent() -> None:
    """Exit when the parent does: a worker of a killed run must not write beside the next run.

    Ctrl-C at a terminal reaches workers too, and ends them without a traceback of each.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Processes:
    """A pool of processes of this machine, for one `with` block."""

    def __init__(self, number: int, preload: str):
        """`preload` is the module whose functions are called; it is imported once for all."""
        # Python ignores a missing module, and each process would import everything anew.
        assert importlib.util.find_spec(preload), f"no module {preload}"
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([preload])
        self.number = number
        self._pool = ProcessPoolExecutor(
            number, mp_context=context, initializer=_end_with_the_parent
        )

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def run(
        self, function: Callable[..., Result], calls: Iterable[tuple[Any, ...]]
    ) -> Iterator[Result]:
        calls = iter(calls)
        waiting: set[Future[Result]] = set()
        try:
            while True:
                free = self.number * (1 + CALLS_AHEAD) - len(waiting)
                waiting |= {self._pool.submit(call, function, *one) for one in islice(calls, free)}
                if not waiting:
                    return
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a worker process died; if no error is shown above, the system killed it, often "
                "for lack of memory. Finished work is kept: run the same command again, with fewer "
                "processes if memory is short"
            ) from error
