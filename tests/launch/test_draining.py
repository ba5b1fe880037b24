"""Each node that begins to drain makes the run save once."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray

from embre.interrupts import SAVE
from embre.launch import draining
from embre.launch.draining import draining_nodes, save_when_draining


def test_each_node_that_drains_asks_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[set[str] | None] = [set(), {"a"}, {"a"}, None, {"a", "b"}, {"b"}, set()]

    def told() -> set[str]:
        found = looks.pop(0) if looks else set()
        if found is None:
            raise ConnectionError("the head does not answer")
        return found

    monkeypatch.setattr(draining, "LOOK_EVERY_S", 0.005)
    monkeypatch.setattr(draining, "draining_nodes", told)
    with save_when_draining(tmp_path):
        deadline = time.monotonic() + 10
        while looks and time.monotonic() < deadline:
            time.sleep(0.005)
    assert not looks and len((tmp_path / SAVE).read_bytes()) == 2


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


@pytest.mark.slow
@pytest.mark.ray
def test_ray_tells_which_nodes_drain() -> None:
    with busy_node() as (address, node):
        assert draining_nodes() == set()
        command = [str(Path(sys.executable).with_name("ray")), "drain-node", "--node-id", node]
        command += ["--address", address]
        command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        subprocess.run(command, check=True, capture_output=True)
        assert draining_nodes() == {node}
