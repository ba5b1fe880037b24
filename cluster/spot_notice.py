"""Tells Ray when a cloud takes this machine back, so that a run saves before it goes.

    python cluster/spot_notice.py aws|gcp --address HEAD:6379

Runs beside Ray on a worker machine and ends with the notice. AWS gives it two minutes before
("Spot Instance interruption notices" in the EC2 user guide), Google Cloud half a minute ("Handle
preemption" in the Compute Engine documentation); both put it where a machine reads about itself.
Ray Train learns of it as of any node that drains. A machine that is no spot machine never gets one.
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

log = logging.getLogger("spot_notice")

AWS = "http://169.254.169.254/latest"
GCP = "http://metadata.google.internal/computeMetadata/v1"
GCP_NOTICE_S = 30.0
LOOK_EVERY_S = 2.0
ANSWERS_WITHIN_S = 5.0


def aws_notice(base: str = AWS) -> float | None:
    """Seconds until EC2 takes the machine back; None: there is no such notice."""
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
    """Seconds until Compute Engine takes the machine back; None: there is no such notice."""
    said = _read(f"{base}/instance/preempted", "GET", {"Metadata-Flavor": "Google"})
    return GCP_NOTICE_S if said == "TRUE" else None


def _read(url: str, method: str, headers: dict[str, str]) -> str:
    request = urllib.request.Request(url, method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=ANSWERS_WITHIN_S) as answer:
        return answer.read().decode().strip()


CLOUDS: dict[str, Callable[[], float | None]] = {"aws": aws_notice, "gcp": gcp_notice}


def wait_for(notice: Callable[[], float | None]) -> float:
    """The seconds that are left once there is a notice. A service that does not answer now and then
    is asked again."""
    silent = False
    while True:
        try:
            left = notice()
            silent = False
        except (OSError, ValueError, KeyError) as error:
            if not silent:
                log.warning("the machine cannot be asked about itself: %s; asking on", error)
            left, silent = None, True
        if left is not None:
            return left
        time.sleep(LOOK_EVERY_S)


def drain(address: str, seconds: float) -> None:
    """Tell the head of a Ray cluster that this node will be gone in so many seconds.

    Raises whatever Ray does where the head does not answer, and SubprocessError where `ray
    drain-node` fails or takes longer than half of the time.
    """
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        node = ray.get_runtime_context().get_node_id()
        command = [str(Path(sys.executable).with_name("ray")), "drain-node"]
        command += ["--address", address, "--node-id", node, "--reason-message", "spot notice"]
        command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION"]
        command += ["--deadline-remaining-seconds", str(int(seconds))]
        subprocess.run(command, check=True, timeout=max(seconds / 2, ANSWERS_WITHIN_S))
    finally:
        ray.shutdown()


def hand_over(tell: Callable[[float], None], seconds: float) -> None:
    """Tell with the seconds that are left, again and again until it is heard or they are over."""
    ends = time.monotonic() + seconds
    while True:
        left = max(ends - time.monotonic(), 0.0)
        try:
            tell(left)
            return
        except Exception as error:  # Ray's errors have no base in common
            if left <= LOOK_EVERY_S:
                raise
            log.warning("Ray was not told: %s; trying again, %.0f s are left", error, left)
        time.sleep(LOOK_EVERY_S)


def main(
    cloud: Annotated[str, typer.Argument(help=" or ".join(CLOUDS))],
    address: Annotated[str, typer.Option(help="Of the cluster's head, HOST:6379.")],
) -> None:
    """Wait for the notice of a spot machine and hand it to Ray."""
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    if cloud not in CLOUDS:
        raise typer.BadParameter(f"{cloud}: known are {', '.join(CLOUDS)}")
    left = wait_for(CLOUDS[cloud])
    log.info("the cloud takes this machine back in %.0f s: telling Ray", left)
    hand_over(partial(drain, address), left)


if __name__ == "__main__":
    typer.run(main)
