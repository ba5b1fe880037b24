"""Atomic writes: files and folders are complete or absent, even after a power failure."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from embre.faults import fault_point

# Errors that a retry does not fix; all others may be transient.
PERMANENT_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
PARTIAL = ".partial"
LEFTOVERS = f"*.{'[0-9a-f]' * 8}{PARTIAL}"  # glob pattern of files left by killed processes


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Atomic write: yield a temporary path; on exit the file is fsynced and renamed to `path`.

    If the block raises or deletes the file, `path` is unchanged and nothing is left.
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
    with suppress(FileNotFoundError):  # the folder was moved and fsynced by another process
        fsync_path(path.parent)
    fault_point("committed")


def write_atomic(path: Path, data: bytes | memoryview) -> None:
    """Write a whole file atomically. Raises OSError naming `path`."""
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
    """Atomic write of a folder: yield a temporary path; on exit it is fsynced and replaces `path`.

    If the block raises, `path` is unchanged and nothing is left.
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
    """Remove partial files left by killed processes; no process may be writing in `folder`."""
    for path in folder.rglob(LEFTOVERS):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    # Unique: a process that outlived its run, here or on another machine, must not write into it.
    return path.with_name(f"{path.name}.{uuid4().hex[:8]}{PARTIAL}")


def fsync_tree(folder: Path) -> None:
    """Fsync a folder and everything below it."""
    for path in [*folder.rglob("*"), folder]:
        fsync_path(path)


def fsync_path(path: Path) -> None:
    """Fsync a file, or the directory entries of a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
