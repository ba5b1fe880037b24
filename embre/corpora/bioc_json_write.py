"""Writing BioC-JSON: one collection in BioRED's dialect, or a document with other relations."""

from bisect import bisect_right
from collections.abc import Iterable
from typing import Any, BinaryIO

import msgspec

from embre.corpora.bioc import present, relation_infons
from embre.document import Document, Mention


def write(stream: BinaryIO, documents: Iterable[Document]) -> None:
    """Write documents as one collection in BioRED's dialect, one document a line."""
    stream.write(b'{"source": "EMBRE", "date": "", "key": "BioC.key", "documents": [')
    for at, doc in enumerate(documents):
        stream.write(b",\n" if at else b"\n")
        stream.write(msgspec.json.encode(_as_json(doc)))
    stream.write(b"\n]}\n")


def _as_json(doc: Document) -> dict[str, Any]:
    starts = [passage.start for passage in doc.passages]
    homes: list[list[dict[str, Any]]] = [[] for _ in starts]
    for at, mention in enumerate(doc.mentions):
        homes[bisect_right(starts, mention.start) - 1].append(_annotation(at, mention))
    passages = [
        {
            "infons": present(type=passage.kind, section_type=passage.section),
            "offset": passage.start,
            "text": doc.text[passage.start : passage.end],
            "annotations": annotations,
        }
        for passage, annotations in zip(doc.passages, homes, strict=True)
    ]
    ids = present(pmid=doc.pmid, pmcid=doc.doc_id if doc.doc_id.startswith("PMC") else None)
    return {"id": doc.doc_id, "passages": passages, "relations": _relations(doc), **ids}


def with_relations(document: bytes, doc: Document) -> bytes:
    """A document object with the relations of `doc` in place of its own and its passages'.

    The values of all other keys stay as they are, to the byte; PubTator's summary of the relations
    for its own page goes, because it would show others.
    """
    if not doc.relations and b'"relations"' not in document:
        return document
    values: dict[str, Any] = msgspec.json.decode(document, type=dict[str, msgspec.Raw])
    values.pop("relations_display", None)
    if b'"relations"' in bytes(values["passages"]):
        passages = msgspec.json.decode(values["passages"], type=list[dict[str, msgspec.Raw]])
        for passage in passages:
            if "relations" in passage:
                passage["relations"] = msgspec.Raw(b"[]")
        values["passages"] = passages
    return msgspec.json.encode(values | {"relations": _relations(doc)})


def _relations(doc: Document) -> list[dict[str, Any]]:
    return [
        {"id": f"R{at}", "infons": relation_infons(doc, relation)}
        for at, relation in enumerate(doc.relations)
    ]


def _annotation(at: int, mention: Mention) -> dict[str, Any]:
    return {
        "id": str(at),
        "infons": {"identifier": mention.source_identifier, "type": mention.source_type},
        "text": mention.text,
        "locations": [{"offset": mention.start, "length": mention.end - mention.start}],
    }
