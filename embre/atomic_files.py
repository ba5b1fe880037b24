"""Files and folders that are there whole or not at all, whenever the power goes."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from embre.faults import fault_point

# What a storage says again however often it is asked; anything else may pass.
PERMANENT_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
PARTIAL = ".partial"
LEFTOVERS = f"*.{'[0-9a-f]' * 8}{PARTIAL}"  # what a killed process may leave, as a pattern


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Another name to write a file under; behind the block it is flushed and gets its own.

    Where the block fails (a full disk), or removes what it wrote, `path` is as it was and nothing
    is left behind.
    """
    partial = _partial(path)
    try:
        yield partial
        if not partial.exists():
            return
        fsync_path(partial)
        fault_point("written")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    with suppress(FileNotFoundError):  # whoever has moved the folder on by now flushes it
        fsync_path(path.parent)
    fault_point("committed")


def write_atomic(path: Path, data: bytes | memoryview) -> None:
    """Write a whole file. OSError names it, where that fails."""
    view = memoryview(data)
    try:
        with atomic_file(path) as partial, partial.open("wb") as file:
            file.write(view[: len(view) // 2])
            fault_point("half_written")
            file.write(view[len(view) // 2 :])
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Another name to write a folder under; behind the block it is flushed and gets its own, in
    place of one that is there.

    Where the block fails, `path` is as it was and nothing is left behind.
    """
    partial = _partial(path)
    try:
        yield partial
        fsync_tree(partial)
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    fsync_path(path.parent)


def clear_leftovers(folder: Path) -> None:
    """Remove what killed processes left half written in a folder in which none writes now."""
    for path in folder.rglob(LEFTOVERS):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    # Of ours alone: a process that outlived its run, here or on another machine, must not write
    # into it.
    return path.with_name(f"{path.name}.{uuid4().hex[:8]}{PARTIAL}")


def fsync_tree(folder: Path) -> None:
    """Flush what others wrote into a folder: all that is in it, and in the folders in it."""
    for path in [*folder.rglob("*"), folder]:
        fsync_path(path)


def fsync_path(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
