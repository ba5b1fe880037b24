"""The cache of ops that torch has compiled, and the stale locks of killed builds in it."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

OPS_FOLDER = "TORCH_EXTENSIONS_DIR"
STALE_AFTER_S = 600


def ops_folder() -> Path:
    """The folder in which torch caches the ops it has compiled for this user."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get(OPS_FOLDER) or cache / "torch_extensions")


def stale_locks(folder: Path) -> Iterator[tuple[Path, float]]:
    """Yield the locks that killed builds left, with the seconds since anything in their folder
    changed. The next build of the same op would wait for ever."""
    for lock in sorted(folder.glob("**/lock")):
        try:
            quiet_s = time.time() - max(path.stat().st_mtime for path in lock.parent.iterdir())
        except (FileNotFoundError, ValueError):  # the build has just ended
            continue
        if quiet_s > STALE_AFTER_S and not _is_open(lock):
            yield lock, quiet_s


def _is_open(path: Path) -> bool:
    """Whether a process of this user on this machine has the file open, as a build has its lock."""
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if descriptor.readlink() == path.resolve():
                return True
        except OSError:  # the process ended or belongs to another user
            continue
    return False
