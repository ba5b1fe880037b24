"""BioC-XML: read one `<document>` at a time from a collection of any size.

Documents are located as bytes and parsed one by one, so damage is confined to one document and
the parser never sees the entities that a file declares.
"""

import re
from collections.abc import Iterator
from typing import Any

from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]

from embre.corpora.bioc import drop_mention, ids_of, kind_of, meaning_of, relation_of
from embre.corpora.bioc_xml_plain import read_plain
from embre.corpora.encodings import recode
from embre.corpora.raw import (
    Chunk,
    RawDocument,
    RawMention,
    RawPassage,
    RawRelation,
)
from embre.corpora.window import Window, cut_at
from embre.refused import Refused
from embre.tally import Tally

OPEN, CLOSE = b"<document", b"</document"
MAX_HEAD_BYTES = 1 << 20
ID = re.compile(rb"<id>([^<]{1,40})</id>")


def cut(window: Window) -> Iterator[Chunk]:
    """Cut a file after documents. The head before the first is checked and left out."""
    if not _skip_head(window):
        return
    yield from cut_at(window, "bioc_xml", _first_end, _last_end)
    if window.data.find(OPEN, window.at) >= 0:
        window.drop("document/cut_off")
    elif window.data.find(b"</collection", window.at) < 0 and not window.broken:
        window.drop("file/cut_off", "no </collection>")


def _skip_head(window: Window) -> bool:
    """Move to the first document; False (counted) if there is none or the head is refused."""
    while (start := window.data.find(OPEN, 0, MAX_HEAD_BYTES)) < 0:
        if window.size > MAX_HEAD_BYTES or not window.more():
            window.drop("file/without_document")
            return False
    # The parser never sees the head, but a file that declares entities probably uses them.
    if window.data.find(b"<!ENTITY", 0, start) >= 0:
        window.drop("file/declares_entities", "a document type with entities")
        return False
    if not recode(window, start):
        return False
    window.skip(window.data.find(OPEN))
    return True


def _first_end(data: bytes, at: int) -> int:
    close = data.find(CLOSE, at)
    return data.find(b">", close) + 1 if close >= 0 else 0


def _last_end(data: bytes, at: int) -> int:
    close = data.rfind(CLOSE, at)
    end = data.find(b">", close) + 1 if close >= 0 else 0
    if close >= 0 and not end:  # the block ends within the tag
        close = data.rfind(CLOSE, at, close)
        end = data.find(b">", close) + 1 if close >= 0 else 0
    return end


def read_chunk(chunk: Chunk, tally: Tally, with_relations: bool = True) -> Iterator[RawDocument]:
    """Yield the documents of a chunk; damaged ones are counted and skipped."""
    parser = make_parser()
    data, line, at = chunk.data, chunk.line, 0
    while (close := data.find(CLOSE, at)) >= 0:
        end = data.find(b">", close) + 1 or len(data)
        start = data.rfind(OPEN, at, close)
        for _ in range(data.count(OPEN, at, start) if start >= 0 else 1):
            tally.drop("document/unreadable", f"{chunk.file}:{line}", "one of its tags is missing")
        if start >= 0:
            line += data.count(b"\n", at, start)
            at = start
            try:
                document = data[start:end]
                plain = read_plain(document, chunk.file, line, with_relations)
                yield plain or read_any(document, parser, chunk.file, line, tally)
            except (etree.LxmlError, ValueError, TypeError) as error:
                known = ID.search(data, start, end)
                name = f"#{known[1].decode(errors='replace')}" if known else ""
                tally.drop("document/unreadable", f"{chunk.file}:{line}{name}", str(error))
        line += data.count(b"\n", at, end)
        at = end


def split(chunk: Chunk) -> Iterator[tuple[bytes, Chunk]]:
    """Yield each document of a chunk: its bytes, and a chunk to read it from, which includes the
    rest of a damaged one before it."""
    data, line, at = chunk.data, chunk.line, 0
    while (close := data.find(CLOSE, at)) >= 0:
        end = data.find(b">", close) + 1 or len(data)
        start = max(data.rfind(OPEN, at, close), at)
        yield data[start:end], Chunk(chunk.file, chunk.format, line, data[at:end])
        line += data.count(b"\n", at, end)
        at = end


def make_parser(keep_comments: bool = False) -> Any:
    """Return a parser for single documents, without entities, DTDs or network access."""
    # libxml2 guards against bombs while huge_tree is off. Comments are removed, or they would split
    # a text in two.
    return etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        load_dtd=False,
        no_network=True,
        huge_tree=False,
        recover=False,
        remove_comments=not keep_comments,
        remove_pis=not keep_comments,
    )


def read_any(data: bytes, parser: Any, file: str, line: int, tally: Tally) -> RawDocument:
    """Parse any document. Raises Refused, ValueError, TypeError or etree.LxmlError if it cannot."""
    document = etree.fromstring(data, parser)
    doc_id = (document.findtext("id") or "").strip()
    if not doc_id:
        raise Refused("a document without id")
    place = f"{line}#{doc_id}"
    passages: list[RawPassage] = []
    mentions: list[RawMention] = []
    front: dict[str, str] = {}
    for part in document.iterchildren("passage", "annotation"):
        if part.tag == "passage":
            infons = _read_passage(part, passages, mentions, place, file, tally)
            front = front or infons
        else:
            _read_annotation(part, mentions, place, file, tally)
    relations = _read_relations(document, place)
    pmid, pmc = front.get("article-id_pmid", ""), front.get("article-id_pmc", "")
    return RawDocument(*ids_of(doc_id, pmid, (pmc,)), passages, mentions, relations, file)


def _read_passage(
    passage: Any,
    passages: list[RawPassage],
    mentions: list[RawMention],
    place: str,
    file: str,
    tally: Tally,
) -> dict[str, str]:
    """Append a passage and its mentions; return its infons."""
    infons: dict[str, str] = {}
    offset, text = None, ""
    for child in passage:
        tag = child.tag
        if tag == "annotation":
            _read_annotation(child, mentions, place, file, tally)
        elif tag == "infon":
            infons[child.get("key")] = _text(child)
        elif tag == "offset":
            offset = int(child.text)
        elif tag == "text":
            text = _text(child)
        elif tag == "sentence":
            raise Refused("its text is in sentences, which are not read")
        elif tag == "passage":
            raise Refused("a passage within a passage, which is not read")
    if offset is None:
        raise Refused("a passage without offset")
    kind = kind_of(infons.get("type", ""), not passages)
    passages.append(RawPassage(offset, text, kind, infons.get("section_type", "")))
    return infons


def _read_relations(document: Any, place: str) -> list[RawRelation]:
    """Return the relations of the passages and of the document; nodes may name any annotation."""
    annotations = {}
    if next(document.iter("node"), None) is not None:
        for one in document.iter("annotation"):
            annotations[one.get("id")] = meaning_of(_infons(one))
    return [
        relation_of(
            dict(_infons(one)),
            [node.get("refid") for node in one.iterchildren("node")],
            annotations,
            place,
        )
        for one in document.iter("relation")
    ]


def _infons(element: Any) -> list[tuple[str, str]]:
    return [(infon.get("key"), infon.text or "") for infon in element.iterchildren("infon")]


def _read_annotation(
    annotation: Any, mentions: list[RawMention], place: str, file: str, tally: Tally
) -> None:
    """Append the mention of an annotation, or count it without exactly one location."""
    text, num_locations, start, end = "", 0, 0, 0
    infons: list[tuple[str, str]] = []
    for child in annotation:
        tag = child.tag
        if tag == "infon":
            infons.append((child.get("key"), child.text or ""))
        elif tag == "location":
            num_locations += 1
            start = int(child.get("offset"))
            end = start + int(child.get("length"))
        elif tag == "text":
            text = _text(child)
    if num_locations == 1:
        # Half the time of RawMention(...).
        mention = tuple.__new__(RawMention, (start, end, text, *meaning_of(infons), place))
        mentions.append(mention)
    else:
        drop_mention(num_locations, text, place, file, tally)


def _text(element: Any) -> str:
    if len(element):
        raise Refused(f"<{element.tag}> holds more than text")
    return element.text or ""
