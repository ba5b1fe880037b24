"""The folder in which torch caches compiled C++ ops, and the stale locks that killed builds leave
there."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

OPS_FOLDER_VARIABLE = "TORCH_EXTENSIONS_DIR"
STALE_AFTER_S = 600


def ops_folder() -> Path:
    """The folder of compiled ops of this user: OPS_FOLDER_VARIABLE, or torch's default."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get(OPS_FOLDER_VARIABLE) or cache / "torch_extensions")


def stale_locks(folder: Path) -> Iterator[tuple[Path, float]]:
    """Yield each stale lock with the seconds since the last change in its folder.

    A lock is stale after STALE_AFTER_S without a change if no process has it open. The next build
    of the op would wait for it forever.
    """
    for lock in sorted(folder.glob("**/lock")):
        try:
            idle_s = time.time() - max(path.stat().st_mtime for path in lock.parent.iterdir())
        except (FileNotFoundError, ValueError):  # the build has ended meanwhile
            continue
        if idle_s > STALE_AFTER_S and not _is_open(lock):
            yield lock, idle_s


def _is_open(path: Path) -> bool:
    """Whether a process of this user on this machine has the file open. A running build has its
    lock open."""
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if descriptor.readlink() == path.resolve():
                return True
        except OSError:  # the process ended or belongs to another user
            continue
    return False
