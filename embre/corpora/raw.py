"""The words that readers hand on: a chunk of a file, a raw document, a checked one.

file ──cut──▶ Chunk ──read──▶ RawDocument ──check──▶ CheckedDocument

All of them are plain tuples, so that they pass between processes quickly.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from embre.document import Passage

NOVELTY = {True: "Novel", False: "No"}  # as files say it
CHUNK_BYTES = 8 << 20
# No article comes near; what is larger is a broken or hostile file.
MAX_DOCUMENT_BYTES = 64 << 20


class Chunk(NamedTuple):
    """Whole documents cut out of one file. `line` is the first one's line in that file."""

    file: str
    format: str
    line: int
    data: bytes


class RawPassage(NamedTuple):
    """A passage as a file gives it, `offset` counted in its document."""

    offset: int
    text: str
    kind: str
    section: str = ""


class RawMention(NamedTuple):
    """A mention as a file gives it; nothing about it is trusted yet."""

    start: int
    end: int
    text: str
    type: str
    identifier: str
    place: str | int


class RawRelation(NamedTuple):
    """A relation as a file gives it. An end is (type or '', identifier)."""

    type: str
    head: tuple[str, str]
    tail: tuple[str, str]
    novel: str
    score: str
    place: str | int


class RawDocument(NamedTuple):
    """A document as a file gives it; nothing is trusted yet. `pmcid` is `PMC123` or None."""

    doc_id: str
    pmid: str | None
    pmcid: str | None
    passages: list[RawPassage]
    mentions: list[RawMention]
    relations: list[RawRelation]
    file: str


class CheckedDocument(NamedTuple):
    """A document whose text is laid out and bears out every mention; mentions in order."""

    doc_id: str
    pmid: str | None
    pmcid: str | None
    text: str
    passages: tuple[Passage, ...]
    mentions: list[RawMention]
    file: str


class PlainDocuments(NamedTuple):
    """Checked documents without their mentions, and the mentions of all as columns.

    `doc_of`, `starts`, `ends` (num_mentions,): the document's place in `docs`, and characters of
    it, in order. `surfaces` and `spellings` (type, tab, identifier) are Arrow strings.
    """

    docs: list[CheckedDocument]
    doc_of: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    surfaces: pa.Array
    spellings: pa.Array
