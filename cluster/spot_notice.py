"""Drains this node in Ray when the cloud will reclaim the machine, so that a run saves in time.

    python cluster/spot_notice.py aws|gcp --address HEAD:6379

Runs beside Ray on a worker machine, polls the cloud's metadata service, and exits after the notice.
AWS gives notice two minutes ahead ("Spot Instance interruption notices" in the EC2 user guide),
Google Cloud half a minute ("Handle preemption" in the Compute Engine documentation). Only spot
machines get one.
"""

import logging
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from json import loads
from pathlib import Path
from typing import Annotated

import typer

from embre.cli.options import run_script

log = logging.getLogger("spot_notice")

AWS = "http://169.254.169.254/latest"
GCP = "http://metadata.google.internal/computeMetadata/v1"
GCP_NOTICE_S = 30.0
LOOK_EVERY_S = 2.0
TIMEOUT_S = 5.0


def aws_notice(base: str = AWS) -> float | None:
    """Seconds until EC2 reclaims the machine; None without a notice."""
    token = _read(f"{base}/api/token", "PUT", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    url, header = f"{base}/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token}
    try:
        ends = datetime.fromisoformat(loads(_read(url, "GET", header))["time"])
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise
    return max((ends - datetime.now(UTC)).total_seconds(), 0.0)


def gcp_notice(base: str = GCP) -> float | None:
    """Seconds until Compute Engine reclaims the machine; None without a notice."""
    preempted = _read(f"{base}/instance/preempted", "GET", {"Metadata-Flavor": "Google"})
    return GCP_NOTICE_S if preempted == "TRUE" else None


def _read(url: str, method: str, headers: dict[str, str]) -> str:
    request = urllib.request.Request(url, method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        return response.read().decode().strip()


CLOUDS: dict[str, Callable[[], float | None]] = {"aws": aws_notice, "gcp": gcp_notice}


def wait_for(notice: Callable[[], float | None]) -> float:
    """Poll until there is a notice; returns the seconds that are left. Failed requests are repeated
    for ever; the first failure in a row is logged."""
    failing = False
    while True:
        try:
            left = notice()
            failing = False
        except (OSError, ValueError, KeyError) as error:
            if not failing:
                log.warning("the metadata service does not respond: %s; retrying", error)
            left, failing = None, True
        if left is not None:
            return left
        time.sleep(LOOK_EVERY_S)


def drain(address: str, seconds: float) -> None:
    """Drain this node of the Ray cluster at `address`, with a deadline in `seconds`.

    Raises Ray's error if the head does not respond, SubprocessError if `ray drain-node` fails or
    takes longer than half of the time.
    """
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        node = ray.get_runtime_context().get_node_id()
        command = [str(Path(sys.executable).with_name("ray")), "drain-node"]
        command += ["--address", address, "--node-id", node, "--reason-message", "spot notice"]
        command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION"]
        command += ["--deadline-remaining-seconds", str(int(seconds))]
        subprocess.run(command, check=True, timeout=max(seconds / 2, TIMEOUT_S))
    finally:
        ray.shutdown()


def hand_over(drain_node: Callable[[float], None], seconds: float) -> None:
    """Call `drain_node` with the seconds that are left until it succeeds. Raises its last error if
    the time runs out."""
    ends = time.monotonic() + seconds
    while True:
        left = max(ends - time.monotonic(), 0.0)
        try:
            drain_node(left)
            return
        except Exception as error:  # Ray's errors have no common base class
            if left <= LOOK_EVERY_S:
                raise
            log.warning("draining failed: %s; retrying, %.0f s are left", error, left)
        time.sleep(LOOK_EVERY_S)


def main(
    cloud: Annotated[str, typer.Argument(help=" or ".join(CLOUDS))],
    address: Annotated[str, typer.Option(help="Address of the cluster's head, HOST:6379.")],
) -> None:
    """Wait for the notice of a spot machine and drain the node in Ray."""
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    if cloud not in CLOUDS:
        raise typer.BadParameter(f"{cloud}: known are {', '.join(CLOUDS)}")
    left = wait_for(CLOUDS[cloud])
    log.info("the cloud reclaims this machine in %.0f s: draining the node", left)
    hand_over(partial(drain, address), left)


if __name__ == "__main__":
    run_script(main)
