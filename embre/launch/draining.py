"""Nodes that Ray is told it will lose: the run saves before they go."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embre.interrupts import ask_to_save

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0


@contextmanager
def save_when_draining(folder: Path) -> Iterator[None]:
    """While the body runs, each node that begins to drain asks the ranks of `folder` to save."""
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(folder, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(LOOK_EVERY_S)  # no longer: a cluster that is gone may not answer


def _watch(folder: Path, over: threading.Event) -> None:
    known: set[str] = set()
    warned = False
    while not over.wait(LOOK_EVERY_S):
        try:
            if new := draining_nodes() - known:
                log.warning("a node is about to go (%s): saving", ", ".join(sorted(new)))
                ask_to_save(folder)
                known |= new
        except Exception as error:  # without a notice the run still has its last checkpoint
            if not warned:
                log.warning("no checkpoint will be saved before a node goes: %r", error)
            warned = True


def draining_nodes() -> set[str]:
    """The nodes that Ray drains: a spot instance's notice, `ray drain-node`, the autoscaler.

    Private in Ray, and what Ray Train itself asks. `ray.nodes()` does not tell, and the public
    `ray.train.get_preemption_info()` makes all workers wait for each other at every call.
    """
    import ray._private.state

    return set(ray._private.state.state.get_draining_nodes())
