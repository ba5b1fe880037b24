"""What BioC-XML and BioC-JSON have in common: how the dialects name things.

They differ in where they put things, and all of that is known here: BioRED (passages without a
type, `entity1`), PubTator 3 (`role1` with a type, `score`), PubTator Central (`Identifier`),
BC5CDR and older exports (`MESH`, `NCBI Gene`, `CVCL`), and BioC's own relations, whose nodes name
annotations.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from embre.corpora.raw import NOVELTY, RawRelation
from embre.document import Concept, Document, Relation
from embre.entity_types import entity_type_of, spelled_identifier
from embre.tally import Tally

# Where an annotation's identifier stands; the first that is there counts. Older exports name
# the database in the key and leave it out of the value.
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
    """An identifier with what the key says about it.

    >>> identifier_of("CVCL", "0030")
    'CVCL:0030'
    """
    prefix = IDENTIFIER_KEYS[key]
    return prefix + str(value).removeprefix(prefix) if prefix else str(value)


def meaning_of(infons: Iterable[tuple[str, str]]) -> tuple[str, str]:
    """Type and identifier of an annotation; of several keys that name one, the best known."""
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
    """Our document id, the PMID and the PMC number, out of the id and what else names them.

    A bare PMC number gets its `PMC`, or it passes for a PMID.

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
    """The kind of a passage; where none is named, the first is the title."""
    kind = kind or ("title" if is_first else "abstract")
    return TITLE_KINDS.get(kind, kind)


def relation_of(
    infons: Mapping[str, Any],
    nodes: Sequence[str],
    annotations: Mapping[str, tuple[str, str]],
    place: str,
) -> RawRelation:
    """A relation, whose ends are named in four ways: by three kinds of infon, else by two nodes,
    which are ids in `annotations` (type and identifier of each)."""
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
    """Count an annotation that is not in one place.

    BC5CDR cuts "visual or auditory toxicity" into parts beside the whole; the whole stays and has
    every identifier, so no concept is lost with a part.
    """
    reason = "mention/discontinuous" if num_locations else "mention/no_location"
    tally.drop(reason, f"{file}:{place}", repr(text[:80]))


def relation_infons(doc: Document, relation: Relation) -> dict[str, Any]:
    """The infons of a relation in BioRED's dialect. A concept that no mention of the document has
    needs PubTator 3's role beside it, a dict of type and identifier."""
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
    """Infons without those that are not known."""
    return {key: value for key, value in values.items() if value}
