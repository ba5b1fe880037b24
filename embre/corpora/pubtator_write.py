"""Write PubTator text: whole documents, or a copy of a file with other relations."""

from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from embre.atomic_files import atomic_file
from embre.corpora.pubtator import HEADING, read_chunk
from embre.corpora.raw import MAX_DOCUMENT_BYTES, NOVELTY, Chunk, RawDocument
from embre.document import Document, Relation
from embre.entity_types import spelled_identifier
from embre.tally import Tally

_BREAKS = str.maketrans("\n\r\0", "   ")
_BREAKS_AND_TABS = str.maketrans("\n\r\0\t", "    ")


def write_pubtator(path: str | Path, documents: Iterable[Document]) -> None:
    """Write documents as PubTator text, keeping the spelling of each document's identifiers.

    Creates the folder if needed. The write is atomic: if `documents` raises, `path` is unchanged.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial, partial.open("wb") as file:
        for doc in documents:
            file.write("\n".join([*_document_lines(doc), "", ""]).encode())


def _document_lines(doc: Document) -> Iterator[str]:
    # The format has two passages with one character between them. The title takes the text up to
    # the second passage and the abstract the rest, so offsets stay right for any passages.
    # Passages without a character between them become one title, or a character would be lost.
    first_end = doc.passages[0].end if doc.passages else 0
    second = next((p.start for p in doc.passages[1:2] if p.start > first_end), None)
    title = doc.text if second is None else doc.text[: second - 1]
    yield f"{doc.doc_id}|t|{title.translate(_BREAKS)}"
    if second is not None:
        yield f"{doc.doc_id}|a|{doc.text[second:].translate(_BREAKS)}"
    for mention in doc.mentions:
        names = mention.text, mention.source_type, mention.source_identifier
        yield _line(doc.doc_id, str(mention.start), str(mention.end), *names)
    for relation in doc.relations:
        yield _relation_line(doc, relation)


def _line(*columns: str) -> str:
    # Values from BioC may have tabs and line breaks.
    return "\t".join(column.translate(_BREAKS_AND_TABS) for column in columns)


def _relation_line(doc: Document, relation: Relation) -> str:
    ids = relation.source_ids or (
        spelled_identifier(doc, relation.head),
        spelled_identifier(doc, relation.tail),
    )
    columns = [doc.doc_id, relation.type, *ids]
    if relation.novel is not None or relation.probability is not None:
        columns.append("None" if relation.novel is None else NOVELTY[relation.novel])
    if relation.probability is not None:
        columns.append(f"{relation.probability:.4f}")
    return _line(*columns)


def copy_with_relations(source: BinaryIO, target: BinaryIO, documents: Iterator[Document]) -> None:
    """Copy PubTator text byte for byte, replacing its relations by those of `documents`.

    `documents` are the documents the reader yields for the same bytes, in order; blocks it could
    not read are copied unchanged. Raises OSError if the documents do not match the bytes.
    """
    doc = next(documents, None)
    for lines in _blocks(source):
        raw = _as_read(lines)
        if doc and raw and raw.doc_id == doc.doc_id:
            replaced = {relation.place for relation in raw.relations}
            kept = [line for number, line in enumerate(lines) if number not in replaced]
            _write_block(target, kept, doc)
            doc = next(documents, None)
        else:
            target.writelines(lines)
    if doc:
        raise OSError("a file was changed while it was read; run the same command again")


def _as_read(lines: list[bytes]) -> RawDocument | None:
    """Read the lines of a block; the `place` of a relation is its line index in the block."""
    data = b"".join(lines)
    if len(data) > MAX_DOCUMENT_BYTES:
        return None
    return next(read_chunk(Chunk("", "pubtator", 0, data), Tally()), None)


def _blocks(source: BinaryIO) -> Iterator[list[bytes]]:
    """Yield the lines of one document at a time; a document above the size limit in pieces."""
    lines, size = list[bytes](), 0
    for line in _lines(source):
        if lines and (_is_title(line) or size > MAX_DOCUMENT_BYTES):
            yield lines
            lines, size = [], 0
        lines.append(line)
        size += len(line)
        if not line.rstrip(b"\r\n"):
            yield lines
            lines, size = [], 0
    if lines:
        yield lines


def _lines(source: BinaryIO) -> Iterator[bytes]:
    """Yield lines; overlong ones in pieces.

    A leading byte order mark, which the reader does not see, is a line of its own.
    """
    first = source.readline(MAX_DOCUMENT_BYTES)
    rest = first.removeprefix(BOM_UTF8)
    yield from filter(None, (first[: len(first) - len(rest)], rest))
    while line := source.readline(MAX_DOCUMENT_BYTES):
        yield line


def _is_title(line: bytes) -> bool:
    if b"|t|" not in line:
        return False
    heading = HEADING.match(line.decode(errors="surrogateescape"))
    return heading is not None and heading[2] == "t"


def _write_block(target: BinaryIO, lines: list[bytes], doc: Document) -> None:
    """Write the lines of a document, with its relations before the blank line that ends it."""
    end = b"\r\n" if lines[0].endswith(b"\r\n") else b"\n"
    blank = [] if lines[-1].rstrip(b"\r\n") else [lines.pop()]
    target.writelines(lines)
    if doc.relations and not lines[-1].endswith(b"\n"):
        target.write(end)
    for relation in doc.relations:
        target.write(_relation_line(doc, relation).encode() + end)
    target.writelines(blank)
