"""Saves a checkpoint when Ray begins to drain a node."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embre.interrupts import request_save

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0


@contextmanager
def save_when_draining(folder: Path) -> Iterator[None]:
    """While the body runs, request a save whenever a node begins to drain. `folder` is that of the
    attempt, where its ranks look for requests."""
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(folder, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(LOOK_EVERY_S)  # not longer: calls to a lost cluster may hang


def _watch(folder: Path, over: threading.Event) -> None:
    known: set[str] = set()
    warned = False
    while not over.wait(LOOK_EVERY_S):
        try:
            if new := draining_nodes() - known:
                log.warning("saving, because nodes are draining: %s", ", ".join(sorted(new)))
                request_save(folder)
                known |= new
        except Exception as error:  # not fatal: the run still has its last checkpoint
            if not warned:
                log.warning("cannot see draining nodes, so none will trigger a save: %r", error)
            warned = True


def draining_nodes() -> set[str]:
    """Ids of the nodes that Ray is draining: spot notices, `ray drain-node`, the autoscaler.

    Uses the private API that Ray Train itself uses: `ray.nodes()` does not show draining nodes, and
    the public `ray.train.get_preemption_info()` synchronizes all workers at every call.
    """
    import ray._private.state

    return set(ray._private.state.state.get_draining_nodes())
