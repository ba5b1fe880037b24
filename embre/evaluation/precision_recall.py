"""Precision-recall curves of pairs and relations ranked by confidence.

Shapes: P pairs, n pairs or relations that are ranked, k points of a curve.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embre.document import Document
from embre.evaluation.matching import RelationMatch, match_documents
from embre.evaluation.scoring import METRICS
from embre.relations.scored_pairs import ScoredPairs

MAX_POINTS = 300  # per curve; more would look the same
Ranked = tuple[np.ndarray, np.ndarray]  # confidence (n,) and whether each is right (n,)


@dataclass(frozen=True, slots=True)
class Curve:
    """Precision (k,) and recall (k,) in order of falling confidence, and `average_precision`."""

    precision: np.ndarray
    recall: np.ndarray
    average_precision: float


def curve(confidence: np.ndarray, right: np.ndarray, num_gold: int) -> Curve:
    """Precision and recall at every threshold on confidence (n,); `right` (n,): whether it is gold.

    Average precision is the sum of precision times the gain in recall, without interpolation.
    Recall ends below one if some of the `num_gold` are not ranked.
    """
    order = np.argsort(-confidence, kind="stable")
    last_of_equals = np.flatnonzero(np.diff(np.r_[confidence[order], -np.inf]) < 0)
    tp = np.cumsum(right[order])[last_of_equals]
    precision = tp / (last_of_equals + 1)
    recall = tp / max(num_gold, 1)
    average = float(np.sum(precision * np.diff(np.r_[0.0, recall])))
    shown = slice(None)
    if len(tp) > MAX_POINTS:
        shown = np.linspace(0, len(tp) - 1, MAX_POINTS).round().astype(np.int64)
    return Curve(precision[shown], recall[shown], average)


def ranked_pairs(pairs: ScoredPairs) -> dict[str, Ranked]:
    """Rank all pairs for each metric, by the probability of being right under it.

    Metrics with novelty are included only if model and gold state it.
    """
    metrics = METRICS if pairs.has_novelty else ("pair", "pair_type")
    return {metric: (pairs.confidence(metric), pairs.right[metric]) for metric in metrics}


def ranked_relations(gold: Sequence[Document], predicted: Sequence[Document]) -> dict[str, Ranked]:
    """Rank the predicted relations that have a probability, by it, for each metric."""
    rows = [
        match
        for _, matches in match_documents(gold, predicted)
        for match in matches
        if match.predicted and match.predicted.probability is not None
    ]
    confidence = np.array([row.relation.probability for row in rows], dtype=np.float64)
    right = [_right(row) for row in rows]
    return {
        metric: (confidence, np.array([one[metric] for one in right], dtype=bool))
        for metric in METRICS
    }


def _right(match: RelationMatch) -> dict[str, bool]:
    prediction, gold = match.relation, match.gold
    related = gold is not None
    same_type = related and prediction.type == gold.type
    same_novelty = related and prediction.novel == gold.novel
    return {
        "pair": related,
        "pair_type": same_type,
        "pair_novelty": same_novelty,
        "all": same_type and same_novelty,
    }
