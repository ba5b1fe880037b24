"""The value types of annotated text: document, passage, mention, concept, relation."""

from dataclasses import dataclass
from typing import NamedTuple


class Concept(NamedTuple):
    """An identifier within an entity type, which mentions refer to.

    A bare identifier is ambiguous: Gene 3906 is not Species 3906.

    >>> str(Concept("Gene", "673"))
    'Gene:673'
    """

    type: str
    identifier: str

    def __str__(self) -> str:
        return f"{self.type}:{self.identifier}"


@dataclass(frozen=True, slots=True)
class Passage:
    """A title, abstract or paragraph: characters `start` to `end` (exclusive) of the text."""

    start: int
    end: int
    kind: str
    section: str = ""


@dataclass(frozen=True, slots=True)
class Mention:
    """The characters `start` to `end` (exclusive) of a text, and the concepts they refer to.

    `type` and `concepts` are canonical (see `entity_types`); an unknown type keeps the file's name
    and has no concepts. `source_type`, `source_identifier` and `text` are spelled as in the file,
    so that it can be written back unchanged. `text` may differ from the document's characters
    (PubTator transliterates `α` to `a` in one and not in the other); the offsets are authoritative.
    """

    start: int
    end: int
    text: str
    type: str
    concepts: tuple[Concept, ...]
    source_type: str
    source_identifier: str


@dataclass(frozen=True, slots=True)
class Relation:
    """An undirected relation between two concepts of one document.

    `novel` is None if the source does not state it, `probability` if the relation is not predicted.
    `source_ids` are the two identifiers as spelled in the file, None for a predicted relation.
    """

    head: Concept
    tail: Concept
    type: str
    novel: bool | None = None
    probability: float | None = None
    source_ids: tuple[str, str] | None = None

    @property
    def pair(self) -> tuple[Concept, Concept]:
        """The two concepts, sorted; relations are compared by it."""
        return (self.head, self.tail) if self.head <= self.tail else (self.tail, self.head)


@dataclass(frozen=True, slots=True)
class Document:
    """One article: its text and annotations.

    `text` has the passages at their offsets with spaces between them, so offsets of mentions are
    indices into it. Mentions are sorted by start, end, type and identifier. `pmid` is None if the
    source has none (`doc_id` may be a PMC number).
    """

    doc_id: str
    text: str
    passages: tuple[Passage, ...]
    mentions: tuple[Mention, ...]
    relations: tuple[Relation, ...] = ()
    pmid: str | None = None

    def mentions_by_concept(self) -> dict[Concept, list[Mention]]:
        """The mentions of each concept, concepts in the order of their first mention."""
        grouped: dict[Concept, list[Mention]] = {}
        for mention in self.mentions:
            for concept in dict.fromkeys(mention.concepts):
                grouped.setdefault(concept, []).append(mention)
        return grouped
