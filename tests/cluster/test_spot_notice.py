"""A cloud's notice is read as the cloud gives it, and reaches Ray as a node that drains."""

import inspect
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import spot_notice
import yaml
from spot_notice import aws_notice, gcp_notice, hand_over, wait_for

from embre.launch.draining import draining_nodes
from tests.cluster.conftest import CLUSTER
from tests.launch.busy_node import busy_node


@pytest.mark.parametrize(
    ("cloud", "asks"),
    [
        ("aws", "http://169.254.169.254/latest"),
        ("gcp", "http://metadata.google.internal/computeMetadata/v1"),
    ],
)
def test_a_worker_machine_starts_the_watch_for_its_own_cloud(cloud: str, asks: str) -> None:
    config = yaml.safe_load((CLUSTER / f"{cloud}.yaml").read_text())
    (start,) = (c for c in config["worker_start_ray_commands"] if "python" in c)
    asked, _, _ = start.partition(">>")
    token, nohup, python, script, *arguments = shlex.split(asked)
    assert (token, nohup, python) == ("RAY_AUTH_MODE=token", "nohup", "~/venv/bin/python")
    assert arguments[0] == cloud and start.endswith("&"), "or the node would never be up"
    place = script.replace("~", "/home/ubuntu")
    (mount,) = (there for there in config["file_mounts"] if place.startswith(f"{there}/"))
    here = CLUSTER.parent / config["file_mounts"][mount] / place.removeprefix(f"{mount}/")
    command = [sys.executable, str(here), *arguments, "--help"]  # which looks at the options first
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "notice of a spot machine" in done.stdout, done.stderr
    (base,) = inspect.signature(spot_notice.CLOUDS[cloud]).parameters.values()
    assert base.default == asks


class Machine(ThreadingHTTPServer):
    """What a machine may read about itself: of both clouds, with the headers that they ask for.
    `action` is AWS's notice, `preempted` Google's; as long as `down` counts, nobody answers."""

    action: str | None = None
    preempted = "FALSE"
    down = 0


class Answers(BaseHTTPRequestHandler):
    server: Machine

    def do_PUT(self) -> None:
        asked = self.path == "/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self.answer("a-token" if asked else None)

    def do_GET(self) -> None:
        if self.path == "/instance/preempted" and self.headers["Metadata-Flavor"] == "Google":
            self.answer(self.server.preempted)
        elif self.path == "/meta-data/spot/instance-action":
            known = self.headers["X-aws-ec2-metadata-token"] == "a-token"
            self.answer(self.server.action if known else None, 404 if known else 401)
        else:
            self.answer(None)

    def answer(self, text: str | None, otherwise: int = 404) -> None:
        if self.server.down:
            self.server.down -= 1
            text, otherwise = None, 503
        self.send_response(200 if text is not None else otherwise)
        self.end_headers()
        self.wfile.write((text or "").encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def machine() -> Iterator[Machine]:
    server = Machine(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def url(machine: Machine) -> str:
    return f"http://127.0.0.1:{machine.server_port}"


def in_seconds(seconds: float) -> str:
    ends = datetime.now(UTC) + timedelta(seconds=seconds)
    return f'{{"action": "terminate", "time": "{ends:%Y-%m-%dT%H:%M:%SZ}"}}'


def test_aws_says_until_when(machine: Machine) -> None:
    assert aws_notice(url(machine)) is None
    machine.action = in_seconds(120)
    assert aws_notice(url(machine)) == pytest.approx(119, abs=5)
    machine.action = in_seconds(-60)
    assert aws_notice(url(machine)) == 0


def test_google_gives_half_a_minute(machine: Machine) -> None:
    assert gcp_notice(url(machine)) is None
    machine.preempted = "TRUE"
    assert gcp_notice(url(machine)) == 30


def test_it_is_waited_for_though_nobody_answers_at_times(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looks = []

    def look(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 4:
            machine.action = in_seconds(90)

    monkeypatch.setattr(spot_notice.time, "sleep", look)
    machine.down = 2
    assert wait_for(partial(aws_notice, url(machine))) == pytest.approx(89, abs=5)
    assert len(looks) == 4 and len(caplog.messages) == 1


def test_ray_is_told_again_until_it_hears_or_the_time_is_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock, told = [0.0], []
    monkeypatch.setattr(spot_notice.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(spot_notice.time, "sleep", lambda _: clock.append(clock.pop() + 10))

    def tell(left: float) -> None:
        told.append(left)
        if len(told) < 3:
            raise subprocess.CalledProcessError(1, "ray drain-node")

    hand_over(tell, 120)
    assert told == [120, 110, 100] and len(caplog.messages) == 2
    told.clear()
    with pytest.raises(subprocess.CalledProcessError):
        hand_over(tell, 8)
    assert told == [8, 0]


@pytest.mark.slow
@pytest.mark.ray
def test_ray_learns_that_this_node_will_go_and_tells_it_to_a_run() -> None:
    with busy_node() as (address, node):
        assert draining_nodes() == set()
        told = f"import spot_notice; spot_notice.drain({address!r}, 60)"
        subprocess.run([sys.executable, "-c", told], cwd=CLUSTER, check=True)
        assert draining_nodes() == {node}
