"""Which relation types a corpus has, and between which entity types each is legal."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

from embre.document import Concept, Document
from embre.tally import Tally

NONE = "None"


@dataclass(frozen=True, slots=True)
class RelationSchema:
    """The label set of a relation corpus. `legal` maps a sorted pair of types to its labels;
    `novelty` says whether its relations state that they are novel or not.

    `labels` puts `None` first, so label 0 is always "no relation". `relation_types` are those
    that a model tells apart: the corpus's own, and of a joint training all others' too, which
    are then legal for no pair. `label_map` says what a label in the files means: one of
    `relation_types`, or None for a label that is left out. `novelty` is whether the corpus says
    what is novel. Pairs of the types in `not_scored` do not count in an evaluation.
    """

    name: str
    relation_types: tuple[str, ...]
    legal: Mapping[tuple[str, str], frozenset[str]]
    label_map: Mapping[str, str | None] = field(default_factory=dict)
    novelty: bool = True
    not_scored: frozenset[tuple[str, str]] = frozenset()

    def __post_init__(self) -> None:
        assert not self.legal.keys() & self.not_scored, "what is not annotated cannot be learnt"

    @property
    def labels(self) -> tuple[str, ...]:
        return (NONE, *self.relation_types)

    @property
    def corpus_types(self) -> tuple[str, ...]:
        """The relation types that some pair may hold."""
        known = frozenset[str]().union(*self.legal.values())
        return tuple(name for name in self.relation_types if name in known)

    def legal_types(self, first: Concept, second: Concept) -> frozenset[str]:
        """The relation types allowed between two concepts; empty where none is."""
        low, high = sorted((first.type, second.type))
        return self.legal.get((low, high), frozenset())

    def first_legal(self, first: Concept, second: Concept) -> str:
        """The first relation type allowed between two concepts; '' where none is."""
        legal = self.legal_types(first, second)
        return next((name for name in self.relation_types if name in legal), "")

    def candidates(self, doc: Document) -> Iterator[tuple[Concept, Concept]]:
        """Every unordered pair of different concepts of a document that may hold a relation."""
        for first, second in combinations(sorted(doc.mentions_by_concept()), 2):
            if self.legal.get((first.type, second.type)):  # sorted, as the concepts are
                yield first, second

    def knows(self, label: str) -> bool:
        """Whether a file's label means something here, be it that it is left out."""
        return label in self.label_map or label in self.corpus_types

    def normalise(self, doc: Document, tally: Tally) -> Document:
        """The document with its labels renamed and without a novelty that the corpus has not.

        Relations whose label is left out, or not known, are counted in `tally` and gone.
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
    """What a saved model must know of its schema: nothing that only reading its corpus needs."""
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
