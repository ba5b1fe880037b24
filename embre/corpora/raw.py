"""The value types of the readers: chunk, raw document, checked document.

file ──cut──▶ Chunk ──read──▶ RawDocument ──check──▶ CheckedDocument

All of them are plain tuples, so that they pass between processes quickly.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from embre.document import Passage

NOVELTY = {True: "Novel", False: "No"}  # the words in files
CHUNK_BYTES = 8 << 20
# No article comes near; a larger one is a broken or hostile file.
MAX_DOCUMENT_BYTES = 64 << 20


class Chunk(NamedTuple):
    """Whole documents cut out of one file; `line` is the line number of the first."""

    file: str
    format: str
    line: int
    data: bytes


class RawPassage(NamedTuple):
    """A passage as in the file; `offset` counts characters of the document."""

    offset: int
    text: str
    kind: str
    section: str = ""


class RawMention(NamedTuple):
    """An unchecked mention as in the file."""

    start: int
    end: int
    text: str
    type: str
    identifier: str
    place: str | int


class RawRelation(NamedTuple):
    """An unchecked relation as in the file; `head` and `tail` are (type or '', identifier)."""

    type: str
    head: tuple[str, str]
    tail: tuple[str, str]
    novel: str
    score: str
    place: str | int


class RawDocument(NamedTuple):
    """An unchecked document as in the file; `pmcid` is `PMC123` or None."""

    doc_id: str
    pmid: str | None
    pmcid: str | None
    passages: list[RawPassage]
    mentions: list[RawMention]
    relations: list[RawRelation]
    file: str


class CheckedDocument(NamedTuple):
    """A document with its laid-out text; every mention matches it, mentions are sorted."""

    doc_id: str
    pmid: str | None
    pmcid: str | None
    text: str
    passages: tuple[Passage, ...]
    mentions: list[RawMention]
    file: str


class PlainDocuments(NamedTuple):
    """Checked documents without mentions, and all their mentions as columns (num_mentions,).

    `doc_of` is the index in `docs`, `starts` and `ends` are characters of the document; sorted.
    `surfaces` and `spellings` (type, tab, identifier) are Arrow strings.
    """

    docs: list[CheckedDocument]
    doc_of: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    surfaces: pa.Array
    spellings: pa.Array
