"""A large file predicted by several workers, each of which does some blocks of its documents.

A worker goes through the whole file, which costs little beside predicting, and keeps the relations
of its documents in a slice. When all slices are there, the file is copied with the relations out of
them.
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
SLICES_EACH = 2  # of all that a run has to do, for each process; each goes through its whole file
SLICE_BYTES = 1 << 20  # as they are stored; below that starting costs more than it gains


class _Dropped(msgspec.Struct):
    """What a slice could not take."""

    counts: dict[str, int]
    examples: dict[str, list[str]]


class Slices(NamedTuple):
    """Where the slices of a file are. `key` tells them from those of another model or input."""

    folder: Path
    key: str
    number: int

    @classmethod
    def of(cls, out: Path, number: int, *what: object) -> "Slices":
        """The slices of a file, whose content depends on `what` alone."""
        key = hashlib.sha256("\n".join(map(str, what)).encode()).hexdigest()[:16]
        return cls(out / FOLDER, key, number)

    def path(self, nth: int) -> Path:
        return self.folder / f"{self.key}-{nth}-of-{self.number}"

    def is_done(self, nth: int) -> bool:
        return self.path(nth).exists()

    def has(self, nth: int) -> Iterator[bool]:
        """Whether a slice has each document of the file, without end: every so-manyth block of
        those that are predicted at once."""
        return (owner == nth for owner in self._owners())

    def write(self, nth: int, docs: Iterable[Document], tally: Tally) -> int:
        """Keep the relations of a slice's documents, and how many these are is the answer."""
        self.folder.mkdir(parents=True, exist_ok=True)
        number = 0
        with atomic_file(self.path(nth)) as partial, partial.open("wb") as file:
            for doc in docs:
                number += 1
                file.write(msgspec.json.encode(doc.relations) + b"\n")
            file.write(msgspec.json.encode(_Dropped(dict(tally.counts), tally.examples)))
        return number

    def put_into(self, docs: Iterable[Document], tally: Tally) -> Iterator[Document]:
        """All documents of the file with the relations of their slices.

        Raises OSError where the file is no longer what the slices were made of.
        """
        paths = [self.path(nth) for nth in range(self.number)]
        if not all(path.exists() for path in paths):  # it could not be opened then
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
        """The slice of each document of the file, without end."""
        for nth in cycle(range(self.number)):
            yield from (nth for _ in range(DOCUMENTS_AT_ONCE))


def num_slices(stored_bytes: int, in_all: int, processes: int) -> int:
    """Into how many slices a file is cut that is part of so much: as its share of it is."""
    share = SLICES_EACH * processes * stored_bytes // max(in_all, 1)
    return max(1, min(stored_bytes // SLICE_BYTES, share))


def remove_slices(out: Path) -> None:
    """When all files are there nobody needs the slices, those of other runs neither. What no run
    of ours has made stays."""
    for path in (out / FOLDER).glob("*"):
        if re.fullmatch(r"[0-9a-f]{16}-\d+-of-\d+", path.name):
            path.unlink()
    with suppress(OSError):  # there is none, or it holds something of somebody else
        (out / FOLDER).rmdir()
