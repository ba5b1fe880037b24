"""Threshold-free measures against counts by hand."""

from itertools import product

import numpy as np
import pytest

from embre.document import Concept
from embre.evaluation.discrimination import discrimination
from embre.relations.pair_labels import UNLABELLED
from embre.relations.scored_pairs import ScoredPairs

NAN = float("nan")
PAIR = (Concept("Gene", "1"), Concept("Disease", "D1"))


def pairs_of(related, types, novel, labels, gold_novel) -> ScoredPairs:
    columns = (np.array(column, dtype=np.float64) for column in (related, types, novel))
    number = len(labels)
    documents, concepts = np.zeros(number, dtype=np.int64), [PAIR] * number
    return ScoredPairs(
        1, documents, concepts, *columns, np.array(labels), np.array(gold_novel, dtype=np.float64)
    )


def test_each_measure_is_over_its_own_pairs() -> None:
    found = discrimination(
        pairs_of(
            related=[0.9, 0.8, 0.7, 0.1, 0.2],
            types=[[0.6, 0.4], [0.2, 0.8], [0.5, 0.5], [0.9, 0.1], [0.3, 0.7]],
            novel=[0.7, 0.5, 0.9, 0.4, 0.5],
            labels=[1, 1, 0, 2, UNLABELLED],  # the last is related, and of no legal type
            gold_novel=[1, 0, NAN, NAN, 1],
        )
    )
    # Of the four related pairs the first two are found first, the others fourth and last.
    assert found["related"] == {
        "pairs": 5,
        "average_precision": round((1 + 1 + 3 / 4 + 4 / 5) / 4, 4),
    }
    told = np.array([0.6, 0.2, 0.1])
    assert found["type"] == {
        "pairs": 3,
        "accuracy": round(1 / 3, 4),
        "log_loss": round(float(-np.log(told).mean()), 4),
    }
    told = np.array([0.7, 0.5, 0.5])  # the third is .5 novel, level with the one that is not
    assert found["novelty"] == {
        "pairs": 3,
        "auc": 0.75,
        "log_loss": round(float(-np.log(told).mean()), 4),
    }


def test_auc_is_the_share_of_correctly_ordered_pairs() -> None:
    rng = np.random.default_rng(0)
    said, novel = rng.integers(0, 8, 60) / 8, rng.random(60) < 0.4
    only = np.tile([0.0, 1.0], (60, 1))
    found = discrimination(pairs_of(said, only, said, np.full(60, 2), novel))
    above = [
        0.5 if one == other else float(one > other)
        for one, other in product(said[novel], said[~novel])
    ]
    assert found["novelty"]["auc"] == pytest.approx(np.mean(above), abs=1e-4)
    assert "type" not in found, "a pair can have but one"


@pytest.mark.parametrize(
    ("novel", "gold_novel"), [([NAN, NAN], [1, 0]), ([0.5, 0.5], [NAN, NAN]), ([0.5, 0.5], [1, 1])]
)
def test_measures_without_data_are_left_out(novel, gold_novel) -> None:
    types = [[0.5, 0.5]] * 2
    assert set(discrimination(pairs_of([0.5, 0.5], types, novel, [1, 2], gold_novel))) == {
        "related",
        "type",
    }
    assert discrimination(pairs_of([0.5, 0.5], types, novel, [0, 0], [NAN, NAN])) == {}


def test_log_loss_is_finite() -> None:
    found = discrimination(pairs_of([1.0], [[1.0, 1e-12]], [NAN], [2], [NAN]))
    assert found["type"]["accuracy"] == 0 and 20 < found["type"]["log_loss"] < 21
