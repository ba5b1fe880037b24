"""Waits for the nodes that a cluster's autoscaler adds."""

import time

import ray
from ray.util import placement_group, remove_placement_group

from embre.checkpoints.folder import newest_step
from embre.interrupts import stop_requested
from embre.job import Job
from embre.launch.attempts import NotBegun
from embre.tracking.events import write_event

LOOK_EVERY_S = 2.0


def wait_for_nodes(job: Job) -> None:
    """Wait until the cluster has the resources of the run, at most launch.wait_for_nodes_s seconds.

    Each change of what the cluster lacks is a `waiting` event, which the driver shows. Raises
    NotBegun when the time is up, or if the run is asked to stop.
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
                values = {"why": shortage, "since": since, "limit_s": launch.wait_for_nodes_s}
                write_event(job.folder, "waiting", newest_step(job.folder), values)
                written = shortage
            if stop_requested():
                raise NotBegun(f"{name}: asked to stop while it waited for nodes")
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
