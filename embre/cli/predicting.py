"""What `embre predict` does around a prediction: the model, the workers, what is shown."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from uuid import uuid4

from rich.console import Console, RenderableType
from rich.text import Text

from embre.cli.device import device_named
from embre.launch.errors import RunFailed
from embre.launch.tables import dropped_lines
from embre.launch.workers import make_workers
from embre.prediction.predict import Predicted, predict_files
from embre.prediction.record import RECORD, locked
from embre.prediction.tasks import PredictSettings
from embre.refused import Refused
from embre.tracking.registry import fetch
from embre.tracking.uri import resolve_uri

SHOW_EVERY_S = 0.5
LOG_EVERY_S = 30.0  # where there is no terminal, as in a job
FETCHED = ".model-"  # begins the name of the folder of a registered model in --out
MAX_NAMED = 5  # of the inputs that could not be read


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for. `ray` is the address of a cluster, `gpus` the share of a GPU that each
    of its tasks gets."""

    model: str
    inputs: list[str]
    out: Path
    device: str
    threshold: float | None
    parquet: bool
    overwrite: bool
    processes: int
    ray: str | None
    gpus: float


def run_prediction(
    request: Request, tracking_uri: str | None, console: Console
) -> Iterator[RenderableType]:
    """Predict, show on `console` how far it is, and say what came of it.

    Raises RunFailed at the end, with all outputs there, where an input was not read to its end.
    """
    check(request)
    several = request.ray is not None or request.processes > 1
    settings = PredictSettings(request.device, request.threshold, request.parquet, several)
    with (
        locked(request.out),
        model_folder(request.model, request.out, tracking_uri) as folder,
        make_workers(
            request.processes, "embre.prediction.tasks", request.ray, request.gpus
        ) as workers,
        console.status("predicting") as status,
    ):
        done, started = 0, time.monotonic()
        shown, every_s = started, SHOW_EVERY_S if console.is_terminal else LOG_EVERY_S

        def progress(documents: int) -> None:
            nonlocal done, shown
            done, now = done + documents, time.monotonic()
            if now - shown > every_s:
                shown = now
                said = f"{done:,} documents, {done / (now - started):,.0f} documents/s"
                status.update(said)
                if not console.is_terminal:
                    console.print(said)

        found = predict_files(
            folder,
            request.inputs,
            request.out,
            f"Predicted by {request.model}",
            settings,
            workers,
            request.overwrite,
            progress,
            lambda line: console.print(Text(line)),
        )
    yield from summary(found, request.out)
    if found.not_read:
        named = ", ".join(found.not_read[:MAX_NAMED])
        more = len(found.not_read) - MAX_NAMED
        raise RunFailed(
            f"{named}{f' and {more} more' if more > 0 else ''}: not read to the end, "
            f"{request.out / RECORD} says why; what could be read is predicted. Mend the input and "
            "run the same command again"
        )


def summary(found: Predicted, out: Path) -> Iterator[RenderableType]:
    """Lines for a terminal."""
    yield Text(
        f"{found.documents:,} documents, {found.relations:,} relations, "
        f"{len(found.files)} files in {out}"
    )
    if found.done_before:
        yield f"{found.done_before} files were done before"
    if found.predicted_now:
        rate = found.predicted_now / found.seconds
        yield f"{found.predicted_now:,} documents in {found.seconds:,.0f} s, {rate:,.1f} a second"
    yield Text(f"report: {found.report}")
    yield from dropped_lines(found.tally.lines())


def check(request: Request) -> None:
    """Refuse what would fail later, or do something else than is meant."""
    if request.gpus and request.ray is None:
        raise Refused("--gpus is for the tasks of --ray; without it give --device cuda alone")
    if request.ray is not None and request.processes > 1:
        raise Refused("--processes are of this machine: with --ray the cluster says how many")
    if request.ray is not None and request.device.startswith("cuda") and not request.gpus:
        raise Refused("--device cuda with --ray needs a share of a GPU a task, as --gpus 0.5")
    device_named(request.device, here=request.ray is None)


@contextmanager
def model_folder(model: str, out: Path, tracking_uri: str | None) -> Iterator[Path]:
    """The folder of a model. One of the registry lies in `out` meanwhile, which all nodes see.

    `out` is locked; what a killed run left of its model there goes.
    """
    for leftover in out.glob(f"{FETCHED}*"):
        if re.fullmatch(r"[0-9a-f]{32}", leftover.name.removeprefix(FETCHED)):
            rmtree(leftover)
    if not model.startswith("models:/"):
        yield Path(model)
        return
    scratch = out / f"{FETCHED}{uuid4().hex}"
    try:
        yield fetch(model, resolve_uri(tracking_uri), scratch / "model")
    finally:
        rmtree(scratch, ignore_errors=True)
