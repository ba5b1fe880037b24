"""The MLflow run of a job says how the job ended, and stays one run whatever happens to it."""

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from rich.console import Console

from embre.config import ConfigError, PretrainConfig, check_config
from embre.interrupts import Interrupted, TakenOver
from embre.job import Job
from embre.launch import driver
from embre.launch.attempts import NotBegun
from embre.launch.errors import RunFailed
from embre.world import World


def statuses(storage: Path) -> list[str]:
    """Of all runs in the store of a storage folder."""
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    experiments = [found.experiment_id for found in client.search_experiments()]
    return [run.info.status for run in client.search_runs(experiments)]


def test_a_run_is_one_in_mlflow_and_closed_as_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[BaseException | None] = [
        RunFailed("so it is"),
        TakenOver("by another attempt"),
        Interrupted("saved"),
        None,
    ]
    seen = []

    def recipe(job: Job, world: World) -> None:
        seen.extend(statuses(tmp_path))
        if error := ends[len(seen) - 1]:
            raise error

    kind = driver.Kind(PretrainConfig, recipe, lambda config: {})
    monkeypatch.setitem(driver.KINDS, "pretrain", kind)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "backbone").mkdir()
    values = {
        "name": "small",
        "storage": str(tmp_path),
        "encoder": {"path": str(tmp_path / "backbone"), "new": {}},
        "data": {"shards": str(tmp_path)},
        "train": {"steps": 4},
    }
    config = check_config(PretrainConfig, values, "test")
    # The run is another attempt's where it was taken over: not this one's to close.
    for error, status in zip(ends, ("FAILED", "RUNNING", "KILLED", "FINISHED"), strict=True):
        if error is None:
            driver.run_job("pretrain", config, Console(quiet=True))
        else:
            with pytest.raises(type(error), match=str(error)):
                driver.run_job("pretrain", config, Console(quiet=True))
        assert statuses(tmp_path) == [status]
    assert seen == ["RUNNING"] * 4

    def waits(recipe: driver.Recipe, job: Job) -> None:
        raise NotBegun("no room")

    def refuses(recipe: driver.Recipe, job: Job) -> None:
        raise ConfigError("no GPU")

    # Nor is it one's that never began.
    for launcher in (waits, refuses):
        monkeypatch.setitem(driver.LAUNCHERS, "local", launcher)
        with pytest.raises((NotBegun, ConfigError), match="no "):
            driver.run_job("pretrain", config, Console(quiet=True))
        assert statuses(tmp_path) == ["FINISHED"]
    (tmp_path / "backbone" / "config.json").write_text("another backbone")
    (tmp_path / "small" / "checkpoints" / "step-000000004").mkdir(parents=True)
    with pytest.raises(ConfigError, match="backbone .* or the data is not what this run began"):
        driver.run_job("pretrain", config, Console(quiet=True))
    assert statuses(tmp_path) == ["FINISHED"]
