"""Whole files at a path or URL, read from stores that may stumble."""

import logging
import time

import fsspec

SCHEMES = ("file", "s3", "gs", "https")  # all that is ever read
RETRY_AFTER_S = (0.5, 2.0, 8.0)
log = logging.getLogger(__name__)


def read_bytes(url: str) -> bytes:
    """A whole file at a path or URL. A store that fails is asked again a few times; OSError where
    it goes on failing, FileNotFoundError at once where there is no such file."""
    for wait_s in waits(url):
        try:
            with fsspec.open(url, "rb") as file:
                return file.read()  # type: ignore[union-attr]
        except FileNotFoundError:
            raise
        except Exception as error:  # every store has errors of its own
            if wait_s is None:
                raise OSError(f"{url}: cannot be read: {error}") from error
            log.warning("%s: %s; asking again in %g s", url, error, wait_s)
            time.sleep(wait_s)
    raise AssertionError("the last wait is None")


def waits(url: str) -> tuple[float | None, ...]:
    """How long to wait after each failure; None: give up. A local file does not get better."""
    return (*RETRY_AFTER_S, None) if "://" in url and not url.startswith("file:") else (None,)
