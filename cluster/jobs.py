"""A Ray cluster's job server: is a run running there, send a job, follow it to its end."""

import asyncio
import logging
import os
import sys
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from embre.launch.errors import STOPPED_BY_SIGTERM
from embre.refused import Refused

RUN, STORAGE = "embre.run", "embre.storage"
LOOK_EVERY_S = 2
LOST_FOR_S = 300  # a head that does not answer for so long is given up; the job may run on
LOOPBACK = ("localhost", "127.", "[::1]", "::1")


class ServerLost(RuntimeError):
    """The job server does not answer any more; the job may run on."""


def check_address(address: str) -> str:
    """The address of a job server, with its scheme. Refused for one with a password in it."""
    address = address if "://" in address else f"http://{address}"
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Refused(
            f"--address {address.rsplit('@')[-1]}: give that of the dashboard, as "
            "http://127.0.0.1:8265"
        )
    if parts.username or parts.password:
        raise Refused("--address: no user or password in it; Ray's token is RAY_AUTH_TOKEN_PATH")
    return address.rstrip("/")


def is_unencrypted(address: str) -> bool:
    """Whether what is sent to an address can be read on the way."""
    parts = urlsplit(address)
    return parts.scheme == "http" and not (parts.hostname or "").startswith(LOOPBACK)


def connect(address: str) -> Any:
    """A client of the job server at an address and no other.

    Raises Refused where the token is missing or wrong, OSError where nothing answers.
    """
    # Ray prefers these to the address that it is given.
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        os.environ.pop(name, None)
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in ("dashboard_sdk", "job.sdk"):  # they tell of every package and socket
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise Refused(
            f"{address} refuses the token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the "
            "file with the token of the cluster (docs/CLUSTER.md, Tokens)"
        ) from error


def running_job(client: Any, run: str, storage: str) -> str | None:
    """The id of a job of the same run that has not ended."""
    for job in client.list_jobs():
        mine = (job.metadata or {}).get(RUN) == run and job.metadata.get(STORAGE) == storage
        if mine and not job.status.is_terminal():
            return job.submission_id
    return None


@dataclass(slots=True)
class Log:
    """What a job says. Each time the connection is made it comes from its beginning."""

    job: str
    shown: int = 0  # characters

    async def show(self, client: Any) -> None:
        """Print what was not shown yet, until the server closes the connection."""
        position = 0
        async for text in client.tail_job_logs(self.job):
            if text:
                print(text[max(0, self.shown - position) :], end="", flush=True)
                position += len(text)
                self.shown = max(self.shown, position)


def follow(client: Any, job: str) -> int:
    """Show what a job says until it ends; its exit code. 143 for one that was stopped, also where
    Ray had to kill it before it had saved: its server does not tell the two apart.

    A lost connection is taken up again. Raises ServerLost where it stays lost.
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
