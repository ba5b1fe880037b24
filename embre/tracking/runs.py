"""MLflow runs: the driver opens one per job, rank 0 sends metrics, a restart goes on in it."""

import json
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock
import mlflow
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking import MlflowClient
from pydantic import BaseModel

from embre.config import RunConfig, dump_config
from embre.config.places import sqlite_file
from embre.durable import commit
from embre.tracking.events import write_event

log = logging.getLogger(__name__)

RUN_FILE = "mlflow_run.json"
SENT = "mlflow_sent_step.txt"
MAX_PARAM_LENGTH = 500
SEND_EVERY_S = 2.0
SYSTEM_EVERY_S = 10
GIVE_UP_AFTER_S = 10.0
WAIT_FOR_STORE_S = 120.0  # making a database takes some ten seconds on a busy machine


Point = Metric | RunTag


@dataclass(frozen=True, slots=True)
class RunHandle:
    """Where a run is kept, enough for another process to log to it; and the fingerprint of what
    it was begun with."""

    uri: str
    run_id: str
    made_of: str = ""


def quiet_mlflow() -> None:
    """A server that is down must not hold anything up for minutes; nothing is reported home, and
    nothing is unpickled."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # Our models are code and safetensors; what somebody else registered as a pickle is not loaded.
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def open_run(
    config: RunConfig,
    uri: str,
    folder: Path,
    tags: Mapping[str, str],
    lineage: Mapping[str, str],
    made_of: str,
) -> RunHandle:
    """The MLflow run of a job: the one that its folder remembers, or a new one, which gets the
    whole curve. New is also what goes to another store, or is `made_of` another config or data:
    parameters and points in MLflow cannot be taken back.

    Called by the driver alone. `lineage` maps the names of data sets to their digests. The folder
    remembers a run as soon as there is one, so that no later failure leaves another one behind;
    what could not be logged of it then is logged when it goes on.
    """
    quiet_mlflow()
    client = client_of(uri)
    remembered = folder / RUN_FILE
    if remembered.exists():
        handle = RunHandle(**json.loads(remembered.read_text()))
        if (handle.uri, handle.made_of) == (uri, made_of):
            client.update_run(handle.run_id, status="RUNNING")
            if not client.get_run(handle.run_id).data.params:  # they are logged last
                _log_start(client, handle, config, lineage)
            return handle
    experiment = _experiment(client, config, uri)
    run = client.create_run(
        experiment, run_name=config.name, tags={**tags, **_lineage_tags(lineage)}
    )
    handle = RunHandle(uri, run.info.run_id, made_of)
    (folder / SENT).unlink(missing_ok=True)
    commit(remembered, json.dumps(asdict(handle)).encode())
    _log_start(client, handle, config, lineage)
    return handle


def client_of(uri: str) -> MlflowClient:
    """The store at `uri`. A local database that is not there yet is made by one process at a time:
    MLflow's migrations fail where two carry them out."""
    database = sqlite_file(uri)
    if database is None:
        return MlflowClient(uri)
    database.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{database}.lock", timeout=WAIT_FOR_STORE_S):
        return MlflowClient(uri)


@contextmanager
def tracking_at(uri: str) -> Iterator[None]:
    """MLflow's functions work on the store at `uri`. Afterwards its globals and the environment
    variable that it sets are as before, or the next run would go to this store."""
    name = "MLFLOW_TRACKING_URI"
    given, before = os.environ.get(name), mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)
        os.environ.pop(name, None)
        if given is not None:
            os.environ[name] = given


@contextmanager
def best_effort(what: str) -> Iterator[None]:
    """A tracking store that fails must not fail the run: warn, and go on without it."""
    try:
        yield
    except Exception as error:  # whatever a store raises
        log.warning("%s failed, the run goes on; its events are on disk: %s", what, short(error))


def close_run(handle: RunHandle, status: str) -> None:
    """FINISHED, FAILED or KILLED, as it really ended."""
    MlflowClient(handle.uri).set_terminated(handle.run_id, status)


def log_files(handle: RunHandle, files: list[Path], folder: str | None = None) -> None:
    """Keep files with the run."""
    client = MlflowClient(handle.uri)
    for file in files:
        client.log_artifact(handle.run_id, str(file), folder)


def log_results(handle: RunHandle, metrics: Mapping[str, float]) -> None:
    """Figures of a finished run, without a step."""
    now = int(time.time() * 1000)
    points = [Metric(name, value, now, 0) for name, value in metrics.items()]
    MlflowClient(handle.uri).log_batch(handle.run_id, metrics=points)


@contextmanager
def metric_sender(handle: RunHandle | None, folder: Path) -> Iterator[Any]:
    """A function (step, values) that never blocks: a thread sends what it is given in batches,
    numbers as metrics and texts as tags.

    What a server does not take is kept and tried again; after the end at most GIVE_UP_AFTER_S are
    spent on it. The events on disk have every metric in any case, and the file SENT in the run's
    folder says up to which step the server has them.
    """
    if handle is None:
        yield None
        return
    quiet_mlflow()
    points: queue.Queue[Point] = queue.Queue()
    stop = threading.Event()
    thread = threading.Thread(target=_send_all, args=(handle, points, stop, folder), daemon=True)
    thread.start()

    def send(step: int, values: Mapping[str, float | str]) -> None:
        now = int(time.time() * 1000)
        for name, value in values.items():
            text = isinstance(value, str)
            points.put(RunTag(name, value) if text else Metric(name, value, now, step))

    try:
        yield send
    finally:
        stop.set()
        thread.join(GIVE_UP_AFTER_S)


@contextmanager
def system_metrics(handle: RunHandle | None, node: str) -> Iterator[None]:
    """While the body runs, MLflow gets processor, memory, disk, network and GPU use of a node."""
    if handle is None:
        yield
        return
    quiet_mlflow()
    monitor = None
    with best_effort("watching the machine"):
        monitor = SystemMetricsMonitor(
            handle.run_id,
            SYSTEM_EVERY_S,
            resume_logging=True,
            node_id=node,
            tracking_uri=handle.uri,
        )
        monitor.start()
    try:
        yield
    finally:
        if monitor is not None:
            with best_effort("watching the machine"):
                monitor.finish()


def sent_step(folder: Path) -> int:
    """The last step whose metrics the tracking server has; 0 too where that cannot be read, for a
    point that is there twice does no harm."""
    with suppress(OSError, ValueError):
        return int((folder / SENT).read_text())
    return 0


def _send_all(
    handle: RunHandle, points: "queue.Queue[Point]", stop: threading.Event, folder: Path
) -> None:
    client = MlflowClient(handle.uri)
    waiting: list[Point] = []
    warned = False
    while not (stop.is_set() and points.empty() and not waiting):
        if stop.wait(SEND_EVERY_S) and waiting:
            time.sleep(SEND_EVERY_S / 4)
        while not points.empty():
            waiting.append(points.get())
        try:
            metrics = [point for point in waiting if isinstance(point, Metric)]
            for tag in waiting:
                if isinstance(tag, RunTag):
                    client.set_tag(handle.run_id, tag.key, tag.value)
            for start in range(0, len(metrics), 1000):
                client.log_batch(handle.run_id, metrics=metrics[start : start + 1000])
            if metrics:
                # Marks of a restart are at an earlier step than what was sent before.
                steps = (metric.step for metric in metrics)
                commit(folder / SENT, str(max(sent_step(folder), *steps)).encode())
            waiting = []
        except Exception as error:  # whatever a store raises, training goes on
            if not warned:
                why = short(error)
                with suppress(OSError):
                    write_event(folder, "untracked", sent_step(folder), {"why": why})
            warned = True


def _experiment(client: MlflowClient, config: RunConfig, uri: str) -> str:
    """The id of the experiment; with a local database its files lie beside it, and not in
    whatever folder the command was given in."""
    name = config.tracking.experiment
    folder = Path(config.storage).absolute() / "mlartifacts"
    files = folder.as_uri() if sqlite_file(uri) else None
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=files)
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another run may have made it meanwhile
            if found is None:
                raise
    return found.experiment_id


def _log_start(
    client: MlflowClient, handle: RunHandle, config: RunConfig, lineage: Mapping[str, str]
) -> None:
    """The config as a file and as parameters, the data as inputs. Failing is a warning."""
    with best_effort("logging the config and the data"):
        client.log_text(handle.run_id, dump_config(config), "config.yaml")
        for name, digest in lineage.items():
            data = MetaDataset(CodeDatasetSource({}), name=name, digest=digest[:36])
            client.log_inputs(
                handle.run_id,
                [DatasetInput(data._to_mlflow_entity(), tags=[])],
            )
        params = [Param(key, value[:MAX_PARAM_LENGTH]) for key, value in parameters(config)]
        client.log_batch(handle.run_id, params=params)


def _lineage_tags(lineage: Mapping[str, str]) -> dict[str, str]:
    return {f"embre.digest.{name}": digest for name, digest in lineage.items()}


def parameters(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, str]]:
    """A config's values by `section.key`. A mapping whose keys a user chooses is one value, in
    JSON: MLflow refuses a key like `up-regulates(+)`, and more than a hundred parameters."""
    plain = section.model_dump(mode="json")
    for key, value in section:
        if isinstance(value, BaseModel):
            yield from parameters(value, f"{prefix}{key}.")
        elif isinstance(value, Mapping):
            yield f"{prefix}{key}", json.dumps(plain[key])
        else:
            yield f"{prefix}{key}", str(plain[key])


def reachable(uri: str) -> str:
    """Why a tracking store does not answer, or ''."""
    quiet_mlflow()
    try:
        MlflowClient(uri).search_experiments(max_results=1)
    except Exception as error:  # whatever a store raises is the finding
        return short(error)
    return ""


def short(error: Exception) -> str:
    """An error in one line, without what a URL in it may keep secret."""
    return " ".join(without_secrets(str(error)).split())[:200]


def without_secrets(text: str) -> str:
    """A text whose URLs have lost their users, passwords and queries."""
    return re.sub(r"(://[^\s?]*)\?\S*", r"\1", re.sub(r"(?<=://)\S*@", "", text))
