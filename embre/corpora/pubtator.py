"""PubTator text: `id|t|title`, `id|a|abstract`, a line per mention and per relation, a blank line.

    10491763|t|Hepatocyte nuclear factor-6: ...
    10491763|a|AIMS/HYPOTHESIS: The transcription factor ...
    10491763<TAB>676<TAB>680<TAB>MODY<TAB>GeneOrGeneProduct<TAB>3172,3651,6927
    10491763<TAB>Association<TAB>3175<TAB>D003924<TAB>No

A relation line may end before the novelty, or have the probability of a prediction after it.
"""

import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from embre.corpora.assemble import assemble
from embre.corpora.bioc import ids_of
from embre.corpora.raw import (
    Chunk,
    RawDocument,
    RawMention,
    RawPassage,
    RawRelation,
)
from embre.corpora.window import Window, cut_at
from embre.document import Document
from embre.tally import Tally

HEADING = re.compile(r"([^|\t]+)\|([ta])\|(.*)", re.DOTALL)
UNREADABLE = re.compile("[\0\udc80-\udcff]")  # NUL, and surrogates of invalid UTF-8


def cut(window: Window) -> Iterator[Chunk]:
    """Cut a file after blank lines and before titles."""
    yield from cut_at(window, "pubtator", _first_end, _last_end)
    line, rest = window.line, window.take(len(window.data))
    if rest and window.broken:
        window.tally.drop("document/cut_off", f"{window.file}:{line}")
    elif rest:
        yield Chunk(window.file, "pubtator", line, rest)


def split(chunk: Chunk) -> Iterator[tuple[bytes, Chunk]]:
    """Yield the chunk as one piece: an edit finds a document's lines by its id."""
    yield chunk.data, chunk


def _last_end(data: bytes, at: int) -> int:
    unix, windows = data.rfind(b"\n\n", at), data.rfind(b"\n\r\n", at)
    ends = [unix + 2] * (unix >= 0) + [windows + 3] * (windows >= 0)
    mark = len(data)
    while (mark := data.rfind(b"|t|", at, mark)) >= 0:
        mark = data.rfind(b"\n", at, mark) + 1  # only a line's first mark can be a heading's
        if mark > at and _is_title(data, mark):
            ends.append(mark)
            break
    return max(ends, default=0)


def _first_end(data: bytes, at: int) -> int:
    unix, windows = data.find(b"\n\n", at), data.find(b"\n\r\n", at)
    ends = [unix + 2] * (unix >= 0) + [windows + 3] * (windows >= 0)
    start = data.find(b"\n", at) + 1
    while start and (mark := data.find(b"|t|", start)) >= 0:
        start = data.rfind(b"\n", at, mark) + 1
        if _is_title(data, start):
            ends.append(start)
            break
        start = data.find(b"\n", mark) + 1
    return min(ends, default=0)


def _is_title(data: bytes, start: int) -> bool:
    name = data[start : data.find(b"|t|", start)]
    return bool(name) and b"|" not in name and b"\t" not in name


class _Block:
    """The lines of one document, read so far."""

    __slots__ = ("doc_id", "title", "abstract", "mentions", "relations", "line", "unreadable")

    def __init__(self, doc_id: str, title: str, line: int) -> None:
        self.doc_id, self.title, self.line = doc_id, title, line
        self.abstract: str | None = None
        self.mentions: list[RawMention] = []
        self.relations: list[RawRelation] = []
        self.unreadable = False

    def documents(self, file: str, tally: Tally) -> Iterator[RawDocument]:
        """The document, unless its text is damaged."""
        if self.unreadable:
            place = f"{file}:{self.line}#{self.doc_id}"
            tally.drop("document/unreadable", place, "its text contains NUL or is not UTF-8")
            return
        passages = [RawPassage(0, self.title, "title")]
        if self.abstract is not None:
            passages.append(RawPassage(len(self.title) + 1, self.abstract, "abstract"))
        _, pmid, pmcid = ids_of(self.doc_id, "", ())  # the id stays as its lines have it
        yield RawDocument(self.doc_id, pmid, pmcid, passages, self.mentions, self.relations, file)


def read(stream: BinaryIO, file: str, tally: Tally) -> Iterator[Document]:
    """Yield every document of an open stream."""
    for chunk in cut(Window(stream, file, tally)):
        for raw in read_chunk(chunk, tally):
            yield assemble(raw, tally)


def read_chunk(chunk: Chunk, tally: Tally, with_relations: bool = True) -> Iterator[RawDocument]:
    """Yield the documents of a chunk; unreadable lines are counted with their numbers."""
    file, block, add, relate = chunk.file, None, None, None
    usual = None  # the id of the current document; its lines take the fast path
    new = tuple.__new__  # half the time of RawMention(...), and most lines are mentions
    lines, damaged = _lines(chunk)
    for number, line in enumerate(lines, start=chunk.line):
        columns = line.split("\t")
        heading = title = None
        if columns[0] == usual and add and relate:
            size = len(columns)
            if size == 6:
                _, start, end, surface, kind, identifier = columns
                try:
                    values = (int(start), int(end), surface, kind, identifier, number)
                except ValueError:
                    pass
                else:
                    add(new(RawMention, values))
                    continue
            if 4 <= size <= 6 and columns[1][:1].isalpha():
                if with_relations:
                    relate(new(RawRelation, _relation_of(columns, number)))
                continue
        elif "|" in line and (heading := HEADING.match(line)) and heading[2] == "t":
            title = heading
        if block and (title or not line):
            yield from block.documents(file, tally)
            block = usual = None
        if title:
            block = _Block(title[1].strip(), title[3], number)
            usual = None if damaged else block.doc_id or None
            add, relate, fault = block.mentions.append, block.relations.append, ""
        elif not line or line.startswith("##"):
            continue
        elif damaged and not heading and UNREADABLE.search(line):
            fault = "line/unreadable"
        else:
            fault = _read_line(columns, heading, number, block)
        if damaged and heading and block and UNREADABLE.search(line):
            block.unreadable = True
        if fault:
            detail = line[:80].encode(errors="replace").decode()
            tally.drop(fault, f"{file}:{number}", detail)
    if block:
        yield from block.documents(file, tally)


def _lines(chunk: Chunk) -> tuple[list[str], bool]:
    """Return the lines, and whether any contains NUL or invalid UTF-8."""
    try:
        text, damaged = chunk.data.decode(), False
    except UnicodeDecodeError:
        text, damaged = chunk.data.decode(errors="surrogateescape"), True
    lines = text.split("\n")
    if "\r" in text:
        lines = [line.rstrip("\r") for line in lines]
    return lines, damaged or "\0" in text


def _read_line(
    columns: list[str], heading: re.Match[str] | None, number: int, block: _Block | None
) -> str:
    """Add one line to its document; return the reason if that fails, else an empty string."""
    doc_id = (heading[1] if heading else columns[0]).strip()
    if block is None:
        return "line/no_document"
    if doc_id != block.doc_id:
        return "line/other_document" if heading or len(columns) > 3 else "line/unreadable"
    if heading:
        if block.abstract is not None:
            return "line/second_abstract"
        block.abstract = heading[3]
        return ""
    start, end = (*map(_offset, columns[1:3]), None, None)[:2]
    if len(columns) > 4 and start is not None and end is not None:
        identifier = "".join(columns[5:6])
        block.mentions.append(RawMention(start, end, columns[3], columns[4], identifier, number))
    elif 4 <= len(columns) <= 6 and start is None:
        block.relations.append(RawRelation(*_relation_of(columns, number)))
    else:
        return "line/unreadable"
    return ""


def _relation_of(columns: list[str], number: int) -> tuple[Any, ...]:
    novel = columns[4] if len(columns) > 4 else ""
    score = columns[5] if len(columns) > 5 else ""
    return columns[1], ("", columns[2]), ("", columns[3]), novel, score, number


def _offset(column: str) -> int | None:
    try:
        return int(column)
    except ValueError:
        return None
