"""BioC-JSON with other relations: only the relations of a document object change."""

from typing import Any

import msgspec

from embre.corpora.bioc import relation_infons
from embre.document import Document


def with_relations(document: bytes, doc: Document) -> bytes:
    """Replace the relations of a document object, and of its passages, by those of `doc`.

    All other values keep their bytes. PubTator's `relations_display`, a summary of the relations,
    is removed because it would no longer be true.
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
