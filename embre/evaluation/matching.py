"""How each predicted relation fares against gold, and by which name a concept is shown."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from embre.document import Concept, Document, Mention, Relation

OUTCOMES = ("correct", "wrong type", "wrong novelty", "spurious", "missed")


class RelationMatch(NamedTuple):
    """A predicted and a gold relation that belong together, or one of them alone, and the outcome
    ('' where nothing judges it)."""

    predicted: Relation | None
    gold: Relation | None
    outcome: str

    @property
    def relation(self) -> Relation:
        """The predicted one, else what was missed."""
        relation = self.predicted or self.gold
        assert relation is not None
        return relation


def match_relations(predicted: Iterable[Relation], gold: Iterable[Relation]) -> list[RelationMatch]:
    """Pair each predicted relation with at most one of gold; what gold has left over is missed.

    Novelty that one side alone states is wrong, as `scoring` and the official scorer count it: the
    errors are those that the scores count. What a side says twice counts once there, and here.
    """
    left: defaultdict[tuple[Concept, Concept], list[Relation]] = defaultdict(list)
    for relation in _each_once(gold):
        left[relation.pair].append(relation)
    verdicts, waiting = [], _each_once(predicted)
    # The nearest first: what is wrong must not use up the right answer of another.
    for outcome in ("correct", "wrong novelty", "wrong type"):
        unlike = []
        for relation in waiting:
            found = next((g for g in left[relation.pair] if _outcome(relation, g) == outcome), None)
            if found is None:
                unlike.append(relation)
                continue
            left[relation.pair].remove(found)
            verdicts.append(RelationMatch(relation, found, outcome))
        waiting = unlike
    verdicts += [RelationMatch(relation, None, "spurious") for relation in waiting]
    return verdicts + [
        RelationMatch(None, g, "missed") for remaining in left.values() for g in remaining
    ]


def _each_once(relations: Iterable[Relation]) -> list[Relation]:
    """The first of those that say the same, whichever concept they name first."""
    found: dict[tuple, Relation] = {}
    for relation in relations:
        found.setdefault((relation.pair, relation.type, relation.novel), relation)
    return list(found.values())


def _outcome(predicted: Relation, gold: Relation) -> str:
    """Of two relations of one pair."""
    if predicted.type != gold.type:
        return "wrong type"
    return "correct" if predicted.novel == gold.novel else "wrong novelty"


def match_documents(
    gold: Sequence[Document], predicted: Sequence[Document]
) -> list[tuple[Document, list[RelationMatch]]]:
    """Each gold document with the verdicts on its relations."""
    said = {doc.doc_id: doc.relations for doc in predicted}
    return [(doc, match_relations(said.get(doc.doc_id, ()), doc.relations)) for doc in gold]


def concept_names(mentions: Iterable[Mention]) -> dict[Concept, str]:
    """The most frequent surface form of each concept, the earlier one where two are as frequent."""
    forms: defaultdict[Concept, Counter[str]] = defaultdict(Counter)
    for mention in mentions:
        for concept in mention.concepts:
            forms[concept][mention.text] += 1
    return {concept: counts.most_common(1)[0][0] for concept, counts in forms.items()}
