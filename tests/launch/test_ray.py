"""What the launcher makes of a cluster without room, and of workers that Ray takes down."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from threading import Thread, Timer
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
import torch.distributed as dist

from embre import interrupts
from embre.checkpoints.folder import newest_step
from embre.config import ConfigError, PretrainConfig, check_config
from embre.interrupts import STOP, Interrupted, StoppedEarly, TakenOver, sigterm_noticed
from embre.job import Job
from embre.launch import ray as launcher
from embre.launch.attempts import ATTEMPTS, LATEST, Attempt, NotBegun, read, write
from embre.launch.errors import RunFailed
from embre.launch.ray import WORKER_ENV, run_ray, worker_env
from embre.launch.ray_workers import private_token
from embre.tracking.events import EVENTS, read_events, write_event
from embre.world import ALLOCATOR_VARIABLES, World
from tests.launch.stand_ins import Nothing, config_of, recipe

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


def be_asked_to_stop_once(job: Job, world: World) -> None:
    class Asking(Nothing):
        def step(self) -> list[Any]:
            if not newest_step(job.folder):
                (attempt,) = (job.folder / ATTEMPTS).glob("0*")
                (attempt / STOP).write_bytes(b".")
            return super().step()

    interrupts.LOOK_EVERY_S = -1.0  # the steps of stand-ins take no second
    recipe(job, world, Asking())


@pytest.mark.slow
@pytest.mark.ray
def test_a_run_that_is_asked_to_stop_saves_and_goes_on(one_core: None, tmp_path: Path) -> None:
    config = config_of(str(tmp_path), steps=3, launch={"launcher": "ray", "workers": 1})
    job = Job(config, tmp_path / "small", None)
    with pytest.raises(Interrupted, match="stopped after step 1 of 3, which is saved"):
        run_ray(be_asked_to_stop_once, job)
    assert newest_step(job.folder) == 1
    launcher._rank(recipe, job, Attempt.new(job.folder))({})  # the next one, without Ray
    assert [event["step"] for event in read_events(job.folder, "step")] == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.ray
def test_a_run_waits_for_room_and_not_for_ever(
    one_core: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_in(tmp_path)
    tenant = ray.remote(num_cpus=1)(Tenant).remote()
    assert ray.get(tenant.here.remote())

    # Of a run that waits for ever; far behind any that is given up, or that one would find room.
    rescue = Timer(150 * START_TIMEOUT_S, ray.kill, [tenant])
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
def test_an_elastic_run_without_its_fewest_workers_does_not_wait_for_ever(
    one_core: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_in(tmp_path)
    given = {"workers": 3, "min_workers": 2, "wait_for_nodes_s": 1.0}
    launch = job.config.launch.model_copy(update=given)
    job = replace(job, config=job.config.model_copy(update={"launch": launch}))
    monkeypatch.setattr(launcher, "wait_for_nodes", lambda job: None)  # a node is lost after it
    monkeypatch.setattr(launcher, "MAX_WAIT_S", 3)
    ended: list[Exception] = []

    def run() -> None:
        try:
            run_ray(leave_a_note, job)
        except Exception as error:
            ended.append(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(150)
    assert ended and isinstance(ended[0], NotBegun), "it waits for ever"
    assert str(ended[0]).startswith("small: waited 3 s for nodes, and 2 workers need 2 CPU")


WAITS_FOR_NODES = """
import sys
from dataclasses import replace
from pathlib import Path
import ray
from embre.launch import ray as launcher
from embre.launch.errors import exit_on_error
from tests.launch.test_ray import job_in, leave_a_note
job = job_in(Path(sys.argv[1]))
given = {"workers": 3, "min_workers": 2, "cpus_per_worker": 999.0, "wait_for_nodes_s": 1.0}
launch = job.config.launch.model_copy(update=given)
job = replace(job, config=job.config.model_copy(update={"launch": launch}))
launcher.wait_for_nodes = lambda job: None  # the nodes are lost after it
with exit_on_error(), launcher.ray_cluster():
    print(ray.get_runtime_context().gcs_address, flush=True)
    launcher.run_ray(leave_a_note, job)
"""


@pytest.mark.slow
@pytest.mark.ray
def test_a_private_cluster_needs_its_token_and_ctrl_c_ends_a_run_that_waits_for_lost_nodes(
    tmp_path: Path,
) -> None:
    left_out = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    environ = {key: value for key, value in os.environ.items() if key not in left_out}
    environ |= {"HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    run = subprocess.Popen(
        [sys.executable, "-c", WAITS_FOR_NODES, str(tmp_path)],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert run.stdout is not None
        address = run.stdout.readline().strip()
        assert address, run.communicate()[1]
        code = f"import ray; ray.init({address!r}); print('in', ray.nodes()[0]['Alive'])"
        found = []
        for mode in ("token", "disabled"):
            done = subprocess.run(
                [sys.executable, "-c", code],
                env={**environ, "RAY_AUTH_MODE": mode},
                capture_output=True,
                text=True,
                timeout=120,
            )
            found.append((done.returncode, done.stdout))
        assert found == [(0, "in True\n"), (1, "")], "without the token nobody is let in"
        (token,) = (tmp_path / ".ray").iterdir()
        assert token.name == "auth_token" and token.stat().st_mode & 0o777 == 0o600

        deadline = time.monotonic() + 300
        while not list(read_events(tmp_path, "waiting")):
            assert run.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does
        _, errors = run.communicate(timeout=120)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
    assert run.returncode == 143, errors
    assert "small: stopped while its workers started; run the same command again" in errors


@pytest.mark.slow
@pytest.mark.ray
def test_a_lost_process_group_does_not_end_a_run(one_core: None, tmp_path: Path) -> None:
    run_ray(lose_the_group_once, job_in(tmp_path))
    assert (tmp_path / "done").exists()
    assert not read(tmp_path / ATTEMPTS / "000001" / "failed.txt")


@pytest.mark.slow
@pytest.mark.ray
def test_what_would_fail_again_is_not_tried_again(one_core: None, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="small: AssertionError: a broken promise"):
        run_ray(break_a_promise, job_in(tmp_path))
    assert (tmp_path / "tries").read_text() == "x"


class OneWorker:
    """Stands in for Ray's trainer: this process is the only worker, which is restarted."""

    def __init__(self, work: Callable[[dict[str, Any]], None], **given: Any):
        self.work, self.given = work, given

    def fit(self) -> None:
        error = Exception()
        for _ in range(1 + self.given["run_config"].failure_config.max_failures):
            try:
                return self.work({})
            except Exception as raised:
                error = raised
        raise ray.train.WorkerGroupError("it failed too often", {0: error})


@pytest.fixture
def one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 1.0})
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(launcher, "save_when_draining", lambda folder: nullcontext())
    monkeypatch.setattr(launcher, "current_world", lambda device: World())
    monkeypatch.setattr("embre.launch.rank.current_world", lambda device: World())
    monkeypatch.setattr(launcher, "_Trainer", OneWorker)


def test_a_worker_whose_place_others_took_does_not_end_the_run(
    one_worker: None, tmp_path: Path
) -> None:
    run_ray(be_taken_over_once, job_in(tmp_path))
    assert (tmp_path / "done").exists()
    assert not read(tmp_path / ATTEMPTS / "000001" / "failed.txt")


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (be_started_elsewhere, "small: the same run was started again after"),
        (take_too_much_memory, "small: CUDA out of memory. Set encoder.activation_checkpointing"),
    ],
)
def test_a_run_without_memory_or_begun_elsewhere_is_not_tried_again(
    one_worker: None, tmp_path: Path, recipe: Callable[[Job, World], None], said: str
) -> None:
    with pytest.raises((RunFailed, TakenOver), match=said):
        run_ray(recipe, job_in(tmp_path))
    assert (tmp_path / "tries").read_text() == "x"


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
    for name in ALLOCATOR_VARIABLES:  # a test of the local launcher may have set one
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EMBRE_FAULT", "step:3:raise")
    launch = job_in(tmp_path).config.launch
    new, old = ALLOCATOR_VARIABLES
    ours = {**WORKER_ENV, "OMP_NUM_THREADS": "1", new: "expandable_segments:True"}
    assert worker_env(launch) == {**ours, "EMBRE_FAULT": "step:3:raise"}
    monkeypatch.delenv("EMBRE_FAULT")
    assert worker_env(launch) == ours
    monkeypatch.setenv(old, "max_split_size_mb:64")
    assert worker_env(launch)[old] == "max_split_size_mb:64", "a user's own wins"
    assert new not in worker_env(launch)


@pytest.fixture
def rank_here(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A rank is this process; in which folders it is asked to stop or to save."""
    asked_in: list[Path] = []

    def run_rank(recipe: Callable, job: Job, device: torch.device, folder: Path) -> None:
        asked_in.append(folder)
        recipe(job, World())

    monkeypatch.setattr(launcher, "run_rank", run_rank)
    monkeypatch.setattr(launcher, "current_world", lambda device: World())
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    return asked_in


def test_no_rank_goes_on_where_another_finds_that_the_run_was_taken_over(
    rank_here: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OneOfTwo(World):
        __slots__ = ()

        def all_gather(self, value: Any) -> list[Any]:
            return [value, False]

    attempt = Attempt.new(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(launcher, "current_world", lambda device: OneOfTwo())
        launcher._rank(leave_a_note, job_in(tmp_path), attempt)({})
    assert rank_here == []
    launcher._rank(leave_a_note, job_in(tmp_path), attempt)({})
    assert rank_here == [attempt.folder]


def find_the_disk_full(job: Job, world: World) -> None:
    (job.folder / EVENTS).symlink_to("/dev/full")
    write_event(job.folder, "step", 1, {})


def name_a_secret(job: Job, world: World) -> None:
    raise ValueError("403 for https://me:pa55word@host/a")


def find_the_storage_gone_for_a_moment(job: Job, world: World) -> None:
    raise OSError(errno.ESTALE, "Stale file handle")


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        (find_the_disk_full, "OSError: [Errno 28] No space left on device; free space and run the"),
        (find_the_storage_gone_for_a_moment, ""),
        (break_a_promise, "AssertionError: a broken promise"),
        (name_a_secret, "ValueError: 403 for https://host/a"),
    ],
)
def test_what_a_storage_says_again_each_time_is_not_tried_again(
    rank_here: list[Path], tmp_path: Path, recipe: Callable[[Job, World], None], told: str
) -> None:
    attempt = Attempt.new(tmp_path)
    with pytest.raises((OSError, AssertionError, ValueError)):
        launcher._rank(recipe, job_in(tmp_path), attempt)({})
    found = read(attempt.failed)
    assert found.startswith(told) and bool(found) == bool(told)
    assert attempt.begin() == (not told)
    assert rank_here == [attempt.folder]


def test_a_disk_that_is_full_when_a_rank_begins_is_told_too(
    rank_here: list[Path], tmp_path: Path
) -> None:
    attempt = Attempt.new(tmp_path)
    (tmp_path / ATTEMPTS / LATEST).unlink()
    (tmp_path / ATTEMPTS / LATEST).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        launcher._rank(leave_a_note, job_in(tmp_path), attempt)({})
    assert "No space left" in read(attempt.failed) and not (tmp_path / "done").exists()


def asked_of_ray(
    folder: Path, monkeypatch: pytest.MonkeyPatch, **launch: Any
) -> tuple[Attempt, Any]:
    """An attempt, and what Ray's trainer is given for it."""
    monkeypatch.setattr(launcher, "_Trainer", lambda work, **given: SimpleNamespace(**given))
    job, attempt = job_in(folder), Attempt.new(folder)
    changed = job.config.launch.model_copy(update=launch)
    job = Job(job.config.model_copy(update={"launch": changed}), folder, None)
    return attempt, launcher._trainer(job, attempt, lambda _: None)


def test_ray_is_asked_for_what_the_config_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"workers": 4, "use_gpu": True, "cpus_per_worker": 3.0, "max_failures": 7}
    attempt, asked = asked_of_ray(tmp_path, monkeypatch, **given)
    assert asked.torch_config.backend == "nccl"
    assert asked.scaling_config.num_workers == 4 and asked.scaling_config.use_gpu
    assert asked.scaling_config.resources_per_worker == {"CPU": 3.0, "GPU": 1}
    failures = asked.run_config.failure_config
    assert (failures.max_failures, failures.controller_failure_limit) == (7, 24 * 60)
    assert asked.run_config.name == "small-1"
    assert asked.run_config.storage_path == str(attempt.folder / "ray")
    assert asked.run_config.worker_runtime_env["env_vars"]["OMP_NUM_THREADS"] == "3"
    (waits,) = asked.run_config.callbacks
    assert (waits.attempt, waits.limit_s) == (attempt, 24 * 3600)

    given = {"workers": 4, "min_workers": 2, "resize_every_s": 30.0}
    attempt, asked = asked_of_ray(tmp_path, monkeypatch, **given)
    assert asked.torch_config.backend == "gloo" and not asked.scaling_config.use_gpu
    assert asked.scaling_config.num_workers == (2, 4)
    assert asked.scaling_config.elastic_resize_monitor_interval_s == 30
    assert asked.run_config.name == "small-2", "Ray must not take up its record of the other"


@pytest.mark.parametrize("address", [None, "10.0.0.1:6379"])
def test_a_run_is_watched_where_its_ranks_look_on_the_cluster_that_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str | None
) -> None:
    acts: list[Any] = []

    @contextmanager
    def draining(folder: Path) -> Iterator[None]:
        acts.append(folder)
        yield

    def fit() -> None:
        (folder,) = (tmp_path / ATTEMPTS).glob("0*")
        assert (folder / STOP).exists(), "where SIGTERM asks to stop"
        acts.append("fit" if os.environ.get(watcher) == watched else "fit as it should not")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **given: acts.append(given["address"]))
    monkeypatch.setattr(ray, "shutdown", lambda: acts.append("shutdown"))
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 1.0})
    monkeypatch.setattr(launcher, "private_token", lambda: acts.append("token"))
    monkeypatch.setattr(launcher, "save_when_draining", draining)
    monkeypatch.setattr(launcher, "_trainer", lambda *_: SimpleNamespace(fit=fit))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name in ("USAGE_STATS_ENABLED", "TRAIN_HEALTH_CHECK_INTERVAL_S"):
        monkeypatch.setenv(f"RAY_{name}", "0")
    monkeypatch.setenv("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "1")
    watcher, watched = launcher.PREEMPTION_WATCHER, None if address else "0"
    monkeypatch.delenv(watcher, raising=False)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    run_ray(leave_a_note, job_in(tmp_path))
    begun = [address] if address else ["token", "local"]
    assert acts == [*begun, tmp_path / ATTEMPTS / "000001", "fit", "shutdown"]
    assert watcher not in os.environ, "the next cluster may be another"


@pytest.mark.parametrize(
    ("began", "end", "raised", "told"),
    [
        (True, "failed", RunFailed, "small: so it is"),
        (True, "stopped", Interrupted, "so it is"),
        (False, "failed", NotBegun, "small: so it is"),
        (False, "stopped", StoppedEarly, "small: so it is"),
        (False, "", NotBegun, "small: no rank began; "),
        (True, "", RunFailed, "small: Training failed due to controller error:\nhttps://host/a"),
    ],
)
def test_a_wait_that_ray_ends_is_told_as_what_ended_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    began: bool,
    end: str,
    raised: type[Exception],
    told: str,
) -> None:
    def fit() -> None:
        attempt = Attempt(tmp_path / ATTEMPTS, 1)
        if began:
            assert attempt.begin()
        if end:
            write(getattr(attempt, end), "so it is")
        raise ray.train.ControllerError(RuntimeError("https://me:pa55word@host/a"))

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 1.0})
    monkeypatch.setattr(launcher, "save_when_draining", lambda folder: nullcontext())
    monkeypatch.setattr(launcher, "_trainer", lambda *_: SimpleNamespace(fit=fit))
    with pytest.raises(raised) as found:
        run_ray(leave_a_note, job_in(tmp_path))
    assert type(found.value) is raised and str(found.value).startswith(told)


def set_a_handler_and_be_stopped(**_: Any) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as `ray.init` does
    os.kill(os.getpid(), signal.SIGTERM)


def be_interrupted(**_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("start", [set_a_handler_and_be_stopped, be_interrupted])
def test_a_stop_while_ray_starts_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Callable[..., None]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(launcher, "private_token", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(StoppedEarly, match="stopped while Ray started"):
        run_ray(leave_a_note, job_in(tmp_path))
    assert signal.getsignal(signal.SIGTERM) is before
    assert launcher.PREEMPTION_WATCHER not in os.environ


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("", "Ray did not start: it timed out; see its logs"),
        ("10.0.0.1:6379", "10.0.0.1:6379 does not respond: it timed out; start the cluster, or"),
    ],
)
def test_a_ray_that_does_not_start_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, told: str
) -> None:
    def time_out(**_: Any) -> None:
        raise Exception("it\ntimed out")  # as Ray does

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", time_out)
    monkeypatch.setattr(launcher, "private_token", lambda: None)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(NotBegun, match=re.escape(told)):
        run_ray(leave_a_note, job_in(tmp_path))


@pytest.mark.parametrize("began", [True, False])
def test_ctrl_c_ends_a_run_and_before_a_rank_began_it_is_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, began: bool
) -> None:
    def fit() -> None:
        assert not began or Attempt(tmp_path / ATTEMPTS, 1).begin()
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 1.0})
    monkeypatch.setattr(launcher, "save_when_draining", lambda folder: nullcontext())
    monkeypatch.setattr(launcher, "_trainer", lambda *_: SimpleNamespace(fit=fit))
    with pytest.raises((KeyboardInterrupt, StoppedEarly)) as found:
        run_ray(leave_a_note, job_in(tmp_path))
    assert found.type is (KeyboardInterrupt if began else StoppedEarly)


def test_a_sigterm_before_fit_keeps_it_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[None] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 1.0})
    monkeypatch.setattr(launcher, "save_when_draining", lambda folder: nullcontext())
    trainer = SimpleNamespace(fit=lambda: fitted.append(None))
    monkeypatch.setattr(launcher, "_trainer", lambda *_: trainer)
    with sigterm_noticed():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StoppedEarly, match="small: stopped while Ray started"):
            run_ray(leave_a_note, job_in(tmp_path))
    assert fitted == []


def test_ray_sets_no_handler_of_ctrl_c() -> None:
    before, name = signal.getsignal(signal.SIGINT), "_register_sigint_handler"
    assert hasattr(launcher.TorchTrainer, name), "Ray renamed it"
    getattr(launcher._Trainer, name)(None, None)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_trainer_starts_no_process_for_ray_data(tmp_path: Path) -> None:
    assert hasattr(launcher.TorchTrainer, "_create_default_callbacks"), "Ray renamed it"
    trainer = launcher._trainer(job_in(tmp_path), Attempt.new(tmp_path), lambda _: None)
    kinds = {type(callback) for callback in trainer._create_default_callbacks()}
    assert launcher.WaitForLostNodes in kinds and launcher.DatasetsCallback not in kinds


def test_ranks_that_are_to_stop_do_not_begin(rank_here: list[Path], tmp_path: Path) -> None:
    attempt = Attempt.new(tmp_path)
    (attempt.folder / STOP).write_bytes(b".")
    launcher._rank(leave_a_note, job_in(tmp_path), attempt)({})
    assert read(attempt.stopped) == "stopped while its workers started; no step is saved yet"
    assert rank_here == [] and not attempt.begun()


def test_the_errors_of_ranks_are_named_those_of_lost_peers_last() -> None:
    lost = RuntimeError("Connection closed by peer [10.0.0.1]:4242")
    failures = {rank: lost for rank in range(6)} | {4: OSError(5, "Input/output error")}
    told = launcher._what_failed(ray.train.WorkerGroupError("a long text", failures))
    assert told.startswith("rank 4: OSError: [Errno 5] Input/output error; rank 0: RuntimeError")
    assert told.endswith("; …") and told.count("rank") == 4


@pytest.mark.parametrize("wait_s", [0, 60])
def test_a_cluster_that_is_too_small_is_refused_or_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_s: float
) -> None:
    fitted = []

    def wait(job: Job) -> None:
        assert (job.folder / ATTEMPTS / "000001" / STOP).exists(), "where SIGTERM asks to stop"
        raise NotBegun("small: no nodes")

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0})
    monkeypatch.setattr(launcher, "save_when_draining", lambda folder: nullcontext())
    monkeypatch.setattr(launcher, "_trainer", lambda *_: SimpleNamespace(fit=fitted.append))
    monkeypatch.setattr(launcher, "wait_for_nodes", wait)
    job = job_in(tmp_path)
    given = {"use_gpu": True, "wait_for_nodes_s": wait_s}
    launch = job.config.launch.model_copy(update=given)
    job = replace(job, config=job.config.model_copy(update={"launch": launch}))
    if wait_s:
        with pytest.raises(NotBegun, match="^small: no nodes$"):
            run_ray(leave_a_note, job)
    else:
        told = "there are only 0, .*if an autoscaler adds nodes, launch.wait_for_nodes_s"
        with pytest.raises(ConfigError, match=told):
            run_ray(leave_a_note, job)
        assert not (tmp_path / ATTEMPTS).exists()
    assert fitted == []


@pytest.mark.parametrize(("gpus", "message"), [(3.0, ""), (4.0, "the cluster has 4 GPUs; raise")])
def test_gpus_that_a_run_leaves_idle_are_a_warning(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    gpus: float,
    message: str,
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": gpus})
    monkeypatch.setattr(launcher, "save_when_draining", lambda folder: nullcontext())
    monkeypatch.setattr(launcher, "_trainer", lambda *_: SimpleNamespace(fit=lambda: None))
    job = job_in(tmp_path)
    launch = job.config.launch.model_copy(update={"use_gpu": True, "workers": 2})
    run_ray(leave_a_note, replace(job, config=job.config.model_copy(update={"launch": launch})))
    assert message in caplog.text and bool(caplog.text) == bool(message)
