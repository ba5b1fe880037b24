"""Writing BioC-JSON: one collection in BioRED's dialect, one document a line."""

from bisect import bisect_right
from collections.abc import Iterable
from typing import Any, BinaryIO

import msgspec

from embre.document import Concept, Document, Mention, Relation
from embre.entity_types import spell


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
            "infons": _present(type=passage.kind, section_type=passage.section),
            "offset": passage.start,
            "text": doc.text[passage.start : passage.end],
            "annotations": annotations,
        }
        for passage, annotations in zip(doc.passages, homes, strict=True)
    ]
    relations = [
        {"id": f"R{at}", "infons": _relation(doc, relation)}
        for at, relation in enumerate(doc.relations)
    ]
    ids = _present(pmid=doc.pmid, pmcid=doc.doc_id if doc.doc_id.startswith("PMC") else None)
    return {"id": doc.doc_id, "passages": passages, "relations": relations, **ids}


def _annotation(at: int, mention: Mention) -> dict[str, Any]:
    return {
        "id": str(at),
        "infons": {"identifier": mention.source_identifier, "type": mention.source_type},
        "text": mention.text,
        "locations": [{"offset": mention.start, "length": mention.end - mention.start}],
    }


def _relation(doc: Document, relation: Relation) -> dict[str, Any]:
    first, second = relation.source_ids or (spell(doc, relation.head), spell(doc, relation.tail))
    novel = None if relation.novel is None else "Novel" if relation.novel else "No"
    score = None if relation.probability is None else str(relation.probability)
    return _present(
        entity1=first,
        entity2=second,
        role1=_role_of_unmentioned(doc, relation.head, first),
        role2=_role_of_unmentioned(doc, relation.tail, second),
        type=relation.type,
        novel=novel,
        score=score,
    )


def _role_of_unmentioned(doc: Document, concept: Concept, identifier: str) -> dict[str, str] | None:
    """BioRED's `entity1` has no type, so a concept without a mention needs PubTator 3's role."""
    if any(concept in mention.concepts for mention in doc.mentions):
        return None
    return {"type": concept.type, "identifier": identifier}


def _present(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value}
