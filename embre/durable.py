"""Files that are there whole or not at all, whenever the power goes."""

import os
import socket
from contextlib import suppress
from pathlib import Path

from embre.faults import fault_point

PARTIAL = ".partial"


def commit(path: Path, data: bytes | memoryview) -> None:
    """Write a file under another name, flush it to the disk, then give it its own.

    Where that fails (a full disk), nothing is left behind.
    """
    # Of this process: one that outlived its run, or has our number on another machine, must not
    # write into our file.
    partial = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}{PARTIAL}")
    view = memoryview(data)
    try:
        with partial.open("wb") as file:
            file.write(view[: len(view) // 2])
            fault_point("half_written")
            file.write(view[len(view) // 2 :])
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
    fault_point("written")
    partial.replace(path)
    with suppress(FileNotFoundError):  # whoever has moved the folder on by now flushes it
        sync(path.parent)
    fault_point("committed")


def flush(folder: Path) -> None:
    """Flush what others wrote into a folder: all that is in it, and in the folders in it."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
