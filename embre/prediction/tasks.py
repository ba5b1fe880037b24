"""The work of a prediction worker: one file, or one slice of a large one.

Task ──predict_slice──▶ the relations of some documents, in its slice
Task ──predict_file──▶ the output, from its slices if it has any, and a FileRecord
"""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import torch

from embre import __version__
from embre.corpora import copy_with_relations, documents_to_copy
from embre.corpora.sources import Source, StoredFile
from embre.document import Document
from embre.prediction.record import FileRecord, remove_output
from embre.prediction.relation_rows import table_of, writing_table
from embre.prediction.slices import Slices
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
    and `out`."""

    folder: Path
    digest: str
    settings: PredictSettings
    source: Source
    version: str | None
    out: Path
    target: str
    num_slices: int = 1

    @property
    def slices(self) -> Slices:
        what = (__version__, self.digest, self.settings.threshold, self.source.name, self.version)
        return Slices.of(self.out, self.num_slices, *what)


def predict_slice(task: Task, nth: int) -> int:
    """Predict one slice of a file and write its relations; return the number of documents."""
    model, tally = model_of(task.folder, task.digest, task.settings), Tally()
    if not _can_be_opened(task.source, Tally()):  # counted when the file is written
        return 0
    docs = documents_to_copy(task.source, Tally(), task.slices.has(nth))
    return task.slices.write(nth, predict(model, docs, tally), tally)


def predict_file(
    task: Task, progress: Callable[[int], None] = lambda documents: None
) -> FileRecord:
    """Predict one file; its output is written atomically."""
    started, tally = time.monotonic(), Tally()
    found = FileRecord(task.target, task.source.name, task.version)
    if _can_be_opened(task.source, tally):
        target = task.out / task.target
        predicted = partial(_predicted, task, found, tally, progress)
        is_corpus = copy_with_relations(task.source, target, tally, predicted)
        if not is_corpus:  # remove the output of an earlier version
            remove_output(task.out, task.target)
        elif not task.settings.parquet:  # an earlier table would not fit
            table_of(task.out, task.target).unlink(missing_ok=True)
        found.bytes = target.stat().st_size if is_corpus else 0
    found.dropped, found.examples = dict(tally.counts), tally.examples
    found.seconds = round(time.monotonic() - started, 3)
    return found


def _predicted(
    task: Task,
    found: FileRecord,
    tally: Tally,
    progress: Callable[[int], None],
    docs: Iterator[Document],
) -> Iterator[Document]:
    """Yield the documents of a file with their relations, counting them in `found`.

    Their table is completed after the last document, before the output is renamed into place: if
    the output exists, so does its table.
    """
    if task.num_slices > 1:
        with_relations = task.slices.put_into(docs, tally)
    else:
        with_relations = predict(model_of(task.folder, task.digest, task.settings), docs, tally)
    parquet = task.settings.parquet
    table = writing_table(task.out, task.target, task.source.name) if parquet else nullcontext()
    with table as rows:
        for doc in with_relations:
            found.documents += 1
            found.relations += len(doc.relations)
            if rows:
                rows.add(doc)
            progress(1)
            yield doc


@lru_cache(maxsize=1)
def model_of(folder: Path, digest: str, settings: PredictSettings) -> LoadedModel:
    """The model, loaded once per process."""
    from embre.tokenization.cached import (
        CachedTokenizer,
    )  # imports numba, which prediction needs only here

    if settings.one_thread:
        torch.set_num_threads(1)
    loaded = load_relation_model(folder, torch.device(settings.device))
    words = CachedTokenizer(loaded.builder.tokenizer)
    loaded = replace(loaded, builder=replace(loaded.builder, words=words))
    if settings.threshold is None:
        return loaded
    return replace(loaded, decision=loaded.decision.at(settings.threshold))


def _can_be_opened(source: Source, tally: Tally) -> bool:
    try:
        with StoredFile(source) as stream:
            stream.read(1)
    except OSError as error:
        tally.drop("file/unreadable", source.name, str(error))
        return False
    return True
