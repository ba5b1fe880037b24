"""The record of a prediction folder: `predicted.jsonl`, beside the outputs.

A header, then a line for each file that a run begins or has finished; the last line of an output
counts. A run writes the whole record once, then only appends, so a finished file costs one line.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import filelock
import msgspec

from embre.atomic_files import atomic_file, fsync_path
from embre.prediction.relation_rows import table_of
from embre.refused import Refused

RECORD = "predicted.jsonl"
REPORT = "report.html"
FORMAT = 3
LOCK = ".lock"
UNREADABLE = "file/unreadable"
NO_CORPUS = {"file/unknown_format", "file/without_document"}


class FileRecord(msgspec.Struct, omit_defaults=True):
    """The record of one file.

    `target` is the path of the output relative to the folder, `bytes` its size, 0 if the input is
    not a corpus. `version` identifies the content of the input, None until the file is done.
    `dropped` counts by reason what was not read or kept, with the first places in `examples`.
    """

    target: str
    source: str
    version: str | None = None
    bytes: int = 0
    documents: int = 0
    relations: int = 0
    seconds: float = 0.0
    dropped: dict[str, int] = {}
    examples: dict[str, list[str]] = {}

    @property
    def unreadable(self) -> bool:
        """Whether an error ended the reading or writing; an earlier output stays then."""
        return UNREADABLE in self.dropped


class Header(msgspec.Struct):
    """The digest of the model, and the threshold if one was given."""

    format: int
    model: str
    threshold: float | None


class PredictRecord(NamedTuple):
    """The header, and every file that may have an output, by its target."""

    header: Header
    files: dict[str, FileRecord]


class Opened(NamedTuple):
    """The record that a run continues. `foreign` are outputs of another model or threshold (`why`
    says which differs), to be removed before the record is written."""

    record: PredictRecord
    foreign: frozenset[str] = frozenset()
    why: str = ""


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Lock the folder: a second run would remove the unfinished files of the first.

    Reentrant within a thread, because a run that first fetches a model locks it twice. Raises
    Refused if another run holds the lock.
    """
    out.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(out.resolve() / LOCK, is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise Refused(
            f"{out}: another run is writing to it; wait until it ends, or choose another --out"
        ) from error
    try:
        yield
    finally:
        lock.release()


def read_record(out: Path) -> PredictRecord:
    """Read the record of a folder. A line without end, as a killed run may leave, is ignored.

    Raises OSError if there is none, msgspec.DecodeError naming the line if it cannot be read.
    """
    header, files = None, dict[str, FileRecord]()
    with (out / RECORD).open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                if header is None:
                    header = _HEADER.decode(line)
                else:
                    one = _FILE.decode(line)
                    files[one.target] = one
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise msgspec.DecodeError(f"line {number}: {error}") from error
    if header is None:
        raise msgspec.DecodeError("it has no header")
    return PredictRecord(header, files)


_HEADER, _FILE = msgspec.json.Decoder(Header), msgspec.json.Decoder(FileRecord)


def outputs_in(folder: Path) -> list[Path] | None:
    """The existing outputs named by the record of a folder; None without a record."""
    try:
        record = read_record(folder)
    except (OSError, msgspec.DecodeError):  # e.g. a corpus file of this name
        return None
    return [folder / name for name in sorted(_may_be_there(record)) if (folder / name).is_file()]


def remove_output(out: Path, target: str) -> None:
    """Remove an output and its table."""
    (out / target).unlink(missing_ok=True)
    table_of(out, target).unlink(missing_ok=True)


def remove_outputs(out: Path, targets: Iterable[str]) -> None:
    """Remove outputs and their tables; fsyncs their folders."""
    folders: set[Path] = set()
    for target in targets:
        remove_output(out, target)
        folders |= {(out / target).parent, table_of(out, target).parent}
    for folder in folders:
        if folder.is_dir():
            fsync_path(folder)


def open_record(out: Path, model: str, threshold: float | None, overwrite: bool = False) -> Opened:
    """Read the record of earlier runs into `out`, or make an empty one.

    Raises Refused if the record cannot be read, or if there are outputs of another model or
    threshold and not `overwrite`.
    """
    empty = Opened(PredictRecord(Header(FORMAT, model, threshold), {}))
    if not (out / RECORD).exists():
        return empty
    try:
        record = read_record(out)
    except msgspec.DecodeError as error:
        raise Refused(
            f"{out / RECORD}: {error}; so the model of the files beside it is unknown: "
            "choose another --out, or remove the folder"
        ) from error
    different = [
        f"with another {what}"
        for what, before, now in (
            ("format of this file", record.header.format, FORMAT),
            ("model", record.header.model, model),
            ("threshold", record.header.threshold, threshold),
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
            f"{out}: holds predictions {why}; choose another --out, or give --overwrite to remove "
            "them and predict the given files"
        )
    return Opened(empty.record, frozenset(there), why)


def refuse_others(out: Path, opened: Opened, targets: Iterable[str]) -> None:
    """Raise Refused if the path of an output or its table is taken by a file that is not ours.

    Records name outputs before they are written, so leftovers of a killed run count as ours.
    """
    ours = {*opened.foreign, *_may_be_there(opened.record)}
    others = [target for target in targets if target not in ours]
    paths = [path for name in others for path in (out / name, table_of(out, name))]
    if not (out / RECORD).exists():
        paths.append(out / REPORT)
    for path in paths:
        if path.exists():
            raise Refused(
                f"{path}: exists and is not an output of `embre predict`; move it elsewhere, or "
                "choose another --out"
            )


def _may_be_there(record: PredictRecord) -> Iterator[str]:
    """Yield the outputs of a record. An input that is not a corpus has none: a file of its name is
    not ours."""
    for name, one in record.files.items():
        if one.bytes or one.version is None or one.unreadable:
            yield name


def write_record(out: Path, record: PredictRecord) -> None:
    """Replace the record atomically, one line for each file."""
    with atomic_file(out / RECORD) as partial, partial.open("wb") as file:
        for line in (record.header, *record.files.values()):
            file.write(msgspec.json.encode(line) + b"\n")


@contextmanager
def appending(out: Path) -> Iterator[Callable[[FileRecord], None]]:
    """Yield a function that appends a file to the record; a killed process loses none of them."""
    with (out / RECORD).open("ab", buffering=0) as file:

        def append(one: FileRecord) -> None:
            file.write(msgspec.json.encode(one) + b"\n")

        yield append
        os.fsync(file.fileno())


def was_read(record: FileRecord) -> bool:
    """Whether an input was read to its end, or is not a corpus."""
    lost = {reason for reason in record.dropped if reason.startswith("file/")} - NO_CORPUS
    return not lost and "document/cut_off" not in record.dropped


def is_done(record: FileRecord, source: str, version: str | None, out: Path, parquet: bool) -> bool:
    """Whether this version of a file was predicted, and its output and table exist as required."""
    if record.source != source or version is None or record.version != version:
        return False
    if not record.bytes:  # not a corpus, and unchanged
        return not record.unreadable
    target = out / record.target
    whole = target.is_file() and target.stat().st_size == record.bytes
    return whole and (not parquet or table_of(out, record.target).is_file())
