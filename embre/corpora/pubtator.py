"""PubTator text: `id|t|title`, `id|a|abstract`, a line per mention and per relation, a blank line.

    10491763|t|Hepatocyte nuclear factor-6: ...
    10491763|a|AIMS/HYPOTHESIS: The transcription factor ...
    10491763<TAB>676<TAB>680<TAB>MODY<TAB>GeneOrGeneProduct<TAB>3172,3651,6927
    10491763<TAB>Association<TAB>3175<TAB>D003924<TAB>No

A relation line may end before the novelty, or have the probability of a prediction after it.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from embre.corpora.assemble import RawMention, RawPassage, RawRelation, assemble
from embre.document import Document, Relation
from embre.entity_types import spell
from embre.tally import Tally

HEADING = re.compile(r"([^|\t]+)\|([ta])\|(.*)", re.DOTALL)
NOVELTY = {True: "Novel", False: "No", None: "None"}
_BREAKS = str.maketrans("\n\r", "  ")
_BREAKS_AND_TABS = str.maketrans("\n\r\t", "   ")


@dataclass(slots=True)
class _Block:
    """The lines of one document, read so far."""

    doc_id: str
    title: str
    abstract: str | None = None
    mentions: list[RawMention] = field(default_factory=list)
    relations: list[RawRelation] = field(default_factory=list)

    def build(self, file: str, tally: Tally) -> Document:
        passages = [RawPassage(0, self.title, "title")]
        if self.abstract is not None:
            passages.append(RawPassage(len(self.title) + 1, self.abstract, "abstract"))
        pmid = self.doc_id if self.doc_id.isdecimal() else None
        return assemble(self.doc_id, pmid, passages, self.mentions, self.relations, file, tally)


def read(stream: BinaryIO, file: str, tally: Tally) -> Iterator[Document]:
    """Every document of a stream; a line that makes no sense is counted with its number."""
    block: _Block | None = None
    for number, raw_line in enumerate(stream, start=1):
        try:
            line = raw_line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            tally.drop("line/unreadable", f"{file}:{number}", str(error))
            continue
        heading = HEADING.match(line) if "|" in line else None
        ends = not line or (heading is not None and heading[2] == "t")
        if ends and block is not None:
            yield block.build(file, tally)
            block = None
        if heading is not None and heading[2] == "t":
            block = _Block(heading[1].strip(), heading[3])
        elif line and not line.startswith("##"):
            fault = _read_line(line, heading, number, block)
            if fault:
                tally.drop(fault, f"{file}:{number}", line[:80])
    if block is not None:
        yield block.build(file, tally)


def _read_line(line: str, heading: re.Match[str] | None, number: int, block: _Block | None) -> str:
    """Add one line to its document, or say why it cannot be."""
    columns = line.split("\t")
    doc_id = (heading[1] if heading else columns[0]).strip()
    if block is None:
        return "line/no_document"
    if doc_id != block.doc_id:
        return "line/other_document" if heading or len(columns) > 3 else "line/unreadable"
    if heading:
        if block.abstract is not None:
            return "line/second_abstract"
        block.abstract = heading[3]
    elif len(columns) >= 5 and _is_number(columns[1]) and _is_number(columns[2]):
        _, start, end, surface, entity_type, *rest = columns
        identifier = rest[0] if rest else ""
        mention = RawMention(int(start), int(end), surface, entity_type, identifier, number)
        block.mentions.append(mention)
    elif 4 <= len(columns) <= 6 and not _is_number(columns[1]):
        _, relation_type, head, tail, *rest = columns
        novel, score = (*rest, "", "")[:2]
        block.relations.append(
            RawRelation(relation_type, ("", head), ("", tail), novel, score, number)
        )
    else:
        return "line/unreadable"
    return ""


def copy_with_relations(source: BinaryIO, target: BinaryIO, documents: Iterator[Document]) -> None:
    """Copy PubTator text byte for byte, with the relations of `documents` in place of its own.

    `documents` are those that `read` gives for the same bytes, in their order.
    """
    inside, end, written = False, b"\n", b"\n"
    for raw_line in source:
        line = raw_line.decode("utf-8", errors="replace").lstrip("\ufeff").rstrip("\r\n")
        heading = HEADING.match(line) if "|" in line else None
        title = heading is not None and heading[2] == "t"
        end = b"\r\n" if raw_line.endswith(b"\r\n") else b"\n"
        if inside and (not line or title):
            _write_relations(target, next(documents), end)
            inside = False
        if title:
            inside = True
        columns = line.split("\t")
        if inside and not heading and 4 <= len(columns) <= 6 and not _is_number(columns[1]):
            continue
        target.write(written := raw_line)
    if inside:
        target.write(b"" if written.endswith(b"\n") else end)
        _write_relations(target, next(documents), end)


def _write_relations(target: BinaryIO, doc: Document, end: bytes) -> None:
    for relation in doc.relations:
        columns = [doc.doc_id, *_relation_columns(doc, relation)]
        target.write("\t".join(columns).encode() + end)


def _is_number(column: str) -> bool:
    if len(column) > 12:  # no offset, and int() refuses thousands of digits
        return False
    return column.isdecimal() or (column[:1] == "-" and column[1:].isdecimal())


def write(stream: BinaryIO, documents: Iterable[Document]) -> None:
    """Write documents as PubTator text, with the identifiers that each document spells itself."""
    for doc in documents:
        stream.write("\n".join([*_lines(doc), "", ""]).encode())


def _lines(doc: Document) -> Iterator[str]:
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
