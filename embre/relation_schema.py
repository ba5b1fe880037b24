"""Which relation types a corpus has, and between which entity types each is legal."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from embre.document import Concept, Document

NONE = "None"


@dataclass(frozen=True, slots=True)
class RelationSchema:
    """The label set of a relation corpus. `legal` maps a sorted pair of types to its labels;
    `novelty` says whether its relations state that they are novel or not.

    `labels` puts `None` first, so label 0 is always "no relation".
    """

    name: str
    relation_types: tuple[str, ...]
    legal: dict[tuple[str, str], frozenset[str]]
    novelty: bool = True

    @property
    def labels(self) -> tuple[str, ...]:
        return (NONE, *self.relation_types)

    def legal_types(self, first: Concept, second: Concept) -> frozenset[str]:
        """The relation types allowed between two concepts; empty where none is."""
        low, high = sorted((first.type, second.type))
        return self.legal.get((low, high), frozenset())

    def candidates(self, doc: Document) -> Iterator[tuple[Concept, Concept]]:
        """Every unordered pair of different concepts of a document that may hold a relation."""
        for first, second in combinations(sorted(doc.mentions_by_concept()), 2):
            if self.legal_types(first, second):
                yield first, second
