"""The entity vocabulary: the frequent concepts of each type, the same from shards or a file."""

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embre.config import TypeLimits
from embre.demo.corpus import make_corpus
from embre.document import Concept
from embre.entity_types import TYPE_INDEX
from embre.shards.concept_hash import concept_hash
from embre.shards.entities import (
    CONCEPTS,
    SCHEMA,
    Coverage,
    EntityVocabulary,
    choose_entities,
    coverage,
    save_vocabulary,
    vocabulary_of,
    write_concepts,
)
from embre.shards.shard_set import ShardSet
from tests.shard_sets import write_shards

NUM_DOCUMENTS = 30
ROWS = [
    (40, "Disease", "D1", 7, "melanoma"),
    (10, "Gene", "673", 9, "BRAF"),
    (20, "Gene", "207", 9, "AKT1"),
    (30, "Gene", "5604", 2, "MEK1"),
    (50, "Species", "9606", 1, "patients"),
]


def table_of(rows: list[tuple]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [()] * len(SCHEMA)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], SCHEMA)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    write_concepts(tmp_path / CONCEPTS, table_of(ROWS))
    return tmp_path / CONCEPTS


@pytest.fixture(scope="module")
def shard_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_shards(tmp_path_factory.mktemp("set"), NUM_DOCUMENTS)


def chosen(path: Path, per_type: dict | None = None, **limits: int) -> EntityVocabulary:
    return vocabulary_of(pq.read_table(path), per_type=per_type, **limits)


def test_another_process_gets_the_numbers_and_not_the_names() -> None:
    size = 5000
    rows = [(n, "Gene", f"identifier {n}", size - n, f"name of {n}") for n in range(size)]
    entities = vocabulary_of(table_of(rows))
    sent = pickle.dumps(entities)
    assert len(sent) < 16 * size + 2000
    hashes = np.arange(2 * size, dtype=np.uint64)
    found = pickle.loads(sent)
    assert np.array_equal(found.lookup(hashes), entities.lookup(hashes))
    assert found.sizes == entities.sizes and found.fingerprint == entities.fingerprint


def test_ids_follow_frequency_within_a_type_and_ties_the_identifier(table: Path) -> None:
    entities = chosen(table)
    assert entities.lookup(np.array([20, 10, 30, 40, 50])).tolist() == [0, 1, 2, 0, 0]
    assert entities.names("Gene") == [("207", "AKT1"), ("673", "BRAF"), ("5604", "MEK1")]
    assert dict(zip(TYPE_INDEX, entities.sizes, strict=True)) == {
        "Gene": 3,
        "Disease": 1,
        "Chemical": 0,
        "Variant": 0,
        "Species": 1,
        "CellLine": 0,
    }


def test_rare_concepts_are_left_out(table: Path) -> None:
    entities = chosen(table, min_count=3)
    assert entities.lookup(np.array([10, 20, 30, 40, 50])).tolist() == [1, 0, -1, 0, -1]
    assert sum(entities.sizes) == 3


def test_each_type_keeps_its_most_frequent(table: Path) -> None:
    entities = chosen(table, max_per_type=1)
    assert entities.lookup(np.array([10, 20, 30, 40, 50])).tolist() == [-1, 0, -1, 0, 0]


def test_a_type_has_limits_of_its_own(table: Path) -> None:
    per_type = {"Gene": TypeLimits(max_per_type=1), "Species": TypeLimits(min_count=1)}
    entities = chosen(table, per_type, min_count=2)
    assert entities.lookup(np.array([10, 20, 30, 40, 50])).tolist() == [-1, 0, -1, 0, 0]
    none = chosen(table, {"Gene": TypeLimits(max_per_type=0)})
    assert none.lookup(np.array([10, 20, 30, 40, 50])).tolist() == [-1, -1, -1, 0, 0]
    assert none.sizes[TYPE_INDEX["Gene"]] == 0


def test_what_a_type_does_not_limit_is_as_for_all(table: Path) -> None:
    entities = chosen(table, {"Gene": TypeLimits(max_per_type=5)}, min_count=3)
    assert entities.lookup(np.array([10, 20, 30])).tolist() == [1, 0, -1]


def test_coverage_counts_mention_rows(table: Path) -> None:
    rows = dict.fromkeys(TYPE_INDEX, 0) | {"Gene": 40, "Disease": 7, "Species": 4}
    entities = chosen(table, {"Species": TypeLimits(max_per_type=0)}, min_count=3)
    found = coverage(pq.read_table(table), entities, rows)
    assert found["Gene"] == Coverage(concepts=2, covered=18, normalised=20, rows=40)
    assert (found["Gene"].of_normalised, found["Gene"].of_all) == (0.9, 0.45)
    assert (found["Species"].of_normalised, found["Species"].of_all) == (0, 0)
    assert found["Chemical"] == Coverage(0, 0, 0, 0) and found["Chemical"].of_normalised == 0
    assert found["all"] == Coverage(concepts=3, covered=25, normalised=28, rows=51)
    assert coverage(pq.read_table(table), entities)["Gene"].of_all is None


@pytest.mark.parametrize("absent", [0, 5, 15, 60, 2**64 - 1])
def test_an_absent_concept_has_no_id(table: Path, absent: int) -> None:
    assert chosen(table).lookup(np.array([absent], dtype=np.uint64)).tolist() == [-1]


def test_an_empty_vocabulary_knows_nothing(tmp_path: Path) -> None:
    write_concepts(tmp_path / CONCEPTS, table_of([]))
    entities = chosen(tmp_path / CONCEPTS)
    assert entities.lookup(np.array([1, 2], dtype=np.uint64)).tolist() == [-1, -1]
    assert entities.sizes == (0,) * len(TYPE_INDEX)
    assert entities.table.schema == SCHEMA
    assert coverage(entities.table, entities)["all"] == Coverage(0, 0, 0)


def test_the_order_of_rows_does_not_matter(table: Path, tmp_path: Path) -> None:
    digest = write_concepts(tmp_path / "again.parquet", table_of(ROWS[::-1]))
    assert chosen(tmp_path / "again.parquet").fingerprint == chosen(table).fingerprint
    assert digest == write_concepts(table, table_of(ROWS))


def test_a_saved_vocabulary_is_read_back_the_same(table: Path, tmp_path: Path) -> None:
    entities = chosen(table, min_count=2, max_per_type=2)
    save_vocabulary(tmp_path / "kept.parquet", entities)
    again = vocabulary_of(pq.read_table(tmp_path / "kept.parquet"))
    assert again.fingerprint == entities.fingerprint
    assert again.sizes == entities.sizes
    assert again.names("Gene") == entities.names("Gene")


def test_the_fingerprint_sees_another_choice(table: Path) -> None:
    assert chosen(table, min_count=3).fingerprint != chosen(table).fingerprint


def test_a_shard_set_knows_the_concepts_of_its_documents(shard_set: ShardSet) -> None:
    counts = Counter(
        concept
        for doc in make_corpus(NUM_DOCUMENTS, seed=1)
        for mention in doc.mentions
        for concept in mention.concepts
    )
    entities = choose_entities(shard_set, min_count=3, max_per_type=10)
    for name, size in zip(TYPE_INDEX, entities.sizes, strict=True):
        frequent = sorted(
            (c for c, n in counts.items() if n >= 3 and c.type == name),
            key=lambda c: (-counts[c], c.identifier),
        )[:10]
        assert [identifier for identifier, _ in entities.names(name)] == [
            concept.identifier for concept in frequent
        ]
        hashes = np.array([concept_hash(concept) for concept in frequent], dtype=np.uint64)
        assert entities.lookup(hashes).tolist() == list(range(size))
    rare = [concept for concept, count in counts.items() if count < 3]
    hashes = np.array([concept_hash(concept) for concept in rare], dtype=np.uint64)
    assert rare and set(entities.lookup(hashes).tolist()) == {-1}
    assert entities.lookup(np.array([concept_hash(Concept("Gene", "1"))], np.uint64))[0] == -1


def test_a_damaged_table_is_refused_by_name(tmp_path: Path) -> None:
    shard_set = write_shards(tmp_path, 4)
    path = Path(shard_set.url) / CONCEPTS
    write_concepts(path, table_of(ROWS))
    with pytest.raises(ValueError, match=rf"{CONCEPTS}: not the table of the manifest"):
        choose_entities(shard_set, min_count=1, max_per_type=10)
