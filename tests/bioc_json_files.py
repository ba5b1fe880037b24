"""Whole documents as BioC-JSON in BioRED's dialect, for tests that read such files."""

from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from embre.corpora.bioc import present
from embre.corpora.bioc_json_write import with_relations
from embre.document import Document, Mention


def write_bioc_json(path: Path, documents: Iterable[Document]) -> None:
    """Write documents as one collection, one document per line; make the folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bioc_json(documents))


def bioc_json(documents: Iterable[Document]) -> bytes:
    """A collection of documents, one per line."""
    lines = [with_relations(msgspec.json.encode(_as_json(doc)), doc) for doc in documents]
    return b'{"source": "EMBRE", "documents": [\n' + b",\n".join(lines) + b"\n]}\n"


def _as_json(doc: Document) -> dict[str, Any]:
    starts = [passage.start for passage in doc.passages]
    annotations: list[list[dict[str, Any]]] = [[] for _ in starts]
    for at, mention in enumerate(doc.mentions):
        annotations[bisect_right(starts, mention.start) - 1].append(_annotation(at, mention))
    passages = [
        {
            "infons": present(type=passage.kind, section_type=passage.section),
            "offset": passage.start,
            "text": doc.text[passage.start : passage.end],
            "annotations": inside,
        }
        for passage, inside in zip(doc.passages, annotations, strict=True)
    ]
    ids = present(pmid=doc.pmid, pmcid=doc.doc_id if doc.doc_id.startswith("PMC") else None)
    return {"id": doc.doc_id, "passages": passages, **ids}


def _annotation(at: int, mention: Mention) -> dict[str, Any]:
    return {
        "id": str(at),
        "infons": {"identifier": mention.source_identifier, "type": mention.source_type},
        "text": mention.text,
        "locations": [{"offset": mention.start, "length": mention.end - mention.start}],
    }
