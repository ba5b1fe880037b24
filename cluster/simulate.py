"""Rehearses a job on a Ray cluster of several simulated nodes on this machine.

    python cluster/simulate.py --nodes 2 --out rehearsal

Each node is a `ray start` with its own address in 127.0.0.0/8. As on real machines, it only knows
the head's address and the token. The head runs no workers. The jobs are those of a user:
`cluster/submit.py pretrain`, `cluster/submit.py finetune`, `embre register`, on a made-up corpus.
The nodes are always stopped at the end.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from embre.cli.options import local_folder, run_script
from embre.demo.run import ENCODER_NAME, MODEL_NAME, SETTINGS, Stages, make_files, write_configs
from embre.launch.errors import exit_on_error
from embre.launch.tables import scores_table
from embre.refused import Refused
from embre.register import register_run
from embre.sharding.shard import shard
from embre.tracking import read_events

HERE = Path(__file__).resolve().parent
START_S, STOP_S = 60, 5  # time limits; a head that had jobs may be slow to stop
OBJECT_STORE_BYTES = 150 << 20
SEED = 13


@dataclass(slots=True)
class RayCluster:
    """Running nodes, the head first. `environ` is the environment of processes that use them;
    `dashboard` and `gcs` are addresses of the head."""

    folder: Path
    environ: dict[str, str]
    dashboard: str
    gcs: str
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *options: str) -> None:
        """Start one more node, with its own address and the given options of `ray start`."""
        number = len(self.nodes) + 2  # Ray replaces 127.0.0.1 by the machine's external address
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block"]
        command += [f"--node-ip-address=127.0.0.{number}", "--disable-usage-stats"]
        # Random ports, because several nodes share a machine here.
        command += ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
        command += ["--include-log-monitor=false"]
        command += [f"--object-store-memory={OBJECT_STORE_BYTES}", *options]
        with (self.folder / f"node-{number}.log").open("wb") as log:
            process = subprocess.Popen(
                command, env=self.environ, stdout=log, stderr=log, start_new_session=True
            )
        self.nodes.append(process)

    def stop(self) -> None:
        """Stop all nodes, the head last, because the others report to it that they leave."""
        for leaving in (self.nodes[1:], self.nodes[:1]):
            for process in leaving:
                process.terminate()
            for process in leaving:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_S)
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # processes that the node left behind
                process.wait()

    def num_nodes(self) -> int:
        """Number of nodes that the dashboard reports as alive."""
        return sum(
            node["raylet"]["state"] == "ALIVE"
            for node in self.ask("/nodes?view=summary")["data"]["summary"]
        )

    def ask(self, path: str) -> Any:
        """Request JSON from the dashboard."""
        token = Path(self.environ["RAY_AUTH_TOKEN_PATH"]).read_text()
        request = urllib.request.Request(
            self.dashboard + path, headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request, timeout=5) as response:
            return json.load(response)


@contextmanager
def rehearsal_cluster(nodes: int, cpus: int = 1) -> Iterator[RayCluster]:
    """Start a head without CPUs for workers and `nodes` nodes with `cpus` CPUs each; stop them on
    exit. Token authentication is on, and the dashboard listens on loopback.

    Raises RuntimeError, with the end of the nodes' logs, if they do not start within START_S.
    """
    # In /tmp: Ray's sockets need a short path.
    folder = Path(tempfile.mkdtemp(prefix="embre-", dir="/tmp"))
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    gcs, dashboard, client = free_ports(3)
    unset = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "PYTHONPATH")
    environ = {key: value for key, value in os.environ.items() if key not in unset}
    environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # our `python`
    }
    cluster = RayCluster(folder, environ, f"http://127.0.0.1:{dashboard}", f"127.0.0.2:{gcs}")
    try:
        cluster.start(
            *("--head", f"--port={gcs}", "--num-cpus=0", f"--temp-dir={folder / 'ray'}"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
            f"--ray-client-server-port={client}",
        )
        wait_for_nodes(cluster, 1)
        for number in range(nodes):  # in turn: simultaneous starts on one machine interfere
            cluster.start(f"--address={cluster.gcs}", f"--num-cpus={cpus}")
            wait_for_nodes(cluster, 2 + number)
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_nodes(cluster: RayCluster, wanted: int) -> None:
    """Wait until `wanted` nodes are alive. Raises RuntimeError after START_S or if one exits."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and all(node.poll() is None for node in cluster.nodes):
        try:
            if cluster.num_nodes() >= wanted:
                return
        except (OSError, KeyError, ValueError):  # not up yet
            pass
        time.sleep(0.5)
    logs = [log.read_text()[-1000:] for log in sorted(cluster.folder.glob("node-*.log"))]
    raise RuntimeError(f"{wanted} nodes did not start within {START_S} s:\n" + "\n".join(logs))


def free_ports(count: int) -> list[int]:
    """Ports on loopback that are free now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def rehearse(nodes: int, steps: int, out: Path, console: Console) -> None:
    """Run the whole rehearsal in the folder `out`. Raises RuntimeError if a command fails."""
    stages = Stages(console)
    with stages.stage("corpus and shards"):
        make_files(out, SEED, console)
        corpus, held_out = out / "train.PubTator", out / "dev.PubTator"
        shard([str(corpus)], out / "shards", None, [str(held_out)], SETTINGS)
        write_configs(out, SEED)
    short = [f"train.{key}={steps}" for key in ("steps", "save_every_steps")]
    short += [f"train.validate_every_steps={steps}", f"train.log_every_steps={max(1, steps // 4)}"]
    with ExitStack() as stack:
        with stages.stage(f"cluster of {nodes} nodes and a head"):
            cluster = stack.enter_context(rehearsal_cluster(nodes))
        with stages.stage(f"submit.py pretrain, {nodes} workers"):
            submit(cluster, "pretrain", out, [f"launch.workers={nodes}", *short])
        with stages.stage("submit.py finetune, 1 worker"):
            submit(cluster, "finetune", out, short)
        with stages.stage("stopping the nodes"):
            stack.close()
    with stages.stage("register"):
        for run, name in (("demo-encoder", ENCODER_NAME), ("demo-relations", MODEL_NAME)):
            registered = register_run(out / "runs" / run, name, alias=None)
            console.print(f"{registered.kind}: {name} version {registered.version}")
    console.print(scores_table(out / "runs" / "demo-relations"))
    for event in read_events(out / "runs" / "demo-encoder", "started"):
        console.print(f"pretraining: {event['world_size']} ranks")
    console.print(stages.table())


def submit(cluster: RayCluster, kind: str, out: Path, overrides: list[str]) -> None:
    """Call `cluster/submit.py` as a user does. Raises RuntimeError if it fails."""
    command = [sys.executable, str(HERE / "submit.py"), kind, str(out / f"{kind}.yaml"), *overrides]
    environ = {**os.environ, **cluster.environ}
    code = subprocess.run([*command, "--address", cluster.dashboard], env=environ).returncode
    if code:
        raise RuntimeError(f"exit code {code} of {' '.join(command)}")


@exit_on_error()
def main(
    nodes: Annotated[
        int, typer.Option(min=1, help="Number of Ray nodes besides the head, one worker each.")
    ] = 2,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each run.")] = 20,
    out: Annotated[
        Path, typer.Option(parser=local_folder, help="Empty or new folder for all outputs.")
    ] = Path("rehearsal"),
) -> None:
    """Rehearse a cluster job on this machine."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the nodes are stopped
    if out.exists() and any(out.iterdir()):
        raise Refused(f"{out}: not empty; remove it or give another folder with --out")
    rehearse(nodes, steps, out.absolute(), Console(highlight=False, soft_wrap=True))


if __name__ == "__main__":
    run_script(main)
