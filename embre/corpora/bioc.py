"""What BioC-XML and BioC-JSON have in common: one document of either becomes a `Document`.

The dialects differ in where they put things, and all of that is known here: BioRED (passages
without a type, `entity1`), PubTator 3 (`role1` with a type, `score`), PubTator Central
(`Identifier`), BC5CDR and older exports (`MESH`, `NCBI Gene`, `CVCL`).
"""

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec

from embre.corpora.assemble import RawMention, RawPassage, RawRelation, assemble
from embre.document import Document
from embre.entity_types import row_of
from embre.tally import Tally

Infons = dict[str, Any]

IDENTIFIER_KEYS = ("identifier", "Identifier", "MESH", "NCBI Gene", "NCBI Species", "tmVar")
# Older exports name the database in the key and leave it out of the value.
PREFIXED_KEYS = {"CVCL": "CVCL:", "OMIM": "OMIM:", "CHEBI": "CHEBI:"}
TITLE_KINDS = {"front": "title"}


class BiocLocation(msgspec.Struct):
    offset: int
    length: int


class BiocAnnotation(msgspec.Struct):
    infons: Infons
    locations: list[BiocLocation] = []
    text: str | None = None


class BiocPassage(msgspec.Struct):
    offset: int
    text: str | None = None
    infons: Infons = {}
    annotations: list[BiocAnnotation] = []


class BiocRelation(msgspec.Struct):
    infons: Infons


class BiocDocument(msgspec.Struct):
    """A document as both formats hold it; msgspec checks its shape and names what is wrong."""

    id: Annotated[str, msgspec.Meta(min_length=1)] | int
    passages: list[BiocPassage]
    relations: list[BiocRelation] = []
    pmid: str | int | None = None
    pmcid: str | None = None


def build(bioc: BiocDocument, file: str, line: int | None, tally: Tally) -> Document:
    """Turn one BioC document into ours. `line` is where it ends or starts, if that is known."""
    doc_id, pmid = ids_of(bioc)
    place = f"{line}#{doc_id}" if line else f"#{doc_id}"
    passages = [_passage(passage, at) for at, passage in enumerate(bioc.passages)]
    mentions = _mentions(bioc, file, place, tally)
    relations = [_relation(relation.infons, place) for relation in bioc.relations]
    return assemble(doc_id, pmid, passages, mentions, relations, file, tally)


def ids_of(bioc: BiocDocument) -> tuple[str, str | None]:
    """Our document id and the PMID. A bare PMC number gets its `PMC`, or it passes for a PMID.

    >>> full_text = BiocDocument("2289422", [], pmid=1560033, pmcid="PMC2289422")
    >>> ids_of(full_text)
    ('PMC2289422', '1560033')
    """
    doc_id = str(bioc.id).strip()
    front = bioc.passages[0].infons if bioc.passages else {}
    pmid = str(bioc.pmid or front.get("article-id_pmid") or "").strip()
    for pmc in (bioc.pmcid, front.get("article-id_pmc")):
        number = str(pmc or "").strip().upper().removeprefix("PMC")
        if number and number == doc_id.upper().removeprefix("PMC") and number != pmid:
            doc_id = f"PMC{number}"
    if not pmid and doc_id.isdecimal():
        pmid = doc_id
    return doc_id, pmid if pmid.isdecimal() else None


def _passage(passage: BiocPassage, at: int) -> RawPassage:
    kind = str(passage.infons.get("type") or ("abstract" if at else "title"))
    section = str(passage.infons.get("section_type") or "")
    return RawPassage(passage.offset, passage.text or "", TITLE_KINDS.get(kind, kind), section)


def _mentions(bioc: BiocDocument, file: str, place: str, tally: Tally) -> Iterator[RawMention]:
    for passage in bioc.passages:
        for annotation in passage.annotations:
            text = annotation.text or ""
            if len(annotation.locations) != 1:
                # BC5CDR cuts "visual or auditory toxicity" into parts beside the whole; the
                # whole stays and has every identifier, so no concept is lost with a part.
                reason = "discontinuous" if annotation.locations else "no_location"
                tally.drop(f"mention/{reason}", f"{file}:{place}", repr(text))
                continue
            (location,) = annotation.locations
            start, end = location.offset, location.offset + location.length
            source_type = str(annotation.infons.get("type") or "")
            identifier = _identifier(annotation.infons)
            yield RawMention(start, end, text, source_type, identifier, place)


def _identifier(infons: Infons) -> str:
    for key in IDENTIFIER_KEYS:
        if infons.get(key) is not None:
            return str(infons[key])
    for key, prefix in PREFIXED_KEYS.items():
        if infons.get(key) is not None:
            return prefix + str(infons[key]).removeprefix(prefix)
    return ""


def _relation(infons: Infons, place: str) -> RawRelation:
    ends = [_end(infons, n) for n in (1, 2) if f"role{n}" in infons or f"entity{n}" in infons]
    if not ends:  # BC5CDR: the entity type is the key
        ends = [(key, str(value)) for key, value in infons.items() if row_of(key)]
    head, tail = ends if len(ends) == 2 else (("", ""), ("", ""))
    relation_type = str(infons.get("type") or infons.get("relation") or "")
    novel, score = infons.get("novel"), infons.get("score")
    return RawRelation(
        relation_type,
        head,
        tail,
        "" if novel is None else str(novel),
        "" if score is None else str(score),
        place,
    )


def _end(infons: Infons, n: int) -> tuple[str, str]:
    """Type and identifier: `entity1` has no type, `role1` is a dict or `Type|Identifier`."""
    role = infons.get(f"role{n}")
    if role is None:
        return "", str(infons.get(f"entity{n}") or "")
    if isinstance(role, dict):
        return str(role.get("type") or ""), str(role.get("identifier") or "")
    # A variant's identifier has more bars, so the cut is at the first one.
    source_type, bar, identifier = str(role).partition("|")
    return (source_type, identifier) if bar else ("", source_type)
