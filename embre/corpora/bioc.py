"""Names and identifiers common to BioC-XML and BioC-JSON.

All dialects are handled here: BioRED (passages without a type, `entity1`), PubTator 3 (`role1` with
a type, `score`), PubTator Central (`Identifier`), BC5CDR and older exports (`MESH`, `NCBI Gene`,
`CVCL`), and BioC's own relations, whose nodes refer to annotations.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from embre.corpora.raw import NOVELTY, RawRelation
from embre.document import Concept, Document, Relation
from embre.entity_types import entity_type_of, spelled_identifier
from embre.tally import Tally

# Infon keys of an annotation's identifier, by priority. Older exports name the database in the
# key only; the prefix restores it.
IDENTIFIER_KEYS = {
    "identifier": "",
    "Identifier": "",
    "MESH": "",
    "NCBI Gene": "",
    "NCBI Species": "",
    "tmVar": "",
    "CVCL": "CVCL:",
    "OMIM": "OMIM:",
    "CHEBI": "CHEBI:",
}
RANKS = {key: rank for rank, key in enumerate(IDENTIFIER_KEYS)}
TITLE_KINDS = {"front": "title"}


def identifier_of(key: str, value: Any) -> str:
    """Return an identifier with the prefix that its key implies.

    >>> identifier_of("CVCL", "0030")
    'CVCL:0030'
    """
    prefix = IDENTIFIER_KEYS[key]
    spelled = ";".join(map(str, value)) if isinstance(value, list) else str(value)
    return prefix + spelled.removeprefix(prefix) if prefix else spelled


def meaning_of(infons: Iterable[tuple[str, str]]) -> tuple[str, str]:
    """Return type and identifier of an annotation, from the first of IDENTIFIER_KEYS present."""
    source_type, identifier, rank = "", "", len(RANKS)
    for key, value in infons:
        if key == "type":
            source_type = value
        elif key == "identifier":
            rank, identifier = 0, value
        elif RANKS.get(key, rank) < rank:
            rank, identifier = RANKS[key], identifier_of(key, value)
    return source_type, identifier


def ids_of(doc_id: str, pmid: str, pmcs: tuple[str, ...]) -> tuple[str, str | None, str | None]:
    """Return document id, PMID and PMC number from an id and further ids of the document.

    A bare PMC number gets the prefix `PMC`, or it would be taken for a PMID.

    >>> ids_of("2289422", "1560033", ("PMC2289422",))
    ('PMC2289422', '1560033', 'PMC2289422')
    """
    doc_id, pmid, pmcid = doc_id.strip(), pmid.strip(), None
    for pmc in (*pmcs, doc_id if doc_id[:3].upper() == "PMC" else ""):
        number = pmc.strip().upper().removeprefix("PMC")
        if is_number(number):
            pmcid = pmcid or f"PMC{number}"
            if number == doc_id.upper().removeprefix("PMC") and number != pmid:
                doc_id = f"PMC{number}"
    if not pmid and is_number(doc_id):
        pmid = doc_id
    return doc_id, pmid if is_number(pmid) else None, pmcid


def is_number(word: str) -> bool:
    """Whether a word is plain digits."""
    return word.isdecimal() and word.isascii()


def kind_of(kind: str, is_first: bool) -> str:
    """Return the kind of a passage; without one, the first is the title, others abstract."""
    kind = kind or ("title" if is_first else "abstract")
    return TITLE_KINDS.get(kind, kind)


def relation_of(
    infons: Mapping[str, Any],
    nodes: Sequence[str],
    annotations: Mapping[str, tuple[str, str]],
    place: str,
) -> RawRelation:
    """Build a relation whose ends are given by one of three kinds of infon, or by two nodes, which
    are ids in `annotations` (type and identifier of each)."""
    get = infons.get
    head, tail = _end(get("role1"), get("entity1")), _end(get("role2"), get("entity2"))
    if head is None and tail is None:  # BC5CDR: the entity type is the key
        head, tail, *_ = (
            *((key, str(get(key))) for key in infons if entity_type_of(key)),
            None,
            None,
        )
    if (head is None or tail is None) and len(nodes) == 2:
        head, tail = map(annotations.get, nodes)
    if head is None or tail is None:
        head = tail = "", ""
    novel, score = get("novel"), get("score")
    return RawRelation(
        str(get("type") or get("relation") or ""),
        head,
        tail,
        "" if novel is None else str(novel),
        "" if score is None else str(score),
        place,
    )


def _end(role: Any, entity: Any) -> tuple[str, str] | None:
    """Type and identifier: `entity1` has no type, `role1` is a dict or `Type|Identifier`."""
    if role is None:
        return None if entity is None else ("", str(entity))
    if isinstance(role, dict):
        return str(role.get("type") or ""), str(role.get("identifier") or "")
    # A variant's identifier has more bars, so the cut is at the first one.
    source_type, bar, identifier = str(role).partition("|")
    return (source_type, identifier) if bar else ("", source_type)


def drop_mention(num_locations: int, text: str, place: str, file: str, tally: Tally) -> None:
    """Count an annotation without exactly one location.

    BC5CDR annotates parts of "visual or auditory toxicity" beside the whole; the whole is kept and
    has all identifiers, so no concept is lost.
    """
    reason = "mention/discontinuous" if num_locations else "mention/no_location"
    tally.drop(reason, f"{file}:{place}", repr(text[:80]))


def relation_infons(doc: Document, relation: Relation) -> dict[str, Any]:
    """Return the infons of a relation in BioRED's dialect. A concept without a mention in the
    document also gets PubTator 3's role, a dict of type and identifier."""
    first, second = relation.source_ids or (
        spelled_identifier(doc, relation.head),
        spelled_identifier(doc, relation.tail),
    )
    novel = None if relation.novel is None else NOVELTY[relation.novel]
    score = None if relation.probability is None else str(relation.probability)
    return present(
        entity1=first,
        entity2=second,
        role1=_role_of_unmentioned(doc, relation.head, first),
        role2=_role_of_unmentioned(doc, relation.tail, second),
        type=relation.type,
        novel=novel,
        score=score,
    )


def _role_of_unmentioned(doc: Document, concept: Concept, identifier: str) -> dict[str, str] | None:
    if any(concept in mention.concepts for mention in doc.mentions):
        return None
    return {"type": concept.type, "identifier": identifier}


def present(**values: Any) -> dict[str, Any]:
    """Return the values that are not empty."""
    return {key: value for key, value in values.items() if value}
