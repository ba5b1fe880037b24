"""What is found, and how much of it is right, as less and less confidence is asked for.

Shapes: P pairs, n pairs or relations that are ranked, k points of a curve.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embre.document import Document
from embre.evaluation.matching import RelationMatch, match_documents
from embre.evaluation.scoring import METRICS
from embre.relations.scored_pairs import ScoredPairs

MAX_POINTS = 300  # of a curve: more would look the same
Ranked = tuple[np.ndarray, np.ndarray]  # confidence (n,) and what is right (n,)


@dataclass(frozen=True, slots=True)
class Curve:
    """Precision (k,) at recall (k,), from the most confident on; their `average_precision`."""

    precision: np.ndarray
    recall: np.ndarray
    average_precision: float


def curve(confidence: np.ndarray, right: np.ndarray, num_gold: int) -> Curve:
    """Precision and recall as the least confidence (n,) falls; `right` (n,) says what is gold.

    Average precision is the sum of precision times the gain in recall, without interpolation. What
    nobody ranks is never found, so recall may end below one.
    """
    order = np.argsort(-confidence, kind="stable")
    last_of_equals = np.flatnonzero(np.diff(np.r_[confidence[order], -np.inf]) < 0)
    tp = np.cumsum(right[order])[last_of_equals]
    precision = tp / (last_of_equals + 1)
    recall = tp / max(num_gold, 1)
    average = float(np.sum(precision * np.diff(np.r_[0.0, recall])))
    few = slice(None)
    if len(tp) > MAX_POINTS:
        few = np.linspace(0, len(tp) - 1, MAX_POINTS).round().astype(np.int64)
    return Curve(precision[few], recall[few], average)


def ranked_pairs(pairs: ScoredPairs) -> dict[str, Ranked]:
    """Confidence (n,) and whether it is right (n,) for each metric, those with novelty only where
    model and gold tell it: all pairs, by the probability that all that it asks for is right."""
    told = METRICS if pairs.tells_novelty else ("pair", "pair_type")
    return {metric: (pairs.confidence(metric), pairs.right[metric]) for metric in told}


def ranked_relations(gold: Sequence[Document], predicted: Sequence[Document]) -> dict[str, Ranked]:
    """The same of the predicted relations that have a probability, all by that."""
    rows = [
        verdict
        for _, verdicts in match_documents(gold, predicted)
        for verdict in verdicts
        if verdict.predicted and verdict.predicted.probability is not None
    ]
    confidence = np.array([said.relation.probability for said in rows], dtype=np.float64)
    right = [_right(verdict) for verdict in rows]
    return {
        metric: (confidence, np.array([one[metric] for one in right], dtype=bool))
        for metric in METRICS
    }


def _right(verdict: RelationMatch) -> dict[str, bool]:
    said, gold = verdict.relation, verdict.gold
    related = gold is not None
    same_type, same_novelty = (
        related and said.type == gold.type,
        related and said.novel == gold.novel,
    )
    return {
        "pair": related,
        "pair_type": same_type,
        "pair_novelty": same_novelty,
        "all": same_type and same_novelty,
    }
