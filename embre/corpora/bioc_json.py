"""BioC-JSON: BioRED's collections, PubTator 3's exports, one document, or one on each line.

A stream is cut into its document objects, whatever encloses them. In a chunk they are separated
by RS characters, which no JSON text may contain (RFC 7464).
"""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from embre.corpora.bioc import (
    IDENTIFIER_KEYS,
    drop_mention,
    identifier_of,
    ids_of,
    kind_of,
    relation_of,
)
from embre.corpora.json_objects import ID, find_documents
from embre.corpora.raw import (
    Chunk,
    RawDocument,
    RawMention,
    RawPassage,
    RawRelation,
)
from embre.corpora.window import Window
from embre.refused import Refused
from embre.tally import Tally

SEPARATOR = b"\x1e"


class _Location(msgspec.Struct):
    offset: int | None = None
    length: int | None = None


class _Infons(msgspec.Struct):
    type: Any = None
    identifier: Any = None
    other_1: Any = msgspec.field(default=None, name="Identifier")
    other_2: Any = msgspec.field(default=None, name="MESH")
    other_3: Any = msgspec.field(default=None, name="NCBI Gene")
    other_4: Any = msgspec.field(default=None, name="NCBI Species")
    other_5: Any = msgspec.field(default=None, name="tmVar")
    other_6: Any = msgspec.field(default=None, name="CVCL")
    other_7: Any = msgspec.field(default=None, name="OMIM")
    other_8: Any = msgspec.field(default=None, name="CHEBI")


class _Annotation(msgspec.Struct):
    infons: _Infons | None = None
    locations: list[_Location] | None = None
    text: str | None = None
    id: Any = None


class _PassageInfons(msgspec.Struct):
    type: str | None = None
    section_type: str | None = None
    pmid: str | int | None = msgspec.field(default=None, name="article-id_pmid")
    pmc: str | int | None = msgspec.field(default=None, name="article-id_pmc")


class _Passage(msgspec.Struct):
    offset: int
    text: str | None = None
    infons: _PassageInfons | None = None
    annotations: list[_Annotation] | None = None
    sentences: list[Any] | None = None
    passages: list[Any] | None = None
    relations: Any = None


class _Document(msgspec.Struct):
    id: str | int
    passages: list[_Passage]
    annotations: list[_Annotation] | None = None
    relations: Any = None
    pmid: str | int | None = None
    pmcid: str | int | None = None


_NO_PASSAGE_INFONS = _PassageInfons()
DOCUMENT = msgspec.json.Decoder(_Document, strict=False)


def cut(window: Window) -> Iterator[Chunk]:
    """Cut a file into its document objects, several per chunk."""
    pieces: list[bytes] = []
    size, first_line, next_line = 0, 1, 1
    for line, found in find_documents(window):
        if pieces:
            pieces.append(SEPARATOR + b"\n" * (line - next_line))
        else:
            first_line = line
        pieces.append(found)
        size += len(found)
        next_line = line + found.count(b"\n")
        if size >= window.chunk_bytes:
            yield Chunk(window.file, "bioc_json", first_line, b"".join(pieces))
            pieces, size = [], 0
    if pieces:
        yield Chunk(window.file, "bioc_json", first_line, b"".join(pieces))


def read_chunk(chunk: Chunk, tally: Tally, with_relations: bool = True) -> Iterator[RawDocument]:
    """Yield the documents of a chunk; damaged ones are counted and skipped."""
    line = chunk.line
    for data in chunk.data.split(SEPARATOR):
        found = data.lstrip(b"\n")
        first_line = line + len(data) - len(found)
        line += data.count(b"\n")
        try:
            document = DOCUMENT.decode(found)
            yield _read(document, chunk.file, first_line, tally, with_relations)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
            known = ID.search(found)
            name = f"#{known[1].decode(errors='replace')}" if known else ""
            tally.drop("document/unreadable", f"{chunk.file}:{first_line}{name}", str(error))


def split(chunk: Chunk) -> Iterator[tuple[bytes, Chunk]]:
    """Yield each document of a chunk: its bytes, and a chunk of its own."""
    line = chunk.line
    for data in chunk.data.split(SEPARATOR):
        yield data.lstrip(b"\n"), Chunk(chunk.file, chunk.format, line, data)
        line += data.count(b"\n")


def _read(
    found: _Document, file: str, line: int, tally: Tally, with_relations: bool
) -> RawDocument:
    front = (found.passages[0].infons if found.passages else None) or _NO_PASSAGE_INFONS
    pmid, pmcs = found.pmid or front.pmid or "", (str(found.pmcid or ""), str(front.pmc or ""))
    doc_id, pmid, pmcid = ids_of(str(found.id), str(pmid), pmcs)
    if not doc_id:
        raise Refused("a document without id")
    place = f"{line}#{doc_id}"
    passages: list[RawPassage] = []
    mentions: list[RawMention] = []
    for passage in found.passages:
        infons = passage.infons or _NO_PASSAGE_INFONS
        if passage.sentences:
            raise Refused("its text is in sentences, which are not read")
        if passage.passages:
            raise Refused("a passage within a passage, which is not read")
        kind = kind_of(infons.type or "", not passages)
        section = infons.section_type or ""
        passages.append(RawPassage(passage.offset, passage.text or "", kind, section))
        _read_annotations(passage.annotations or (), mentions, place, file, tally)
    _read_annotations(found.annotations or (), mentions, place, file, tally)
    relations = _relations(found, place) if with_relations else []
    return RawDocument(doc_id, pmid, pmcid, passages, mentions, relations, file)


def _read_annotations(
    annotations: Iterable[_Annotation],
    mentions: list[RawMention],
    place: str,
    file: str,
    tally: Tally,
) -> None:
    """Append the mentions of annotations; those without exactly one location are counted."""
    new = tuple.__new__  # half the time of RawMention(...)
    for annotation in annotations:
        text, locations = annotation.text or "", annotation.locations or []
        start = locations[0].offset if len(locations) == 1 else None
        length = locations[0].length if start is not None else None
        if start is None or length is None:
            drop_mention(len(locations) > 1, text, place, file, tally)
            continue
        values = (start, start + length, text, *_meaning(annotation.infons), place)
        mentions.append(new(RawMention, values))


def _relations(found: _Document, place: str) -> list[RawRelation]:
    """Return the relations of the passages and of the document; nodes may name any annotation."""
    given = [passage.relations for passage in found.passages] + [found.relations]
    relations = [_relation(one) for some in given if isinstance(some, list) for one in some]
    annotations = {}
    if any(nodes for _, nodes in relations):
        for part in (*found.passages, found):
            annotations |= {str(one.id): _meaning(one.infons) for one in part.annotations or ()}
    return [relation_of(infons, nodes, annotations, place) for infons, nodes in relations]


def _relation(given: Any) -> tuple[dict[str, Any], list[str]]:
    """Return infons and node references; a malformed relation does not lose the document."""
    given = given if isinstance(given, dict) else {}
    infons, nodes = given.get("infons"), given.get("nodes")
    nodes = nodes if isinstance(nodes, list) else []
    refids = [str(node.get("refid")) for node in nodes if isinstance(node, dict)]
    return infons if isinstance(infons, dict) else {}, refids


def _meaning(infons: _Infons | None) -> tuple[str, str]:
    """Type and identifier of an annotation."""
    if infons is None:
        return "", ""
    identifier = infons.identifier
    if type(identifier) is not str:
        identifier = _identifier(infons)
    return "" if infons.type is None else str(infons.type), identifier


def _identifier(infons: _Infons) -> str:
    values = msgspec.structs.astuple(infons)[1:]
    for key, value in zip(IDENTIFIER_KEYS, values, strict=True):
        if value is not None:
            return identifier_of(key, value)
    return ""
