"""What a model tells apart before anybody calibrates or decides: related pairs, types, novelty.

F1 judges all of it and the thresholds at once. These say which part is at fault.
"""

import numpy as np

from embre.evaluation.precision_recall import curve
from embre.relations.scored_pairs import ScoredPairs

MIN_PROBABILITY = 1e-9  # a probability of 0 would cost without end

Discrimination = dict[str, dict[str, float]]


def discrimination(pairs: ScoredPairs) -> Discrimination:
    """Of pairs as the model scored them: of `related`, over all candidate pairs, the
    `average_precision`, where relations that are no candidates count for nothing; of the `type` of
    related pairs the `accuracy` of the likeliest and the `log_loss`; of their `novelty` the `auc`,
    area under the ROC curve, and the `log_loss`. Beside each the number of `pairs`. What model or
    gold does not say of any pair is left out; a type is asked of pairs that have a gold one and
    can have several, and of two gold types the first counts."""
    found = {"related": _related(pairs), "type": _types(pairs), "novelty": _novelty(pairs)}
    return {
        name: {measure: round(value, 4) for measure, value in numbers.items()}
        for name, numbers in found.items()
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
    said = types[np.arange(len(rows)), gold]
    return {
        "pairs": len(rows),
        "accuracy": float((types.argmax(1) == gold).mean()),
        "log_loss": _log_loss(said),
    }


def _novelty(pairs: ScoredPairs) -> dict[str, float]:
    rows = ~np.isnan(pairs.novel) & ~np.isnan(pairs.gold_novel) & (pairs.relation_labels != 0)
    said, novel = pairs.novel[rows], pairs.gold_novel[rows] == 1
    if novel.all() or not novel.any():
        return {}
    return {
        "pairs": len(said),
        "auc": _auc(said, novel),
        "log_loss": _log_loss(np.where(novel, said, 1 - said)),
    }


def _auc(said: np.ndarray, true: np.ndarray) -> float:
    """How often one of the true is above one that is not; level with it counts half."""
    others = np.sort(said[~true])
    below, up_to = (np.searchsorted(others, said[true], side) for side in ("left", "right"))
    return float((below + up_to).mean() / 2 / len(others))


def _log_loss(of_gold: np.ndarray) -> float:
    return float(-np.log(np.maximum(of_gold, MIN_PROBABILITY)).mean())
