"""The predicted slices of a file, stored until its output is written.

So a stopped run resumes within a file, and several workers share a large one: one process cuts it
and hands the slices out, and what each worker stored is put together to the output.
"""

import hashlib
import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from embre.atomic_files import write_atomic
from embre.prediction.relation_rows import Row

FOLDER = ".slices"
FILES_EACH = 4  # per process; a file with a smaller share of all bytes is one call
MIN_BYTES = 1 << 20  # as stored; a smaller file has hardly more than one slice


class PredictedSlice(msgspec.Struct):
    """A slice with its predicted relations: the bytes of its pieces, and their rows in a table.

    `digest` is that of the slice. `dropped` counts by reason what was not read or kept.
    """

    digest: str
    documents: int
    rows: list[Row]
    pieces: list[bytes]
    dropped: dict[str, int]
    examples: dict[str, list[str]]


class SliceStore(NamedTuple):
    """The predicted slices of a file. `key` is unique to the model and the input."""

    folder: Path
    key: str

    @classmethod
    def of(cls, out: Path, *what: object) -> "SliceStore":
        """The slices of a file; `what` is everything that their content depends on."""
        key = hashlib.sha256("\n".join(map(str, what)).encode()).hexdigest()[:16]
        return cls(out / FOLDER, key)

    def path(self, number: int) -> Path:
        return self.folder / f"{self.key}-{number}"

    def is_done(self, number: int) -> bool:
        return self.path(number).exists()

    def write(self, number: int, predicted: PredictedSlice) -> None:
        """Write a slice atomically."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path(number), msgspec.msgpack.encode(predicted))

    def read(self, number: int) -> PredictedSlice | None:
        """Read a slice; None if it does not exist."""
        try:
            data = self.path(number).read_bytes()
        except FileNotFoundError:
            return None
        return msgspec.msgpack.decode(data, type=PredictedSlice)

    def remove(self) -> None:
        """Remove the slices of the file, not the folder: a worker may be about to write into it."""
        _remove(self.folder, re.compile(rf"{self.key}-\d+"))


def has_slices(stored_bytes: int) -> bool:
    """Whether a file may have more than one slice."""
    return stored_bytes >= MIN_BYTES


def is_large(stored_bytes: int, in_all: int, processes: int) -> bool:
    """Whether a file is so much of the work that several workers should share it."""
    return has_slices(stored_bytes) and stored_bytes * FILES_EACH * processes > in_all


def remove_slices(out: Path) -> None:
    """Remove all slices, also those of other runs, once every file is read. Other files stay."""
    _remove(out / FOLDER, re.compile(r"[0-9a-f]{16}-\d+"))
    with suppress(OSError):  # it does not exist, or holds other files
        (out / FOLDER).rmdir()


def _remove(folder: Path, name: re.Pattern[str]) -> None:
    for path in folder.glob("*"):
        if name.fullmatch(path.name):
            path.unlink()
