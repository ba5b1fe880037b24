"""Top-1 and MRR by type and by how frequent a concept is."""

import numpy as np
import pyarrow as pa
import pytest

from embre.entity_types import TYPE_INDEX
from embre.model.identifier_scores import NAMES, frequency_bounds, score_sums, scores
from embre.shards.concept_hash import hash_of
from embre.shards.entities import SCHEMA, EntityVocabulary, vocabulary_of

GENE, DISEASE = TYPE_INDEX["Gene"], TYPE_INDEX["Disease"]


def vocabulary(**counts: list[int]) -> EntityVocabulary:
    """Concepts of the types of ENTITY_TYPES that are given, with their counts."""
    rows = [
        (hash_of(name, str(number)), name, str(number), count, "x")
        for name in TYPE_INDEX
        for number, count in enumerate(counts.get(name, []))
    ]
    columns = zip(*rows, strict=True)
    arrays = [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)]
    return vocabulary_of(pa.table(arrays, SCHEMA))


def test_head_has_half_of_the_mentions_and_tail_the_last_fifth() -> None:
    entities = vocabulary(Gene=[5, 2, 1, 1, 1], Disease=[4, 4, 4], Chemical=[9])
    bounds = frequency_bounds(entities)
    assert bounds[GENE].tolist() == [1, 3]
    assert bounds[DISEASE].tolist() == [2, 3], "the one in which a half ends is on this side of it"
    assert bounds[TYPE_INDEX["Chemical"]].tolist() == [1, 1]
    assert bounds[TYPE_INDEX["Species"]].tolist() == [0, 0]


def test_scores_are_shares_and_means_of_each_group() -> None:
    bounds = frequency_bounds(vocabulary(Gene=[5, 2, 1, 1, 1], Disease=[4, 4, 4]))
    types = np.array([GENE, GENE, GENE, DISEASE])
    ids, ranks = np.array([0, 1, 4, 0]), np.array([1, 4, 10, 1])
    sums = score_sums(types, ids, ranks, bounds)
    assert list(sums) == NAMES
    found = scores(sums)
    assert found["accuracy/identifier"] == 0.5 and found["mrr/identifier"] == pytest.approx(
        (2 + 0.25 + 0.1) / 4
    )
    assert found["accuracy/identifier/Gene"] == pytest.approx(1 / 3)
    assert found["mrr/identifier/Gene"] == pytest.approx(1.35 / 3)
    assert (
        found["accuracy/identifier/head"],
        found["accuracy/identifier/middle"],
        found["accuracy/identifier/tail"],
    ) == (1, 0, 0)
    assert found["mrr/identifier/middle"] == 0.25 and found["mrr/identifier/tail"] == pytest.approx(
        0.1
    )
    assert "accuracy/identifier/Chemical" not in found, "nothing was measured of it"


def test_sums_of_parts_add_up() -> None:
    bounds = frequency_bounds(vocabulary(Gene=[5, 2, 1, 1, 1]))
    types, ids, ranks = np.full(6, GENE), np.arange(6) % 5, np.arange(1, 7)
    whole = score_sums(types, ids, ranks, bounds)
    parts = [score_sums(types[p], ids[p], ranks[p], bounds) for p in (slice(0, 2), slice(2, 6))]
    assert whole == pytest.approx({name: parts[0][name] + parts[1][name] for name in NAMES})


def test_empty_groups_have_no_scores() -> None:
    nobody = np.zeros(0, dtype=np.int64)
    assert scores(score_sums(nobody, nobody, nobody, frequency_bounds(vocabulary(Gene=[1])))) == {}
