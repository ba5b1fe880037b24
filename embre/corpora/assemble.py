"""Check a raw document against its text and turn it into a `Document`.

Every reader ends here, so all formats are checked by the same rules and a document is equal
whichever format it was read from.
"""

from collections.abc import Iterable
from itertools import pairwise
from operator import attrgetter

from embre.corpora.raw import (
    NOVELTY,
    CheckedDocument,
    RawDocument,
    RawMention,
    RawPassage,
    RawRelation,
)
from embre.corpora.repair import MAX_SHOWN, repair
from embre.document import Concept, Document, Mention, Passage, Relation
from embre.entity_types import ENTITY_TYPES, normalise, read_identifiers
from embre.tally import Tally

# Total per document: wrong offsets must not fill gigabytes with spaces.
MAX_GAP_CHARS = 100_000
# An ambiguous bare id in a relation never means these: no relation of BioRED has them.
WEAK_TYPES = {"Species", "CellLine"}
_IS_NOVEL = {word.lower(): novel for novel, word in NOVELTY.items()}


def check(raw: RawDocument, tally: Tally) -> CheckedDocument:
    """Lay out the text and keep the mentions that match it, sorted and without duplicates.

    Mentions that do not match are repaired if a rule applies, else dropped; both are counted.
    """
    text, passages = lay_out(raw.passages, f"{raw.file}#{raw.doc_id}", tally)
    kept: list[RawMention] = []
    wrong: list[RawMention] = []
    for mention in raw.mentions:
        start, end, surface = mention[0], mention[1], mention[2]
        # The length first: to copy a long span for each mention would take hours.
        if end - start == len(surface) and text[start:end] == surface and 0 <= start < end:
            kept.append(mention)
        else:
            wrong.append(mention)
    if wrong:
        kept += repair(wrong, kept, text, passages, raw.file, tally)
    kept.sort()
    for one, other in pairwise(kept):
        if one[0] == other[0] and one[1] == other[1]:  # rare: two with the same span
            kept = without_copies(kept, raw.file, tally)
            break
    return CheckedDocument(raw.doc_id, raw.pmid, raw.pmcid, text, passages, kept, raw.file)


def without_copies(mentions: list[RawMention], file: str, tally: Tally) -> list[RawMention]:
    """Drop and count duplicate mentions: same span, type and identifier."""
    found: dict[tuple[int, int, str, str], RawMention] = {}
    for mention in mentions:
        key = (mention.start, mention.end, mention.type, mention.identifier)
        if found.setdefault(key, mention) is not mention:
            detail = f"{mention.text[:MAX_SHOWN]!r} at {mention.start}-{mention.end}"
            tally.drop("mention/duplicate", f"{file}:{mention.place}", detail)
    return list(found.values())


def assemble(raw: RawDocument, tally: Tally) -> Document:
    """Check a raw document and resolve its concepts and relations."""
    checked = check(raw, tally)
    mentions = []
    for start, end, surface, source_type, identifier, _ in checked.mentions:
        name, concepts = normalise(source_type, identifier)
        mentions.append(Mention(start, end, surface, name, concepts, source_type, identifier))
    mentions.sort(key=attrgetter("start", "end", "type", "source_identifier"))
    relations = []
    known = concepts_by_spelling(mentions) if raw.relations else {}
    for relation in raw.relations:
        resolved = resolve(relation, known)
        if resolved is None:
            detail = f"{relation.type} {relation.head[1]} {relation.tail[1]}"[:MAX_SHOWN]
            tally.drop("relation/unknown_concept", f"{raw.file}:{relation.place}", detail)
        else:
            relations.append(resolved)
    return Document(
        raw.doc_id, checked.text, checked.passages, tuple(mentions), tuple(relations), raw.pmid
    )


def lay_out(
    passages: Iterable[RawPassage], place: str, tally: Tally
) -> tuple[str, tuple[Passage, ...]]:
    """Place passages at their offsets, filling gaps with spaces; return the text and the passages.

    A passage that overlaps or whose gap is too large is dropped and counted.
    """
    pieces: list[str] = []
    placed: list[Passage] = []
    length, room = 0, MAX_GAP_CHARS
    for raw in passages:
        gap = raw.offset - length
        if not 0 <= gap <= room:
            reason = "passage/overlap" if gap < 0 else "passage/far_away"
            tally.drop(reason, place, f"offset {raw.offset} after {length} characters")
            continue
        room -= gap
        pieces += " " * gap, raw.text
        length = raw.offset + len(raw.text)
        placed.append(Passage(raw.offset, length, raw.kind, raw.section))
    return "".join(pieces), tuple(placed)


def concepts_by_spelling(mentions: Iterable[Mention]) -> dict[str, Concept]:
    """Map each bare identifier to its concept in the document; of two types the later wins."""
    known: dict[str, Concept] = {}
    for mention in mentions:
        if not mention.concepts:
            continue
        for name, raw in read_identifiers(mention.source_type, mention.source_identifier):
            before = known.get(raw)
            if before is None or before.type in WEAK_TYPES or mention.type not in WEAK_TYPES:
                known[raw] = Concept(mention.type, name)
    return known


def resolve(raw: RawRelation, known: dict[str, Concept]) -> Relation | None:
    """Resolve a raw relation to concepts; None if an identifier names no concept."""
    head, tail = _end(*raw.head, known), _end(*raw.tail, known)
    if head is None or tail is None:
        return None
    source_ids = raw.head[1].strip(), raw.tail[1].strip()
    novel = _IS_NOVEL.get(raw.novel.strip().lower())
    return Relation(head, tail, raw.type, novel, _probability(raw.score), source_ids)


def _end(source_type: str, identifier: str, known: dict[str, Concept]) -> Concept | None:
    """Resolve one end; a bare id without a type must occur in the document."""
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


def as_checked(doc: Document) -> CheckedDocument:
    """Convert a document back to the form that `check` returns."""
    mentions = [
        RawMention(m.start, m.end, m.text, m.source_type, m.source_identifier, doc.doc_id)
        for m in doc.mentions
    ]
    return CheckedDocument(
        doc.doc_id, doc.pmid, None, doc.text, doc.passages, mentions, file=doc.doc_id
    )
