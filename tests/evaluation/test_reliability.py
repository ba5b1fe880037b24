"""Reliability and expected calibration error."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embre.evaluation.reliability import reliabilities, reliability
from tests.relations.test_calibration import drawn


def test_reliability_of_types_and_novelty_is_over_labelled_pairs():
    pairs = drawn(500, 16, scale=1.0, shifts=(0.0, 0.0))
    pairs = replace(
        pairs, relation_labels=np.where(np.arange(500) < 50, -100, pairs.relation_labels)
    )
    found = reliabilities(pairs)
    typed, told = pairs.relation_labels > 0, ~np.isnan(pairs.gold_novel)
    right = pairs.types.argmax(1)[typed] == pairs.relation_labels[typed] - 1
    assert found["type"].counts.sum() == typed.sum()
    assert found["type"].ece == pytest.approx(abs(0.9 - right.mean()))
    assert found["novelty"].ece == reliability(pairs.novel[told], pairs.gold_novel[told] == 1).ece
    assert reliabilities(replace(pairs, novel=np.full(500, np.nan)))["novelty"].counts.sum() == 0


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=40), st.integers(1, 12))
def test_reliability_equals_that_of_a_loop_over_bins(said, bins):
    probability = np.array([p for p, _ in said])
    related = np.array([r for _, r in said], dtype=bool)
    found = reliability(probability, related, bins)
    ece = 0.0
    for b in range(bins):
        low = -1.0 if b == 0 else b  # in units of the width, as the module counts
        inside = (probability * bins > low) & (probability * bins <= b + 1)
        assert found.counts[b] == inside.sum()
        if inside.any():
            assert found.predicted[b] == pytest.approx(probability[inside].mean())
            assert found.observed[b] == pytest.approx(related[inside].mean())
            ece += abs(probability[inside].mean() - related[inside].mean()) * inside.mean()
        else:
            assert np.isnan(found.predicted[b]) and np.isnan(found.observed[b])
    assert found.ece == pytest.approx(ece)
