"""The workers of a Ray cluster, for work that is cut into calls."""

import math
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
    """Have a token that its owner alone can read, before Ray starts a cluster on this machine.

    Ray asks for a token there by itself, but the one that it makes everybody of the machine can
    read. Its RAY_AUTH_MODE cannot be set here: what is imported already would not see it.
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
        os.link(draft, token)  # whole, and not over that of another process
    except FileExistsError:
        token.chmod(0o600)
    except OSError:  # a file system that has no hard links
        if not token.exists():
            draft.replace(token)
    finally:
        draft.unlink(missing_ok=True)


class RayWorkers:
    """Does calls as Ray tasks of one CPU each, and a share of a GPU, for one `with` block.

    A task whose node goes away is done again elsewhere; the files that calls write must be on a
    file system that all nodes see. A process does one call after the other and keeps what it has
    loaded, on the GPU that it had first. Ray gives a call to the process that was idle last, so
    there are not more of them than shares.
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
        """Calls at once, as many as the cluster has room for now: it grows and shrinks."""
        have = ray.cluster_resources()
        # Shares of a GPU do not reach over two of them.
        shares = max(1, int(1 / self._gpus)) / max(1, self._gpus) if self._gpus else math.inf
        room = have.get("GPU", 0) * shares
        return max(1, int(min(have.get("CPU", 1), room)))

    def run(
        self, function: Callable[..., Result], calls: Iterable[tuple[Any, ...]]
    ) -> Iterator[Result]:
        """`function(*one)` for each of `calls`, results in any order; the first error is raised."""
        # An error of ours is no reason to try again; a lost node is. Without `max_calls=0` a
        # process with a share of a GPU ends after one call, and its model is loaded anew.
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
