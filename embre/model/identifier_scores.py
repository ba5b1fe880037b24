"""How well hidden mentions are identified: by entity type, and by how frequent their concepts are.

Top-1 is the share whose true identifier is the most likely of its type; MRR the mean of 1 / rank
(Voorhees, TREC-8, 1999). A concept is `head` if it is among the most frequent of its type that
together have half of its mentions, `middle` up to four fifths, `tail` beyond.
"""

from collections.abc import Mapping

import numpy as np

from embre.entity_types import TYPE_INDEX
from embre.shards.entities import EntityVocabulary

FREQUENCIES = ("head", "middle", "tail")
ALL = "all"
GROUPS = (ALL, *TYPE_INDEX, *FREQUENCIES)
UP_TO = (0.5, 0.8)  # shares of the mentions of a type
SUMS = ("count", "top1", "mrr")
NAMES = [f"{kind}/{group}" for group in GROUPS for kind in SUMS]


def frequency_bounds(entities: EntityVocabulary) -> np.ndarray:
    """(T, 2) within each type, the first id that is `middle` and the first that is `tail`."""
    found = np.zeros((len(TYPE_INDEX), len(UP_TO)), dtype=np.int64)
    for number, counts in enumerate(entities.counts()):
        before = np.concatenate([[0], np.cumsum(counts)[:-1]])  # by the more frequent ones
        for column, share in enumerate(UP_TO):
            found[number, column] = np.count_nonzero(before < share * counts.sum())
    return found


def score_sums(
    types_K: np.ndarray, ids_K: np.ndarray, ranks_K: np.ndarray, bounds: np.ndarray
) -> dict[str, float]:
    """The sums behind the scores of some mentions, by the names in NAMES; they add up."""
    frequency = (ids_K[:, None] >= bounds[types_K]).sum(1)
    members = {ALL: np.ones(len(types_K), dtype=bool)}
    members |= {name: types_K == number for name, number in TYPE_INDEX.items()}
    members |= {name: frequency == number for number, name in enumerate(FREQUENCIES)}
    found: dict[str, float] = {}
    for group, inside in members.items():
        ranks = ranks_K[inside]
        found[f"count/{group}"] = float(len(ranks))
        found[f"top1/{group}"] = float((ranks == 1).sum())
        found[f"mrr/{group}"] = float((1.0 / ranks).sum())
    return found


def scores(sums: Mapping[str, float]) -> dict[str, float]:
    """`accuracy/identifier` and `mrr/identifier`, and both of each group that has a mention."""
    found = {}
    for group in GROUPS:
        if count := sums[f"count/{group}"]:
            end = "" if group == ALL else f"/{group}"
            found[f"accuracy/identifier{end}"] = sums[f"top1/{group}"] / count
            found[f"mrr/identifier{end}"] = sums[f"mrr/{group}"] / count
    return found
