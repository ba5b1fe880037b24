"""Where torch keeps the ops that it has compiled, and the locks that killed builds left there."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

OPS_FOLDER = "TORCH_EXTENSIONS_DIR"
STALE_AFTER_S = 600


def ops_folder() -> Path:
    """Where torch keeps the ops that it has compiled for this user."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get(OPS_FOLDER) or cache / "torch_extensions")


def stale_locks(folder: Path) -> Iterator[tuple[Path, float]]:
    """Locks that a killed build of an op left, for which the next waits for ever; and since how
    many seconds nothing happens beside them."""
    for lock in sorted(folder.glob("**/lock")):
        try:
            quiet_s = time.time() - max(path.stat().st_mtime for path in lock.parent.iterdir())
        except (FileNotFoundError, ValueError):  # a build that has just ended
            continue
        if quiet_s > STALE_AFTER_S and not _is_open(lock):
            yield lock, quiet_s


def _is_open(path: Path) -> bool:
    """Whether a process of this user and machine has a file open, as a build has its lock."""
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if descriptor.readlink() == path.resolve():
                return True
        except OSError:  # it ended, or is somebody else's
            continue
    return False
