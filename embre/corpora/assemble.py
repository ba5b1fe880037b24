"""Passages, mentions and relations as a file gives them become one checked `Document`.

Every reader ends here, so that all formats are checked by the same rules and the same document
is equal whichever file it came from.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from embre.document import Concept, Document, Mention, Passage, Relation
from embre.entity_types import ENTITY_TYPES, normalise, read_identifiers
from embre.tally import Tally

# A wrong offset must not make us fill gigabytes with spaces.
MAX_GAP_CHARS = 100_000
# A bare relation id that names two types never means these: no relation of BioRED joins them.
WEAK_TYPES = {"Species", "CellLine"}
NOVELTY = {"novel": True, "no": False}


class RawPassage(NamedTuple):
    """A passage as a file gives it, `offset` counted in its document."""

    offset: int
    text: str
    kind: str
    section: str = ""


class RawMention(NamedTuple):
    """A mention as a file gives it; nothing about it is trusted yet."""

    start: int
    end: int
    text: str
    type: str
    identifier: str
    place: str | int


class RawRelation(NamedTuple):
    """A relation as a file gives it. An end is (type or '', identifier)."""

    type: str
    head: tuple[str, str]
    tail: tuple[str, str]
    novel: str
    score: str
    place: str | int


def assemble(
    doc_id: str,
    pmid: str | None,
    passages: Iterable[RawPassage],
    mentions: Iterable[RawMention],
    relations: Sequence[RawRelation],
    file: str,
    tally: Tally,
) -> Document:
    """Put a document together; what does not fit its text is dropped and counted."""
    text, placed = lay_out(passages, f"{file}#{doc_id}", tally)
    kept = check_mentions(text, mentions, file, tally)
    resolved: list[Relation] = []
    if relations:
        known = concepts_by_spelling(kept)
        for raw in relations:
            relation = resolve(raw, known)
            if relation is None:
                detail = f"{raw.type} {raw.head[1]} {raw.tail[1]}"
                tally.drop("relation/unknown_concept", f"{file}:{raw.place}", detail)
            else:
                resolved.append(relation)
    return Document(doc_id, text, placed, tuple(kept), tuple(resolved), pmid)


def lay_out(
    passages: Iterable[RawPassage], place: str, tally: Tally
) -> tuple[str, tuple[Passage, ...]]:
    """Passages at their offsets, spaces between: the text that every offset indexes."""
    pieces: list[str] = []
    placed: list[Passage] = []
    length = 0
    for raw in passages:
        gap = raw.offset - length
        if not 0 <= gap <= MAX_GAP_CHARS:
            reason = "passage/overlap" if gap < 0 else "passage/far_away"
            tally.drop(reason, place, f"offset {raw.offset} after {length} characters")
            continue
        pieces += " " * gap, raw.text
        length = raw.offset + len(raw.text)
        placed.append(Passage(raw.offset, length, raw.kind, raw.section))
    return "".join(pieces), tuple(placed)


def check_mentions(
    text: str, mentions: Iterable[RawMention], file: str, tally: Tally
) -> list[Mention]:
    """The mentions that the text bears out, each once, in order."""
    kept: dict[tuple, Mention] = {}
    for raw in mentions:
        start, end, surface, source_type, identifier, place = raw
        if text[start:end] != surface or end <= start or start < 0:
            if fault := fault_of(raw, text):
                tally.drop(fault, f"{file}:{place}", f"{surface!r} is not at {start}-{end}")
                continue
        key = (start, end, source_type, identifier)
        if key in kept:
            tally.drop("mention/duplicate", f"{file}:{place}", f"{surface!r} at {start}-{end}")
            continue
        name, concepts = normalise(source_type, identifier)
        kept[key] = Mention(start, end, surface, name, concepts, source_type, identifier)
    return sorted(kept.values(), key=_mention_order)


def _mention_order(mention: Mention) -> tuple[int, int, str, str]:
    return mention.start, mention.end, mention.type, mention.source_identifier


def fault_of(raw: RawMention, text: str) -> str:
    """Why a mention cannot be where it claims to be, or '' where it may."""
    if raw.end <= raw.start:
        return "mention/empty_span"
    if raw.start < 0 or raw.end > len(text):
        return "mention/past_the_text"
    if not looks_transliterated(text[raw.start : raw.end], raw.text):
        return "mention/offset_mismatch"
    return ""


def looks_transliterated(there: str, claimed: str) -> bool:
    """Whether two strings may be one in two alphabets; then the offset is right.

    >>> looks_transliterated("a-ketoglutarate", "α‑ketoglutarate")
    True
    """
    if len(there) != len(claimed):
        return False
    alike = sum(
        a == b or a.lower() == b.lower() or a.isascii() != b.isascii()
        for a, b in zip(there, claimed, strict=True)
    )
    return 2 * alike >= len(there)


def concepts_by_spelling(mentions: Iterable[Mention]) -> dict[str, Concept]:
    """What a bare identifier means in a document, where two types share it the later one."""
    known: dict[str, Concept] = {}
    for mention in mentions:
        if not mention.concepts:
            continue
        for ours, raw in read_identifiers(mention.source_type, mention.source_identifier):
            before = known.get(raw)
            if before is None or before.type in WEAK_TYPES or mention.type not in WEAK_TYPES:
                known[raw] = Concept(mention.type, ours)
    return known


def resolve(raw: RawRelation, known: dict[str, Concept]) -> Relation | None:
    """A relation between concepts, or None where an identifier names none."""
    head, tail = _end(*raw.head, known), _end(*raw.tail, known)
    if head is None or tail is None:
        return None
    source_ids = raw.head[1].strip(), raw.tail[1].strip()
    novel = NOVELTY.get(raw.novel.strip().lower())
    return Relation(head, tail, raw.type, novel, _probability(raw.score), source_ids)


def _end(source_type: str, identifier: str, known: dict[str, Concept]) -> Concept | None:
    """A role that carries its type speaks for itself; a bare id must occur in the document."""
    identifier = identifier.strip()
    if source_type:
        concepts = normalise(source_type, identifier)[1]
        return concepts[0] if len(concepts) == 1 else known.get(identifier)
    if identifier in known:
        return known[identifier]
    # The same concept in another dialect: `RS#:113488022;HGVS:p.V600E` for a tmVar mention.
    present = set(known.values())
    for name in ENTITY_TYPES:
        parts = read_identifiers(name, identifier)
        if len(parts) == 1 and Concept(name, parts[0][0]) in present:
            return Concept(name, parts[0][0])
    return None


def _probability(score: str) -> float | None:
    try:
        probability = float(score)
    except ValueError:
        return None
    return probability if 0 <= probability <= 1 else None  # None for a NaN as well
