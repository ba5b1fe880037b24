"""Bytes at a path or URL, read from stores that may stumble."""

import logging
import re
import time
from collections.abc import Callable, Iterator
from random import SystemRandom
from typing import TypeVar

from embre.wording import without_secrets

SCHEMES = ("file", "s3", "gs", "https")  # all that is ever read
# An outage of minutes must not spend the restarts of a run, and one shorter than NCCL's ten minutes
# is not seen by the other ranks at all.
GIVE_UP_AFTER_S = 300.0
FIRST_WAIT_S, MAX_WAIT_S = 1.0, 30.0
TRANSIENT_STATUS = (408, 429)  # of HTTP, beside 500 and above
_jitter = SystemRandom()  # processes that were forked must not all come back at once
# How gcsfs says that credentials are not enough, and botocore that there are none: a machine's own
# come from a service of its cloud, which may not answer when all processes ask at once.
_DENIED = re.compile(r"\AOSError: Forbidden")
_NO_CREDENTIALS = re.compile(r"\A\w*Credentials\w*:")
TRIES_FOR_CREDENTIALS = 3
log = logging.getLogger(__name__)
T = TypeVar("T")


class StoreFailed(OSError):
    """A store that went on failing: the request was not wrong, and the same one may succeed."""


def read_bytes(url: str) -> bytes:
    """A whole file at a path or URL; errors as of `with_retries`."""

    import fsspec  # 0.1 s, which a command that reads nothing need not wait

    def read() -> bytes:
        with fsspec.open(url, "rb") as file:
            return file.read()  # type: ignore[union-attr]

    return with_retries(url, read)


def with_retries(url: str, request: Callable[[], T]) -> T:
    """What `ask` gets from the store of `url`, which is asked again for some minutes.

    Raises FileNotFoundError and PermissionError at once, OSError for whatever else does not get
    better, StoreFailed where the store goes on failing. Errors of a local file pass as they are.
    """
    waiting, tries = backoff_delays(url), 0
    while True:
        tries += 1
        try:
            return request()
        except StoreFailed:
            raise
        except Exception as error:  # every store has errors of its own
            if not _is_remote(url):
                raise
            shown, why = without_secrets(url), without_secrets(str(error) or type(error).__name__)
            if lasting := _permanent_error(error, tries):
                raise lasting(f"{shown}: {_REMEDIES[lasting]} ({why})") from error
            if (wait_s := next(waiting, None)) is None:
                raise StoreFailed(
                    f"{shown}: cannot be read: {why}; it went on for {GIVE_UP_AFTER_S / 60:g} "
                    "minutes, run the same command again later"
                ) from error
            log.warning("%s: %s; asking again in %.0f s", shown, why, wait_s)
            time.sleep(wait_s)


def backoff_delays(url: str) -> Iterator[float]:
    """How long to wait after each failure in turn, until it is time to give up. A local file does
    not get better."""
    end, longest = time.monotonic() + GIVE_UP_AFTER_S, FIRST_WAIT_S
    while _is_remote(url) and (left := end - time.monotonic()) > 0:
        yield min(_jitter.uniform(0.5, 1.0) * longest, left)
        longest = min(2 * longest, MAX_WAIT_S)


_REMEDIES: dict[type[OSError], str] = {
    FileNotFoundError: "it is not there",
    PermissionError: "it may not be read: give every machine credentials for the store, or a URL "
    "that has not expired",
    OSError: "cannot be read",
}


def _is_remote(url: str) -> bool:
    return "://" in url and not url.startswith("file:")


def _permanent_error(error: BaseException, tries: int) -> type[OSError] | None:
    """What an error is that asking again does not change; None for one that may pass."""
    chain = [error]
    while chain[-1].__cause__:
        chain.append(chain[-1].__cause__)
    for one in chain:
        named = f"{type(one).__name__}: {one}"
        if _NO_CREDENTIALS.match(named):
            return PermissionError if tries >= TRIES_FOR_CREDENTIALS else None
        if isinstance(one, PermissionError) or _DENIED.match(named):
            return PermissionError
        status = getattr(one, "status" if hasattr(one, "status") else "code", None)  # gcsfs's name
        if isinstance(status, int) and status >= 400:
            return _permanent_status(status)
    # fsspec takes every trouble of a web server for a file that is missing.
    by_web = type(chain[-1]).__module__.startswith("aiohttp") or isinstance(chain[-1], TimeoutError)
    if isinstance(error, FileNotFoundError) and not by_web:
        return FileNotFoundError
    return OSError if isinstance(error, ImportError | TypeError | ValueError) else None


def _permanent_status(status: int) -> type[OSError] | None:
    if status in (401, 403):
        return PermissionError
    if status in (404, 410):
        return FileNotFoundError
    return None if status >= 500 or status in TRANSIENT_STATUS else OSError
