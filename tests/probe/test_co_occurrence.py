"""Counts of the training split are those of its documents, and the score is naive Bayes."""

import math
from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from embre.document import Document
from embre.probe.co_occurrence import SMOOTHING, Pairs, TrainCounts, count
from embre.shards.entities import EntityVocabulary
from embre.shards.shard_set import ShardSet
from tests.shard_sets import SMALL, source_of, write_shards
from tests.tiny import document

TEXTS = (
    "<braf|Gene|1> causes <melanoma|Disease|D1> and <braf|Gene|1>",
    "<braf|Gene|1> with <aspirin|Chemical|C1>",
    "<gene|Gene|2> and <melanoma|Disease|D1> in <mice|Species|10090>",
    "<gene|Gene|3> of a <study|Disease|D2,D1>",
    "<braf|Gene|-> and nothing",
    "no mention",
)
NUM_COPIES = 6


def name(entities: EntityVocabulary, row: int) -> str:
    values = entities.row(row)
    return f"{values['type']}:{values['identifier']}"


@pytest.fixture(scope="module")
def docs() -> list[Document]:
    marked = (text for _ in range(NUM_COPIES) for text in TEXTS)
    return [document(f"{text} {n} .", doc_id=str(n)) for n, text in enumerate(marked)]


@pytest.fixture(scope="module")
def shard_set(docs: list[Document], tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    settings = replace(SMALL, validation_share=0.25)
    return write_shards(tmp_path_factory.mktemp("set"), docs, settings)


def test_counts_are_those_of_the_training_documents_alone(
    docs: list[Document], shard_set: ShardSet
) -> None:
    source = source_of(shard_set, streams=1)
    shards = shard_set.shards("train")
    in_training = {name for s in shards for b in shard_set.load(s) for name in b.doc_ids}
    assert 0 < len(in_training) < len(docs)
    mentions, documents, together = Counter(), Counter(), Counter()
    for doc in (doc for doc in docs if doc.doc_id in in_training):
        named = [str(concept) for mention in doc.mentions for concept in mention.concepts]
        mentions.update(named)
        documents.update(set(named))
        together.update(product(set(named), repeat=2))
    names = [
        name(source.settings.entities, row) for row in range(sum(source.settings.entities.sizes))
    ]
    assert len(names) == 7
    queries = np.array(
        [row for row, known in enumerate(names) if known in ("Gene:1", "Disease:D1")]
    )
    told = []
    counts = count(source, queries, lambda: told.append(1))
    assert len(told) == len(shards) > 2
    assert counts.num_documents == len(in_training)
    assert dict(zip(names, counts.mentions.tolist(), strict=True)) == {
        known: mentions[known] for known in names
    }
    assert counts.documents.tolist() == [documents[known] for known in names]
    for concept in queries.tolist():
        others, number = counts.co_occurring(concept)
        found = {names[row]: n for row, n in zip(others.tolist(), number.tolist(), strict=True)}
        mine = names[concept]
        assert found == {other: n for (one, other), n in together.items() if one == mine}


def test_without_visible_concepts_the_order_is_by_frequency(shard_set: ShardSet) -> None:
    source = source_of(shard_set, streams=1)
    counts = count(source, np.zeros(0, dtype=np.int64))
    rows = slice(0, sum(source.settings.entities.sizes))
    scores, frequency = counts.naive_bayes_scores(rows, []), counts.by_frequency(rows)
    assert np.array_equal(
        np.unique(scores, return_inverse=True)[1], np.unique(frequency, return_inverse=True)[1]
    )
    assert len(counts.keys) == 0


def test_the_score_is_smoothed_naive_bayes() -> None:
    mentions, documents = np.array([9, 4, 0, 7]), np.array([5, 3, 0, 4])
    pairs = {(3, 0): 2, (3, 1): 3, (3, 3): 4, (0, 0): 5, (0, 3): 2, (2, 2): 0}
    queries, size, num_documents = np.array([0, 2, 3]), 4, 20
    keys = {int(np.searchsorted(queries, v)) * size + c: n for (v, c), n in pairs.items() if n}
    order = sorted(keys)
    counts = TrainCounts(
        num_documents,
        mentions,
        documents,
        queries,
        np.array(order),
        np.array([keys[key] for key in order]),
    )
    visible = [0, 2, 3]  # 2 was never seen in training and says nothing

    def probability(concept: int) -> float:
        found = math.log(mentions[concept] + 1)
        for v in (0, 3):
            average = SMOOTHING * documents[v] / num_documents
            together = pairs.get((v, concept), 0)
            found += math.log((together + average) / (documents[concept] + SMOOTHING))
        return found

    wanted = np.array([probability(concept) for concept in range(4)])
    found = counts.naive_bayes_scores(slice(0, 4), visible)
    assert found - found[0] == pytest.approx(wanted - wanted[0], abs=1e-12)
    part = counts.naive_bayes_scores(slice(1, 3), visible)
    assert part == pytest.approx(found[1:3], abs=1e-12)


def test_pair_counts_do_not_depend_on_the_order() -> None:
    rng = np.random.default_rng(1)
    parts = [rng.integers(50, size=n) for n in (3, 0, 40, 1, 200, 7)]
    pairs = Pairs()
    for part in parts:
        pairs.add(part)
    keys, counts = pairs.sums()
    wanted = np.unique(np.concatenate(parts), return_counts=True)
    assert np.array_equal(keys, wanted[0]) and np.array_equal(counts, wanted[1])
