"""The setting of fault injection: a small shard set, an undisturbed run, and runs with faults.

Every run is an `embre` command in a process of its own, with loader processes. A run has survived
if each of its steps has the data and the losses of the undisturbed run.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from mlflow.tracking import MlflowClient

from embre.corpora import write_pubtator
from embre.demo.corpus import make_corpus
from embre.sharding.shard import ShardSettings, shard
from embre.tracking import read_events

STEPS, SAVE_EVERY = 16, 4
TIMEOUT_S = 240
QUICK_TO_NOTICE = {
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "10",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
}


@dataclass(slots=True)
class Outcome:
    """The outcome of a fault.

    Documents are counted by steps, each of which has a hash of its data: `lost` steps have other
    data than in the undisturbed run or are missing, `repeated` ones are additional. `recovery_s` is
    the time from the fault to the next step.
    """

    survived: bool
    happened: str
    recovery_s: float | None = None
    lost: int = 0
    repeated: int = 0
    curve: str = "equal"
    clean: bool = True  # the fault had an effect, and no partial files are left


@dataclass(slots=True)
class Scene:
    """A folder with a shard set and the undisturbed runs, one per launcher."""

    folder: Path
    references: dict[str, Path] = field(default_factory=dict)

    @classmethod
    def build(cls, folder: Path) -> "Scene":
        write_pubtator(folder / "corpus.PubTator", make_corpus(160, seed=3))
        settings = ShardSettings(block_documents=5, shard_documents=10, vocabulary=400)
        shard([str(folder / "corpus.PubTator")], folder / "shards", None, [], settings)
        return cls(folder)

    def config(self, name: str, **changes: Any) -> Path:
        """The YAML file of a run. `changes` are `section__key` values."""
        shape = {"layers": 1, "hidden": 16, "heads": 2, "feed_forward": 16}
        values: dict[str, Any] = {
            "name": name,
            "storage": str(self.folder / "runs"),
            "encoder": {
                "path": str(self.folder / "shards/tokenizer"),
                "new": shape,
                "dropout": 0.1,
            },
            "data": {
                "shards": str(self.folder / "shards"),
                "streams": 4,
                "strip_tokens": 400,
                "max_document_tokens": 128,
                "loader_workers": 1,
            },
            "entities": {"dimension": 8},
            "optimizer": {"peak_lr": 1e-3, "warmup_steps": 2},
            "train": {
                "steps": STEPS,
                "save_every_steps": SAVE_EVERY,
                "log_every_steps": 1,
                "validate_every_steps": STEPS,
            },
            "engine": "deepspeed",
            "launch": {"launcher": "ray", "workers": 2, "max_failures": 3},
        }
        for key, value in changes.items():
            section, _, inner = key.partition("__")
            if inner:
                values[section][inner] = value
            else:
                values[section] = value
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    def run_folder(self, name: str) -> Path:
        return self.folder / "runs" / name

    def statuses(self) -> dict[str, list[str]]:
        """The statuses of the runs in MLflow, by run name."""
        store, found = self.folder / "runs/mlflow.db", defaultdict(list)
        if store.exists():
            client = MlflowClient(f"sqlite:///{store}")
            experiments = [one.experiment_id for one in client.search_experiments()]
            for run in client.search_runs(experiments):
                found[run.info.run_name].append(run.info.status)
        return found

    def processes(self) -> int:
        """The number of Ray training workers and loader processes of this scene."""
        ours, found = str(self.folder).encode(), 0
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # the process has ended
                command = (path / "cmdline").read_bytes()
                if b"ray::RayTrainWorker" in command or b"spawn_main" in command:
                    found += ours in (path / "environ").read_bytes()
        return found

    def start(
        self, config: Path, fault: str = "", ranks: int = 0, env: dict[str, str] | None = None
    ) -> "Running":
        """Start a run: under Ray, or with `ranks` under torchrun."""
        command = ["-m", "embre", "pretrain", str(config)]
        return self.start_ranks(ranks, command, fault, env)

    def start_ranks(
        self,
        ranks: int,
        command: Sequence[str],
        fault: str = "",
        env: dict[str, str] | None = None,
    ) -> "Running":
        """Start a script or module: once, or on each of `ranks` under torchrun."""
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        command = [sys.executable, *(torchrun if ranks else []), *command]
        settings = {**os.environ, **QUICK_TO_NOTICE, "OMP_NUM_THREADS": "1", **(env or {})}
        settings.pop("EMBRE_FAULT", None)
        if fault:
            settings["EMBRE_FAULT"] = fault
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=settings,
            start_new_session=True,
            text=True,
        )
        return Running(process)

    def reference(self, ranks: int = 0) -> Path:
        """The folder of the undisturbed run under Ray, or on `ranks` of torchrun."""
        name = f"torchrun-{ranks}" if ranks else "ray"
        if name not in self.references:
            changes = {"launch": {"launcher": "local"}} if ranks else {}
            code, output = self.start(self.config(name, **changes), ranks=ranks).wait()
            if code:
                raise RuntimeError(f"the undisturbed run failed with {code}:\n{output[-3000:]}")
            self.references[name] = self.run_folder(name)
        return self.references[name]

    def finish(
        self,
        running: "Running",
        folder: Path,
        ranks: int = 0,
        happened: str = "",
        attempts: int = 2,
    ) -> Outcome:
        """Wait for the end of a run and compare it; a failed run has not survived."""
        code, output = running.wait()
        if code:
            return Outcome(False, f"exit {code}: {last_line(output)}", curve="none")
        return self.compare(folder, ranks, happened, attempts)

    def compare(
        self, folder: Path, ranks: int = 0, happened: str = "", attempts: int = 2
    ) -> Outcome:
        """Compare a finished run with the undisturbed one of its launcher."""
        return against(self.reference(ranks), folder, happened, attempts)


@dataclass(slots=True)
class Running:
    """A run in progress, in a session of its own."""

    process: subprocess.Popen

    def wait(self, timeout_s: float = TIMEOUT_S) -> tuple[int, str]:
        """Return exit code and output; raises RuntimeError after `timeout_s`."""
        try:
            output, _ = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.end()
            raise RuntimeError(f"the run did not end within {timeout_s:.0f} s") from None
        return self.process.returncode, output

    def kill(self) -> None:
        """`kill -9` of the driver alone."""
        self.process.kill()
        self.process.wait()

    def terminate(self) -> None:
        """SIGTERM to the driver."""
        self.process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """Kill all processes of this run."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


def against(reference: Path, folder: Path, happened: str = "", attempts: int = 2) -> Outcome:
    """Compare a finished run with an undisturbed one: data, losses, weights.

    With fewer than `attempts` attempts, the fault had no effect.
    """
    wanted, found = (steps_of(one) for one in (reference, folder))
    lost = [s for s in wanted if s not in found or found[s]["data"] != wanted[s]["data"]]
    repeated = [step for step in found if step not in wanted]
    exact = all(numbers(found[s]) == numbers(wanted[s]) for s in wanted if s in found)
    weights = "encoder/model.safetensors"
    same = exact and (folder / weights).is_file()
    if same:
        same = (folder / weights).read_bytes() == (reference / weights).read_bytes()
    curve = "equal" if same else f"{furthest(wanted, found):.0e} apart"
    left = [p.name for p in (folder / "checkpoints").glob("*.partial*")]
    if left:
        happened += f"; files left: {', '.join(left)}"
    started = len(list(read_events(folder, "started")))
    if started < attempts:
        happened = f"the fault had no effect: {started} attempts"
    return Outcome(
        survived=not lost and not repeated and same and not left and started >= attempts,
        clean=not left and started >= attempts,
        happened=happened,
        recovery_s=recovery_s(folder),
        lost=len(lost),
        repeated=len(repeated),
        curve=curve,
    )


def steps_of(folder: Path) -> dict[int, dict[str, Any]]:
    """The step events by step; of a repeated step the last one."""
    return {event["step"]: event for event in read_events(folder, "step")}


def numbers(event: dict[str, Any]) -> list[float]:
    """Losses and gradient norm, which must be equal to the last bit."""
    return [event[key] for key in sorted(event) if key.startswith("loss/") or key == "grad_norm"]


def furthest(wanted: dict[int, dict[str, Any]], found: dict[int, dict[str, Any]]) -> float:
    """The maximum relative difference between two curves."""
    pairs = [
        (a, b)
        for step in wanted.keys() & found.keys()
        for a, b in zip(numbers(wanted[step]), numbers(found[step]), strict=True)
    ]
    return max((abs(a - b) / max(abs(a), 1e-9) for a, b in pairs), default=float("inf"))


def wait_for(condition: Any, what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Wait until a condition holds; raises RuntimeError after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(0.1)


def worlds(folder: Path) -> list[int]:
    """The number of ranks of each attempt."""
    return [event["world_size"] for event in read_events(folder, "started")]


def fault_happened(folder: Path) -> bool:
    return any(folder.glob("fault-*"))


def recovery_s(folder: Path) -> float | None:
    """Seconds from the fault to the first step after it."""
    marks = [path.stat().st_mtime for path in folder.glob("fault-*")]
    starts = [event["time"] for event in read_events(folder, "started")]
    if not marks or len(starts) < 2:
        return None
    later = [e["time"] for e in read_events(folder, "step") if e["time"] > starts[-1]]
    return round(min(later) - max(marks), 1) if later else None


@contextmanager
def cluster(nodes: int) -> Iterator[tuple[Any, list[Any]]]:
    """A Ray cluster on this machine: a head without workers, and nodes for one worker each."""
    os.environ.update(QUICK_TO_NOTICE | {"RAY_USAGE_STATS_ENABLED": "0"})
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        yield made, [made.add_node(num_cpus=1) for _ in range(nodes)]
    finally:
        made.shutdown()


def drain(address: str, node_id: str, deadline_s: int) -> None:
    """Drain a node of a cluster, as after the notice of a spot instance."""
    ray = str(Path(sys.executable).with_name("ray"))
    command = [ray, "drain-node", "--address", address, "--node-id", node_id]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    command += ["--deadline-remaining-seconds", str(deadline_s)]
    subprocess.run(command, check=True, capture_output=True)


def last_line(output: str) -> str:
    """The last line of a run's output, which is its error message."""
    lines = [line for line in output.strip().splitlines() if line.strip()]
    return lines[-1][:160] if lines else ""


def as_json(outcomes: dict[str, Outcome]) -> str:
    found = list(outcomes.values())
    return json.dumps(
        {
            "faults": len(found),
            "survived": sum(one.survived for one in found),
            "lost": sum(one.lost for one in found),
            "repeated": sum(one.repeated for one in found),
            "curves_equal": sum(one.curve.startswith("equal") for one in found),
        }
    )
