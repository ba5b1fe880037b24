"""Exit codes and one-line errors of commands and tools.

0 done; 1 the run failed; 2 the request cannot be carried out (a wrong path, key or file); 130 ended
by Ctrl-C; 143 stopped by SIGTERM, and saved if training had begun. EMBRE_DEBUG=1 shows the
traceback of an error. torchrun replaces a rank's exit code by 1, so a rank that will be refused
again creates the file EMBRE_REFUSED_NOTE.
"""

import errno
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

from embre.interrupts import Interrupted
from embre.object_store import StoreFailed
from embre.refused import Refused
from embre.wording import printable

FAILED, REFUSED, STOPPED_BY_SIGTERM = 1, 2, 143


class RunFailed(RuntimeError):
    """A run that started and failed; the message says why and how to resume."""


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Print an error that leaves the body as one line, and exit with its code.

    Errors of click and typer, and bugs such as a KeyError, propagate.
    """
    try:
        yield
    except Exception as error:
        found = exit_code_and_text(error)
        if found is None:
            raise
        if os.environ.get("EMBRE_DEBUG"):
            traceback.print_exc()
        code, text = found
        text = "; ".join([text, *getattr(error, "__notes__", ())])
        stopped = isinstance(error, Interrupted)
        line = " ".join(printable(text if stopped else f"error: {text}").split())
        errors = Console(stderr=True, highlight=False, soft_wrap=True)
        errors.print(line, style=None if stopped else "red", markup=False)
        if (note := os.environ.get("EMBRE_REFUSED_NOTE")) and _is_final(error):
            with suppress(OSError):
                Path(note).touch()
        sys.exit(code)


def exit_code_and_text(error: Exception) -> tuple[int, str] | None:
    """Exit code and text of an error; None if it must propagate."""
    package = type(error).__module__.split(".")[0]
    if package in ("click", "typer"):  # they end the command themselves
        return None
    if isinstance(error, Interrupted):
        return STOPPED_BY_SIGTERM, f"{error}; run the same command again to resume"
    if package in ("mlflow", "ray") or isinstance(error, RuntimeError | ArithmeticError):
        return FAILED, str(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return FAILED, with_disk_advice(error)
    if isinstance(error, StoreFailed):
        return FAILED, str(error)
    if isinstance(error, OSError | Refused):
        return REFUSED, str(error)
    if isinstance(error, ValueError):
        return FAILED, f"{type(error).__name__}: {error}; EMBRE_DEBUG=1 shows where"
    return None


def _is_final(error: Exception) -> bool:
    """Whether the same command would be refused again; other OSErrors may be transient."""
    return isinstance(error, Refused | FileNotFoundError | PermissionError)


def with_disk_advice(error: Exception) -> str:
    """The text of an error, with a remedy if the disk is full."""
    full = isinstance(error, OSError) and error.errno == errno.ENOSPC
    return f"{error}; free space and run the same command again to resume" if full else str(error)
