"""Client of a Ray job server: connect, find the running job of a run, follow a job to its end."""

import asyncio
import logging
import os
import re
import sys
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from embre.launch.errors import STOPPED_BY_SIGTERM
from embre.refused import Refused

RUN, STORAGE = "embre.run", "embre.storage"
LOOK_EVERY_S = 2
LOST_FOR_S = 300  # stop following if the head does not respond for this long
LOOPBACK = re.compile(r"localhost|127(\.\d+){3}|::1")


class ServerLost(RuntimeError):
    """The job server no longer responds; the job may still be running."""


def check_address(address: str) -> str:
    """Normalize the address of a job server to a URL without a slash at its end. Raises Refused if
    it is not an HTTP URL or contains a user or password."""
    address = address if "://" in address else f"http://{address}"
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Refused(
            f"--address {address.rsplit('@')[-1]}: not the URL of a dashboard, such as "
            "http://127.0.0.1:8265"
        )
    if parts.username or parts.password:
        raise Refused(
            "--address: contains a user or password; remove them, and set RAY_AUTH_TOKEN_PATH to "
            "the file with Ray's token"
        )
    return address.rstrip("/")


def is_unencrypted(address: str) -> bool:
    """Whether requests to an address cross a network without TLS."""
    parts = urlsplit(address)
    return parts.scheme == "http" and not LOOPBACK.fullmatch(parts.hostname or "")


def connect(address: str) -> Any:
    """Create a client of the job server at `address`.

    Raises Refused if the token is missing or wrong, OSError if the server does not respond.
    """
    # Ray prefers these variables to the address that it is given.
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        os.environ.pop(name, None)
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in ("dashboard_sdk", "job.sdk"):  # they log every package and socket
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise Refused(
            f"{address} refuses the token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the "
            "file with the cluster's token (docs/CLUSTER.md, Tokens)"
        ) from error
    except ConnectionError as error:
        raise ConnectionError(
            f"{address} does not respond: start the cluster, and open a tunnel to its dashboard "
            f"(`ray dashboard CLUSTER.yaml`, `kubectl port-forward`); {error}"
        ) from error


def running_job(client: Any, run: str, storage: str) -> str | None:
    """The id of a job of this run that has not ended; None if there is none."""
    for job in client.list_jobs():
        mine = (job.metadata or {}).get(RUN) == run and job.metadata.get(STORAGE) == storage
        if mine and not job.status.is_terminal():
            return job.submission_id
    return None


@dataclass(slots=True)
class Log:
    """The log of a job as far as it was shown: the server sends it from its start on every
    connection."""

    job: str
    shown: int = 0  # number of characters

    async def show(self, client: Any) -> None:
        """Print the log from where it was left, until the server closes the connection."""
        position = 0
        async for text in client.tail_job_logs(self.job):
            if text:
                print(text[max(0, self.shown - position) :], end="", flush=True)
                position += len(text)
                self.shown = max(self.shown, position)


def follow(client: Any, job: str) -> int:
    """Show the log of a job until it ends; returns its exit code.

    It is 143 for a stopped job, even if Ray had to kill it before it had saved: the server does not
    distinguish the two. Reconnects if the connection is lost; raises ServerLost after LOST_FOR_S.
    """
    from aiohttp import ClientError

    log, lost_since = Log(job), None
    while True:
        try:
            asyncio.run(log.show(client))
            info = client.get_job_info(job)
            if info.status.is_terminal():
                break
            lost_since = None
        except (OSError, RuntimeError, ClientError) as error:
            lost_since = lost_since or time.monotonic()
            if time.monotonic() - lost_since > LOST_FOR_S:
                raise ServerLost(f"{job}: the job server is lost: {error}") from error
        time.sleep(LOOK_EVERY_S)
    if info.status == "SUCCEEDED":
        return 0
    if info.status == "STOPPED":
        return STOPPED_BY_SIGTERM
    if not info.driver_exit_code:  # it never ran, or its node was lost
        print(f"{job}: {info.message}", file=sys.stderr)
    return info.driver_exit_code or 1
