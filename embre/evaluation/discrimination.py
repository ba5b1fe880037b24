"""Discrimination: how well raw scores separate related pairs, types and novelty, at any threshold.

F1 mixes all three with the choice of thresholds; these measures show which part is at fault.
"""

import numpy as np

from embre.evaluation.precision_recall import curve
from embre.relations.scored_pairs import ScoredPairs

MIN_PROBABILITY = 1e-9  # log-loss at a probability of 0 is infinite

Discrimination = dict[str, dict[str, float]]


def discrimination(pairs: ScoredPairs) -> Discrimination:
    """Measures of uncalibrated pairs, by head, each with its number of `pairs`.

    `related`: `average_precision` over all candidate pairs; gold relations that are no candidates
    do not count. `type`: `accuracy` and `log_loss` over pairs with a gold type and several legal
    ones; of two gold types the first counts. `novelty` of related pairs: `auc` (area under the ROC
    curve) and `log_loss`. A head without predictions or gold labels is left out.
    """
    measures = {"related": _related(pairs), "type": _types(pairs), "novelty": _novelty(pairs)}
    return {
        name: {measure: round(value, 4) for measure, value in numbers.items()}
        for name, numbers in measures.items()
        if numbers
    }


def _related(pairs: ScoredPairs) -> dict[str, float]:
    right = pairs.relation_labels != 0
    if not right.any():
        return {}
    found = curve(pairs.related, right, int(right.sum()))
    return {"pairs": len(pairs), "average_precision": found.average_precision}


def _types(pairs: ScoredPairs) -> dict[str, float]:
    rows = np.flatnonzero((pairs.relation_labels > 0) & ((pairs.types > 0).sum(1) > 1))
    if not len(rows):
        return {}
    types, gold = pairs.types[rows], pairs.relation_labels[rows] - 1
    probability = types[np.arange(len(rows)), gold]
    return {
        "pairs": len(rows),
        "accuracy": float((types.argmax(1) == gold).mean()),
        "log_loss": _log_loss(probability),
    }


def _novelty(pairs: ScoredPairs) -> dict[str, float]:
    rows = ~np.isnan(pairs.novel) & ~np.isnan(pairs.gold_novel) & (pairs.relation_labels != 0)
    predicted, novel = pairs.novel[rows], pairs.gold_novel[rows] == 1
    if novel.all() or not novel.any():
        return {}
    return {
        "pairs": len(predicted),
        "auc": _auc(predicted, novel),
        "log_loss": _log_loss(np.where(novel, predicted, 1 - predicted)),
    }


def _auc(predicted: np.ndarray, true: np.ndarray) -> float:
    """Area under the ROC curve: the probability that a positive outranks a negative, ties half."""
    others = np.sort(predicted[~true])
    below, up_to = (np.searchsorted(others, predicted[true], side) for side in ("left", "right"))
    return float((below + up_to).mean() / 2 / len(others))


def _log_loss(of_gold: np.ndarray) -> float:
    return float(-np.log(np.maximum(of_gold, MIN_PROBABILITY)).mean())
