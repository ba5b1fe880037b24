"""Intervals and p-values against loops that draw documents one by one."""

import tracemalloc

import numpy as np
import pytest

from embre.document import Concept, Document, Relation
from embre.evaluation import bootstrap
from embre.evaluation.bootstrap import document_counts, f1_of, interval, paired_p_value
from embre.evaluation.scoring import METRICS, Score, score

GENE, DRUG, DISEASE = Concept("Gene", "1"), Concept("Chemical", "1"), Concept("Disease", "1")


def drawn(num_documents: int, seed: int, skill: float = 0.6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    gold, said = rng.integers(0, 12, num_documents), rng.integers(0, 6, num_documents)
    tp = rng.binomial(gold, skill)
    return np.stack([tp, said, gold - tp], axis=1)


def micro_f1(rows: np.ndarray) -> float:
    return Score(*(int(total) for total in rows.sum(0))).f1


def test_counts_of_documents_add_up_to_the_score_and_are_in_the_order_of_gold():
    link, other = Relation(GENE, DRUG, "Bind", True), Relation(DRUG, DISEASE, "Association", False)
    ids = ("9", "1", "5")
    gold = [Document(i, "", (), (), (link, other)) for i in ids]
    said = [Document("5", "", (), (), (link,)), Document("9", "", (), (), (other, link))]
    counts = document_counts(gold, said)
    assert counts["all"].tolist() == [[2, 0, 0], [0, 0, 2], [1, 0, 1]]
    for metric, whole in score(gold, said).items():
        assert counts[metric].sum(0).tolist() == [whole.tp, whole.fp, whole.fn]
    assert {metric: rows.shape for metric, rows in document_counts([], []).items()} == {
        metric: (0, 3) for metric in METRICS
    }


def test_the_interval_equals_that_of_a_loop():
    counts, rng = drawn(60, 1), np.random.default_rng(2)
    loop = [micro_f1(counts[rng.integers(0, 60, 60)]) for _ in range(4_000)]
    low, high = interval(counts, samples=4_000)
    assert (low, high) == pytest.approx(tuple(np.percentile(loop, [2.5, 97.5])), abs=0.006)
    assert low < micro_f1(counts) < high
    assert interval(counts, seed=3) == interval(counts, seed=3) != interval(counts, seed=4)


def test_more_documents_narrow_the_interval_as_the_square_root():
    few, many = interval(drawn(50, 1)), interval(np.concatenate([drawn(50, 1)] * 16))
    assert (few[1] - few[0]) / (many[1] - many[0]) == pytest.approx(4, rel=0.15)


def test_equal_systems_have_high_p_values_and_worse_ones_low():
    counts = drawn(100, 1)
    assert paired_p_value(counts, counts) == 1.0
    worse = counts.copy()
    worse[:, 0] = np.maximum(worse[:, 0] - 1, 0)  # one relation fewer in every document
    worse[:, 2] += counts[:, 0] - worse[:, 0]
    assert paired_p_value(counts, worse) < 0.001
    assert paired_p_value(counts, worse) == pytest.approx(paired_p_value(worse, counts), abs=1e-3)


def test_the_p_value_is_that_of_a_loop():
    a, b, rng = drawn(40, 1, 0.60), drawn(40, 2, 0.60), np.random.default_rng(3)
    difference = micro_f1(a) - micro_f1(b)
    as_far = 0
    for _ in range(6_000):
        rows = rng.integers(0, 40, 40)
        as_far += abs(micro_f1(a[rows]) - micro_f1(b[rows]) - difference) >= abs(difference)
    assert 0.05 < as_far / 6_000 < 0.95
    assert paired_p_value(a, b) == pytest.approx(as_far / 6_000, abs=0.03)


def test_p_values_of_equal_systems_hold_their_level():
    p = [
        paired_p_value(drawn(80, seed), drawn(80, 1_000 + seed), samples=500) for seed in range(200)
    ]
    assert 0.05 < np.mean(np.array(p) < 0.1) < 0.17


def test_several_runs_are_averaged_and_resampled():
    same = np.stack([drawn(100, 1)] * 3)
    assert interval(same) == pytest.approx(interval(same[0]), abs=0.01)
    a = np.stack([drawn(100, seed, 0.66) for seed in (1, 2, 3)])
    b = np.stack([drawn(100, seed, 0.54) for seed in (4, 5, 6)])
    assert f1_of(a.sum(1)).mean() > f1_of(b.sum(1)).mean()
    assert paired_p_value(a, b) < 0.05
    lucky = np.stack([drawn(100, 7, 0.9), drawn(100, 8, 0.55), drawn(100, 9, 0.5)])
    assert paired_p_value(lucky, b) > paired_p_value(np.stack([lucky[0]] * 3), b)


def test_three_runs_of_equal_systems_are_seldom_called_different():
    """Their F1 scatter by four points. Of runs that are drawn as they are, 15 % would be."""
    rng = np.random.default_rng(1)

    def system(gold: np.ndarray, ease: np.ndarray) -> np.ndarray:
        of_seeds = rng.normal(0, 0.2, (3, 1))
        right = 1 / (1 + np.exp(-(ease + of_seeds)))
        tp, fp = rng.binomial(gold, right), rng.binomial(gold, 1 - right)
        return np.stack([tp, fp, gold - tp], axis=-1)

    p = []
    for _ in range(200):
        documents = rng.integers(0, 24, 100), rng.normal(-0.6, 0.5, 100)
        p.append(paired_p_value(system(*documents), system(*documents), samples=200))
    assert np.mean(np.array(p) < 0.05) < 0.1


def test_the_variance_of_few_runs_is_corrected():
    f1_SN = np.tile([0.4, 0.5, 0.6], (200_000, 1))
    drawn_S = bootstrap._resample_runs(f1_SN, np.random.default_rng(1))
    assert drawn_S.mean() == pytest.approx(0.5, abs=1e-3)
    assert drawn_S.std() == pytest.approx(np.std([0.4, 0.5, 0.6], ddof=1) / 3**0.5, rel=0.01)


def test_results_do_not_depend_on_the_chunk_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a, b = np.stack([drawn(70, 1), drawn(70, 2)]), drawn(70, 3)
    whole = interval(a), paired_p_value(a, b, samples=2_000)
    for draws in (1, 70 * 7, 70 * 999):
        monkeypatch.setattr(bootstrap, "CHUNK_DRAWS", draws)
        assert (interval(a), paired_p_value(a, b, samples=2_000)) == whole


def test_memory_does_not_grow_with_the_samples() -> None:
    counts = drawn(20_000, 1)
    tracemalloc.start()
    try:
        interval(counts, samples=800)  # whole: 256 MB
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 6 * 8 * bootstrap.CHUNK_DRAWS


def test_systems_on_other_documents_and_no_documents_are_refused():
    with pytest.raises(ValueError, match="40 documents against 39"):
        paired_p_value(drawn(40, 1), drawn(39, 1))
    with pytest.raises(ValueError, match="no documents"):
        interval(np.zeros((0, 3)))
