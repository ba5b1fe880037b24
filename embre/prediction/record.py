"""What a prediction run has done: `predicted.json` beside its outputs."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import filelock
import msgspec

from embre.atomic_files import fsync_path, write_atomic
from embre.prediction.relation_rows import table_of
from embre.refused import Refused

RECORD = "predicted.json"
REPORT = "report.html"
FORMAT = 2
LOCK = ".lock"
NO_CORPUS = {"file/unknown_format", "file/without_document"}


class FileRecord(msgspec.Struct):
    """A file that was predicted: `target` is its name in the output folder, `bytes` its size
    there, 0 where the input is no corpus. `version` tells an input that was changed, None one that
    a run has not finished; `dropped` counts by reason what was not read or not kept, with the
    first places in `examples`."""

    target: str
    source: str
    version: str | None
    bytes: int = 0
    documents: int = 0
    relations: int = 0
    seconds: float = 0.0
    dropped: dict[str, int] = {}
    examples: dict[str, list[str]] = {}


class PredictRecord(msgspec.Struct):
    """The model by its digest, the threshold if one was given, and every file that may have an
    output of them."""

    format: int
    model: str
    threshold: float | None
    files: dict[str, FileRecord]


class Opened(NamedTuple):
    """The record that a run goes on with. The outputs `foreign` are of another model or threshold,
    `why` says of what, and go before the record is written: no folder holds those of two."""

    record: PredictRecord
    foreign: frozenset[str] = frozenset()
    why: str = ""


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """One run at a time writes into a folder: another would take its unfinished files for rubbish.

    The thread that holds the lock may take it once more, as a run does that first fetches a model.
    Raises Refused where another run holds it.
    """
    out.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(out.resolve() / LOCK, is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise Refused(
            f"{out}: another run predicts into it; wait for its end, or choose another --out"
        ) from error
    try:
        yield
    finally:
        lock.release()


def outputs_in(folder: Path) -> list[Path] | None:
    """The outputs in a folder that its record names; None where it has no record."""
    try:
        record = msgspec.json.decode((folder / RECORD).read_bytes(), type=PredictRecord)
    except (OSError, msgspec.DecodeError):  # a corpus may have a file of this name
        return None
    return [folder / name for name in sorted(_may_be_there(record)) if (folder / name).is_file()]


def remove_output(out: Path, target: str) -> None:
    """An output and its table."""
    (out / target).unlink(missing_ok=True)
    table_of(out, target).unlink(missing_ok=True)


def remove_outputs(out: Path, targets: Iterable[str]) -> None:
    """Outputs and their tables, gone from the disk before this returns."""
    folders: set[Path] = set()
    for target in targets:
        remove_output(out, target)
        folders |= {(out / target).parent, table_of(out, target).parent}
    for folder in folders:
        if folder.is_dir():
            fsync_path(folder)


def open_record(out: Path, model: str, threshold: float | None, overwrite: bool = False) -> Opened:
    """What earlier runs into `out` have done, to go on with; an empty record where there is
    nothing of them.

    Raises Refused where the outputs that are there are of another model or threshold and not
    to be overwritten, and where nobody can know of what they are.
    """
    empty = Opened(PredictRecord(FORMAT, model, threshold, {}))
    if not (out / RECORD).exists():
        return empty
    try:
        record = msgspec.json.decode((out / RECORD).read_bytes(), type=PredictRecord)
    except msgspec.DecodeError as error:
        raise Refused(
            f"{out / RECORD}: {error}; nobody knows which model predicted the files beside it: "
            "choose another --out, or remove the folder"
        ) from error
    different = [
        f"with another {what}"
        for what, before, now in (
            ("format of this file", record.format, FORMAT),
            ("model", record.model, model),
            ("threshold", record.threshold, threshold),
        )
        if before != now
    ]
    if not different:
        return Opened(record)
    there = [
        name
        for name in _may_be_there(record)
        if (out / name).exists() or table_of(out, name).exists()
    ]
    if not there:  # a run that failed, or was killed, before it predicted anything
        return empty
    why = " and ".join(different)
    if not overwrite:
        raise Refused(
            f"{out}: holds what was predicted {why}; choose another --out, or give --overwrite to "
            "remove that and predict the given files"
        )
    return Opened(empty.record, frozenset(there), why)


def refuse_others(out: Path, opened: Opened, targets: Iterable[str]) -> None:
    """Refused where a file that no run of ours wrote has the name of one that is to be written,
    or of its table.

    Records name outputs before they are there, so what a killed run left passes for ours.
    """
    ours = {*opened.foreign, *_may_be_there(opened.record)}
    others = [target for target in targets if target not in ours]
    paths = [path for name in others for path in (out / name, table_of(out, name))]
    if not (out / RECORD).exists():
        paths.append(out / REPORT)
    for path in paths:
        if path.exists():
            raise Refused(
                f"{path}: is in the way and no output of `embre predict`; move it elsewhere, or "
                "choose another --out"
            )


def _may_be_there(record: PredictRecord) -> Iterator[str]:
    """The outputs that a record knows. An input that is no corpus has none: what lies under its
    name is somebody else's."""
    for name, one in record.files.items():
        if one.bytes or one.version is None or "file/unreadable" in one.dropped:
            yield name


def write_record(out: Path, record: PredictRecord) -> None:
    """Replace the record, whole or not at all."""
    write_atomic(out / RECORD, msgspec.json.format(msgspec.json.encode(record), indent=1))


def was_read(record: FileRecord) -> bool:
    """Whether an input was read to its end, or is no corpus."""
    lost = {reason for reason in record.dropped if reason.startswith("file/")} - NO_CORPUS
    return not lost and "document/cut_off" not in record.dropped


def is_done(record: FileRecord, source: str, version: str | None, out: Path, parquet: bool) -> bool:
    """Whether a file of this version was predicted, and all that is wanted of it is there."""
    if record.source != source or version is None or record.version != version:
        return False
    if not record.bytes:  # no corpus then, and the same bytes now
        return not {"file/unreadable"} & set(record.dropped)
    target = out / record.target
    whole = target.is_file() and target.stat().st_size == record.bytes
    return whole and (not parquet or table_of(out, record.target).is_file())
