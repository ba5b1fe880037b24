"""What the launcher makes of a cluster without room, and of workers that Ray takes down."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Timer

import pytest
import ray
import torch
import torch.distributed as dist

from embre.config import PretrainConfig, check_config
from embre.interrupts import TakenOver
from embre.job import Job
from embre.launch import ray as launcher
from embre.launch.attempts import ATTEMPTS, Attempt, NotBegun, read
from embre.launch.errors import RunFailed
from embre.launch.ray import WORKER_ENV, run_ray, worker_env
from embre.launch.ray_workers import private_token
from embre.world import World

START_TIMEOUT_S = 2


@pytest.fixture(scope="module")
def one_core() -> Iterator[None]:
    """A cluster of one core, where a worker group that finds no room is given up soon."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(START_TIMEOUT_S))
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")
        ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


class Tenant:
    """Somebody else, on the only core."""

    def here(self) -> bool:
        return True


def job_in(folder: Path) -> Job:
    values = {
        "name": "small",
        "encoder": {"path": "none"},
        "data": {"shards": "none", "streams": 1, "strip_tokens": 2048},
        "train": {"steps": 1},
        "launch": {"launcher": "ray", "workers": 1, "max_failures": 1},
    }
    return Job(check_config(PretrainConfig, values, "test"), folder, None)


def leave_a_note(job: Job, world: World) -> None:
    (job.folder / "done").touch()


def lose_the_group_once(job: Job, world: World) -> None:
    if not (job.folder / "lost").exists():
        (job.folder / "lost").touch()
        dist.destroy_process_group()  # as Ray does it before a restart
        raise AssertionError("backend not set")
    leave_a_note(job, world)


def be_taken_over_once(job: Job, world: World) -> None:
    if not (job.folder / "lost").exists():
        (job.folder / "lost").touch()
        raise TakenOver("by the workers that took the place of this one")
    leave_a_note(job, world)


def count_tries(job: Job) -> None:
    with (job.folder / "tries").open("a") as file:
        file.write("x")


def break_a_promise(job: Job, world: World) -> None:
    count_tries(job)
    raise AssertionError("a broken promise")


def be_started_elsewhere(job: Job, world: World) -> None:
    count_tries(job)
    Attempt.new(job.folder).begin()
    raise TakenOver("by another driver")


def take_too_much_memory(job: Job, world: World) -> None:
    count_tries(job)
    raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.slow
@pytest.mark.ray
def test_a_run_waits_for_room_and_not_for_ever(
    one_core: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_in(tmp_path)
    tenant = ray.remote(num_cpus=1)(Tenant).remote()
    assert ray.get(tenant.here.remote())

    rescue = Timer(15 * START_TIMEOUT_S, ray.kill, [tenant])  # of a run that waits for ever
    rescue.start()
    at_work = Attempt.new(tmp_path)
    assert at_work.begin()
    with monkeypatch.context() as patch:
        patch.setattr(launcher, "MAX_CONTROLLER_FAILURES", 1)
        with pytest.raises(NotBegun, match="small: no rank began; "):
            run_ray(leave_a_note, job)
    rescue.cancel()
    assert not at_work.taken_over(), "by those that waited"

    started, wait_s = time.monotonic(), 4 * START_TIMEOUT_S  # more than was too much before
    Timer(wait_s, ray.kill, [tenant]).start()
    run_ray(leave_a_note, job)
    assert time.monotonic() - started > wait_s and (tmp_path / "done").exists()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("recipe", [lose_the_group_once, be_taken_over_once])
def test_what_says_nothing_of_the_run_does_not_end_it(
    one_core: None, tmp_path: Path, recipe: Callable[[Job, World], None]
) -> None:
    run_ray(recipe, job_in(tmp_path))
    assert (tmp_path / "done").exists()
    assert not read(tmp_path / ATTEMPTS / "000001" / "failed.txt")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (break_a_promise, "small: AssertionError: a broken promise"),
        (be_started_elsewhere, "small: the same run was started again after"),
        (take_too_much_memory, "small: CUDA out of memory. Set encoder.activation_checkpointing"),
    ],
)
def test_what_would_fail_again_is_not_tried_again(
    one_core: None, tmp_path: Path, recipe: Callable[[Job, World], None], said: str
) -> None:
    with pytest.raises((RunFailed, TakenOver), match=said):
        run_ray(recipe, job_in(tmp_path))
    assert (tmp_path / "tries").read_text() == "x"


STARTS_A_CLUSTER = """
import os, subprocess, sys, ray
from embre.launch.ray import ray_cluster
with ray_cluster():
    address = ray.get_runtime_context().gcs_address
    code = f"import ray; ray.init({address!r}); print('in', ray.nodes()[0]['Alive'])"
    for mode in ("token", "disabled"):
        environ = {**os.environ, "RAY_AUTH_MODE": mode}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environ, capture_output=True, text=True)
        print(done.returncode, done.stdout)
"""


@pytest.mark.slow
@pytest.mark.ray
def test_a_cluster_of_this_machine_lets_in_nobody_without_its_token(tmp_path: Path) -> None:
    left_out = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    environ = {key: value for key, value in os.environ.items() if key not in left_out}
    environ |= {"HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", STARTS_A_CLUSTER],
        env=environ,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.stdout.split() == ["0", "in", "True", "1"], done.stderr
    (token,) = (tmp_path / ".ray").iterdir()
    assert token.name == "auth_token" and token.stat().st_mode & 0o777 == 0o600


def test_a_token_that_all_can_read_is_closed_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    private_token()
    token = tmp_path / ".ray" / "auth_token"
    assert token.parent.stat().st_mode & 0o777 == 0o700 and len(token.read_text()) == 64
    token.write_text("of Ray"), token.chmod(0o644)
    private_token()
    assert token.read_text() == "of Ray" and token.stat().st_mode & 0o777 == 0o600


def test_a_token_is_made_where_one_is_asked_for_and_links_are_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError("no hard links here")

    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.link", no_links)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    private_token()
    assert not (tmp_path / ".ray").exists()
    monkeypatch.delenv("RAY_AUTH_MODE")
    private_token()
    (token,) = (tmp_path / ".ray").iterdir()
    assert token.name == "auth_token" and token.stat().st_mode & 0o777 == 0o600


def test_ray_is_told_nothing_of_the_environment_but_the_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("EMBRE_FAULT", "step:3:raise")
    launch = job_in(tmp_path).config.launch
    assert worker_env(launch) == {
        **WORKER_ENV,
        "OMP_NUM_THREADS": "1",
        "EMBRE_FAULT": "step:3:raise",
    }
    monkeypatch.delenv("EMBRE_FAULT")
    assert worker_env(launch).keys() == {*WORKER_ENV, "OMP_NUM_THREADS"}
