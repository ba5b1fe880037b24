"""Who does the work: this process, several of this machine, or (in `launch`) a Ray cluster.

All of them do the calls of an iterable and give the results in any order; only a few calls are
taken from it ahead of time, so memory does not grow with the work.
"""

import importlib.util
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, Protocol, TypeVar

Result = TypeVar("Result")
CALLS_AHEAD = 1  # calls that wait for each process


class Workers(Protocol):
    """Something that runs a function of a module many times, `number` calls at once."""

    @property
    def number(self) -> int: ...

    def run(
        self, function: Callable[..., Result], calls: Iterable[tuple[Any, ...]]
    ) -> Iterator[Result]:
        """`function(*one)` for each of `calls`, results in any order; the first error is raised."""
        ...


class OneProcess:
    """Does the work here, one call after the other."""

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
    """The function's result, in a process of a worker; its error as another process can take it."""
    try:
        return function(*arguments)
    except Exception as error:
        if (sent := sendable(error)) is error:
            raise
        raise sent from error


def sendable(error: Exception) -> Exception:
    """An error that another process can take; those of some libraries cannot be made again."""
    if type(error).__module__.split(".")[0] in ("builtins", "embre"):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")


def _end_with_the_parent() -> None:
    """A worker whose run was killed must not go on writing beside the next one."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Processes:
    """Processes of this machine, for one `with` block."""

    def __init__(self, number: int, preload: str):
        """`preload` is the module whose functions will be called; it is imported once for all."""
        # Python passes over one that is not there, and each process would import it anew.
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
                "a worker process died; where nothing above says why, the system killed it, often "
                "for memory. Nothing that was finished is lost: run the same command again, with "
                "fewer processes if memory is short"
            ) from error
