"""Prediction: a relation model and PubTator or BioC files → the same files with relations.

    inputs ─plan─▶ the output of each ─▶ Task, one a file
    Task of a large file ─predict_slice, by workers─▶ slices, the relations of some documents
    Task ─predict_file, by workers─▶ output and its FileRecord
    FileRecords ─▶ predicted.json, which says what is done

An output takes its name when it is whole, so a run that was stopped goes on with the files that
are not done.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import torch

from embre.atomic_files import clear_leftovers
from embre.corpora import FORMATS, read_documents
from embre.corpora.copying import unpacked_name
from embre.corpora.sources import Source, list_files, locate, version_of
from embre.evaluation.report import write_report
from embre.prediction.record import (
    LOCK,
    RECORD,
    REPORT,
    FileRecord,
    Opened,
    PredictRecord,
    is_done,
    locked,
    open_record,
    refuse_others,
    remove_outputs,
    was_read,
    write_record,
)
from embre.prediction.relation_rows import RELATIONS
from embre.prediction.slices import FOLDER, num_slices, remove_slices
from embre.prediction.tasks import PredictSettings, Task, model_of, predict_file, predict_slice
from embre.provenance import folder_digest
from embre.refused import Refused
from embre.relations.model_folder import load_relation_model
from embre.tally import Tally
from embre.workers import OneProcess, Workers

# A report holds its documents in one page; a curator reads no more than this in one sitting.
MOST_REPORTED = 500
RECORD_EVERY_S = 5.0


@dataclass
class Predicted:
    """What came out: files in order of the inputs, documents and relations in them, and what was
    not read. `not_read` names the inputs that were not read to their end. `done_before` files were
    done by earlier runs, `predicted_now` documents predicted by this one, in `seconds`."""

    files: list[Path]
    documents: int
    relations: int
    tally: Tally
    report: Path
    not_read: list[str] = field(default_factory=list)
    done_before: int = 0
    predicted_now: int = 0
    seconds: float = 0.0


def predict_files(
    folder: Path,
    inputs: list[str],
    out: Path,
    title: str,
    settings: PredictSettings | None = None,
    workers: Workers | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda documents: None,
    tell: Callable[[str], None] = lambda line: None,
) -> Predicted:
    """Write each input file into `out` with relations that the model in `folder` predicts.

    Files are copied byte for byte, but for their relations. What an earlier run finished with the
    same model and threshold is not predicted again unless the input has changed or `overwrite` is
    given, and outputs of other inputs stay. Those of another model or threshold go with
    `overwrite`, which `tell` is told. Beside the files are `predicted.json` and a report of the
    first documents. Raises FileNotFoundError or Refused for an input that is not there, for no
    document at all, for a model that cannot be loaded, and where `out` holds predictions of another
    model or threshold, or a file of somebody else in the place of an output.
    """
    settings, workers = settings or PredictSettings(), workers or OneProcess()
    started = time.monotonic()
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder}: no config.json; give the folder of a fine-tuned relation model"
        )
    digest, planned = folder_digest(folder), plan(inputs, out)
    folder, into = folder.absolute(), out.absolute()
    tasks = [
        Task(folder, digest, settings, source, version_of(source), into, target)
        for target, source in planned.items()
    ]
    if not isinstance(workers, OneProcess):
        tasks = in_slices(tasks, workers.number)
    with locked(out):
        opened = open_record(out, digest, settings.threshold, overwrite)
        record = opened.record
        clear_leftovers(out)
        left = [one for one in tasks if overwrite or not _is_done(one, record)]
        if left:
            refuse_others(out, opened, [one.target for one in left])
            _try_model(left[0], workers)
            _begin(left, opened, out, tell)
        _carry_out(left, record, out, workers, progress)
        remove_slices(out)
    result = _summary(tasks, record, out)
    result.done_before = len(tasks) - len(left)
    result.predicted_now = sum(record.files[one.target].documents for one in left)
    result.seconds = time.monotonic() - started
    if not result.documents:
        raise Refused(
            f"{', '.join(inputs)}: no document to predict; give files of {', '.join(FORMATS)}"
            + "".join(f"; {line.strip()}" for line in result.tally.lines()[:3])
        )
    shown = (doc for file in result.files for doc in read_documents(file, Tally()))
    facts = {"Documents": f"{result.documents:,}"}
    write_report(result.report, list(islice(shown, MOST_REPORTED)), title=title, facts=facts)
    return result


def _try_model(task: Task, workers: Workers) -> None:
    """Fail here, where nothing is written or removed yet, with a model that cannot be loaded."""
    if isinstance(workers, OneProcess):
        model_of(task.folder, task.digest, task.settings)
    else:  # their device need not be one of this process
        load_relation_model(task.folder, torch.device("cpu"))


def _begin(tasks: list[Task], opened: Opened, out: Path, tell: Callable[[str], None]) -> None:
    """Remove what is of another model, then bind the folder to this one.

    In this order a run that is killed leaves no output to a record of another model. The record
    names every output before it is there, so that none is ever unknown to the next run.
    """
    record, foreign, why = opened
    if foreign:
        (out / REPORT).unlink(missing_ok=True)
        remove_outputs(out, foreign)
    if others := len(foreign - {task.target for task in tasks}):
        tell(
            f"removed {others} outputs of other inputs from {out}, which were predicted {why}: a "
            "folder holds what one model predicted at one threshold"
        )
    for task in tasks:
        record.files[task.target] = FileRecord(task.target, task.source.name, version=None)
    write_record(out, record)


def _carry_out(
    tasks: list[Task],
    record: PredictRecord,
    out: Path,
    workers: Workers,
    progress: Callable[[int], None],
) -> None:
    """Do the tasks and enter them into the record, which is on disk every few seconds."""
    for documents in workers.run(predict_slice, slices_to_do(tasks)):
        progress(documents)
    # Only here can documents be seen one by one; other processes tell of slices and whole files.
    here = isinstance(workers, OneProcess)
    seen = {one.target for one in tasks if here or one.num_slices > 1}
    work = partial(predict_file, progress=progress) if here else predict_file
    written = time.monotonic()
    try:
        for found in workers.run(work, ((one,) for one in tasks)):
            record.files[found.target] = found
            progress(0 if found.target in seen else found.documents)
            if time.monotonic() - written > RECORD_EVERY_S:
                write_record(out, record)
                written = time.monotonic()
    finally:
        write_record(out, record)


def plan(inputs: list[str], out: Path) -> dict[str, Source]:
    """The output of every file to predict, as a name below `out`, before the first is.

    A folder keeps its inner paths. Raises Refused where two inputs would share a target, a
    target lies where an input does, or `out` is in a folder of inputs, which would be read again.
    """
    planned: dict[str, Source] = {}
    for name in inputs:
        whole = locate(name)
        if Path(name).is_dir() and out.resolve().is_relative_to(Path(name).resolve()):
            raise Refused(f"{out}: lies within the input {name}; choose a folder outside of it")
        for file in list_files(whole):
            inner = file.name.removeprefix(whole.name).lstrip("/") or Path(file.name).name
            target = unpacked_name(inner)
            if target.split("/")[0] in (LOCK, RECORD, REPORT, RELATIONS, FOLDER):
                raise Refused(f"{file.name}: --out has a {target} of its own; rename the input")
            if target in planned:
                raise Refused(
                    f"{file.name}: its output is called {target}, as that of "
                    f"{planned[target].name}; rename one of the two, or give the files by name, "
                    "these two with two --out"
                )
            if (out / target).parent.resolve() == Path(file.name).parent.resolve():
                raise Refused(f"{file.name}: --out is the folder of the input; choose another")
            planned[target] = file
    return planned


def in_slices(tasks: list[Task], processes: int) -> list[Task]:
    """Tasks whose large files are cut into slices, so that a few files keep many workers busy."""
    sizes = [task.source.filesystem.size(task.source.path) or 0 for task in tasks]
    return [
        task._replace(num_slices=num_slices(size, sum(sizes), processes))
        for task, size in zip(tasks, sizes, strict=True)
    ]


def slices_to_do(tasks: list[Task]) -> Iterator[tuple[Task, int]]:
    """The calls of `predict_slice` that no earlier run has made."""
    for task in tasks:
        numbers = range(task.num_slices if task.num_slices > 1 else 0)
        yield from ((task, one) for one in numbers if not task.slices.is_done(one))


def _is_done(task: Task, record: PredictRecord) -> bool:
    before = record.files.get(task.target)
    name, parquet = task.source.name, task.settings.parquet
    return before is not None and is_done(before, name, task.version, task.out, parquet)


def _summary(tasks: list[Task], record: PredictRecord, out: Path) -> Predicted:
    found = Predicted([], 0, 0, Tally(), out / REPORT)
    for task in tasks:
        one = record.files[task.target]
        found.files += [out / one.target] if one.bytes else []
        found.not_read += [] if was_read(one) else [one.source]
        found.documents += one.documents
        found.relations += one.relations
        found.tally.add(one.dropped, one.examples)
    return found
