"""Sending metrics to MLflow during training, and closing the MLflow run at its end.

Nothing here blocks on a server that does not respond: after one timeout in any process, the file
SILENT in the run folder stops all processes from sending requests for the rest of the attempt.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from operator import methodcaller
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, RunTag
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking import MlflowClient

from embre.atomic_files import write_atomic
from embre.tracking.events import Tracker, write_event
from embre.tracking.runs import SENT, SILENT, RunHandle, best_effort, quiet_mlflow, short
from embre.world import World

SEND_EVERY_S = 2.0
SYSTEM_EVERY_S = 10
# Together 10 s: how long a hung server may delay the end of a run.
GIVE_UP_AFTER_S, SYSTEM_END_S = 8.0, 2.0

Point = Metric | RunTag
Request = Callable[[MlflowClient], object]


@contextmanager
def tracker_of(
    handle: RunHandle | None, folder: Path, world: World, log_every_steps: int, **more: Any
) -> Iterator[Tracker]:
    """Yield the Tracker of a rank; on rank 0 it sends to MLflow what earlier attempts did not.

    `more` are further arguments of Tracker.
    """
    sent = sent_step(folder)
    with metric_sender(handle if world.rank == 0 else None, folder) as send:
        yield Tracker(folder, world, log_every_steps, send, sent=sent, **more)


@contextmanager
def metric_sender(handle: RunHandle | None, folder: Path) -> Iterator[Any]:
    """Yield a non-blocking function `send(step, values)`, or None if there is no MLflow run.

    A thread sends the values in batches, numbers as metrics and strings as tags, and retries failed
    requests, for at most GIVE_UP_AFTER_S after the block ends. The event log has every metric in
    any case; the file SENT in the run folder holds the last step that the server has.
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
        _wait_for(thread, folder)


@contextmanager
def system_metrics(handle: RunHandle | None, node: str) -> Iterator[None]:
    """Log CPU, memory, disk, network and GPU use of a node to MLflow while the block runs."""
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
            thread = threading.Thread(target=monitor.finish, daemon=True)
            thread.start()
            thread.join(SYSTEM_END_S)


def sent_step(folder: Path) -> int:
    """The last step whose metrics the tracking server has.

    0 if that cannot be read: a duplicate point does no harm.
    """
    with suppress(OSError, ValueError):
        return int((folder / SENT).read_text())
    return 0


def close_run(handle: RunHandle, folder: Path, status: str) -> bool:
    """Set the final status (FINISHED, FAILED or KILLED) of a run; returns whether MLflow has it."""
    close = methodcaller("set_terminated", handle.run_id, status)
    return _at_the_end(handle, folder, "closing the MLflow run", [close])


def log_files(handle: RunHandle, folder: Path, files: Iterable[Path]) -> bool:
    """Upload files as artifacts of the run; returns whether MLflow has them."""
    keep = [methodcaller("log_artifact", handle.run_id, str(file)) for file in files]
    return _at_the_end(handle, folder, "keeping files with the MLflow run", keep)


def log_results(handle: RunHandle, folder: Path, metrics: Mapping[str, float]) -> None:
    """Log the final metrics of a finished run, at step 0."""
    now = int(time.time() * 1000)
    points = [Metric(name, value, now, 0) for name, value in metrics.items()]
    log = methodcaller("log_batch", handle.run_id, metrics=points)
    _at_the_end(handle, folder, "logging the results", [log])


def _at_the_end(handle: RunHandle, folder: Path, what: str, requests: Iterable[Request]) -> bool:
    """Send requests in order until one fails or takes longer than GIVE_UP_AFTER_S.

    Returns whether all succeeded.
    """
    for request in requests:
        if (folder / SILENT).exists():
            return False
        succeeded = threading.Event()
        thread = threading.Thread(
            target=_request, args=(handle.uri, request, what, succeeded), daemon=True
        )
        thread.start()
        _wait_for(thread, folder)
        if not succeeded.is_set():
            return False
    return True


def _request(uri: str, request: Request, what: str, succeeded: threading.Event) -> None:
    with best_effort(what):
        request(MlflowClient(uri))  # the client is created here, as opening a database may hang
        succeeded.set()


def _wait_for(thread: threading.Thread, folder: Path) -> None:
    """Join a thread that sends requests; after GIVE_UP_AFTER_S mark the store as silent."""
    thread.join(GIVE_UP_AFTER_S)
    silent = folder / SILENT
    if not thread.is_alive():
        silent.unlink(missing_ok=True)  # left by an earlier attempt
        return
    with suppress(OSError):
        silent.touch()
        _log_untracked(folder, f"no response for {GIVE_UP_AFTER_S:g} s")


def _log_untracked(folder: Path, why: str) -> None:
    """Log an event: MLflow does not have all metrics."""
    write_event(folder, "untracked", sent_step(folder), {"why": why})


def _send_all(
    handle: RunHandle, points: "queue.Queue[Point]", stop: threading.Event, folder: Path
) -> None:
    waiting: list[Point] = []
    client, warned = None, False
    while not (stop.is_set() and points.empty() and not waiting):
        if stop.wait(SEND_EVERY_S) and waiting:
            time.sleep(SEND_EVERY_S / 4)
        while not points.empty():
            waiting.append(points.get())
        try:
            client = client or MlflowClient(handle.uri)
            _send(client, handle.run_id, waiting, folder)
            waiting = []
        except Exception as error:  # training continues, whatever the store raises
            if not warned:
                with suppress(OSError):
                    _log_untracked(folder, short(error))
            warned = True


def _send(client: MlflowClient, run_id: str, points: list[Point], folder: Path) -> None:
    for tag in points:
        if isinstance(tag, RunTag):
            client.set_tag(run_id, tag.key, tag.value)
    metrics = [point for point in points if isinstance(point, Metric)]
    for start in range(0, len(metrics), 1000):
        client.log_batch(run_id, metrics=metrics[start : start + 1000])
    if metrics:
        # The values of a restart have an earlier step than those sent before it.
        steps = (metric.step for metric in metrics)
        write_atomic(folder / SENT, str(max(sent_step(folder), *steps)).encode())
