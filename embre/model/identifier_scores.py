"""Top-1 accuracy and MRR of hidden mentions, by entity type and by frequency of the concept.

Top-1 is the share of mentions whose true identifier has rank 1 within its type; MRR is the mean of
1 / rank (Voorhees, TREC-8, 1999). The most frequent concepts of a type, with half of its mentions
together, are `head`; the next, up to four fifths of the mentions, `middle`; the rest `tail`.
"""

from collections.abc import Mapping

import numpy as np

from embre.entity_types import TYPE_INDEX
from embre.shards.entities import EntityVocabulary

FREQUENCIES = ("head", "middle", "tail")
ALL = "all"
GROUPS = (ALL, *TYPE_INDEX, *FREQUENCIES)
UP_TO = (0.5, 0.8)  # cumulative shares of the mentions of a type
SUMS = ("count", "top1", "mrr")
NAMES = [f"{kind}/{group}" for group in GROUPS for kind in SUMS]


def frequency_bounds(entities: EntityVocabulary) -> np.ndarray:
    """(types, 2) the first id of each type that is `middle`, and the first that is `tail`."""
    bounds = np.zeros((len(TYPE_INDEX), len(UP_TO)), dtype=np.int64)
    for number, counts in enumerate(entities.counts()):
        before = np.concatenate([[0], np.cumsum(counts)[:-1]])  # mentions of more frequent concepts
        for column, share in enumerate(UP_TO):
            bounds[number, column] = np.count_nonzero(before < share * counts.sum())
    return bounds


def score_sums(
    types_K: np.ndarray, ids_K: np.ndarray, ranks_K: np.ndarray, bounds: np.ndarray
) -> dict[str, float]:
    """Sums over K mentions by NAMES, from which `scores` computes means; sums of parts add up."""
    frequency = (ids_K[:, None] >= bounds[types_K]).sum(1)
    members = {ALL: np.ones(len(types_K), dtype=bool)}
    members |= {name: types_K == number for name, number in TYPE_INDEX.items()}
    members |= {name: frequency == number for number, name in enumerate(FREQUENCIES)}
    sums: dict[str, float] = {}
    for group, inside in members.items():
        ranks = ranks_K[inside]
        sums[f"count/{group}"] = float(len(ranks))
        sums[f"top1/{group}"] = float((ranks == 1).sum())
        sums[f"mrr/{group}"] = float((1.0 / ranks).sum())
    return sums


def scores(sums: Mapping[str, float]) -> dict[str, float]:
    """`accuracy/identifier` and `mrr/identifier`, overall and by group, without empty groups."""
    means = {}
    for group in GROUPS:
        if count := sums[f"count/{group}"]:
            end = "" if group == ALL else f"/{group}"
            means[f"accuracy/identifier{end}"] = sums[f"top1/{group}"] / count
            means[f"mrr/identifier{end}"] = sums[f"mrr/{group}"] / count
    return means
