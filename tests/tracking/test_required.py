"""A run that must be in MLflow: it does not start without, and fails where the end is missing."""

from io import StringIO
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from rich.console import Console

from embre.config import PretrainConfig, check_config
from embre.job import Job
from embre.launch import driver
from embre.launch.errors import RunFailed
from embre.refused import Refused
from embre.world import World


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The jobs whose recipe ran; it does nothing else."""
    jobs: list[Job] = []

    def recipe(job: Job, world: World) -> None:
        jobs.append(job)

    kind = driver.Kind(PretrainConfig, recipe, lambda config: {})
    monkeypatch.setitem(driver.KINDS, "pretrain", kind)
    return jobs


def run_rank(folder: Path, **tracking: object) -> None:
    (folder / "backbone").mkdir(exist_ok=True)
    values = {
        "name": "audited",
        "storage": str(folder),
        "encoder": {"path": str(folder / "backbone"), "new": {}},
        "data": {"shards": str(folder)},
        "train": {"steps": 4},
        "tracking": tracking,
    }
    config = check_config(PretrainConfig, values, "test")
    driver.run_job("pretrain", config, Console(file=StringIO()))


def test_a_mistyped_server_is_told_before_anything_starts(
    tmp_path: Path, begun: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    nobody = "http://127.0.0.1:9"  # the port of a service that nobody runs
    with pytest.raises(Refused, match="opening the MLflow run failed, and tracking.required is"):
        run_rank(tmp_path, uri=nobody, required=True)
    assert not begun
    run_rank(tmp_path, uri=nobody)
    assert [job.handle for job in begun] == [None]


def test_a_config_that_mlflow_does_not_take_is_told_before_anything_starts(
    tmp_path: Path, begun: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("not now")

    monkeypatch.setattr(MlflowClient, "log_batch", refuse)
    with pytest.raises(Refused, match="^logging the config and the data failed, .* not now"):
        run_rank(tmp_path, required=True)
    assert not begun
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiments = [found.experiment_id for found in client.search_experiments()]
    assert [run.info.status for run in client.search_runs(experiments)] == ["FAILED"]


@pytest.mark.parametrize("lost", ["set_terminated", "log_artifact"])
def test_a_run_whose_end_mlflow_lacks_has_failed_and_the_next_command_makes_up_for_it(
    tmp_path: Path, begun: list[Job], monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("503")

    (tmp_path / "audited").mkdir()
    (tmp_path / "audited" / "events.jsonl").touch()  # what is kept
    run_rank(tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, lost, refuse)
        with pytest.raises(RunFailed, match="finished and saved, but its MLflow run is incomplete"):
            run_rank(tmp_path, required=True)
    run_rank(tmp_path, required=True)
    assert len(begun) == 3
