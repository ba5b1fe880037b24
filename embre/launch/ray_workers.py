"""Workers on a Ray cluster: each function call is a task."""

import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import RayTaskError

from embre.workers import CALLS_AHEAD, call

Result = TypeVar("Result")


def private_token() -> None:
    """Create Ray's token file, readable by its owner only, before Ray starts a cluster here.

    Ray would create one that every user of the machine can read. Does nothing if a token is
    configured or RAY_AUTH_MODE is not `token`. RAY_AUTH_MODE cannot be set here: modules that are
    imported already would not see it.
    """
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return
    token = Path.home() / ".ray" / "auth_token"
    token.parent.mkdir(mode=0o700, exist_ok=True)
    draft = token.with_name(f"{token.name}.{os.getpid()}")
    draft.touch(mode=0o600)
    draft.write_text(secrets.token_hex(32))
    try:
        os.link(draft, token)  # atomic, and never replaces the token of another process
    except FileExistsError:
        token.chmod(0o600)
    except OSError:  # a file system without hard links
        if not token.exists():
            draft.replace(token)
    finally:
        draft.unlink(missing_ok=True)


class RayWorkers:
    """Runs calls as Ray tasks with one CPU and `gpus` GPUs each, within one `with` block.

    A task whose node is lost is repeated on another; files that calls write must be on a file
    system that all nodes see. A process runs many calls and keeps what it has loaded, on the GPU
    that it had first. Ray reuses the process that became idle last, so there are no more processes
    than GPU shares.
    """

    def __init__(self, address: str, gpus: float = 0):
        self._address = address
        self._gpus = gpus

    def __enter__(self) -> "RayWorkers":
        if self._address == "local":
            private_token()
        ray.init(address=self._address, log_to_driver=False)
        return self

    def __exit__(self, *error: object) -> None:
        ray.shutdown()

    @property
    def number(self) -> int:
        """Number of concurrent calls for which the cluster has resources now; it can change."""
        have = ray.cluster_resources()
        number = have.get("CPU", 1)
        if self._gpus:  # a share cannot span two GPUs
            shares = max(1, int(1 / self._gpus)) / max(1, self._gpus)
            number = min(number, have.get("GPU", 0) * shares)
        return max(1, int(number))

    def run(
        self, function: Callable[..., Result], calls: Iterable[tuple[Any, ...]]
    ) -> Iterator[Result]:
        """Yield `function(*one)` for each of `calls`, as they finish. Raises the first error."""
        # `max_retries` is for lost nodes; errors of the function are not retried. Without
        # `max_calls=0` a process with a share of a GPU would exit after each call with its model.
        task = ray.remote(num_cpus=1, num_gpus=self._gpus, max_retries=3, max_calls=0)(call)
        calls, waiting = iter(calls), []
        while True:
            free = max(0, self.number * (1 + CALLS_AHEAD) - len(waiting))
            waiting += [task.remote(function, *one) for one in islice(calls, free)]
            if not waiting:
                return
            done, waiting = ray.wait(waiting)
            for result in done:
                try:
                    yield ray.get(result)
                except RayTaskError as error:
                    raise error.cause from error
