"""Read bytes from a path or URL, with retries for remote stores."""

import logging
import re
import time
from collections.abc import Callable, Iterator
from random import SystemRandom
from typing import TypeVar

from embre.wording import without_secrets

SCHEMES = ("file", "s3", "gs", "https")  # the only ones that are read
# An outage of minutes must not use up the restarts of a run, and one shorter than NCCL's ten-minute
# timeout does not affect the other ranks.
GIVE_UP_AFTER_S = 300.0
FIRST_WAIT_S, MAX_WAIT_S = 1.0, 30.0
TRANSIENT_STATUS = (408, 429)  # HTTP status, besides 500 and above
_jitter = SystemRandom()  # forked processes must not all retry at once
# gcsfs's error for insufficient credentials, and botocore's for missing ones: a machine's own come
# from a metadata service of its cloud, which may time out when all processes use it at once.
_DENIED = re.compile(r"\AOSError: Forbidden")
_NO_CREDENTIALS = re.compile(r"\A\w*Credentials\w*:")
TRIES_FOR_CREDENTIALS = 3
log = logging.getLogger(__name__)
T = TypeVar("T")


class StoreFailed(OSError):
    """A store kept failing with transient errors; the same request may succeed later."""


def read_bytes(url: str) -> bytes:
    """Read a whole file at a path or URL; raises as `with_retries` does."""

    import fsspec  # takes 0.1 s, spared to commands that read nothing

    def read() -> bytes:
        with fsspec.open(url, "rb") as file:
            return file.read()  # type: ignore[union-attr]

    return with_retries(url, read)


def with_retries(url: str, request: Callable[[], T]) -> T:
    """Call `request()`, retrying with jittered exponential backoff for GIVE_UP_AFTER_S if `url` is
    remote.

    Raises FileNotFoundError, PermissionError and other permanent OSErrors without retrying,
    StoreFailed when the time is up. Errors of a local file are raised unchanged.
    """
    waiting, tries = backoff_delays(url), 0
    while True:
        tries += 1
        try:
            return request()
        except StoreFailed:
            raise
        except Exception as error:  # every store has its own errors
            if not _is_remote(url):
                raise
            shown, why = without_secrets(url), without_secrets(str(error) or type(error).__name__)
            if isinstance(error, ImportError):  # the packages for stores are extras
                raise OSError(f"{shown}: cannot be read ({why}); {_INSTALL}") from error
            if lasting := _permanent_error(error, tries):
                raise lasting(f"{shown}: {_REMEDIES[lasting]} ({why})") from error
            if (wait_s := next(waiting, None)) is None:
                raise StoreFailed(
                    f"{shown}: cannot be read: {why}; retried for {GIVE_UP_AFTER_S / 60:g} "
                    "minutes; run the same command again later"
                ) from error
            log.warning("%s: %s; retrying in %.0f s", shown, why, wait_s)
            time.sleep(wait_s)


def backoff_delays(url: str) -> Iterator[float]:
    """Yield the seconds to wait after each failure until GIVE_UP_AFTER_S; none for a local file."""
    end, max_wait_s = time.monotonic() + GIVE_UP_AFTER_S, FIRST_WAIT_S
    while _is_remote(url) and (left := end - time.monotonic()) > 0:
        yield min(_jitter.uniform(0.5, 1.0) * max_wait_s, left)
        max_wait_s = min(2 * max_wait_s, MAX_WAIT_S)


_INSTALL = (
    "install its driver: pip install -c constraints.txt -e '.[s3]' for s3://, '.[gs]' for gs://; "
    "pip install aiohttp for https"
)
_REMEDIES: dict[type[OSError], str] = {
    FileNotFoundError: "not found",
    PermissionError: "access denied: give every machine credentials for the store, or a URL "
    "that has not expired",
    OSError: "cannot be read",
}


def _is_remote(url: str) -> bool:
    return "://" in url and not url.startswith("file:")


def _permanent_error(error: BaseException, tries: int) -> type[OSError] | None:
    """The exception class of a permanent error; None for a transient one."""
    chain = [error]
    while chain[-1].__cause__:
        chain.append(chain[-1].__cause__)
    for one in chain:
        named = f"{type(one).__name__}: {one}"
        if _NO_CREDENTIALS.match(named):
            return PermissionError if tries >= TRIES_FOR_CREDENTIALS else None
        if isinstance(one, PermissionError) or _DENIED.match(named):
            return PermissionError
        # gcsfs calls it `code`, which aiohttp deprecates.
        status = getattr(one, "status" if hasattr(one, "status") else "code", None)
        if isinstance(status, int) and status >= 400:
            return _permanent_status(status)
    # fsspec reports every web server error as FileNotFoundError.
    by_web = type(chain[-1]).__module__.startswith("aiohttp") or isinstance(chain[-1], TimeoutError)
    if isinstance(error, FileNotFoundError) and not by_web:
        return FileNotFoundError
    return OSError if isinstance(error, TypeError | ValueError) else None


def _permanent_status(status: int) -> type[OSError] | None:
    if status in (401, 403):
        return PermissionError
    if status in (404, 410):
        return FileNotFoundError
    return None if status >= 500 or status in TRANSIENT_STATUS else OSError
