"""The order of documents depends on seed and epoch alone, and every one comes once in an epoch."""

from collections import defaultdict
from dataclasses import replace
from itertools import chain, islice, permutations
from pathlib import Path

import numpy as np
import pytest

from embre.shards.shard_set import ShardSet
from embre.stream.batch import make_batch
from embre.stream.examples import NO_EXAMPLES
from embre.stream.order import FIRST, rounds, scatter, stream_batches, strips, validation_batches
from embre.stream.source import StreamSource, StreamState
from tests.shard_sets import SMALL, source_of, write_shards
from tests.stream.steps import NUM_DOCUMENTS, contents, epoch_of, read_epochs, same_length


@pytest.mark.parametrize("streams", [1, 2, 3, 7, 10])
def test_every_document_comes_once_in_an_epoch(
    shard_set: ShardSet,
    documents: dict[str, tuple[np.ndarray, np.ndarray]],
    streams: int,
) -> None:
    source = source_of(shard_set, streams=streams)
    by_stream = [read_epochs(source, stream, 2) for stream in range(streams)]
    for epoch in zip(*by_stream, strict=True):
        parts: dict[str, list[tuple[int, ...]]] = defaultdict(list)
        for name, tokens in chain(*epoch):
            parts[name].append(tokens)
        assert parts.keys() == documents.keys()
        for name, found in parts.items():
            whole = tuple(documents[name][0].tolist())
            assert whole in {tuple(chain(*some)) for some in permutations(found)}
        assert sum(map(len, parts.values())) > 1.5 * NUM_DOCUMENTS, "nothing was cut"


def test_a_strip_is_full_when_the_next_document_does_not_fit(source: StreamSource) -> None:
    found = [list(islice(stream_batches(source, stream), 8)) for stream in range(3)]
    for batches in found:
        for batch, after in zip(batches, batches[1:], strict=False):
            first = after.cu_seqlens[1].item()
            assert batch.num_tokens + first > source.data.strip_tokens


def test_an_empty_strip_is_never_made() -> None:
    found = strips(iter([(same_length(6, 3), FIRST), (NO_EXAMPLES, StreamState(0, 1))]), 8)
    assert [(len(members), state) for members, state in found] == [
        (1, StreamState(0, 0, 1)),
        (1, StreamState(0, 0, 2)),
        (1, StreamState(0, 1, 0)),  # it could have gone on in the next round
    ]


def test_a_strip_goes_on_in_the_next_round() -> None:
    parts = [(same_length(3, 5), FIRST), (same_length(3, 4), StreamState(0, 1))]
    found = [(len(members), state) for members, state in strips(iter(parts), strip_tokens=15)]
    assert found == [
        (3, StreamState(0, 0, 3)),
        (3, StreamState(0, 1, 1)),
        (3, StreamState(0, 1, 4)),
    ]


def test_epochs_differ_in_order_and_in_masks(source: StreamSource) -> None:
    first, second = read_epochs(source, 0, 2)
    assert {name for name, _ in first} != {name for name, _ in second}
    orders = [epoch_of(source, epoch) for epoch in (0, 1)]
    assert orders[0].doc_ids != orders[1].doc_ids
    both = set(orders[0].doc_ids) & set(orders[1].doc_ids)
    alike = [
        order.take(np.array([order.doc_ids.index(n) for n in sorted(both)])) for order in orders
    ]
    # Of a document in pieces another one may come first.
    same = np.flatnonzero(alike[0].offsets == alike[1].offsets)[:2]
    alike = [order.take(same) for order in alike]
    masked = [make_batch(source.settings, members, 0, StreamState()) for members in alike]
    assert masked[0].doc_ids == masked[1].doc_ids
    assert masked[0].input_ids.tolist() != masked[1].input_ids.tolist()


def test_another_seed_gives_other_shards_and_another_order(shard_set: ShardSet) -> None:
    first, other, again = (
        read_epochs(source_of(shard_set, seed=seed), 0, 1)[0] for seed in (13, 14, 13)
    )
    assert first == again
    assert {name for name, _ in first} != {name for name, _ in other}
    alone = [epoch_of(source_of(shard_set, seed=seed)) for seed in (13, 14)]
    assert alone[0].doc_ids != alone[1].doc_ids


def test_the_shards_are_mixed(shard_set: ShardSet) -> None:
    source = source_of(shard_set, streams=1, shuffle_shards=10, max_document_tokens=128)
    order = epoch_of(source).doc_ids
    neighbours = [abs(int(a) - int(b)) for a, b in zip(order, order[1:], strict=False)]
    assert len(order) == NUM_DOCUMENTS
    assert np.mean(neighbours) == pytest.approx(NUM_DOCUMENTS / 3, rel=0.4)


def test_examples_of_a_shard_wait_for_a_third_of_the_shards_that_mix() -> None:
    """The chance to wait for `lag` rounds falls in a line: (2 (S - lag) - 1) / S²."""
    spread, num_examples = 6, 60_000
    parts = scatter(same_length(1, num_examples), spread, np.random.default_rng(3))
    shares = [len(part) / num_examples for part in parts]
    wanted = [(2 * (spread - lag) - 1) / spread**2 for lag in range(spread)]
    assert shares == pytest.approx(wanted, abs=0.01)


def test_no_round_of_an_epoch_is_thinner_than_others(shard_set: ShardSet) -> None:
    source = source_of(shard_set, streams=1, shuffle_shards=4, max_document_tokens=128)
    found = rounds(source, 0)
    sizes = [[len(next(found)[0]) for _ in range(10)] for _ in range(30)]
    assert [sum(epoch) for epoch in sizes] == [NUM_DOCUMENTS] * 30
    assert np.mean(sizes, axis=0) == pytest.approx(np.full(10, 4), abs=1.2)


def test_validation_is_the_same_every_time_and_apart_from_training(tmp_path: Path) -> None:
    shard_set = write_shards(tmp_path, NUM_DOCUMENTS, replace(SMALL, validation_share=0.2))
    source = source_of(shard_set, streams=1, max_document_tokens=128, validation_strips=99)
    found = list(validation_batches(source))
    assert contents(found) == contents(list(validation_batches(source)))
    names = [name for batch in found for name in batch.doc_ids]
    assert len(names) == len(set(names)) == shard_set.manifest.total("validation").documents
    assert not set(epoch_of(source).doc_ids) & set(names)
    short = source_of(shard_set, streams=1, max_document_tokens=128, validation_strips=2)
    assert len(list(validation_batches(short))) == 2


def test_a_set_without_validation_has_no_validation_batches(source: StreamSource) -> None:
    assert list(validation_batches(source)) == []
