"""The MLflow run of a job says how the job ended, and stays one run whatever happens to it."""

import io
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.tracking import MlflowClient
from rich.console import Console
from typer.testing import CliRunner

from embre import faults
from embre.checkpoints.folder import FOLDER
from embre.checkpoints.manifest import CheckpointError
from embre.cli.app import app
from embre.config import ConfigError, PretrainConfig, dump_config, load_config
from embre.interrupts import Interrupted, StoppedEarly, TakenOver
from embre.job import Job
from embre.launch import driver
from embre.launch.attempts import NotBegun
from embre.launch.errors import RunFailed
from embre.launch.progress import describe
from embre.launch.request_checks import CORRECTED
from embre.tracking import read_events
from embre.tracking.runs import client_of, remembered
from embre.world import World
from tests.launch.stand_ins import config_of, recipe


def statuses(storage: Path) -> list[str]:
    """Of all runs in the store of a storage folder."""
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    experiments = [found.experiment_id for found in client.search_experiments()]
    return [run.info.status for run in client.search_runs(experiments)]


@pytest.fixture(scope="module")
def made_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database; to make one takes MLflow seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    client_of(f"sqlite:///{path}").search_experiments()
    return path


def test_a_run_is_one_in_mlflow_and_closed_as_it_ended(
    tmp_path: Path, made_store: Path, monkeypatch: pytest.MonkeyPatch
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
    shutil.copy(made_store, tmp_path / "mlflow.db")
    config = config_of(str(tmp_path))
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
    (tmp_path / "small" / FOLDER / "step-000000004").mkdir(parents=True)
    with pytest.raises(ConfigError, match="backbone .* or the data is not what this run began"):
        driver.run_job("pretrain", config, Console(quiet=True))
    assert statuses(tmp_path) == ["FINISHED"]


@pytest.fixture
def stand_in(tmp_path: Path, made_store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pretraining is a recipe of stand-ins; the storage is `tmp_path`."""
    kind = driver.Kind(PretrainConfig, recipe, lambda config: {})
    monkeypatch.setitem(driver.KINDS, "pretrain", kind)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "backbone").mkdir()
    shutil.copy(made_store, tmp_path / "mlflow.db")
    yield
    faults._armed.clear()


def run_rank(config: PretrainConfig, *allow_change: str) -> Path:
    return driver.run_job("pretrain", config, Console(quiet=True), allow_change)


def test_a_rank_of_torchrun_other_than_0_leaves_the_run_to_rank_0(
    tmp_path: Path, stand_in: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Job] = []
    monkeypatch.setitem(driver.LAUNCHERS, "local", lambda recipe, job: given.append(job))
    monkeypatch.setenv("RANK", "1")
    folder = tmp_path / "small"
    (folder / FOLDER / "step-000000004").mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(config_of(str(tmp_path))))
    told = (folder / "config.yaml").read_text()
    launch = {"workers": 2}
    assert run_rank(config_of(str(tmp_path), seed=99, launch=launch)) == folder, "not refused here"
    assert [(job.folder, job.handle) for job in given] == [(folder, None)]
    assert (folder / "config.yaml").read_text() == told
    assert {path.name for path in folder.iterdir()} == {FOLDER, "config.yaml"}
    assert statuses(tmp_path) == []
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match="seed 13 -> 99"):
        run_rank(config_of(str(tmp_path), seed=99, launch=launch))


def test_a_run_that_is_stopped_before_it_began_is_closed_as_what_it_was(
    tmp_path: Path, stand_in: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, opened = config_of(str(tmp_path)), driver.open_run

    def stopped(recipe: driver.Recipe, job: Job) -> None:
        raise StoppedEarly("stopped while Ray started")

    def open_and_be_stopped(*given: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return opened(*given)

    with monkeypatch.context() as patch:
        patch.setattr(driver, "open_run", open_and_be_stopped)
        with pytest.raises(StoppedEarly, match="small: stopped before its start"):
            run_rank(config)
    assert statuses(tmp_path) == ["KILLED"] and not (tmp_path / "small" / "events.jsonl").exists()
    run_rank(config)
    for status in ("FINISHED", "RUNNING"):
        handle = remembered(tmp_path / "small")
        assert handle
        MlflowClient(handle.uri).update_run(handle.run_id, status=status)
        with monkeypatch.context() as patch:
            patch.setitem(driver.LAUNCHERS, "local", stopped)
            with pytest.raises(StoppedEarly):
                run_rank(config)
        assert statuses(tmp_path) == [status], "another attempt may be running"


def test_ctrl_c_ends_a_run_with_a_sentence(
    tmp_path: Path, stand_in: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(recipe: driver.Recipe, job: Job) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(driver.LAUNCHERS, "local", interrupted)
    console = Console(file=io.StringIO(), width=200)
    with pytest.raises(KeyboardInterrupt):
        driver.run_job("pretrain", config_of(str(tmp_path)), console)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "ended by Ctrl-C: no step is saved yet; run the same command again" in shown
    assert statuses(tmp_path) == ["KILLED"]


def test_a_run_that_lost_its_checkpoints_does_not_begin_at_step_0(
    tmp_path: Path, stand_in: None
) -> None:
    config = config_of(str(tmp_path))
    faults.arm("step:4:raise", tmp_path, rank=0)
    with pytest.raises(RuntimeError, match="injected fault"):
        run_rank(config)
    folder = tmp_path / "small"
    (folder / FOLDER).rename(tmp_path / "elsewhere")
    events = (folder / "events.jsonl").read_bytes()
    for changed in (config, config_of(str(tmp_path), seed=99)):
        with pytest.raises(ConfigError, match="small: this run saved step 3, .*name=.*remove .*"):
            run_rank(changed)
        assert (folder / "events.jsonl").read_bytes() == events
    assert statuses(tmp_path) == ["FAILED"], "as it was"
    with pytest.raises(CheckpointError, match="small: this run saved step 3"):
        recipe(Job(config, folder, None), World())  # a rank that a launcher starts again
    shutil.rmtree(folder / FOLDER)
    (tmp_path / "elsewhere").rename(folder / FOLDER)
    run_rank(config)
    assert [event["step"] for event in read_events(folder, "started")] == [0, 3]


def test_the_tracebacks_of_a_run_that_failed_are_named_and_kept(
    tmp_path: Path, stand_in: None
) -> None:
    config, names = config_of(str(tmp_path)), []
    for step in (2, 3):
        faults.arm(f"step:{step}:raise", tmp_path, rank=0)
        with pytest.raises(RuntimeError, match="injected fault at step") as found:
            run_rank(config)
        names.append(f"failures/attempt-{len(names) + 1}-rank-0.txt")
        (note,) = found.value.__notes__
        assert note == f"traceback in {tmp_path / 'small' / names[-1]}"
        faults._armed.clear()
    folder = tmp_path / "small"
    assert "in fault_point" in (folder / names[1]).read_text()
    failed = list(read_events(folder, "failed"))
    assert [event["tracebacks"] for event in failed] == [names[:1], names[1:]]
    assert describe(failed[0]) == f"failed: {failed[0]['why']}; see {names[0]}"
    run_rank(config)
    starts = [event.get("why") for event in read_events(folder, "started")]
    fault = "rank 0: RuntimeError: injected fault at step; see "
    assert starts == [None, fault + names[0], fault + names[1]]
    handle = remembered(folder)
    assert handle is not None
    kept = {file.path for file in MlflowClient(handle.uri).list_artifacts(handle.run_id)}
    assert {Path(name).name for name in names} <= kept
    with pytest.raises(ConfigError):
        run_rank(config_of(str(tmp_path), seed=99))
    assert len(list(read_events(folder, "failed"))) == 2, "a refusal is no failure"


def test_each_start_that_fails_before_training_keeps_its_own_traceback(
    tmp_path: Path, stand_in: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(job: Job, world: World) -> None:
        raise RunFailed("no such device")

    kind = driver.Kind(PretrainConfig, fail, lambda config: {})
    monkeypatch.setitem(driver.KINDS, "pretrain", kind)
    for number in ("1", "1.2", "1.3"):
        with pytest.raises(RunFailed) as found:
            run_rank(config_of(str(tmp_path)))
        (note,) = found.value.__notes__
        assert note == f"traceback in {tmp_path}/small/failures/attempt-{number}-rank-0.txt"

    def refuse(recipe: driver.Recipe, job: Job) -> None:
        raise RuntimeError("the cluster is lost")

    monkeypatch.setitem(driver.LAUNCHERS, "local", refuse)
    with pytest.raises(RuntimeError) as found:
        run_rank(config_of(str(tmp_path)))
    assert not hasattr(found.value, "__notes__"), "none of these is of this start"
    ended = [len(event["tracebacks"]) for event in read_events(tmp_path / "small", "failed")]
    assert ended == [1, 1, 1, 0]


def test_a_finished_run_goes_on_with_more_steps_where_it_is_told_to(
    tmp_path: Path, stand_in: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And stays one run: in MLflow, in its events and in its config."""

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("503")

    folder = run_rank(config_of(str(tmp_path)))
    longer = config_of(str(tmp_path), steps=6, optimizer={"peak_lr": 5e-5})
    told = "optimizer.peak_lr 0.0001 -> 5e-05, train.steps 4 -> 6"
    refused = f"{told}; add --allow-change optimizer.peak_lr --allow-change train.steps, or"
    for allowed in ((), ("train.steps",)):
        with pytest.raises(ConfigError, match=refused):
            run_rank(longer, *allowed)
    with monkeypatch.context() as silent:  # what MLflow does not hear of at once it hears later
        silent.setattr(MlflowClient, "set_tag", refuse)
        run_rank(longer, "train.steps", "optimizer.peak_lr")
    run_rank(longer, "train.steps", "optimizer.peak_lr")  # the flags may stay
    run_rank(longer)
    (changed,) = read_events(folder, "changed")
    values = {"optimizer.peak_lr": [1e-4, 5e-5], "train.steps": [4, 6]}
    assert changed["changes"] == values and changed["step"] == 4
    assert describe(changed) == f"step 4: changed, {told}"
    began = list(read_events(folder, "started"))
    assert [(event["step"], event["steps"]) for event in began] == [(0, 4), (4, 6)]
    assert (began[1]["why"], began[1]["down_s"]) == ("it was finished", 0)
    assert [event["step"] for event in read_events(folder, "step")] == [1, 2, 3, 4, 5, 6]
    assert [event["step"] for event in read_events(folder, "finished")] == [4, 6]
    assert load_config(PretrainConfig, folder / "config.yaml").train.steps == 6
    assert statuses(tmp_path) == ["FINISHED"]
    handle = remembered(folder)
    assert handle is not None
    run = MlflowClient(handle.uri).get_run(handle.run_id)
    assert run.data.tags["embre.changed.train.steps"] == "4 -> 6"
    kept = MlflowClient(handle.uri).download_artifacts(handle.run_id, "config.yaml", str(tmp_path))
    assert yaml.safe_load(Path(kept).read_text())["train"]["steps"] == 6


def test_the_command_hands_on_what_may_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple] = []
    monkeypatch.setattr(driver, "run_job", lambda *handed: given.append(handed) or tmp_path)
    (tmp_path / "tiny.yaml").write_text(dump_config(config_of(str(tmp_path))))
    command = ["pretrain", str(tmp_path / "tiny.yaml"), "train.steps=9"]
    flags = ["--allow-change", "train.steps", "--allow-change", "losses.token"]
    for more in ([], flags):
        assert CliRunner().invoke(app, [*command, *more]).exit_code == 0
    assert [tuple(handed[3]) for handed in given] == [(), ("train.steps", "losses.token")]


def test_what_cannot_change_in_a_run_is_refused_by_name(tmp_path: Path, stand_in: None) -> None:
    folder = run_rank(config_of(str(tmp_path)))
    told = (folder / "config.yaml").read_text()
    for key, message in [("seed", "this key cannot"), ("train.step", ".*did you mean train.steps")]:
        with pytest.raises(ConfigError, match=f"--allow-change {key}: {message}"):
            run_rank(config_of(str(tmp_path)), key)
    other = config_of(str(tmp_path), steps=6, seed=14)
    with pytest.raises(ConfigError, match="seed 13 -> 14, train.steps 4 -> 6; give another name"):
        run_rank(other, "train.steps")
    with pytest.raises(
        ConfigError, match="train.steps=3 is below step 4, which small has already reached"
    ):
        run_rank(config_of(str(tmp_path), steps=3), "train.steps")
    assert (folder / "config.yaml").read_text() == told and not list(read_events(folder, "changed"))
    (folder / "config.yaml").unlink()
    with pytest.raises(ConfigError, match="cannot compare with .* restore that file"):
        run_rank(config_of(str(tmp_path)))


def test_a_run_that_is_corrected_before_its_first_checkpoint_is_another_one_in_mlflow(
    tmp_path: Path, stand_in: None
) -> None:
    faults.arm("step:1:raise", tmp_path, rank=0)
    with pytest.raises(RuntimeError, match="injected fault"):
        run_rank(config_of(str(tmp_path)))
    folder = run_rank(config_of(str(tmp_path), steps=3))
    assert sorted(statuses(tmp_path)) == ["FAILED", "FINISHED"]
    assert (folder / CORRECTED).exists() and not list(read_events(folder, "changed"))
