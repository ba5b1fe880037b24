"""A Ray cluster with a node that can drain, in a module that a worker of Ray can import."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import ray


class Busy:
    """Without an actor a node that drains is gone at once."""

    def node(self) -> str:
        return ray.get_runtime_context().get_node_id()


@contextmanager
def busy_node() -> Iterator[tuple[str, str]]:
    """A Ray cluster of one node with an actor on it: the address of its head, and the node."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
        try:
            actor = ray.remote(num_cpus=1)(Busy).remote()
            yield ray.get_runtime_context().gcs_address, ray.get(actor.node.remote())
        finally:
            ray.shutdown()
