"""The Ray launcher: one Ray Train worker per rank, restarted from our checkpoints when one dies.

Ray starts, watches and restarts workers. What a run resumes from is found by `checkpoints`, never
by Ray's own record, which loses a checkpoint whose worker dies within two seconds of reporting it.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2.api.callback import RayTrainCallback

from embre.atomic_files import PERMANENT_ERRNOS
from embre.checkpoints.checkpoints import CheckpointError
from embre.checkpoints.folder import saved_so_far
from embre.config import ConfigError, LaunchConfig
from embre.config.secret_values import redact
from embre.interrupts import (
    Interrupted,
    StoppedEarly,
    is_stop_in,
    stop_requested,
    stoppable,
)
from embre.job import Job
from embre.launch.attempts import Attempt, NotBegun, read, write
from embre.launch.draining import save_when_draining
from embre.launch.errors import RunFailed, with_disk_advice
from embre.launch.nodes import WaitForLostNodes, wait_for_nodes
from embre.launch.rank import FAULT, run_rank
from embre.launch.ray_workers import private_token
from embre.tracking.endings import LOST_PEER, MAX_ERROR_CHARS, MAX_NAMED
from embre.world import World, allocator_settings, current_world

log = logging.getLogger(__name__)

# For the place of lost nodes. Ray counts each minute in which a worker group cannot start as a
# failure, but none while an elastic run waits.
MAX_WAIT_S = 24 * 3600
MAX_CONTROLLER_FAILURES = MAX_WAIT_S // 60
# The same data and config raise these every time; a lost peer shows as a bare RuntimeError.
NOT_WORTH_A_RESTART = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    CheckpointError,
    LookupError,
    FileNotFoundError,
    PermissionError,
    RunFailed,
    TypeError,
    ValueError,
)
STARTING = "stopped while its workers started"
PREEMPTION_WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
WORKER_ENV = {
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}


@contextmanager
def ray_cluster() -> Iterator[None]:
    """Connect to a Ray cluster for the duration of the block.

    The cluster is the one this process is connected to already (it stays connected), else that of
    RAY_ADDRESS, else one started on this machine with token authentication and stopped on exit.
    Raises NotBegun if Ray does not start or the cluster does not respond, StoppedEarly if SIGTERM
    or Ctrl-C arrive meanwhile.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")
    # A worker that hangs is given up after this long; Ray would wait ten minutes.
    os.environ.setdefault("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "120")
    address = os.environ.get("RAY_ADDRESS")
    # Without an address Ray would join whatever cluster somebody started on this machine last.
    settings: dict[str, Any] = {"address": address or "local"}
    if not address:
        settings["include_dashboard"] = False
        private_token()
    # The only node of a private cluster never drains; watching for that costs 1 % of a core.
    unwatched = not address and PREEMPTION_WATCHER not in os.environ
    if unwatched:
        os.environ[PREEMPTION_WATCHER] = "0"
    try:
        _start(settings)
        yield
    finally:
        ray.shutdown()
        if unwatched:  # the next cluster may be another
            del os.environ[PREEMPTION_WATCHER]


def _start(settings: dict[str, Any]) -> None:
    """Call `ray.init` and put the handler of SIGTERM back: Ray sets one that drains the node for up
    to half a minute and exits with code 1."""
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **settings)
    except (KeyboardInterrupt, SystemExit) as error:
        raise StoppedEarly("stopped while Ray started") from error
    except Exception as error:  # Ray raises many kinds
        why = " ".join(str(error).split())[:MAX_ERROR_CHARS]
        local = settings["address"] == "local"
        what = "Ray did not start" if local else f"{settings['address']} does not respond"
        logs = "see its logs, by default in /tmp/ray/session_latest/logs"
        remedy = logs if local else "start the cluster, or correct RAY_ADDRESS"
        raise NotBegun(f"{what}: {why}; {remedy}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm or signal.SIG_DFL)


def run_ray(recipe: Callable[[Job, World], None], job: Job) -> None:
    """Run the recipe on `launch.workers` Ray workers.

    Raises ConfigError if the cluster is too small and launch.wait_for_nodes_s is 0, NotBegun if no
    rank started, Interrupted if the run was asked to stop (StoppedEarly: before a rank started),
    RunFailed if it failed.
    """
    with ray_cluster():
        _fit(recipe, job)


def _fit(recipe: Callable[[Job, World], None], job: Job) -> None:
    name, launch = job.config.name, job.config.launch
    have = ray.cluster_resources()
    lacking = launch.lacking(have)
    if lacking and not launch.wait_for_nodes_s:  # Ray would wait for ever
        raise ConfigError(
            f"launch: {lacking}, or, if an autoscaler adds nodes, launch.wait_for_nodes_s"
        )
    if idle := launch.idle(have):
        log.warning("%s", idle)
    attempt = Attempt.new(job.folder)
    trainer = _trainer(job, attempt, _rank(recipe, job, attempt))
    try:
        with stoppable(attempt.folder), save_when_draining(attempt.folder):
            wait_for_nodes(job)
            if stop_requested():
                raise StoppedEarly(f"{name}: stopped while Ray started")
            trainer.fit()
    except (NotBegun, StoppedEarly):
        raise
    except BaseException as error:  # Ctrl-C and a lost cluster too
        if not attempt.begun():
            if isinstance(error, KeyboardInterrupt) or read(attempt.stopped):
                raise StoppedEarly(f"{name}: {read(attempt.stopped) or STARTING}") from error
            why = read(attempt.failed)
            why = why or f"no rank began; each needs a machine that sees {job.folder}: {error!r}"
            raise NotBegun(f"{name}: {why}") from error
        if not isinstance(error, ray.train.TrainingFailedError):
            raise
        if not read(attempt.stopped):
            raise RunFailed(f"{name}: {read(attempt.failed) or _what_failed(error)}") from error
    finally:
        attempt.refuse_taken_over(name)
    if why := read(attempt.failed):
        raise RunFailed(f"{name}: {why}")
    if why := read(attempt.stopped):
        raise Interrupted(why) if attempt.begun() else StoppedEarly(f"{name}: {why}")


class _Trainer(TorchTrainer):
    """A TorchTrainer that Ctrl-C ends at once. Ray's handler asks the controller to abort, which it
    never does while it waits for nodes: its loop does not yield to other calls then.

    It starts no process for Ray Data, which would take seconds at each start of the workers."""

    def _register_sigint_handler(self, controller: object) -> None:
        pass

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        callbacks = super()._create_default_callbacks()
        return [one for one in callbacks if not isinstance(one, DatasetsCallback)]


def _what_failed(error: ray.train.TrainingFailedError) -> str:
    """The errors of the ranks that failed, without secrets; of lost peers last, as they follow from
    the others."""
    if not isinstance(error, ray.train.WorkerGroupError):
        return redact(str(error), os.environ)
    failures = sorted(error.worker_failures.items())
    texts = [(rank, f"{type(failure).__name__}: {failure}") for rank, failure in failures]
    texts.sort(key=lambda found: bool(LOST_PEER.match(found[1])))
    named = "; ".join(f"rank {rank}: {text}" for rank, text in texts[:MAX_NAMED])
    return redact(named + ("; …" if len(texts) > MAX_NAMED else ""), os.environ)


def _rank(
    recipe: Callable[[Job, World], None], job: Job, attempt: Attempt
) -> Callable[[dict[str, Any]], None]:
    """Build the function that each Ray worker calls."""
    # Read outside `work`: cloudpickle would take its `config` for torch.distributed.config.
    use_gpu = job.config.launch.use_gpu

    def work(_: dict[str, Any]) -> None:
        try:
            device = get_device() if use_gpu else torch.device("cpu")
            assert isinstance(device, torch.device)
            # Of all ranks: one that left alone would let the others wait for it in a collective.
            if all(current_world(device).all_gather(attempt.begin())):
                run_rank(recipe, job, device, attempt.folder)
            elif is_stop_in(attempt.folder):
                raise Interrupted(f"{STARTING}; {saved_so_far(job.folder)}")
        except Interrupted as why:  # raised further, Ray would restart the worker
            write(attempt.stopped, str(why))
        except (*NOT_WORTH_A_RESTART, OSError) as error:
            lasts = isinstance(error, NOT_WORTH_A_RESTART) or error.errno in PERMANENT_ERRNOS
            # Before it restarts workers, Ray destroys their process group in mid-step; the errors
            # that this raises are not the run's.
            if lasts and dist.is_initialized():
                kind = "" if isinstance(error, RunFailed) else f"{type(error).__name__}: "
                write(attempt.failed, redact(kind + with_disk_advice(error), os.environ))
            raise

    return work


def _trainer(job: Job, attempt: Attempt, work: Callable[[dict[str, Any]], None]) -> TorchTrainer:
    launch = job.config.launch
    return _Trainer(
        work,
        train_loop_config={},
        torch_config=TorchConfig(backend="nccl" if launch.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=(launch.fewest, launch.workers) if launch.min_workers else launch.workers,
            use_gpu=launch.use_gpu,
            resources_per_worker=launch.needed,
            elastic_resize_monitor_interval_s=launch.resize_every_s,
        ),
        run_config=RunConfig(
            # A new name each time: Ray must not take up its own record of an earlier attempt,
            # which may be torn.
            name=f"{job.config.name}-{attempt.number}",
            storage_path=str(attempt.folder / "ray"),
            failure_config=FailureConfig(
                max_failures=launch.max_failures, controller_failure_limit=MAX_CONTROLLER_FAILURES
            ),
            worker_runtime_env={"env_vars": worker_env(launch)},
            # Typed for Ray's public callbacks only; those of its controller are accepted too.
            callbacks=[WaitForLostNodes(job, attempt, MAX_WAIT_S)],  # type: ignore[arg-type]
        ),
    )


def worker_env(launch: LaunchConfig) -> dict[str, str]:
    """Environment variables of the workers on any node. Ray stores them, so none is a secret."""
    threads = {"OMP_NUM_THREADS": str(max(1, int(launch.cpus_per_worker)))}
    fault = {FAULT: os.environ[FAULT]} if FAULT in os.environ else {}
    return {**WORKER_ENV, **threads, **allocator_settings(os.environ), **fault}
