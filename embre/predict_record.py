"""What a prediction run has done: `predicted.json` beside its outputs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import msgspec

from embre.corpora.sources import Source
from embre.durable import PARTIAL, commit
from embre.relation_rows import table_of

RECORD = "predicted.json"
FORMAT = 1
LEFTOVERS = f"*.{'[0-9a-f]' * 8}{PARTIAL}"
LOCK = ".lock"
# What file systems call that which changes with a file: local, S3, HTTP, Google's, Azure's.
VERSION_KEYS = (
    *("mtime", "ETag", "LastModified", "Last-Modified", "last_modified", "updated"),
    *("Content-MD5", "created"),
)


class FileRecord(msgspec.Struct):
    """A file that was predicted: `target` is its name in the output folder, `bytes` its size
    there, 0 where the input is no corpus. `version` tells an input that was changed; `not_taken`
    counts by reason what was not read or not kept, with the first places in `examples`."""

    target: str
    source: str
    version: str | None
    bytes: int = 0
    documents: int = 0
    relations: int = 0
    seconds: float = 0.0
    not_taken: dict[str, int] = {}
    examples: dict[str, list[str]] = {}


class PredictRecord(msgspec.Struct):
    """The model by its digest, the threshold if one was given, and the files that are done."""

    format: int
    model: str
    threshold: float | None
    files: dict[str, FileRecord]


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """One run at a time writes into a folder: another would take its unfinished files for rubbish.

    Raises ValueError where one does.
    """
    out.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(out / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise ValueError(
            f"{out}: another run predicts into it; wait for its end, or choose another --out"
        ) from error
    try:
        yield
    finally:
        lock.release()


def targets_of(out: Path) -> set[str]:
    """The outputs that earlier runs have recorded; none where their record cannot be read."""
    try:
        return set(msgspec.json.decode((out / RECORD).read_bytes(), type=PredictRecord).files)
    except (OSError, msgspec.DecodeError):
        return set()


def remove_output(out: Path, target: str) -> None:
    """An output and its table."""
    (out / target).unlink(missing_ok=True)
    table_of(out, target).unlink(missing_ok=True)


def read_record(
    out: Path, model: str, threshold: float | None, overwrite: bool = False
) -> PredictRecord:
    """What earlier runs into `out` have done; nothing yet where it is new or is to be overwritten.

    Raises ValueError where they used another model or threshold.
    """
    path = out / RECORD
    if overwrite or not path.exists():
        return PredictRecord(FORMAT, model, threshold, {})
    try:
        record = msgspec.json.decode(path.read_bytes(), type=PredictRecord)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path}: {error}; give --overwrite to predict all again") from error
    different = [
        f"with another {what}"
        for what, before, now in (
            ("format of this file", record.format, FORMAT),
            ("model", record.model, model),
            ("threshold", record.threshold, threshold),
        )
        if before != now
    ]
    if different:
        raise ValueError(
            f"{out}: holds what was predicted {' and '.join(different)}; choose another --out, or "
            "give --overwrite to predict all again"
        )
    return record


def write_record(out: Path, record: PredictRecord) -> None:
    """Replace the record, whole or not at all."""
    commit(out / RECORD, msgspec.json.format(msgspec.json.encode(record), indent=1))


def is_done(record: FileRecord, source: str, version: str | None, out: Path, parquet: bool) -> bool:
    """Whether a file of this version was predicted, and all that is wanted of it is there."""
    if record.source != source or version is None or record.version != version:
        return False
    if not record.bytes:  # no corpus then, and the same bytes now
        return not {"file/unreadable"} & set(record.not_taken)
    target = out / record.target
    whole = target.is_file() and target.stat().st_size == record.bytes
    return whole and (not parquet or table_of(out, record.target).is_file())


def version_of(source: Source) -> str | None:
    """What changes when a file does: its size, and what else its file system says of it; None
    where it says nothing, so that nobody can know."""
    info = source.filesystem.info(source.path)
    marks = [info[key] for key in VERSION_KEYS if info.get(key) is not None]
    said = [one for one in (info.get("size"), *marks[:1]) if one is not None]
    return " ".join(map(str, said)) or None


def clear_leftovers(out: Path) -> None:
    """Remove what runs that were killed left half written."""
    for path in out.rglob(LEFTOVERS):
        path.unlink(missing_ok=True)
