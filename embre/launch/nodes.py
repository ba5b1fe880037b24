"""Waits for nodes: at the start for those of an autoscaler, later in the place of lost ones."""

import time
from contextlib import suppress
from dataclasses import dataclass

import ray
from ray.exceptions import RayError
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller.state import (
    InitializingState,
    ReschedulingState,
    RestartingState,
    RunningState,
    TrainControllerState,
)
from ray.util import placement_group, remove_placement_group

from embre.checkpoints.folder import newest_step, saved_so_far
from embre.interrupts import StoppedEarly, stop_requested, watch
from embre.job import Job
from embre.launch.attempts import Attempt, NotBegun, write
from embre.tracking.events import write_event

LOOK_EVERY_S = 2.0
QUIET_S = 15.0  # a restart that waits less is not worth an event
WAITS = (InitializingState, RestartingState, ReschedulingState)


def wait_for_nodes(job: Job) -> None:
    """Wait until the cluster has the resources of the run, at most launch.wait_for_nodes_s seconds.

    Each change of what the cluster lacks is a `waiting` event, which the driver shows. Raises
    NotBegun when the time is up, StoppedEarly if the run is asked to stop.
    """
    launch, name = job.config.launch, job.config.name
    shortage = launch.shortage(ray.cluster_resources())
    if not shortage:
        return
    # Ray has no public way to tell whether an autoscaler runs, so the user says it. A pending group
    # is what an autoscaler adds nodes for, and it goes with this process, unlike the requests of
    # `ray.autoscaler.sdk`, which would keep the nodes of a killed driver.
    group = placement_group([launch.needed] * launch.fewest)
    since, deadline = time.time(), time.monotonic() + launch.wait_for_nodes_s
    written = ""
    try:
        while shortage:
            if shortage != written:
                _report(job, shortage, since, launch.wait_for_nodes_s)
                written = shortage
            if stop_requested():
                raise StoppedEarly(f"{name}: stopped while it waited for nodes")
            if time.monotonic() > deadline:
                raise NotBegun(
                    f"{name}: waited {launch.wait_for_nodes_s:,.0f} s for nodes, and {shortage}; "
                    "`ray status` shows whether the autoscaler can add such nodes (their type and "
                    "maximum, quota, capacity): correct that, or raise launch.wait_for_nodes_s"
                )
            time.sleep(LOOK_EVERY_S)
            shortage = launch.shortage(ray.cluster_resources())
    finally:
        remove_placement_group(group)


@dataclass
class WaitForLostNodes(ControllerCallback):
    """Limits, and reports as `waiting` events, how long a run under Ray has no workers.

    Ray Train calls it in its controller after each turn of its loop. By itself it lets an elastic
    run wait without limit, silently, and in a loop without a pause. After `limit_s` seconds, or if
    the run is asked to stop, the reason is written into the attempt, and an error ends `fit`; it
    also ends when a later attempt has taken the run over.
    """

    job: Job
    attempt: Attempt
    limit_s: float
    since: float = 0.0  # the start of the wait, 0 while there are workers
    reported: str = ""

    def after_controller_state_update(
        self, previous_state: TrainControllerState, current_state: TrainControllerState
    ) -> None:
        if isinstance(current_state, RunningState):
            self.since, self.reported = 0.0, ""
        if not isinstance(current_state, WAITS):
            return
        if current_state is previous_state:
            time.sleep(LOOK_EVERY_S)
        self.since = self.since or time.time()
        waited_s = time.time() - self.since
        with suppress(OSError):  # the storage may be lost for a moment too
            self.attempt.refuse_taken_over(self.job.config.name)
        watch(self.attempt.folder)
        if stop_requested():
            saved = saved_so_far(self.job.folder)
            write(self.attempt.stopped, f"stopped while it waited for nodes; {saved}")
            raise RuntimeError("asked to stop")
        why = self._why()
        if waited_s > QUIET_S and why != self.reported:
            with suppress(OSError):
                _report(self.job, why, self.since, self.limit_s)
                self.reported = why
        if waited_s > self.limit_s:
            write(self.attempt.failed, f"waited {self.limit_s:,.0f} s for nodes, and {why}")
            raise RuntimeError("no nodes")

    def _why(self) -> str:
        launch = self.job.config.launch
        try:
            shortage = launch.shortage(ray.cluster_resources())
        except RayError:
            return "the head of the cluster does not respond"
        return shortage or (
            f"the cluster has enough for {launch.fewest} workers, but others use it, or no node "
            "has all that a worker needs"
        )


def _report(job: Job, why: str, since: float, limit_s: float) -> None:
    values = {"why": why, "since": since, "limit_s": limit_s}
    write_event(job.folder, "waiting", newest_step(job.folder), values)
