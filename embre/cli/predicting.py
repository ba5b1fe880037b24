"""Implements `embre predict`: fetches the model, chooses the workers, shows progress."""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from shutil import rmtree
from typing import Any
from uuid import uuid4

from rich.console import Console, RenderableType
from rich.text import Text

from embre.cli.device import device_named
from embre.cli.options import folder_within, refuse_contradicting_workers
from embre.finetune import RELATION_MODEL
from embre.launch.errors import RunFailed
from embre.launch.tables import dropped_lines
from embre.launch.workers import make_workers
from embre.prediction.predict import Predicted, plan, predict_files
from embre.prediction.progress import Progress
from embre.prediction.record import RECORD, locked
from embre.prediction.tasks import PredictSettings
from embre.refused import Refused
from embre.relations.model_folder import read_settings
from embre.tracking.registry import fetch, find
from embre.tracking.uri import resolve_uri

SHOW_EVERY_S = 0.5
LOG_EVERY_S = 30.0  # without a terminal, as in a job
REGISTERED = "models:/"
FETCHED = ".model-"  # begins the name of the folder of a registered model in --out
MAX_NAMED = 5  # of the inputs that could not be read


def run_prediction(
    model: str,
    inputs: list[str],
    out: Path,
    *,
    device: str,
    threshold: float | None,
    parquet: bool,
    overwrite: bool,
    processes: int,
    ray: str | None,
    gpus: float,
    tracking_uri: str | None,
    as_json: bool,
    console: Console,
) -> Iterator[RenderableType]:
    """Predict, with progress on `console`, and yield the summary, `as_json` as one object.

    `ray` is the address of a cluster, `gpus` the GPUs of each of its tasks. Raises RunFailed at the
    end, with all outputs written, if an input was not read to its end.
    """
    check_workers(device, processes, ray, gpus)
    planned = plan(inputs, out)  # this and the next before anything is written
    if model.startswith(REGISTERED):
        find(model, resolve_uri(tracking_uri))
    else:
        read_settings(folder_within(Path(model), RELATION_MODEL))
    several = ray is not None or processes > 1
    settings = PredictSettings(device, threshold, parquet, several)
    with (
        # Ray prints the errors of its nodes to standard output, which is for the object.
        redirect_stdout(sys.stderr) if as_json else nullcontext(),
        locked(out),
        model_folder(model, out, tracking_uri) as folder,
        make_workers(processes, "embre.prediction.tasks", ray, gpus) as workers,
        console.status("predicting") as status,
    ):

        def show(line: str) -> None:
            status.update(line)
            if not console.is_terminal:
                console.print(line)

        progress = Progress(show, SHOW_EVERY_S if console.is_terminal else LOG_EVERY_S)
        try:
            found = predict_files(
                folder,
                planned,
                out,
                f"Predicted by {model}",
                settings,
                workers,
                overwrite,
                progress,
                lambda line: console.print(Text(line)),
            )
        except KeyboardInterrupt:
            again = "run the same command again" + (", without --overwrite," if overwrite else "")
            console.print(f"stopped; {again} to predict what is not done")
            raise
    yield from [Text(json.dumps(summary_json(found)))] if as_json else summary(found, out)
    if found.not_read:
        raise RunFailed(not_read_to_the_end(found.not_read, out))


def not_read_to_the_end(inputs: list[str], out: Path) -> str:
    """Error message for inputs of which a part is missing."""
    named = ", ".join(inputs[:MAX_NAMED])
    more = len(inputs) - MAX_NAMED
    return (
        f"{named}{f' and {more} more' if more > 0 else ''}: not read to the end, {out / RECORD} "
        "says why; what could be read is predicted. Replace the input and run the same command "
        "again"
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


def summary_json(found: Predicted) -> dict[str, Any]:
    """The same as one object; see docs/FORMATS.md."""
    return {
        "documents": found.documents,
        "relations": found.relations,
        "files": [str(path) for path in found.files],
        "done_before": found.done_before,
        "predicted_now": found.predicted_now,
        "seconds": round(found.seconds, 3),
        "report": str(found.report),
        "not_read": found.not_read,
        "dropped": dict(found.tally.counts),
    }


def check_workers(device: str, processes: int, ray: str | None, gpus: float) -> None:
    """Raise Refused for options that contradict each other or need a device that is not here."""
    refuse_contradicting_workers(processes, ray, gpus)
    if ray is not None and device.startswith("cuda") and not gpus:
        raise Refused("--device cuda with --ray needs the GPUs of a task, as --gpus 0.5")
    device_named(device, here=ray is None)


@contextmanager
def model_folder(model: str, out: Path, tracking_uri: str | None) -> Iterator[Path]:
    """The folder of a model, which may lie in that of its run. A registered one is fetched into
    `out`, which all nodes see, and removed afterwards.

    Call it with `out` locked: it removes models that killed runs left there.
    """
    for leftover in out.glob(f"{FETCHED}*"):
        if re.fullmatch(r"[0-9a-f]{32}", leftover.name.removeprefix(FETCHED)):
            rmtree(leftover)
    if not model.startswith(REGISTERED):
        yield folder_within(Path(model), RELATION_MODEL)
        return
    scratch = out / f"{FETCHED}{uuid4().hex}"
    try:
        yield fetch(model, resolve_uri(tracking_uri), scratch / "model")
    finally:
        rmtree(scratch, ignore_errors=True)
