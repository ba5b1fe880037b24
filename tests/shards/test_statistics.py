"""Statistics of shards: lengths and mentions counted once, added up, kept beside the manifest."""

from pathlib import Path

import numpy as np
import pytest

from embre.entity_types import TYPE_INDEX
from embre.shards.mention_row import MENTION_ROW
from embre.shards.shard_set import Block, ShardSet
from embre.shards.statistics import (
    LENGTH_BOUNDS,
    STATISTICS,
    add_up,
    statistics_of,
    statistics_of_set,
    stored_statistics,
    write_statistics,
)
from tests.shard_sets import write_shards

NUM_DOCUMENTS = 11
GENE, DISEASE = TYPE_INDEX["Gene"], TYPE_INDEX["Disease"]


def block(lengths: list[int], rows: list[tuple[int, int, int, int]]) -> Block:
    starts = np.cumsum([0, *lengths[:-1]])
    docs = np.stack([np.arange(len(lengths)), starts], axis=1)
    tokens = np.zeros(sum(lengths), np.uint16)
    return Block(tokens, docs, np.array(rows, MENTION_ROW), [str(n) for n in range(len(lengths))])


@pytest.fixture(scope="module")
def shard_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_shards(tmp_path_factory.mktemp("set"), NUM_DOCUMENTS)


def test_a_mention_of_several_concepts_is_one_mention_and_several_rows() -> None:
    rows = [
        (0, 2, GENE, 673),
        (0, 2, GENE, 674),
        (0, 3, GENE, 0),  # another mention that begins there
        (5, 6, DISEASE, 0),
        (5, 6, DISEASE, 9),  # once with an identifier and once without: it has one
        (12, 14, GENE, 0),
    ]
    found = statistics_of([block([10, 10], rows)])
    assert (found.mentions["Gene"], found.normalised["Gene"], found.rows["Gene"]) == (3, 1, 4)
    counts = (found.mentions["Disease"], found.normalised["Disease"], found.rows["Disease"])
    assert counts == (1, 1, 2)
    assert found.mentions["Species"] == 0


def test_a_length_falls_into_the_bin_that_begins_with_it() -> None:
    lengths = [1, 511, 512, 2_000_000]
    found = statistics_of([block(lengths, [])])
    by_bound = dict(zip(LENGTH_BOUNDS.tolist(), found.documents_by_length, strict=True))
    assert {bound: n for bound, n in by_bound.items() if n} == {1: 1, 406: 1, 512: 1, 2**20: 1}
    assert found.documents == 4 and found.documents_from(512) == 2


def test_shards_add_up_to_the_set(shard_set: ShardSet) -> None:
    parts = [statistics_of(shard_set.load(entry)) for entry in shard_set.manifest.shards]
    together = statistics_of(
        block for entry in shard_set.manifest.shards for block in shard_set.load(entry)
    )
    assert len(parts) > 1 and add_up(parts) == together == statistics_of_set(shard_set)
    assert together.documents == NUM_DOCUMENTS
    assert together.mentions == shard_set.manifest.total().mentions
    assert add_up([]).documents == 0


def test_stored_statistics_spare_the_reading(tmp_path: Path) -> None:
    shard_set = write_shards(tmp_path, NUM_DOCUMENTS)
    folder = Path(shard_set.url)
    counted = add_up(statistics_of(shard_set.load(entry)) for entry in shard_set.manifest.shards)
    write_statistics(folder, shard_set.manifest, counted)
    for path in folder.glob("*.tar"):
        path.unlink()
    assert statistics_of_set(shard_set) == counted


def test_statistics_of_other_shards_are_not_believed(tmp_path: Path) -> None:
    shard_set = write_shards(tmp_path / "one", NUM_DOCUMENTS)
    other = write_shards(tmp_path / "two", NUM_DOCUMENTS + 5)
    write_statistics(Path(shard_set.url), other.manifest, statistics_of_set(other))
    assert stored_statistics(shard_set) is None
    (Path(shard_set.url) / STATISTICS).write_text("{")
    assert stored_statistics(shard_set) is None
    assert statistics_of_set(shard_set).documents == NUM_DOCUMENTS
