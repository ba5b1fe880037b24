"""How each predicted relation fares against gold, and by which name a concept is shown."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from embre.document import Concept, Document, Mention, Relation

OUTCOMES = ("correct", "wrong type", "wrong novelty", "spurious", "missed")


class Verdict(NamedTuple):
    """A relation, how it fares against gold ('' where nothing judges it), and its counterpart."""

    relation: Relation
    outcome: str
    gold: Relation | None = None


def judge(predicted: Iterable[Relation], gold: Iterable[Relation]) -> list[Verdict]:
    """Pair each predicted relation with at most one of gold; what gold has left over is missed.

    Novelty counts only where both sides state it.
    """
    left: defaultdict[tuple[Concept, Concept], list[Relation]] = defaultdict(list)
    for relation in gold:
        left[relation.pair].append(relation)
    verdicts, mismatched = [], []
    for relation in predicted:
        same = next((g for g in left[relation.pair] if g.type == relation.type), None)
        if same is None:
            mismatched.append(relation)
            continue
        left[relation.pair].remove(same)
        disagree = None not in (relation.novel, same.novel) and relation.novel != same.novel
        verdicts.append(Verdict(relation, "wrong novelty" if disagree else "correct", same))
    # Only after all equal types are taken: a wrong type must not use up another's right answer.
    for relation in mismatched:
        if left[relation.pair]:
            verdicts.append(Verdict(relation, "wrong type", left[relation.pair].pop(0)))
        else:
            verdicts.append(Verdict(relation, "spurious"))
    return verdicts + [Verdict(g, "missed") for remaining in left.values() for g in remaining]


def judged(
    gold: Sequence[Document], predicted: Sequence[Document]
) -> list[tuple[Document, list[Verdict]]]:
    """Each gold document with the verdicts on its relations."""
    said = {doc.doc_id: doc.relations for doc in predicted}
    return [(doc, judge(said.get(doc.doc_id, ()), doc.relations)) for doc in gold]


def sides(verdict: Verdict) -> tuple[Relation | None, Relation | None]:
    """The gold and the predicted relation of a verdict."""
    if verdict.outcome == "missed":
        return verdict.relation, None
    return verdict.gold, verdict.relation


def concept_names(mentions: Iterable[Mention]) -> dict[Concept, str]:
    """The most frequent surface form of each concept, the earlier one where two are as frequent."""
    forms: defaultdict[Concept, Counter[str]] = defaultdict(Counter)
    for mention in mentions:
        for concept in mention.concepts:
            forms[concept][mention.text] += 1
    return {concept: counts.most_common(1)[0][0] for concept, counts in forms.items()}
