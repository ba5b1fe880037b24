"""The relation types of a corpus, and the entity types between which each is legal."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

from embre.document import Concept, Document
from embre.tally import Tally

NONE = "None"


@dataclass(frozen=True, slots=True)
class RelationSchema:
    """The label set of a relation corpus.

    `relation_types` are the classes of a model: the corpus's own types and, in joint training,
    those of the other corpora, which are then legal for no pair. `legal` maps a sorted pair of
    entity types to the relation types allowed between them. `label_map` maps a label in the files
    to one of `relation_types`, or to None if it is left out. `novelty`: whether the corpus
    annotates novelty. Pairs of the types in `not_scored` do not count in an evaluation.
    """

    name: str
    relation_types: tuple[str, ...]
    legal: Mapping[tuple[str, str], frozenset[str]]
    label_map: Mapping[str, str | None] = field(default_factory=dict)
    novelty: bool = True
    not_scored: frozenset[tuple[str, str]] = frozenset()

    def __post_init__(self) -> None:
        assert not self.legal.keys() & self.not_scored, (
            "pairs that are not annotated cannot be legal"
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes of a pair; label 0 is "no relation"."""
        return (NONE, *self.relation_types)

    @property
    def corpus_types(self) -> tuple[str, ...]:
        """The relation types that are legal for at least one pair."""
        legal = frozenset[str]().union(*self.legal.values())
        return tuple(name for name in self.relation_types if name in legal)

    def legal_types(self, first: Concept, second: Concept) -> frozenset[str]:
        """The relation types allowed between two concepts; may be empty."""
        low, high = sorted((first.type, second.type))
        return self.legal.get((low, high), frozenset())

    def first_legal(self, first: Concept, second: Concept) -> str:
        """The first relation type allowed between two concepts; '' if there is none."""
        legal = self.legal_types(first, second)
        return next((name for name in self.relation_types if name in legal), "")

    def candidates(self, doc: Document) -> Iterator[tuple[Concept, Concept]]:
        """Yield each unordered pair of distinct concepts of a document with a legal relation."""
        for first, second in combinations(sorted(doc.mentions_by_concept()), 2):
            if self.legal.get((first.type, second.type)):  # sorted, because the concepts are
                yield first, second

    def knows(self, label: str) -> bool:
        """Whether a label in a file is known, including those that are left out."""
        return label in self.label_map or label in self.corpus_types

    def normalise(self, doc: Document, tally: Tally) -> Document:
        """Map the labels of a document; without novelty if the corpus has none.

        Relations whose label is left out or unknown are dropped and counted in `tally`.
        """
        relations = []
        for relation in doc.relations:
            name = self.label_map.get(relation.type, relation.type)
            if name is None or not self.knows(relation.type):
                why = "label_left_out" if name is None else "label_not_known"
                tally.drop(f"relation/{why}", doc.doc_id, relation.type)
                continue
            novel = relation.novel if self.novelty else None
            relations.append(replace(relation, type=name, novel=novel))
        return replace(doc, relations=tuple(relations))


def schema_as_json(schema: RelationSchema) -> dict[str, Any]:
    """The part of a schema that is saved with a model; what only reading a corpus needs is not."""
    return {
        "name": schema.name,
        "relation_types": list(schema.relation_types),
        "legal": {" ".join(pair): sorted(types) for pair, types in sorted(schema.legal.items())},
        "novelty": schema.novelty,
    }


def schema_of_json(values: Mapping[str, Any]) -> RelationSchema:
    """The inverse of `schema_as_json`."""
    return RelationSchema(
        name=values["name"],
        relation_types=tuple(values["relation_types"]),
        legal={tuple(pair.split()): frozenset(types) for pair, types in values["legal"].items()},
        novelty=values["novelty"],
    )
