"""Prediction of a large file by several workers, each on some blocks of its documents.

A worker reads the whole file, which is cheap compared with predicting, and writes the relations of
its documents to a slice. When all slices exist, the file is copied with their relations.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import msgspec

from embre.atomic_files import atomic_file
from embre.document import Document, Relation
from embre.relations.decode import DOCUMENTS_AT_ONCE
from embre.tally import Tally

CHANGED = "a file was changed while it was read; run the same command again"
FOLDER = ".slices"
SLICES_EACH = 2  # per process, over all files; each slice reads its whole file
SLICE_BYTES = 1 << 20  # minimum, as stored; below it starting costs more than it gains


class _Dropped(msgspec.Struct):
    """What was dropped in a slice."""

    counts: dict[str, int]
    examples: dict[str, list[str]]


class Slices(NamedTuple):
    """The slices of a file. `key` is unique to the model and the input."""

    folder: Path
    key: str
    number: int

    @classmethod
    def of(cls, out: Path, number: int, *what: object) -> "Slices":
        """The slices of a file; `what` is everything that their content depends on."""
        key = hashlib.sha256("\n".join(map(str, what)).encode()).hexdigest()[:16]
        return cls(out / FOLDER, key, number)

    def path(self, nth: int) -> Path:
        return self.folder / f"{self.key}-{nth}-of-{self.number}"

    def is_done(self, nth: int) -> bool:
        return self.path(nth).exists()

    def has(self, nth: int) -> Iterator[bool]:
        """Whether each document of the file belongs to a slice; infinite. Blocks of
        DOCUMENTS_AT_ONCE documents are dealt to the slices in turn."""
        return (owner == nth for owner in self._owners())

    def write(self, nth: int, docs: Iterable[Document], tally: Tally) -> int:
        """Write the relations of a slice's documents; return the number of documents."""
        self.folder.mkdir(parents=True, exist_ok=True)
        number = 0
        with atomic_file(self.path(nth)) as partial, partial.open("wb") as file:
            for doc in docs:
                number += 1
                file.write(msgspec.json.encode(doc.relations) + b"\n")
            file.write(msgspec.json.encode(_Dropped(dict(tally.counts), tally.examples)))
        return number

    def put_into(self, docs: Iterable[Document], tally: Tally) -> Iterator[Document]:
        """Yield the documents of the file with the relations of their slices.

        Raises OSError if the file has changed since the slices were written.
        """
        paths = [self.path(nth) for nth in range(self.number)]
        if not all(path.exists() for path in paths):  # the file could not be opened
            raise OSError(CHANGED)
        with ExitStack() as opened:
            slices = [opened.enter_context(path.open("rb")) for path in paths]
            for doc, owner in zip(docs, self._owners(), strict=False):
                line = slices[owner].readline()
                if not line.startswith(b"["):
                    raise OSError(CHANGED)
                relations = msgspec.json.decode(line, type=tuple[Relation, ...])
                yield replace(doc, relations=relations)
            for file in slices:
                dropped = msgspec.json.decode(file.read(), type=_Dropped)
                tally.add(dropped.counts, dropped.examples)

    def _owners(self) -> Iterator[int]:
        """The slice of each document of the file; infinite."""
        for nth in cycle(range(self.number)):
            yield from (nth for _ in range(DOCUMENTS_AT_ONCE))


def num_slices(stored_bytes: int, in_all: int, processes: int) -> int:
    """The number of slices of a file, proportional to its share of the bytes of all files."""
    share = SLICES_EACH * processes * stored_bytes // max(in_all, 1)
    return max(1, min(stored_bytes // SLICE_BYTES, share))


def remove_slices(out: Path) -> None:
    """Remove all slices, also those of other runs, once every file is done. Other files stay."""
    for path in (out / FOLDER).glob("*"):
        if re.fullmatch(r"[0-9a-f]{16}-\d+-of-\d+", path.name):
            path.unlink()
    with suppress(OSError):  # it does not exist, or holds files of others
        (out / FOLDER).rmdir()
