"""A run waits for the nodes of an autoscaler: for how long, what it shows, and how it ends."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from embre.job import Job
from embre.launch import nodes
from embre.launch.attempts import NotBegun
from embre.launch.nodes import wait_for_nodes
from embre.launch.progress import describe
from embre.tracking import read_events
from tests.launch.stand_ins import config_of


class Autoscaler:
    """Stands in for a cluster: `cpus` at each look, the last one for all that follow, and the
    groups that are pending. After a thousand looks it fails, for a wait that would have no end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *cpus: float):
        self.cpus, self.pending, self.requested = list(cpus), [], []
        self.looks = 0
        monkeypatch.setattr(ray, "cluster_resources", self.resources)
        monkeypatch.setattr(nodes, "placement_group", self.request)
        monkeypatch.setattr(nodes, "remove_placement_group", self.pending.remove)
        monkeypatch.setattr(nodes, "LOOK_EVERY_S", 0.001)

    def resources(self) -> dict[str, float]:
        self.looks += 1
        assert self.looks <= 1000, "it waits for ever"
        cpus = self.cpus.pop(0) if len(self.cpus) > 1 else self.cpus[0]
        return {"CPU": cpus} if cpus else {}

    def request(self, bundles: list[dict[str, float]]) -> Any:
        self.requested.append(bundles)
        self.pending.append(bundles)
        return bundles


def job_in(folder: Path, **launch: Any) -> Job:
    values = {"launcher": "ray", "workers": 2, "cpus_per_worker": 3, "wait_for_nodes_s": 60}
    return Job(config_of(str(folder), launch=values | launch), folder, None)


def waited(folder: Path) -> Iterator[str]:
    for event in read_events(folder, "waiting"):
        assert (event["step"], event["limit_s"]) == (0, 60)
        yield event["why"]


def test_nodes_are_requested_and_each_change_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Autoscaler(monkeypatch, 0, 0, 0, 3, 3, 6)
    wait_for_nodes(job_in(tmp_path))
    assert cluster.requested == [[{"CPU": 3.0}, {"CPU": 3.0}]] and cluster.pending == []
    none, half = waited(tmp_path)
    assert none == "2 workers need 6 CPU, but there are only 0, enough for 0"
    assert half == "2 workers need 6 CPU, but there are only 3, enough for 1"
    first, second = read_events(tmp_path, "waiting")
    assert first["since"] == second["since"]
    shown = describe(first)
    assert shown.startswith("waiting for nodes since ") and f", at most 60 s: {none}" in shown


def test_a_cluster_that_is_large_enough_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Autoscaler(monkeypatch, 3)
    wait_for_nodes(job_in(tmp_path, min_workers=1))
    assert cluster.requested == [] and list(read_events(tmp_path)) == []


def test_a_run_does_not_wait_for_nodes_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Autoscaler(monkeypatch, 3)
    with pytest.raises(NotBegun) as found:
        wait_for_nodes(job_in(tmp_path, wait_for_nodes_s=0.01))
    shown = str(found.value)
    assert "there are only 3, enough for 1; `ray status` shows whether" in shown
    assert shown.endswith("raise launch.wait_for_nodes_s")
    assert cluster.requested and cluster.pending == [], "the nodes would go on being wanted"


def test_a_run_that_waits_for_nodes_can_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Autoscaler(monkeypatch, 3)
    monkeypatch.setattr(nodes, "asked_to_stop", lambda: True)
    with pytest.raises(NotBegun, match="small: asked to stop while it waited for nodes"):
        wait_for_nodes(job_in(tmp_path))
    assert cluster.pending == []
