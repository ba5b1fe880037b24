"""Reliability: how often pairs of a given predicted probability are positive.

Shapes: P pairs, B bins.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from embre.relations.scored_pairs import ScoredPairs


@dataclass(frozen=True, slots=True)
class Reliability:
    """Reliability of probabilities, in bins of equal width.

    `predicted` (B,) is the mean probability in a bin, `observed` (B,) the share of positives, both
    nan in an empty one; `counts` (B,) are the pairs in it. `ece` is the expected calibration
    error, the mean of |observed - predicted| weighted by counts (Naeini, Cooper and Hauskrecht,
    AAAI 2015; Guo et al., ICML 2017).
    """

    predicted: np.ndarray
    observed: np.ndarray
    counts: np.ndarray
    ece: float

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the empty bins."""
        bins = zip(self.counts, self.predicted.tolist(), self.observed.tolist(), strict=True)
        return {
            "ece": round(self.ece, 4),
            "bins": [
                {"pairs": int(count), "predicted": round(p, 4), "observed": round(o, 4)}
                for count, p, o in bins
                if count
            ],
        }


def reliability(probability: np.ndarray, true: np.ndarray, bins: int = 10) -> Reliability:
    """Compare probabilities (P,) with outcomes (P,). Bins are (low, high]; the first includes 0.

    >>> reliability(np.array([0.2, 0.2, 0.9]), np.array([True, False, True]), bins=2).ece
    0.2333333333333333
    """
    place = np.clip(np.ceil(probability * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        predicted = np.bincount(place, probability, bins) / counts
        observed = np.bincount(place, true.astype(np.float64), bins) / counts
    gaps = np.nan_to_num(np.abs(observed - predicted))
    return Reliability(predicted, observed, counts, float(gaps @ counts / max(counts.sum(), 1)))


def reliabilities(pairs: ScoredPairs) -> dict[str, Reliability]:
    """Reliability of `related` over all pairs, and of the most likely `type` and of `novelty` over
    related pairs for which both model and gold state it."""
    typed = pairs.relation_labels > 0
    known = ~np.isnan(pairs.gold_novel) & ~np.isnan(pairs.novel)
    return {
        "related": reliability(pairs.related, pairs.relation_labels != 0),
        "type": reliability(
            pairs.types.max(1, initial=0.0)[typed], pairs.right["pair_type"][typed]
        ),
        "novelty": reliability(pairs.novel[known], pairs.gold_novel[known] == 1),
    }
