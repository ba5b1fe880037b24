"""The driver of a job: resolves and checks its config, opens its MLflow run, launches, closes."""

import logging
import os
import re
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from embre import finetune, pretrain
from embre.atomic_files import write_atomic
from embre.checkpoints.folder import newest_step, saved_so_far
from embre.config import (
    ConfigError,
    FinetuneConfig,
    PretrainConfig,
    RunConfig,
    dump_config,
    refuse_secrets,
)
from embre.config.places import is_url
from embre.config.secret_values import redact
from embre.engines.build import DEEPSPEED_JSON
from embre.interrupts import (
    Interrupted,
    StoppedEarly,
    TakenOver,
    sigterm_noticed,
    stop_requested,
)
from embre.job import Job
from embre.launch.attempts import NotBegun
from embre.launch.errors import RunFailed
from embre.launch.local import run_local
from embre.launch.progress import show_progress
from embre.launch.request_checks import (
    check_resume,
    listed_changes,
    refuse_other_data,
    refuse_what_cannot_be,
)
from embre.provenance import CONFIG
from embre.tracking.curves import draw_curves
from embre.tracking.endings import FAILURES, MAX_NAMED, tracebacks
from embre.tracking.events import EVENTS, read_events, write_event
from embre.tracking.registry import fetch
from embre.tracking.runs import (
    SILENT,
    RunHandle,
    best_effort,
    open_run,
    short,
)
from embre.tracking.sending import close_run, log_files
from embre.tracking.uri import resolve_uri
from embre.world import World

log = logging.getLogger(__name__)

MAY_BE_URLS = ("encoder.path", "data.shards")
Recipe = Callable[[Job, World], None]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of job: its config class, the recipe that each rank runs, and the check before any
    rank starts, which returns the digests of the data by name."""

    config: type[RunConfig]
    recipe: Recipe
    check: Callable[[Any], dict[str, str]]


def _run_ray(recipe: Recipe, job: Job) -> None:
    from embre.launch.ray import run_ray  # only jobs under Ray need ray

    run_ray(recipe, job)


# A launcher runs the recipe on all ranks and returns when the run is over; it raises the error that
# made the run fail.
LAUNCHERS: dict[str, Callable[[Recipe, Job], None]] = {"local": run_local, "ray": _run_ray}
KINDS = {
    "pretrain": Kind(PretrainConfig, pretrain.pretrain, pretrain.check),
    "finetune": Kind(FinetuneConfig, finetune.finetune, finetune.check),
}


def run_job(
    kind: str, config: RunConfig, console: Console, allow_change: Collection[str] = ()
) -> Path:
    """Run a job, resuming where an earlier attempt of the same name stopped; returns its folder.

    The keys in `allow_change` may differ from the config that the run was started with. Raises the
    error that made the run fail, and records it in the MLflow run.
    """
    job_kind = KINDS[kind]
    refuse_secrets(config)  # first: later error messages may show values
    under_torchrun = config.launch.launcher == "local" and "RANK" in os.environ
    refuse_what_cannot_be(config, under_torchrun)
    uri = tracking_uri(config)  # raises before anything is written
    config = resolve(config)
    lineage = job_kind.check(config)
    folder = Path(config.storage) / config.name
    folder.mkdir(parents=True, exist_ok=True)
    if under_torchrun and os.environ["RANK"] != "0":  # all ranks run this; rank 0 is the driver
        LAUNCHERS[config.launch.launcher](job_kind.recipe, Job(config, folder, None))
        return folder
    changes = check_resume(config, folder, allow_change)
    made_of = Job(config, folder, None).fingerprint(*lineage.values())
    refuse_other_data(config, folder, made_of)
    if changes:
        write_event(folder, "changed", newest_step(folder), {"changes": changes})
        changed = {key: f"{old} -> {new}" for key, (old, new) in changes.items()}
        console.print(f"changed: {listed_changes(changed)}", markup=False, highlight=False)
    write_atomic(folder / CONFIG, dump_config(config).encode())
    with sigterm_noticed():
        _run_tracked(kind, config, uri, folder, lineage, made_of, console)
    return folder


def _run_tracked(
    kind: str,
    config: RunConfig,
    uri: str,
    folder: Path,
    lineage: dict[str, str],
    made_of: str,
    console: Console,
) -> None:
    """Launch a job that was checked, and open and close its MLflow run, with its true status."""
    known = set((folder / FAILURES).glob("*"))
    handle, before = None, None
    tags = {"embre.kind": kind}
    for event in read_events(folder, "changed"):  # MLflow may lack an earlier one
        tags |= {f"embre.changed.{k}": f"{a} -> {b}" for k, (a, b) in event["changes"].items()}
    with best_effort("opening the MLflow run", config.tracking.required):
        handle, before = open_run(config, uri, folder, tags, lineage, made_of)
    console.print(f"run {config.name}: {folder}", markup=False, highlight=False)
    status: str | None = "KILLED"
    try:
        if stop_requested():
            raise StoppedEarly(f"{config.name}: stopped before its start")
        with show_progress(folder, console):
            LAUNCHERS[config.launch.launcher](KINDS[kind].recipe, Job(config, folder, handle))
        status = "FINISHED"
    except StoppedEarly:  # another attempt may be running, and a finished run stays one
        status = {"RUNNING": None, "FINISHED": "FINISHED"}.get(before or "", "KILLED")
        raise
    except Interrupted:
        raise
    except KeyboardInterrupt:
        saved = saved_so_far(folder)
        console.print(f"ended by Ctrl-C: {saved}; run the same command again to resume")
        raise
    except TakenOver:  # another attempt owns the run and its MLflow run now
        status = None
        raise
    except (ConfigError, NotBegun):  # another attempt may be running: keep its status
        status = None if before == "RUNNING" else before
        raise
    except Exception as error:
        status = "FAILED"
        log_failure(folder, error, known)
        raise
    finally:
        complete = bool(status) and finish(handle, folder, status)
    if config.tracking.required and not complete:
        raise RunFailed(
            f"{config.name} is finished and saved, but its MLflow run is incomplete and "
            "tracking.required is set; run the same command again when the server is up"
        )


def log_failure(folder: Path, error: Exception, known: Collection[Path]) -> None:
    """Write a `failed` event, and add to the error where the tracebacks of the ranks are that
    failed last, beside those `known` before."""
    with suppress(OSError):  # the error may be a full disk
        found = tracebacks(folder, known)
        if found:
            more = ", …" if len(found) > MAX_NAMED else ""
            error.add_note(f"traceback in {', '.join(map(str, found[:MAX_NAMED]))}{more}")
        names = [str(path.relative_to(folder)) for path in found]
        values = {"why": redact(short(error), os.environ), "tracebacks": names}
        write_event(folder, "failed", newest_step(folder), values)


def finish(handle: RunHandle | None, folder: Path, status: str) -> bool:
    """Log events, config and curves to the MLflow run and close it with its true status; returns
    whether all of it arrived."""
    complete = handle is not None and close_run(handle, folder, status)
    pictures: list[Path] = []
    with best_effort("drawing the curves"):
        pictures = draw_curves(folder)
    if handle is not None:
        kept = (folder / CONFIG, folder / EVENTS, folder / DEEPSPEED_JSON, *pictures)
        kept += tuple(tracebacks(folder)[:MAX_NAMED])
        complete &= log_files(handle, folder, [path for path in kept if path.exists()])
        if (folder / SILENT).exists():
            log.warning("MLflow does not respond: its run is not closed, or lacks the last events")
    return complete


def resolve(config: RunConfig) -> RunConfig:
    """The config with absolute paths (workers run elsewhere), and a registered backbone fetched."""
    config = config.with_paths(absolute)
    backbone = config.encoder.path
    if not backbone.startswith("models:/"):
        return config
    # Fetched once: a resumed run keeps its backbone even if the alias has moved since. The folder
    # has the model's name, so that another model is not mistaken for it.
    name = re.sub(r"[^\w.-]+", "-", backbone.removeprefix("models:/"))
    fetched = Path(config.storage) / config.name / "backbone" / name
    if not fetched.exists():
        fetch(backbone, tracking_uri(config), fetched)
    encoder = config.encoder.model_copy(update={"path": str(fetched)})
    return config.model_copy(update={"encoder": encoder})


def absolute(key: str, path: str) -> str:
    """A local path made absolute; a URL as it is.

    Raises ConfigError for a URL of documents.
    """
    if not is_url(path):
        return str(Path(path).absolute())
    if key not in MAY_BE_URLS:
        raise ConfigError(
            f"{key}: URLs are not supported here; copy the file to local storage first"
        )
    return path


def tracking_uri(config: RunConfig) -> str:
    """The MLflow tracking URI of a config."""
    return resolve_uri(config.tracking.uri, config.storage, "tracking.uri")
