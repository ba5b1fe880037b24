"""Open MLflow runs: the driver opens one per job, and restarts resume it."""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import filelock
import mlflow
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, LifecycleStage, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.tracking import MlflowClient
from pydantic import BaseModel

from embre.atomic_files import write_atomic
from embre.config import RunConfig, dump_config
from embre.config.places import sqlite_file
from embre.refused import Refused
from embre.tracking.origin import origin_tags
from embre.wording import without_secrets

log = logging.getLogger(__name__)

RUN_FILE = "mlflow_run.json"
SENT = "mlflow_sent_step.txt"
SILENT = "mlflow_silent"  # while this file exists, no more requests go to the store
MAX_PARAM_LENGTH = 500
# Limits of requests about a run, and of copying a model.
QUICK = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
PATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5", "MLFLOW_HTTP_REQUEST_TIMEOUT": "600"}
WAIT_FOR_STORE_S = 120.0  # creating a database can take ten seconds on a busy machine


@dataclass(frozen=True, slots=True)
class RunHandle:
    """The address of an MLflow run; `made_of` is the fingerprint of the run's config and data."""

    uri: str
    run_id: str
    made_of: str = ""


def quiet_mlflow() -> None:
    """Set MLflow's defaults: short timeouts (a server that is down must not block training), no
    telemetry, no unpickling."""
    for name, limit in QUICK.items():
        os.environ.setdefault(name, limit)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # embre's models are code and safetensors; pickles that others registered are not loaded.
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)


@contextmanager
def patient_mlflow() -> Iterator[None]:
    """Raise the timeouts while the body copies a model: a server forwards gigabytes before it
    responds. Limits set by the user stay."""
    ours = [name for name, limit in QUICK.items() if os.environ.get(name) == limit]
    os.environ.update({name: PATIENT[name] for name in ours})
    try:
        yield
    finally:
        os.environ.update({name: QUICK[name] for name in ours})


class Opened(NamedTuple):
    """An opened MLflow run, and the status to restore if the job never starts (FAILED if new)."""

    handle: RunHandle
    before: str


def open_run(
    config: RunConfig,
    uri: str,
    folder: Path,
    tags: Mapping[str, str],
    lineage: Mapping[str, str],
    made_of: str,
) -> Opened:
    """Resume the MLflow run recorded in the job's folder, or create one, which then gets the whole
    curve. A new run is created if the store, config or data (`made_of`) changed, because
    parameters and points in MLflow cannot be taken back, or if the recorded run was deleted.

    Only the driver calls this. `lineage` maps names of data sets to their digests. The run is
    recorded in the folder as soon as it exists, so that a later failure leaves no second one; what
    could not be logged then is logged on resume. Tags name the code version of the latest start.
    """
    quiet_mlflow()
    (folder / SILENT).unlink(missing_ok=True)
    client = client_of(uri)
    handle = remembered(folder)
    same = handle and (handle.uri, handle.made_of) == (uri, made_of)
    if handle and same and (run := _found(client, handle.run_id)):
        client.update_run(handle.run_id, status="RUNNING")
        with _undone(client, handle, run.info.status):
            with best_effort("tagging the MLflow run", config.tracking.required):
                for key, text in {**tags, **origin_tags()}.items():
                    client.set_tag(handle.run_id, key, text)
            if not run.data.params:  # they are logged last
                _log_start(client, handle, config, lineage)
        return Opened(handle, run.info.status)
    experiment = _experiment(client, config, uri)
    digests = {f"embre.digest.{name}": digest for name, digest in lineage.items()}
    all_tags = {**origin_tags(), **tags, **digests}
    run = client.create_run(experiment, run_name=config.name, tags=all_tags)
    handle = RunHandle(uri, run.info.run_id, made_of)
    (folder / SENT).unlink(missing_ok=True)
    write_atomic(folder / RUN_FILE, json.dumps(asdict(handle)).encode())
    with _undone(client, handle, "FAILED"):
        _log_start(client, handle, config, lineage)
    return Opened(handle, "FAILED")


@contextmanager
def _undone(client: MlflowClient, handle: RunHandle, before: str) -> Iterator[None]:
    """Restore status `before` if the body fails, so that no run stays RUNNING."""
    try:
        yield
    except BaseException:  # Ctrl-C too
        with suppress(Exception):
            client.set_terminated(handle.run_id, before)
        raise


def _found(client: MlflowClient, run_id: str) -> Run | None:
    """The run in the store; None if it is gone or in the store's trash."""
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
        return None
    return run if run.info.lifecycle_stage == LifecycleStage.ACTIVE else None


def files_of(handle: RunHandle) -> str | None:
    """The artifact URI of a run; None if the store has no such run."""
    quiet_mlflow()
    run = _found(client_of(handle.uri), handle.run_id)
    return run and run.info.artifact_uri


def remembered(folder: Path) -> RunHandle | None:
    """The MLflow run recorded in a folder, if any."""
    path = folder / RUN_FILE
    return RunHandle(**json.loads(path.read_text())) if path.exists() else None


def client_of(uri: str) -> MlflowClient:
    """A client of the store at `uri`. A local database is created under a lock: MLflow's migrations
    fail if two processes run them."""
    database = sqlite_file(uri)
    if database is None:
        return MlflowClient(uri)
    database.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{database}.lock", timeout=WAIT_FOR_STORE_S):
        return MlflowClient(uri)


@contextmanager
def tracking_at(uri: str) -> Iterator[None]:
    """Point MLflow's global functions to the store at `uri` within the body; afterwards restore the
    globals and the environment variable that MLflow sets."""
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
def best_effort(what: str, required: bool = False) -> Iterator[None]:
    """Turn an error of the tracking store into a warning, so that it does not fail the run; with
    `required`, into Refused."""
    try:
        yield
    except Exception as error:  # stores raise errors of many libraries
        if required and isinstance(error, Refused):
            raise
        if required:
            raise Refused(
                f"{what} failed, and tracking.required is set: {short(error)}; correct "
                "tracking.uri or wait for the server"
            ) from error
        log.warning("%s failed, the run continues; events are on disk: %s", what, short(error))


def _experiment(client: MlflowClient, config: RunConfig, uri: str) -> str:
    """The id of the experiment, which is created if needed.

    With a local database, artifacts go to the storage folder; MLflow's default is the working
    directory.
    """
    name = config.tracking.experiment
    folder = Path(config.storage).absolute() / "mlartifacts"
    files = folder.as_uri() if sqlite_file(uri) else None
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=files)
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another run may have created it
            if found is None:
                raise
    return found.experiment_id


def _log_start(
    client: MlflowClient, handle: RunHandle, config: RunConfig, lineage: Mapping[str, str]
) -> None:
    """Log the config as a file and as parameters, and the data as inputs."""
    with best_effort("logging the config and the data", config.tracking.required):
        client.log_text(handle.run_id, dump_config(config), "config.yaml")
        for name, digest in lineage.items():
            data = MetaDataset(CodeDatasetSource({}), name=name, digest=digest[:36])
            client.log_inputs(
                handle.run_id,
                [DatasetInput(data._to_mlflow_entity(), tags=[])],
            )
        params = [Param(key, value[:MAX_PARAM_LENGTH]) for key, value in parameters(config)]
        client.log_batch(handle.run_id, params=params)


def parameters(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the values of a config by `section.key`.

    A mapping with keys chosen by the user is one value, in JSON: MLflow refuses keys such as
    `up-regulates(+)`, and more than a hundred parameters.
    """
    plain = section.model_dump(mode="json")
    for key, value in section:
        if isinstance(value, BaseModel):
            yield from parameters(value, f"{prefix}{key}.")
        elif isinstance(value, Mapping):
            yield f"{prefix}{key}", json.dumps(plain[key])
        else:
            yield f"{prefix}{key}", str(plain[key])


def reachable(uri: str) -> str:
    """The reason why a tracking store does not respond; '' if it does."""
    quiet_mlflow()
    try:
        MlflowClient(uri).search_experiments(max_results=1)
    except Exception as error:  # any error of a store is the result
        return short(error)
    return ""


def short(error: Exception) -> str:
    """An error message in one line, without the secrets of URLs."""
    return " ".join(without_secrets(str(error)).split())[:200]
