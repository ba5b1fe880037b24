"""The work of a prediction worker: one file, or one slice of a large one.

Task, Slice ──predict_slice──▶ a PredictedSlice, stored
Task ──predict_file──▶ the output, of stored slices and those that it predicts, and a FileRecord
"""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch

from embre import __version__
from embre.atomic_files import PERMANENT_ERRNOS
from embre.corpora import copy_edited, edit_slice
from embre.corpora.copying import Slice
from embre.corpora.sources import Source, StoredFile
from embre.document import Document
from embre.prediction.progress import Progress
from embre.prediction.record import UNREADABLE, FileRecord, remove_output
from embre.prediction.relation_rows import Row, rows_of, table_of, writing_table
from embre.prediction.slices import PredictedSlice, SliceStore, has_slices
from embre.refused import Refused
from embre.relations.decode import predict
from embre.relations.model_folder import LoadedModel, load_relation_model
from embre.tally import Tally


@dataclass(frozen=True, slots=True)
class PredictSettings:
    """Settings of prediction. `threshold`: minimum calibrated probability that a pair is related,
    replacing the model's own thresholds; `parquet`: also write tables; `one_thread`: for several
    processes on one machine."""

    device: str = "cpu"
    threshold: float | None = None
    parquet: bool = False
    one_thread: bool = False


class Task(NamedTuple):
    """One file to predict. `digest` is that of the model in `folder`; all workers must see `folder`
    and `out`. `stored_bytes` is the size of the file."""

    folder: Path
    digest: str
    settings: PredictSettings
    source: Source
    version: str | None
    stored_bytes: int
    out: Path
    target: str

    @property
    def slices(self) -> SliceStore:
        what = (__version__, self.digest, self.settings.threshold, self.source.name, self.version)
        return SliceStore.of(self.out, *what)


def predict_slice(task: Task, one: Slice) -> tuple[int, int]:
    """Predict one slice of a file and store it; return its documents and its bytes, as stored."""
    predicted = _predict(task, one, Progress())
    task.slices.write(one.number, predicted)
    return predicted.documents, one.stored_bytes


def predict_file(task: Task, progress: Progress | None = None) -> FileRecord:
    """Predict one file; its output is written atomically.

    The slices of a file that may have several are stored until then, for when the run is stopped or
    the store fails. A file that cannot be read is counted in the record, an earlier output of it
    stays. Raises OSError if the output cannot be written.
    """
    started, record = time.monotonic(), FileRecord(task.target, task.source.name, task.version)
    try:
        with StoredFile(task.source) as stream:
            stream.read(1)
    except OSError as error:
        return _unreadable(record, error)
    model_of(task.folder, task.digest, task.settings)  # an error of its own ends the run
    try:
        _write_output(task, record, progress or Progress())
    except (OSError, Refused) as error:
        if isinstance(error, OSError) and error.errno in PERMANENT_ERRNOS:
            raise  # of the output: every other file would fail as well
        return _unreadable(FileRecord(task.target, task.source.name, task.version), error)
    record.seconds = round(time.monotonic() - started, 3)
    return record


def _unreadable(record: FileRecord, error: Exception) -> FileRecord:
    tally = Tally()
    tally.drop(UNREADABLE, record.source, str(error))
    record.dropped, record.examples = dict(tally.counts), tally.examples
    return record


def _write_output(task: Task, record: FileRecord, progress: Progress) -> None:
    """Write the output and its table, and fill in the record."""
    tally, target, parquet = Tally(), task.out / task.target, task.settings.parquet

    def edit(one: Slice) -> list[bytes]:
        predicted = task.slices.read(one.number)
        if predicted is not None and predicted.digest == one.digest:
            progress.skip(one.stored_bytes)
        else:
            predicted = _predict(task, one, progress)
            if has_slices(task.stored_bytes):
                task.slices.write(one.number, predicted)
        record.documents += predicted.documents
        record.relations += len(predicted.rows)
        tally.add(predicted.dropped, predicted.examples)
        if add_rows:
            add_rows(predicted.rows)
        return predicted.pieces

    table = writing_table(task.out, task.target, task.source.name) if parquet else nullcontext()
    with table as add_rows:
        is_corpus = copy_edited(task.source, target, tally, edit)
    if not is_corpus:  # remove the output of an earlier version
        remove_output(task.out, task.target)
    elif not parquet:  # an earlier table would not fit
        table_of(task.out, task.target).unlink(missing_ok=True)
    record.bytes = target.stat().st_size if is_corpus else 0
    record.dropped, record.examples = dict(tally.counts), tally.examples


def _predict(task: Task, one: Slice, progress: Progress) -> PredictedSlice:
    """Predict the relations of a slice, reporting each document and at the end the bytes."""
    model, tally, rows = model_of(task.folder, task.digest, task.settings), Tally(), list[Row]()
    documents = 0

    def predicted(docs: Iterator[Document]) -> Iterator[Document]:
        nonlocal documents
        for doc in predict(model, docs, tally):
            documents += 1
            rows.extend(rows_of(doc))
            progress.add(1, 0)
            yield doc

    try:
        pieces = edit_slice(one, tally, predicted)
    except Exception as error:  # a bug or lack of memory; say which of many files to look at
        place = f"{task.source.name}, slice {one.number}"
        raise RuntimeError(f"{place}: {type(error).__name__}: {error}") from error
    progress.add(0, one.stored_bytes)
    return PredictedSlice(one.digest, documents, rows, pieces, dict(tally.counts), tally.examples)


@lru_cache(maxsize=1)
def model_of(folder: Path, digest: str, settings: PredictSettings) -> LoadedModel:
    """The model, loaded once per process."""
    # Imports numba, which prediction needs only here.
    from embre.tokenization.cached import CachedTokenizer

    if settings.one_thread:
        torch.set_num_threads(1)
    loaded = load_relation_model(folder, torch.device(settings.device))
    words = CachedTokenizer(loaded.builder.tokenizer)
    loaded = replace(loaded, builder=replace(loaded.builder, words=words))
    if settings.threshold is None:
        return loaded
    return replace(loaded, decision=loaded.decision.at(settings.threshold))
