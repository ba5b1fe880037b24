"""A run in MLflow: sqlite or a real server, which may hang or die; training never waits."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import StringIO
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from mlflow.tracking import MlflowClient
from rich.console import Console

import embre
from embre.config import FinetuneConfig, PretrainConfig, check_config
from embre.launch.driver import finish, run_job
from embre.launch.progress import describe
from embre.tracking import read_events
from embre.tracking.events import write_event
from embre.tracking.runs import (
    RUN_FILE,
    SENT,
    SILENT,
    RunHandle,
    best_effort,
    open_run,
    remembered,
)
from embre.tracking.sending import (
    close_run,
    log_files,
    log_results,
    metric_sender,
    sent_step,
    system_metrics,
)
from tests.ranks import fork_server
from tests.shard_sets import write_shards
from tests.test_pretrain import config_of as pretraining


def config_of(folder: Path, steps: int = 4) -> PretrainConfig:
    values = {
        "name": "small",
        "storage": str(folder),
        "encoder": {"path": str(folder), "new": {}},
        "data": {"shards": str(folder)},
        "train": {"steps": steps},
    }
    return check_config(PretrainConfig, values, "test")


def opened(folder: Path, uri: str, steps: int = 4, shards: str = "abc") -> RunHandle:
    config, lineage, made_of = config_of(folder, steps), {"shards": shards}, f"{steps} {shards}"
    return open_run(config, uri, folder, {"embre.kind": "test"}, lineage, made_of).handle


def history(handle: RunHandle, metric: str) -> list[tuple[int, float]]:
    points = MlflowClient(handle.uri).get_metric_history(handle.run_id, metric)
    return sorted((point.step, point.value) for point in points)


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/mlflow.db"


def test_a_run_goes_on_in_the_run_that_its_folder_remembers(tmp_path: Path, sqlite: str) -> None:
    first = opened(tmp_path, sqlite)
    close_run(first, tmp_path, "KILLED")
    again = opened(tmp_path, sqlite)
    client = MlflowClient(sqlite)
    assert again == first
    assert client.get_run(first.run_id).info.status == "RUNNING"
    assert len(client.search_runs([client.get_run(first.run_id).info.experiment_id])) == 1
    assert client.get_run(first.run_id).data.params["train.steps"] == "4"


def test_a_run_says_what_code_makes_it_and_in_which_job(
    tmp_path: Path, sqlite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tags() -> dict[str, str]:
        return MlflowClient(sqlite).get_run(opened(tmp_path, sqlite).run_id).data.tags

    checkout = tmp_path / "checkout"
    monkeypatch.setattr("embre.tracking.origin.CHECKOUT", checkout)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    found = tags()
    assert found["embre.version"] == embre.__version__ and found["embre.kind"] == "test"
    assert not {"mlflow.source.git.commit", "mlflow.source.git.dirty", "embre.ray_job"} & set(found)

    def git(*words: str) -> str:
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        command = ["git", "-C", str(checkout), *who, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    checkout.mkdir()
    (checkout / "code.py").touch()
    for words in (["init"], ["add", "code.py"], ["commit", "-m", "first"]):
        git(*words)
    told = {"metadata": {"job_submission_id": "small-1", "job_name": "small-1"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(told))
    found = tags()  # a restart goes on with this code
    assert found["mlflow.source.git.commit"] == git("rev-parse", "HEAD")
    assert (found["mlflow.source.git.dirty"], found["embre.ray_job"]) == ("false", "small-1")
    (checkout / "code.py").write_text("changed")
    assert tags()["mlflow.source.git.dirty"] == "true"


@pytest.mark.parametrize("changed", [{"steps": 5}, {"shards": "def"}], ids=["config", "data"])
def test_a_corrected_run_is_another_one_that_nothing_was_sent_of(
    tmp_path: Path, sqlite: str, changed: dict[str, Any]
) -> None:
    first = opened(tmp_path, sqlite)
    (tmp_path / SENT).write_text("300")
    again = opened(tmp_path, sqlite, **changed)
    assert again.run_id != first.run_id and sent_step(tmp_path) == 0
    found = MlflowClient(sqlite).get_run(again.run_id).data
    assert found.params["train.steps"] == str(changed.get("steps", 4))
    assert found.tags["embre.digest.shards"] == changed.get("shards", "abc")
    assert opened(tmp_path, sqlite, **changed) == again


def test_another_store_gets_the_whole_curve(tmp_path: Path, sqlite: str) -> None:
    first = opened(tmp_path, sqlite)
    (tmp_path / SENT).write_text("300")
    other = sqlite.replace("mlflow.db", "./mlflow.db")  # known by its URI
    assert opened(tmp_path, other).run_id != first.run_id
    assert sent_step(tmp_path) == 0


def test_a_note_of_what_was_sent_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    (tmp_path / SENT).write_text("")
    assert sent_step(tmp_path) == 0


def open_beside_others(folder: Path, uri: str, together: Barrier) -> None:
    together.wait()
    opened(folder, uri)


@pytest.mark.slow
def test_runs_that_begin_at_once_make_one_store(tmp_path: Path) -> None:
    """MLflow's migrations fail when two processes carry them out, and so do two experiments of
    one name."""
    sqlite = f"sqlite:///{tmp_path}/mlflow.db"
    processes = fork_server([__name__])
    together = processes.Barrier(3)
    folders = [tmp_path / name for name in "abc"]
    begun = []
    for folder in folders:
        folder.mkdir()
        begun.append(processes.Process(target=open_beside_others, args=(folder, sqlite, together)))
        begun[-1].start()
    for process in begun:
        process.join()
    assert [process.exitcode for process in begun] == [0, 0, 0]
    client = MlflowClient(sqlite)
    experiment = client.get_experiment_by_name("embre")
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id])) == 3


def test_any_config_can_be_logged(tmp_path: Path, sqlite: str) -> None:
    corpus = {
        "name": "mine",
        "legal": {"Gene Disease": ["Association"]},
        "label_map": {"up-regulates(+)": "Association"} | {f"label {n}": None for n in range(200)},
    }
    values = {
        "name": "mine",
        "storage": str(tmp_path),
        "encoder": {"path": str(tmp_path)},
        "data": {"corpus": corpus, "train": "train.PubTator", "dev": "dev.PubTator"},
        "deepspeed": {"zero_optimization": {"stage": 2}},
        "train": {"steps": 4},
    }
    config = check_config(FinetuneConfig, values, "test")
    handle = open_run(config, sqlite, tmp_path, {}, {}, "").handle
    params = MlflowClient(sqlite).get_run(handle.run_id).data.params
    assert params["data.corpus.label_map"].startswith(
        '{"up-regulates(+)": "Association", "label 0": '
    )
    assert params["deepspeed"] == '{"zero_optimization": {"stage": 2}}'
    assert params["data.corpus.novelty"] == "None" and params["train.steps"] == "4"


@pytest.mark.parametrize("deleted", ["into the bin", "for good"])
def test_a_run_that_somebody_deleted_is_begun_anew(
    tmp_path: Path, sqlite: str, deleted: str
) -> None:
    first, client = opened(tmp_path, sqlite), MlflowClient(sqlite)
    client.delete_run(first.run_id)
    if deleted == "for good":
        client._tracking_client.store._hard_delete_run(first.run_id)
    (tmp_path / SENT).write_text("7")
    second = opened(tmp_path, sqlite)
    assert second.run_id != first.run_id and remembered(tmp_path) == second
    assert sent_step(tmp_path) == 0, "nothing of it was sent"


def test_a_run_whose_start_cannot_be_logged_is_remembered_and_logged_later(
    tmp_path: Path, sqlite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("not now")

    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "log_batch", refuse)
        first = opened(tmp_path, sqlite)
        assert opened(tmp_path, sqlite) == first
    assert json.loads((tmp_path / RUN_FILE).read_text())["run_id"] == first.run_id
    client = MlflowClient(sqlite)
    assert not client.get_run(first.run_id).data.params
    assert opened(tmp_path, sqlite) == first
    found = client.get_run(first.run_id)
    assert found.data.params["train.steps"] == "4"
    assert found.inputs is not None
    assert [entry.dataset.name for entry in found.inputs.dataset_inputs] == ["shards"]
    assert len(client.search_runs([found.info.experiment_id])) == 1


def test_every_point_is_there_once_and_the_last_step_is_remembered(
    tmp_path: Path, sqlite: str
) -> None:
    handle = opened(tmp_path, sqlite)
    with metric_sender(handle, tmp_path) as send:
        for step in range(1, 6):
            send(step, {"loss": 1.0 / step})
    assert history(handle, "loss") == [(step, 1.0 / step) for step in range(1, 6)]
    assert sent_step(tmp_path) == 5


def test_training_never_waits_for_a_store(
    tmp_path: Path, sqlite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_given, log_batch = threading.Event(), MlflowClient.log_batch

    def late(*args: Any, **values: Any) -> None:
        assert all_given.wait(60), "a step waits for the store, and the store for the last step"
        log_batch(*args, **values)

    handle = opened(tmp_path, sqlite)
    monkeypatch.setattr(MlflowClient, "log_batch", late)
    monkeypatch.setattr("embre.tracking.sending.SEND_EVERY_S", 0.01)
    with metric_sender(handle, tmp_path) as send:
        for step in range(1, 20):
            send(step, {"loss": 1.0 / step})
            time.sleep(0.01)  # so that the sender takes some of them
        assert sent_step(tmp_path) == 0
        all_given.set()
    assert history(handle, "loss") == [(step, 1.0 / step) for step in range(1, 20)]


def test_the_mark_of_a_restart_takes_nothing_back(tmp_path: Path, sqlite: str) -> None:
    handle = opened(tmp_path, sqlite)
    for step in (45, 40):
        with metric_sender(handle, tmp_path) as send:
            send(step, {"loss": 1.0, "embre.restart.2": f"after step {step}: why"})
    assert sent_step(tmp_path) == 45
    tags = MlflowClient(sqlite).get_run(handle.run_id).data.tags
    assert tags["embre.restart.2"] == "after step 40: why"


def test_a_store_that_takes_no_metrics_is_an_event(
    tmp_path: Path, sqlite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("https://host/api?token=secret: 503")

    handle = opened(tmp_path, sqlite)
    monkeypatch.setattr(MlflowClient, "log_batch", refuse)
    monkeypatch.setattr("embre.tracking.sending.SEND_EVERY_S", 0.01)
    monkeypatch.setattr("embre.tracking.sending.GIVE_UP_AFTER_S", 0.2)
    (tmp_path / SENT).write_text("3")
    with metric_sender(handle, tmp_path) as send:
        send(4, {"loss": 1.0})
    first, last = read_events(tmp_path)
    assert (first["event"], first["step"]) == ("untracked", 3)
    assert describe(first).startswith("MLflow has the metrics up to step 3")
    assert first["why"] == "https://host/api 503" and last["why"] == "no response for 0.2 s"


def test_a_store_that_cannot_be_opened_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    handle = None
    (tmp_path / "file").touch()
    with best_effort("opening the MLflow run"):
        handle = opened(tmp_path, f"sqlite:///{tmp_path}/file/mlflow.db")
    assert handle is None
    assert "opening the MLflow run failed, the run continues" in caplog.text


def test_a_store_that_this_machine_cannot_open_ends_no_run(
    tmp_path: Path, sqlite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where its database is not reached from a worker, or the package for it is missing."""

    def unable(uri: str) -> MlflowClient:
        raise ModuleNotFoundError("No module named 'psycopg2'")

    handle = opened(tmp_path, sqlite)
    monkeypatch.setattr("embre.tracking.sending.MlflowClient", unable)
    monkeypatch.setattr("embre.tracking.sending.SEND_EVERY_S", 0.01)
    monkeypatch.setattr("embre.tracking.sending.GIVE_UP_AFTER_S", 0.2)
    with metric_sender(handle, tmp_path) as send:
        send(1, {"loss": 1.0})
    (tmp_path / SILENT).unlink()
    log_results(handle, tmp_path, {"f1": 0.5})
    close_run(handle, tmp_path, "FINISHED")
    first, _ = read_events(tmp_path)
    assert (first["event"], first["why"]) == ("untracked", "No module named 'psycopg2'")


def test_a_server_that_never_answers_is_waited_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All that a run does at its end, by a socket that takes connections and says nothing."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("embre.tracking.sending.SEND_EVERY_S", 0.01)
    monkeypatch.setattr("embre.tracking.sending.GIVE_UP_AFTER_S", 0.3)
    monkeypatch.setattr("embre.tracking.sending.SYSTEM_END_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        handle = RunHandle(f"http://127.0.0.1:{mute.getsockname()[1]}", "0" * 32)
        with system_metrics(handle, "node"):
            with metric_sender(handle, tmp_path) as send:
                monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
                write_event(tmp_path, "step", 1, {})
                send(1, {"loss": 1.0})
            log_results(handle, tmp_path, {"f1": 0.5})
        finish(handle, tmp_path, "FINISHED")
        told = [event["event"] for event in read_events(tmp_path)]
    assert told == ["step", "untracked"], "waited for more than once"
    assert "MLflow does not respond" in caplog.text


def test_a_request_that_fails_keeps_no_other_from_being_made(tmp_path: Path, sqlite: str) -> None:
    handle = opened(tmp_path, sqlite)
    (tmp_path / "kept.txt").touch()
    log_files(handle, tmp_path, [tmp_path / "gone.txt", tmp_path / "kept.txt"])
    close_run(handle, tmp_path, "FAILED")
    assert MlflowClient(sqlite).get_run(handle.run_id).info.status == "FAILED"


@dataclass
class Server:
    """`mlflow server` on the loopback address, with its database in a folder."""

    folder: Path
    port: int
    process: subprocess.Popen | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            # Its jobs, of which runs need none, are eight more processes.
            env=os.environ
            | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )
        deadline = time.monotonic() + 90
        while self.process.poll() is None and time.monotonic() < deadline:
            with suppress(OSError), urlopen(f"{self.uri}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
            time.sleep(0.2)
        self.stop()
        raise RuntimeError(f"mlflow server does not come up at port {self.port}")

    def stop(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):  # it may have ended by itself
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process = None


def begun_server(folder: Path, tries: int = 3) -> Server:
    """A server at a free port, which somebody else may take before it does: then at another."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found = Server(folder, free.getsockname()[1])
    try:
        found.start()
    except RuntimeError:
        if tries == 1:
            raise
        return begun_server(folder, tries - 1)
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = begun_server(tmp_path_factory.mktemp("server"))
    try:
        yield found
    finally:
        found.stop()


@pytest.mark.slow
def test_a_run_is_wholly_in_a_server(tmp_path: Path, server: Server) -> None:
    write_shards(tmp_path, 12)
    config = pretraining(
        tmp_path / "shards",
        storage=str(tmp_path),
        tracking={"uri": server.uri},
        train={"steps": 2, "log_every_steps": 1},
    )
    run = run_job("pretrain", config, Console(file=StringIO()))
    handle = RunHandle(**json.loads((run / RUN_FILE).read_text()))
    client = MlflowClient(server.uri)
    found = client.get_run(handle.run_id)
    assert found.info.status == "FINISHED" and found.data.params["train.steps"] == "2"
    assert [step for step, _ in history(handle, "grad_norm")] == [1, 2]
    kept = {file.path for file in client.list_artifacts(handle.run_id)}
    assert kept >= {"config.yaml", "events.jsonl"}


@pytest.mark.slow
def test_a_server_that_dies_and_comes_back_gets_every_point_once(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embre.tracking.sending.GIVE_UP_AFTER_S", 60.0)
    handle = opened(tmp_path, server.uri)
    with metric_sender(handle, tmp_path) as send:
        send(1, {"loss": 1.0})
        deadline = time.monotonic() + 30
        while sent_step(tmp_path) < 1 and time.monotonic() < deadline:
            time.sleep(0.1)
        server.stop()
        for step in range(2, 20):
            send(step, {"loss": 1.0 / step})
        time.sleep(3)  # the sender fails meanwhile
        assert sent_step(tmp_path) == 1
        server.start()
    assert history(handle, "loss") == [(step, 1.0 / step) for step in range(1, 20)]
    close_run(handle, tmp_path, "FINISHED")
    assert MlflowClient(server.uri).get_run(handle.run_id).info.status == "FINISHED"
