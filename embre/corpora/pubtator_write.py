"""Writing PubTator text: whole documents, or a copy of a file with other relations in it."""

from collections.abc import Iterable, Iterator
from typing import BinaryIO

from embre.corpora.pubtator import HEADING
from embre.corpora.raw import MAX_DOCUMENT_BYTES
from embre.corpora.streams import BrokenArchive
from embre.document import Document, Relation
from embre.entity_types import spell

NOVELTY = {True: "Novel", False: "No", None: "None"}
_BREAKS = str.maketrans("\n\r\0", "   ")
_BREAKS_AND_TABS = str.maketrans("\n\r\0\t", "    ")


def write(stream: BinaryIO, documents: Iterable[Document]) -> None:
    """Write documents as PubTator text, with the identifiers that each document spells itself."""
    for doc in documents:
        stream.write("\n".join([*_document_lines(doc), "", ""]).encode())


def _document_lines(doc: Document) -> Iterator[str]:
    # The format knows two passages with one character between; offsets stay right whatever the
    # passages were, because the title takes all up to there and the abstract all the rest.
    # Passages without a character between are one title, or the format would lose one.
    first_end = doc.passages[0].end if doc.passages else 0
    second = next((p.start for p in doc.passages[1:2] if p.start > first_end), None)
    title = doc.text if second is None else doc.text[: second - 1]
    yield f"{doc.doc_id}|t|{title.translate(_BREAKS)}"
    if second is not None:
        yield f"{doc.doc_id}|a|{doc.text[second:].translate(_BREAKS)}"
    for mention in doc.mentions:
        surface = mention.text.translate(_BREAKS_AND_TABS)
        columns = [doc.doc_id, str(mention.start), str(mention.end), surface, mention.source_type]
        yield "\t".join([*columns, mention.source_identifier])
    for relation in doc.relations:
        yield "\t".join([doc.doc_id, *_relation_columns(doc, relation)])


def _relation_columns(doc: Document, relation: Relation) -> list[str]:
    ids = relation.source_ids or (spell(doc, relation.head), spell(doc, relation.tail))
    columns = [relation.type, *ids]
    if relation.novel is not None or relation.probability is not None:
        columns.append(NOVELTY[relation.novel])
    if relation.probability is not None:
        columns.append(f"{relation.probability:.4f}")
    return columns


def copy_with_relations(source: BinaryIO, target: BinaryIO, documents: Iterator[Document]) -> None:
    """Copy PubTator text byte for byte, with the relations of `documents` in place of its own.

    `documents` are those that the reader gives for the same bytes, in their order; of a document
    that it could not read the lines are copied as they are.
    """
    doc = next(documents, None)
    doc_id, end, written = None, b"\n", b"\n"
    for raw_line in _lines(source):
        line = raw_line.decode("utf-8", errors="replace").lstrip("\ufeff").rstrip("\r\n")
        heading = HEADING.match(line) if "|" in line else None
        title = heading is not None and heading[2] == "t"
        end = b"\r\n" if raw_line.endswith(b"\r\n") else b"\n"
        if doc and doc_id == doc.doc_id and (not line or title):
            _write_relations(target, doc, end)
            doc = next(documents, None)
        if not line or title:
            doc_id = heading[1].strip() if heading else None
        columns = line.split("\t")
        known = doc and doc_id == doc.doc_id
        if known and not heading and 4 <= len(columns) <= 6 and not _is_number(columns[1]):
            continue
        target.write(written := raw_line)
    if doc and doc_id == doc.doc_id:
        target.write(b"" if written.endswith(b"\n") else end)
        _write_relations(target, doc, end)


def _lines(source: BinaryIO) -> Iterator[bytes]:
    """The lines up to the end, or to where an archive breaks; an endless one in pieces."""
    try:
        while line := source.readline(MAX_DOCUMENT_BYTES):
            yield line
    except BrokenArchive:
        return  # the reader of the same file has counted it


def _write_relations(target: BinaryIO, doc: Document, end: bytes) -> None:
    for relation in doc.relations:
        columns = [doc.doc_id, *_relation_columns(doc, relation)]
        target.write("\t".join(columns).encode() + end)


def _is_number(column: str) -> bool:
    return column.removeprefix("-").isdecimal()
