"""What the launcher makes of a cluster without room, and of workers that Ray takes down."""

import time
from collections.abc import Iterator
from pathlib import Path
from threading import Timer

import pytest
import ray
import torch.distributed as dist

from embre.config import PretrainConfig, check_config
from embre.job import Job
from embre.launch import ray as launcher
from embre.launch.errors import RunFailed
from embre.launch.ray import run_ray
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


def fail(job: Job, world: World) -> None:
    with (job.folder / "attempts").open("a") as file:
        file.write("x")
    raise AssertionError("a broken promise")


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
    with monkeypatch.context() as patch:
        patch.setattr(launcher, "MAX_CONTROLLER_FAILURES", 1)
        with pytest.raises(RunFailed, match="small: "):
            run_ray(leave_a_note, job)
    rescue.cancel()

    started, wait_s = time.monotonic(), 4 * START_TIMEOUT_S  # more than was too much before
    Timer(wait_s, ray.kill, [tenant]).start()
    run_ray(leave_a_note, job)
    assert time.monotonic() - started > wait_s and (tmp_path / "done").exists()


@pytest.mark.slow
@pytest.mark.ray
def test_what_fails_without_a_process_group_is_tried_again(one_core: None, tmp_path: Path) -> None:
    run_ray(lose_the_group_once, job_in(tmp_path))
    assert (tmp_path / "done").exists()


@pytest.mark.slow
@pytest.mark.ray
def test_what_would_fail_again_is_not_tried_again(one_core: None, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="small: AssertionError: a broken promise"):
        run_ray(fail, job_in(tmp_path))
    assert (tmp_path / "attempts").read_text() == "x"
