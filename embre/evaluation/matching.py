"""Matching of predicted with gold relations, and the display names of concepts."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from embre.document import Concept, Document, Mention, Relation

OUTCOMES = ("correct", "wrong type", "wrong novelty", "spurious", "missed")


class RelationMatch(NamedTuple):
    """A matched predicted and gold relation, or one of them alone, and the outcome ('' without
    gold)."""

    predicted: Relation | None
    gold: Relation | None
    outcome: str

    @property
    def relation(self) -> Relation:
        """The predicted relation, or the missed gold one."""
        relation = self.predicted or self.gold
        assert relation is not None
        return relation


def match_relations(predicted: Iterable[Relation], gold: Iterable[Relation]) -> list[RelationMatch]:
    """Match each predicted relation with at most one gold relation; unmatched gold ones are missed.

    The outcomes agree with the counts of `scoring` and the official scorer: novelty that only one
    side states is wrong, and duplicates on a side count once.
    """
    left: defaultdict[tuple[Concept, Concept], list[Relation]] = defaultdict(list)
    for relation in _each_once(gold):
        left[relation.pair].append(relation)
    matches, waiting = [], _each_once(predicted)
    # Exact matches first: a wrong relation must not use up the gold one of a correct one.
    for outcome in ("correct", "wrong novelty", "wrong type"):
        unlike = []
        for relation in waiting:
            found = next((g for g in left[relation.pair] if _outcome(relation, g) == outcome), None)
            if found is None:
                unlike.append(relation)
                continue
            left[relation.pair].remove(found)
            matches.append(RelationMatch(relation, found, outcome))
        waiting = unlike
    matches += [RelationMatch(relation, None, "spurious") for relation in waiting]
    return matches + [
        RelationMatch(None, g, "missed") for remaining in left.values() for g in remaining
    ]


def _each_once(relations: Iterable[Relation]) -> list[Relation]:
    """Relations without duplicates, in either order of their concepts."""
    unique: dict[tuple, Relation] = {}
    for relation in relations:
        unique.setdefault((relation.pair, relation.type, relation.novel), relation)
    return list(unique.values())


def _outcome(predicted: Relation, gold: Relation) -> str:
    """The outcome of matching two relations of the same pair."""
    if predicted.type != gold.type:
        return "wrong type"
    return "correct" if predicted.novel == gold.novel else "wrong novelty"


def match_documents(
    gold: Sequence[Document], predicted: Sequence[Document]
) -> list[tuple[Document, list[RelationMatch]]]:
    """Each gold document with the matches of its relations."""
    relations = {doc.doc_id: doc.relations for doc in predicted}
    return [(doc, match_relations(relations.get(doc.doc_id, ()), doc.relations)) for doc in gold]


def concept_names(mentions: Iterable[Mention]) -> dict[Concept, str]:
    """The most frequent surface form of each concept, the first one if several are."""
    forms: defaultdict[Concept, Counter[str]] = defaultdict(Counter)
    for mention in mentions:
        for concept in mention.concepts:
            forms[concept][mention.text] += 1
    return {concept: counts.most_common(1)[0][0] for concept, counts in forms.items()}
