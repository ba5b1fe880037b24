"""Curves against a loop over thresholds."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embre.document import Concept, Document, Relation
from embre.evaluation.precision_recall import MAX_POINTS, curve, ranked_pairs, ranked_relations
from embre.evaluation.scoring import Score, score
from embre.relations.scored_pairs import ScoredPairs

GENE, DRUG, DISEASE = Concept("Gene", "1"), Concept("Chemical", "1"), Concept("Disease", "1")


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30), st.integers(0, 4))
def test_a_curve_equals_that_of_a_loop(rows, unreachable):
    confidence = np.array([c / 5 for c, _ in rows])
    right = np.array([r for _, r in rows], dtype=bool)
    num_gold = int(right.sum()) + unreachable
    found, average, before = curve(confidence, right, num_gold), 0.0, 0.0
    thresholds = sorted(set(confidence), reverse=True)
    assert len(found.precision) == len(found.recall) == len(thresholds)
    for place, least in enumerate(thresholds):
        inside = confidence >= least
        precision, recall = right[inside].mean(), right[inside].sum() / max(num_gold, 1)
        assert found.precision[place] == pytest.approx(precision)
        assert found.recall[place] == pytest.approx(recall)
        average, before = average + precision * (recall - before), recall
    assert found.average_precision == pytest.approx(average)


def test_a_long_curve_keeps_few_points_and_its_ends():
    rng = np.random.default_rng(1)
    confidence = rng.random(5_000)
    right = rng.random(5_000) < confidence
    found = curve(confidence, right, 2 * int(right.sum()))
    assert len(found.recall) == MAX_POINTS and found.recall[-1] == 0.5


PAIRS = ScoredPairs(
    num_documents=1,
    documents=np.zeros(2, dtype=int),
    concepts=[(DRUG, DISEASE), (DISEASE, GENE)],
    related=np.array([0.8, 0.5]),
    types=np.array([[0.5, 0.25], [0.0, 1.0]]),
    novel=np.array([0.25, np.nan]),
    relation_labels=np.array([1, 0]),
    gold_novel=np.array([1.0, np.nan]),
)


def test_pairs_are_ranked_by_the_confidence_of_the_metric():
    ranked = ranked_pairs(PAIRS)
    confidence, right = ranked["pair"]
    assert confidence.tolist() == [0.8, 0.5] and right.tolist() == [True, False]
    confidence, right = ranked["pair_type"]
    assert confidence.tolist() == [0.4, 0.5] and right.tolist() == [True, False]
    confidence, right = ranked["pair_novelty"]
    assert confidence == pytest.approx([0.6, 0.5]) and right.tolist() == [False, False]
    confidence, right = ranked["all"]
    assert confidence == pytest.approx([0.3, 0.5]) and right.tolist() == [False, False]


def test_without_novelty_on_a_side_no_pair_is_ranked_by_it():
    pairs = replace(PAIRS, novel=np.array([0.9, 0.9]), relation_labels=np.array([1, 2]))
    right = [True, False]  # the second is related, and gold alone does not say whether it is novel
    assert ranked_pairs(pairs)["all"][1].tolist() == right
    for silent in (
        replace(pairs, novel=np.full(2, np.nan)),
        replace(pairs, gold_novel=np.full(2, np.nan)),
    ):
        assert set(ranked_pairs(silent)) == {"pair", "pair_type"}
        assert silent.right["all"].tolist() == silent.right["pair_type"].tolist() == [True, True]


def test_predicted_relations_are_ranked_by_their_probability():
    gold = Document("1", "", (), (), (Relation(DRUG, DISEASE, "Association", True),))
    said = (
        Relation(DRUG, DISEASE, "Association", False, 0.7),
        Relation(DISEASE, GENE, "Association", True, 0.6),
        Relation(DRUG, GENE, "Association", True),
    )
    ranked = ranked_relations([gold], [Document("1", "", (), (), said)])
    found = {metric: (c.tolist(), r.tolist()) for metric, (c, r) in ranked.items()}
    assert found["pair"] == found["pair_type"] == ([0.7, 0.6], [True, False])
    assert found["all"] == ([0.7, 0.6], [False, False])


def test_a_relation_without_novelty_is_not_right_where_gold_states_it():
    relation = Relation(DRUG, DISEASE, "Association", True)
    gold = Document("1", "", (), (), (relation,))
    said = replace(gold, relations=(replace(relation, novel=None, probability=0.7),))
    ranked = ranked_relations([gold], [said])
    assert {metric: right.tolist() for metric, (_, right) in ranked.items()} == {
        "pair": [True],
        "pair_type": [True],
        "pair_novelty": [False],
        "all": [False],
    }
    assert score([gold], [said])["all"] == Score(tp=0, fp=1, fn=1)
