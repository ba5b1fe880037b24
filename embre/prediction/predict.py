"""Prediction of relations in PubTator and BioC files.

    inputs ─plan─▶ outputs ─▶ one Task per file
    Task of a large file ─slices_to_do─▶ Slices ─predict_slice, by workers─▶ stored slices
    Task ─predict_file, by workers─▶ output, of stored slices and new ones, and its FileRecord
    FileRecords ─▶ predicted.jsonl, the record of what is done

An output is renamed into place when it is complete, so a stopped run resumes with the files that
are not done, and within a file of several slices with those that are not stored.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path

import torch

from embre.atomic_files import clear_leftovers
from embre.corpora import FORMATS, read_documents, slices_of
from embre.corpora.copying import Slice, unpacked_name
from embre.corpora.sources import Source, list_files, locate, size_and_version
from embre.evaluation.report import write_report
from embre.prediction.progress import Progress
from embre.prediction.record import (
    LOCK,
    RECORD,
    REPORT,
    FileRecord,
    Opened,
    PredictRecord,
    appending,
    is_done,
    locked,
    open_record,
    refuse_others,
    remove_outputs,
    was_read,
    write_record,
)
from embre.prediction.relation_rows import RELATIONS
from embre.prediction.slices import FOLDER, has_slices, is_large, remove_slices
from embre.prediction.tasks import PredictSettings, Task, model_of, predict_file, predict_slice
from embre.provenance import folder_digest
from embre.refused import Refused
from embre.relations.model_folder import load_relation_model, read_settings
from embre.tally import Tally
from embre.workers import OneProcess, Workers

# A report holds all its documents in one page.
MOST_REPORTED = 500
MAX_NAMED = 3  # inputs in a message


@dataclass
class Predicted:
    """The result of `predict_files`: output files in the order of the inputs, and the number of
    documents and relations in them.

    `tally` counts what was dropped; `not_read` are the inputs that were not read to their end.
    Earlier runs did `done_before` files, this one predicted `predicted_now` documents in `seconds`.
    """

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
    planned: Mapping[str, Source],
    out: Path,
    title: str,
    settings: PredictSettings | None = None,
    workers: Workers | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Predicted:
    """Write each file of a `plan` into `out` with the relations predicted by the model in `folder`.

    Only the relations of a file change. Files that an earlier run finished with the same model and
    threshold are skipped unless the input has changed or `overwrite` is given; outputs of other
    inputs stay. `overwrite` removes outputs of another model or threshold and reports it to `tell`.
    Also writes `predicted.jsonl` and a report of the first documents.

    Raises FileNotFoundError or Refused if there is no document, the model cannot be loaded, `out`
    holds predictions of another model or threshold, or an output path is taken by a file that is
    not ours.
    """
    read_settings(folder)
    settings, workers = settings or PredictSettings(), workers or OneProcess()
    progress = progress or Progress()
    started = time.monotonic()
    digest = folder_digest(folder)
    folder, into = folder.absolute(), out.absolute()
    tasks = []
    for target, source in planned.items():
        size, version = size_and_version(source)
        tasks.append(Task(folder, digest, settings, source, version, size, into, target))
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
        if not any(record.files[one.target].unreadable for one in tasks):
            remove_slices(out)
    result = _summary(tasks, record, out)
    result.done_before = len(tasks) - len(left)
    result.predicted_now = sum(record.files[one.target].documents for one in left)
    result.seconds = time.monotonic() - started
    if not result.documents:
        raise Refused(
            f"{_named(planned)}: no document to predict; formats read: {', '.join(FORMATS)}"
            + "".join(f"; {line.strip()}" for line in result.tally.lines()[:3])
        )
    _report(result, title)
    return result


def _named(planned: Mapping[str, Source]) -> str:
    names = [source.name for source in planned.values()]
    return ", ".join(names[:MAX_NAMED]) + (", …" if len(names) > MAX_NAMED else "")


def _report(result: Predicted, title: str) -> None:
    """Write the report of the first documents."""
    docs = (doc for file in result.files for doc in read_documents(file, Tally()))
    shown = list(islice(docs, MOST_REPORTED))
    in_all = {f"documents predicted, the first {len(shown):,} are here": f"{result.documents:,}"}
    facts = in_all if result.documents > len(shown) else {}
    write_report(result.report, shown, title=title, facts=facts)


def _try_model(task: Task, workers: Workers) -> None:
    """Load the model once, so that a bad one fails before anything is written or removed."""
    if isinstance(workers, OneProcess):
        model_of(task.folder, task.digest, task.settings)
    else:  # this process need not have the workers' device
        load_relation_model(task.folder, torch.device("cpu"))


def _begin(tasks: list[Task], opened: Opened, out: Path, tell: Callable[[str], None]) -> None:
    """Remove outputs of another model or threshold, then write the record of this one.

    In this order, so that a killed run never leaves outputs beside the record of another model. The
    record names every output before it is written, so that the next run knows them all.
    """
    record, foreign, why = opened
    if foreign:
        (out / REPORT).unlink(missing_ok=True)
        remove_outputs(out, foreign)
    if others := len(foreign - {task.target for task in tasks}):
        tell(
            f"removed {others} outputs of other inputs from {out}, which were predicted {why}: a "
            "folder holds the predictions of one model at one threshold"
        )
    for task in tasks:
        record.files[task.target] = FileRecord(task.target, task.source.name, version=None)
    write_record(out, record)


def _carry_out(
    tasks: list[Task], record: PredictRecord, out: Path, workers: Workers, progress: Progress
) -> None:
    """Run the tasks, large files in slices first, and add each file to the record when done."""
    total = sum(task.stored_bytes for task in tasks)
    progress.start(total)
    here = isinstance(workers, OneProcess)
    large = {
        task.target: task
        for task in tasks
        if not here and is_large(task.stored_bytes, total, workers.number)
    }
    for done in workers.run(predict_slice, slices_to_do(large.values(), progress)):
        progress.add(*done)
    task_of = {task.target: task for task in tasks}
    work = partial(predict_file, progress=progress) if here else predict_file
    with appending(out) as append:
        for one in workers.run(work, ((task,) for task in tasks)):
            record.files[one.target] = one
            append(one)
            task = task_of[one.target]
            if not here and one.target not in large:
                progress.add(one.documents, task.stored_bytes)
            if has_slices(task.stored_bytes) and not one.unreadable:
                task.slices.remove()


def plan(inputs: list[str], out: Path) -> dict[str, Source]:
    """Every file to predict, by the path of its output relative to `out`.

    Paths within an input folder are kept. Raises Refused if two inputs have the same output, an
    output would be written beside its input, or `out` lies within an input folder.
    """
    planned: dict[str, Source] = {}
    real = lru_cache(Path.resolve)  # of a folder, which many files share
    for name in inputs:
        whole = locate(name)
        if Path(name).is_dir() and out.resolve().is_relative_to(Path(name).resolve()):
            raise Refused(f"{out}: lies within the input {name}; choose a folder outside of it")
        for file in list_files(whole):
            inner = file.name.removeprefix(whole.name).lstrip("/") or Path(file.name).name
            target = unpacked_name(inner)
            if target.split("/")[0] in (LOCK, RECORD, REPORT, RELATIONS, FOLDER):
                raise Refused(
                    f"{file.name}: the name {target} is reserved in --out; rename the input"
                )
            if target in planned:
                raise Refused(
                    f"{file.name}: its output {target} is also that of {planned[target].name}; "
                    "rename one, or give the files by name, each with another --out"
                )
            if real((out / target).parent) == real(Path(file.name).parent):
                raise Refused(f"{file.name}: --out is the folder of the input; choose another")
            planned[target] = file
    return planned


def slices_to_do(tasks: Iterable[Task], progress: Progress) -> Iterator[tuple[Task, Slice]]:
    """Cut files and yield the arguments of `predict_slice` for every slice that is not done."""
    for task in tasks:
        with suppress(OSError):  # counted when the file is written
            for one in slices_of(task.source, Tally()):
                if task.slices.is_done(one.number):
                    progress.skip(one.stored_bytes)
                else:
                    yield task, one


def _is_done(task: Task, record: PredictRecord) -> bool:
    before = record.files.get(task.target)
    name, parquet = task.source.name, task.settings.parquet
    return before is not None and is_done(before, name, task.version, task.out, parquet)


def _summary(tasks: list[Task], record: PredictRecord, out: Path) -> Predicted:
    result = Predicted([], 0, 0, Tally(), out / REPORT)
    for task in tasks:
        one = record.files[task.target]
        result.files += [out / one.target] if one.bytes else []
        result.not_read += [] if was_read(one) else [one.source]
        result.documents += one.documents
        result.relations += one.relations
        result.tally.add(one.dropped, one.examples)
    return result
