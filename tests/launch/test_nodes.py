"""A run waits for the nodes of an autoscaler: for how long, what it shows, and how it ends."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import RpcError
from ray.train.v2._internal.execution.controller import state

from embre import interrupts
from embre.interrupts import STOP, StoppedEarly, TakenOver
from embre.job import Job
from embre.launch import nodes
from embre.launch.attempts import Attempt, NotBegun, read
from embre.launch.nodes import WaitForLostNodes, wait_for_nodes
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
    monkeypatch.setattr(nodes, "stop_requested", lambda: True)
    with pytest.raises(StoppedEarly, match="small: stopped while it waited for nodes"):
        wait_for_nodes(job_in(tmp_path))
    assert cluster.pending == []


LOST = state.RestartingState(training_failed_error=ray.train.TrainingFailedError())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The time of the module under test, which passes only while it sleeps."""
    now = [1e9]
    monkeypatch.setattr(nodes.time, "time", lambda: now[0])
    monkeypatch.setattr(nodes.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    monkeypatch.setattr(interrupts, "LOOK_EVERY_S", -1.0)
    yield now
    interrupts._requests = interrupts._Requests()


def lost_nodes(folder: Path, limit_s: float = 60) -> WaitForLostNodes:
    """As Ray's controller has it, after its workers were lost."""
    job = job_in(folder, cpus_per_worker=1, min_workers=1)
    waits = WaitForLostNodes(job, Attempt.new(folder), limit_s)
    waits = pickle.loads(pickle.dumps(waits))
    waits.after_controller_state_update(state.RunningState(), LOST)
    return waits


def turn(waits: WaitForLostNodes, times: int = 1) -> None:
    for _ in range(times):
        waits.after_controller_state_update(LOST, LOST)


def test_a_wait_for_lost_nodes_is_shown_where_it_is_more_than_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    cluster = Autoscaler(monkeypatch, 0)
    monkeypatch.setattr(nodes, "LOOK_EVERY_S", 4.0)
    waits = lost_nodes(tmp_path)
    turn(waits, 3)
    assert list(read_events(tmp_path)) == [] and clock == [1e9 + 12]
    turn(waits, 2)
    cluster.cpus = [2.0]
    turn(waits, 2)
    none, taken = waited(tmp_path)
    assert none == "1 workers need 1 CPU, but there are only 0, enough for 0"
    assert taken.startswith("the cluster has enough for 1 workers, but others use it, or no node")
    assert [event["since"] for event in read_events(tmp_path)] == [1e9, 1e9]

    def lost() -> dict[str, float]:
        raise RpcError("no answer")

    monkeypatch.setattr(ray, "cluster_resources", lost)
    turn(waits)
    assert list(waited(tmp_path))[2:] == ["the head of the cluster does not respond"]
    waits.after_controller_state_update(LOST, state.RunningState())
    clock[0] += 100
    waits.after_controller_state_update(state.RunningState(), state.RunningState())
    waits.after_controller_state_update(state.RunningState(), LOST)
    turn(waits, 3)
    assert len(list(waited(tmp_path))) == 3, "the next wait is short so far"
    turn(waits, 1)
    assert len(list(waited(tmp_path))) == 4


def test_lost_nodes_are_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    Autoscaler(monkeypatch, 0)
    monkeypatch.setattr(nodes, "LOOK_EVERY_S", 4.0)
    waits = lost_nodes(tmp_path, limit_s=7)
    turn(waits)
    with pytest.raises(RuntimeError, match="no nodes"):
        turn(waits)
    assert read(waits.attempt.failed).startswith("waited 7 s for nodes, and 1 workers need 1 CPU")


def test_a_run_that_waits_for_lost_nodes_can_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    Autoscaler(monkeypatch, 0)
    waits = lost_nodes(tmp_path)
    (waits.attempt.folder / STOP).write_bytes(b".")
    with pytest.raises(RuntimeError, match="asked to stop"):
        turn(waits)
    assert read(waits.attempt.stopped) == "stopped while it waited for nodes; no step is saved yet"
    assert read(waits.attempt.failed) == ""


def test_a_run_that_waits_for_lost_nodes_ends_when_a_later_attempt_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    Autoscaler(monkeypatch, 0)
    waits = lost_nodes(tmp_path)
    later = Attempt.new(tmp_path)
    turn(waits)
    assert later.begin()
    with pytest.raises(TakenOver, match="small: the same run was started again"):
        turn(waits)
    assert read(waits.attempt.failed) == ""
