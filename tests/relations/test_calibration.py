"""Fitted calibration and thresholds."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embre.corpora.biored import SCHEMA
from embre.document import Concept
from embre.evaluation.reliability import reliability
from embre.relations import calibration
from embre.relations.calibration import FOLDS, cross_fitted, fit_decision
from embre.relations.scored_pairs import OTHERS, Decision, ScoredPairs, decide, sigmoid

GENE, DRUG, DISEASE = Concept("Gene", "1"), Concept("Chemical", "1"), Concept("Disease", "1")
NUM_TYPES = len(SCHEMA.relation_types)


def pairs_of(
    logits: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator,
    num_documents: int = 20,
    kinds: np.ndarray | None = None,
) -> ScoredPairs:
    """Pairs that the model scores so; it takes the type for the right one in two of three."""
    size = len(logits)
    kinds = np.zeros(size, dtype=int) if kinds is None else kinds
    said = np.where((labels > 0) & (rng.random(size) < 2 / 3), labels - 1, rng.integers(0, 3, size))
    types = np.full((size, NUM_TYPES), 0.01)
    types[np.arange(size), said] = 0.9
    known = labels != 0
    return ScoredPairs(
        num_documents,
        np.sort(rng.integers(0, num_documents, size)),
        [(DISEASE, GENE) if kind else (DRUG, DISEASE) for kind in kinds],
        sigmoid(logits),
        types,
        rng.random(size),
        labels,
        np.where(known, rng.integers(0, 2, size), np.nan),
    )


def drawn(size: int, seed: int, scale: float, shifts: tuple[float, float]) -> ScoredPairs:
    """Pairs whose true logit is `scale` times the model's and a shift by pair type."""
    rng = np.random.default_rng(seed)
    logits, kinds = rng.normal(0, 2, size), rng.integers(0, 2, size)
    true = sigmoid(scale * logits + np.array(shifts)[kinds])
    labels = np.where(rng.random(size) < true, rng.integers(1, 4, size), 0)
    return pairs_of(logits, labels, rng, kinds=kinds)


def f1(pairs: ScoredPairs, decision: Decision) -> float:
    """Of `all`, counted from the relations that come out."""
    tp = predicted = 0
    row = {(d, *c): i for i, (d, c) in enumerate(zip(pairs.documents, pairs.concepts, strict=True))}
    for document, relations in enumerate(decide(pairs, decision, SCHEMA)):
        for relation in relations:
            at = row[document, relation.head, relation.tail]
            label, novelty = pairs.relation_labels[at], pairs.gold_novel[at]
            same = label > 0 and SCHEMA.relation_types[label - 1] == relation.type
            tp += same and (
                relation.novel is None or np.isnan(novelty) or relation.novel == novelty
            )
            predicted += 1
    return 2 * tp / (predicted + (pairs.relation_labels != 0).sum())


def apart(pairs: ScoredPairs) -> ScoredPairs:
    """The same pairs, each with concepts of its own, so that one can be told from another."""
    concepts = [(a._replace(identifier=str(i)), b) for i, (a, b) in enumerate(pairs.concepts)]
    return replace(pairs, concepts=concepts)


def test_overconfidence_and_bias_by_pair_type_are_calibrated():
    pairs = drawn(20_000, 1, scale=0.5, shifts=(-1.0, 0.7))
    decision = fit_decision(pairs, SCHEMA, "all")
    assert decision.scale == pytest.approx(0.5, abs=0.03)
    assert decision.biases["Chemical Disease"] == pytest.approx(-1.0, abs=0.1)
    assert decision.biases["Disease Gene"] == pytest.approx(0.7, abs=0.1)
    related = pairs.relation_labels != 0
    assert reliability(pairs.related, related).ece > 0.1
    assert reliability(decision.calibrated(pairs).related, related).ece < 0.02


def test_overconfident_novelty_is_calibrated():
    pairs = drawn(8_000, 14, scale=1.0, shifts=(0.0, 0.0))
    rng = np.random.default_rng(14)
    logits = rng.normal(0, 6, len(pairs))
    novel = (rng.random(len(pairs)) < sigmoid(0.3 * logits + 1)).astype(int)
    related = pairs.relation_labels != 0
    sure = replace(pairs, novel=sigmoid(logits), gold_novel=np.where(related, novel, np.nan))
    decision = fit_decision(sure, SCHEMA, "all")
    assert decision.novelty == pytest.approx((0.3, 1.0), abs=0.1)
    put_right = decision.calibrated(sure)
    assert reliability(put_right.novel[related], novel[related] == 1).ece < 0.03
    assert f1(apart(sure), decision) > f1(
        apart(sure), fit_decision(replace(sure, gold_novel=pairs.gold_novel), SCHEMA, "all")
    )
    few = replace(sure, gold_novel=np.where(np.cumsum(related) < 40, sure.gold_novel, np.nan))
    assert fit_decision(few, SCHEMA, "all").novelty == (1.0, 0.0)


def test_mean_calibrated_probability_equals_the_share_of_related_pairs():
    pairs = drawn(3_000, 2, scale=2.0, shifts=(0.5, 0.5))
    mean = fit_decision(pairs, SCHEMA, "all").calibrated(pairs).related.mean()
    assert mean == pytest.approx((pairs.relation_labels != 0).mean(), abs=1e-4)


def test_a_pair_type_with_little_data_gets_the_shared_bias():
    pairs = drawn(1_000, 3, scale=1.0, shifts=(0.0, 0.0))
    concepts = [(GENE, GENE) if i < 40 else pair for i, pair in enumerate(pairs.concepts)]
    assert set(fit_decision(replace(pairs, concepts=concepts), SCHEMA, "all").biases) == {
        OTHERS,
        "Chemical Disease",
        "Disease Gene",
    }


@pytest.mark.parametrize("wrong", [False, True])
def test_separable_and_inverted_scores_give_finite_parameters(wrong):
    rng = np.random.default_rng(4)
    logits = rng.normal(0, 20, 500)
    labels = np.where((logits < 0) if wrong else (logits > 0), 1, 0)
    decision = fit_decision(pairs_of(logits, labels, rng), SCHEMA, "all")
    assert np.isfinite([decision.scale, *decision.biases.values()]).all()
    assert decision.scale > 0  # never turned round


@pytest.mark.parametrize("labels", [np.zeros(50), np.ones(50), np.full(50, -100), np.zeros(0)])
def test_nothing_is_fitted_if_all_or_no_pairs_are_related(labels):
    rng = np.random.default_rng(5)
    pairs = pairs_of(rng.normal(0, 1, len(labels)), labels.astype(int), rng)
    assert fit_decision(pairs, SCHEMA, "all") == Decision()


def test_a_single_document_is_enough_to_fit():
    rng = np.random.default_rng(6)
    logits = rng.normal(0, 1, 40)
    pairs = pairs_of(logits, (logits > 0.5).astype(int), rng, num_documents=1)
    decision = fit_decision(pairs, SCHEMA, "all")
    assert dict(decision.thresholds) == {OTHERS: 0.5}  # too few relations for thresholds
    assert len(decide(pairs, decision, SCHEMA)) == 1


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_thresholds_reach_a_higher_f1_than_one_half(scale):
    pairs = apart(drawn(4_000, 7, scale, shifts=(-2.0, -2.0)))
    decision = fit_decision(pairs, SCHEMA, "all")
    assert set(decision.thresholds) >= {OTHERS, "Association", "Positive_Correlation"}
    assert f1(pairs, decision) > f1(pairs, replace(decision, thresholds={OTHERS: 0.5}))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_fitted_thresholds_are_optimal(seed, size):
    """By trying all of them: two groups, every cut of each."""
    rng = np.random.default_rng(seed)
    probability = rng.integers(0, 6, 2 * size) / 5  # ties, 0 and 1 are among them
    right = rng.random(2 * size) < probability * 0.8
    first = np.arange(2 * size) < size
    groups = {0: first, 1: ~first}
    num_gold = int(right.sum()) + int(rng.integers(1, 4))

    def reached(thresholds: Mapping[int, float]) -> float:
        inside = probability >= np.where(first, thresholds[0], thresholds[1])
        return 2 * (right & inside).sum() / (inside.sum() + num_gold)

    tries = [*np.unique(probability), 1.1]
    best = max(reached({0: a, 1: b}) for a, b in product(tries, tries))
    found = calibration._best_cuts(groups, probability, right, num_gold)
    assert reached(found) == pytest.approx(best, abs=1e-12)


def test_an_illegal_type_makes_a_pair_related_but_no_type_right_for_it():
    rng = np.random.default_rng(8)
    logits = rng.normal(0, 2, 2_000)
    labels = np.where(rng.random(2_000) < sigmoid(logits), 1, 0)
    known, illegal = pairs_of(logits, labels, rng), np.where(labels == 1, -100, 0)
    decision = fit_decision(replace(known, relation_labels=illegal), SCHEMA, "all")
    assert decision.scale == fit_decision(known, SCHEMA, "all").scale
    assert min(decision.thresholds.values()) > decision.calibrated(known).confidence("all").max()


def test_novelty_counts_only_where_both_sides_state_it():
    rng = np.random.default_rng(9)
    logits = rng.normal(0, 2, 500)
    labels = np.where(logits + rng.normal(0, 1, 500) > 0, 1, 0)
    pairs = replace(pairs_of(logits, labels, rng), novel=np.full(500, 0.9))
    unknown = replace(pairs, gold_novel=np.full(500, np.nan))
    right = replace(pairs, gold_novel=np.ones(500))
    wrong = replace(pairs, gold_novel=np.zeros(500))
    assert fit_decision(unknown, SCHEMA, "all") == fit_decision(right, SCHEMA, "all")
    assert min(fit_decision(wrong, SCHEMA, "all").thresholds.values()) > 0.9
    unlearnt = replace(pairs, novel=np.full(500, np.nan))
    assert f1(apart(unlearnt), fit_decision(unlearnt, SCHEMA, "all")) == pytest.approx(
        f1(apart(unknown), fit_decision(unknown, SCHEMA, "all"))
    )


def test_thresholds_on_the_joint_confidence_beat_those_on_the_relation():
    rng = np.random.default_rng(13)
    logits = rng.normal(0, 1, 3_000)
    labels = np.where(rng.random(3_000) < sigmoid(logits), rng.integers(1, 4, 3_000), 0)
    pairs = pairs_of(logits, labels, rng)
    sure = rng.random(3_000) < 0.5  # of half the pairs the model knows the type, of half it guesses
    types = np.full((3_000, NUM_TYPES), 0.0)
    types[:, :3] = [0.34, 0.33, 0.33]
    types[sure, :3] = 0.05
    types[sure, np.maximum(labels - 1, 0)[sure]] = 0.9
    pairs = apart(replace(pairs, types=types, novel=np.full(3_000, np.nan)))
    decision = fit_decision(pairs, SCHEMA, "all")
    apart_from_type = [
        f1(pairs, replace(decision, thresholds={OTHERS: t / 50}, metric="pair")) for t in range(50)
    ]
    assert f1(pairs, decision) > max(apart_from_type) + 0.02


def test_thresholds_are_fitted_to_the_given_metric():
    """A model of novelty alone calls every relation by the first type, which is seldom right."""
    pairs = drawn(4_000, 15, scale=1.0, shifts=(-2.0, -2.0))
    certain = np.eye(NUM_TYPES)[np.zeros(len(pairs), dtype=int)]
    pairs = replace(pairs, types=certain, novel=np.where(pairs.gold_novel == 1, 0.8, 0.3))

    def f1_of(metric: str, fitted_for: str) -> float:
        decision = fit_decision(pairs, SCHEMA, fitted_for)
        calibrated = decision.calibrated(pairs)
        least = decision.thresholds.get(SCHEMA.relation_types[0], decision.thresholds[OTHERS])
        taken = calibrated.confidence(decision.metric) >= least
        right = (calibrated.right[metric] & taken).sum()
        return 2 * right / (taken.sum() + (pairs.relation_labels != 0).sum())

    assert f1_of("pair_novelty", "pair_novelty") > f1_of("pair_novelty", "all") + 0.01
    assert f1_of("pair_type", "pair_type") > f1_of("pair_type", "pair")


def test_cross_fitting_ignores_the_labels_of_the_fold():
    pairs = drawn(2_000, 10, scale=0.5, shifts=(-1.0, 0.5))
    relations, calibrated = cross_fitted(pairs, SCHEMA, "all")
    inside = pairs.documents % 5 == 2
    turned = replace(pairs, relation_labels=np.where(inside, 1, pairs.relation_labels))
    others, changed = cross_fitted(
        replace(turned, gold_novel=np.where(inside, 0, pairs.gold_novel)), SCHEMA, "all"
    )
    assert relations[2::5] == others[2::5]
    assert relations[1::5] != others[1::5]
    for before, after in (
        (calibrated.related, changed.related),
        (calibrated.novel, changed.novel),
    ):
        assert (before[inside] == after[inside]).all()
        assert (before[~inside] != after[~inside]).all()


def test_each_document_is_decided_by_the_decision_of_the_other_folds():
    pairs = drawn(2_000, 11, scale=0.5, shifts=(-1.0, 0.5))
    relations, calibrated = cross_fitted(pairs, SCHEMA, "all")
    assert len(relations) == pairs.num_documents and sum(map(len, relations)) > 0
    for fold in range(FOLDS):
        rest = fit_decision(pairs.subset(pairs.documents % FOLDS != fold), SCHEMA, "all")
        whole = decide(pairs, rest, SCHEMA)
        assert relations[fold::FOLDS] == whole[fold::FOLDS]
        inside = pairs.documents % FOLDS == fold
        by_rest = rest.calibrated(pairs)
        assert (calibrated.related[inside] == by_rest.related[inside]).all()
        assert (calibrated.novel[inside] == by_rest.novel[inside]).all()


def test_with_too_few_documents_for_folds_nothing_is_fitted():
    rng = np.random.default_rng(12)
    pairs = pairs_of(rng.normal(0, 2, 300), rng.integers(0, 2, 300), rng, num_documents=9)
    relations, calibrated = cross_fitted(pairs, SCHEMA, "all")
    assert relations == decide(pairs, Decision(), SCHEMA)
    assert calibrated.related == pytest.approx(pairs.related)
    assert calibrated.novel == pytest.approx(pairs.novel)
