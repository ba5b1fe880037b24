"""The micro-batches of a step depend on seed and step alone: not on ranks, workers or restarts."""

import json
import multiprocessing
import os
import signal
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embre.batch import (
    NUM_SPECIAL,
    Batch,
    Example,
    StreamSource,
    StreamState,
    empty_batch,
    make_batch,
)
from embre.config import DataConfig, MaskingConfig
from embre.demo_corpus import make_corpus
from embre.encode import MENTION_ROW, as_checked, encode_documents
from embre.entities import choose_entities
from embre.loader import StreamLoader
from embre.shards import Block, ShardSet
from embre.stream import examples, pieces, stream_batches, strips, validation_batches
from embre.tally import Tally
from embre.world import World
from tests.shard_sets import SMALL, own_tokenizer, source_of, write_shards
from tests.tiny import tiny_tokenizer

NUM_DOCUMENTS = 40

# What a rank would train on in a step: by slot, what is in the micro-batch and asked of it.
Contents = dict[int, tuple[Any, ...]]
Piece = tuple[str, tuple[int, ...]]


@pytest.fixture(scope="module")
def shard_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Ten shards of four documents, most of them longer than a piece may be."""
    return write_shards(tmp_path_factory.mktemp("set"), NUM_DOCUMENTS)


@pytest.fixture(scope="module")
def source(shard_set: ShardSet) -> StreamSource:
    return source_of(shard_set)


@pytest.fixture(scope="module")
def documents(shard_set: ShardSet) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Tokens and mentions of every document, not from the shards but from its text."""
    found = {}
    for doc in make_corpus(NUM_DOCUMENTS, seed=1):
        encoded = encode_documents([as_checked(doc)], own_tokenizer(shard_set), Tally())
        found[doc.doc_id] = encoded.tokens, encoded.mentions
    return found


def contents(batches: list[Batch]) -> Contents:
    return {
        batch.slot: (
            batch.doc_ids,
            batch.input_ids.tolist(),
            batch.token_spots.tolist(),
            batch.token_labels.tolist(),
            batch.mention_spans.tolist(),
            batch.mention_ids.tolist(),
            batch.boundaries.tolist(),
            batch.state,
        )
        for batch in batches
        if batch.slot >= 0
    }


def open_ranks(source: StreamSource, size: int) -> list[StreamLoader]:
    return [StreamLoader(source, World(rank, size)) for rank in range(size)]


def take(ranks: list[StreamLoader], num_steps: int) -> list[Contents]:
    """Steps of all ranks, each merged into one."""
    steps = []
    for _ in range(num_steps):
        found = [rank.step() for rank in ranks]
        assert len({len(batches) for batches in found}) == 1, "ranks must give equally many"
        steps.append(contents([batch for batches in found for batch in batches]))
    return steps


def saved(ranks: list[StreamLoader]) -> dict[str, Any]:
    """The merged state of all ranks, through JSON as a checkpoint keeps it."""
    merged: dict[str, Any] = {}
    for rank in ranks:
        state = rank.state()
        assert not merged.keys() & state.keys()
        merged |= state
    return json.loads(json.dumps(merged))


def epoch_of(source: StreamSource, epoch: int = 0) -> list[Example]:
    """The examples of an epoch, all shards in one stream."""
    shards = source.shard_set.shards("train")
    found = examples(source, lambda e: shards if e == epoch else [], 0, StreamState(epoch))
    return [member for member, _ in found]


def read_epochs(source: StreamSource, stream: int, num_epochs: int) -> list[list[Piece]]:
    """The pieces of each epoch of a stream, out of its micro-batches with the masks left off."""
    found, epochs = [], []
    bare = replace(source, masking=MaskingConfig(entity_rate=0, token_rate=0))
    for batch in stream_batches(bare, stream):
        bounds = batch.boundaries.tolist()
        for name, start, end in zip(batch.doc_ids, bounds[:-1], bounds[1:], strict=True):
            found.append((name, tuple(batch.input_ids[start + 1 : end - 1].tolist())))
        if batch.state.epoch > len(epochs):
            assert batch.state.group == 0
            last = len(found) - batch.state.done
            epochs.append(found[:last])
            found = found[last:]
            if len(epochs) == num_epochs:
                break
    return epochs


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


def test_no_cut_goes_through_a_mention(
    source: StreamSource, documents: dict[str, tuple[np.ndarray, np.ndarray]]
) -> None:
    found: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for member in epoch_of(source):
        assert len(member.tokens) + NUM_SPECIAL <= source.data.max_document_tokens
        for start, end, kind, concept in member.mentions.tolist():
            shift = member.offset - member.start
            row = start + shift, end + shift, kind, concept
            found[member.doc_id].append(row)
    for name, (_, rows) in documents.items():
        assert sorted(found[name]) == sorted(rows.tolist())


def block_of(num_tokens: int, passages: list[int], mentions: list[tuple[int, int]]) -> Block:
    return Block(
        tokens=np.arange(num_tokens),
        docs=np.array([[0, start] for start in passages]),
        mentions=np.array([(*span, 0, 1) for span in mentions], dtype=MENTION_ROW),
        doc_ids=["1"],
    )


def cut_pieces(block: Block) -> list[tuple[int, int, int]]:
    return list(pieces(block, block.starts(), limit=10))


@pytest.mark.parametrize(
    ("passages", "mentions", "ends"),
    [
        ([0], [], [10, 20, 25]),
        ([0, 8], [], [8, 18, 25]),
        ([0, 8], [(7, 9)], [10, 20, 25]),  # a mention that two passages share
        ([0, 3], [], [10, 20, 25]),  # a passage that starts early would leave half a piece empty
        ([0, 6, 9], [], [9, 19, 25]),
        ([0], [(8, 12)], [8, 18, 25]),
        ([0], [(8, 12), (6, 9)], [6, 16, 25]),  # mentions that overlap
        ([0], [(8, 10), (10, 12)], [10, 20, 25]),
        ([0], [(1, 11)], [1, 11, 21, 25]),
        ([0], [(0, 14)], [10, 20, 25]),  # a mention longer than a piece cannot be kept whole
    ],
)
def test_long_documents_are_cut_at_passages_or_between_mentions(
    passages: list[int], mentions: list[tuple[int, int]], ends: list[int]
) -> None:
    found = cut_pieces(block_of(25, passages, mentions))
    assert [end for _, _, end in found] == ends
    assert [start for _, start, _ in found] == [0, *ends[:-1]]


def test_a_short_document_is_one_piece() -> None:
    assert cut_pieces(block_of(10, [0, 4], [(2, 5)])) == [(0, 0, 10)]


def test_strips_have_one_length_and_documents_start_at_position_zero(
    source: StreamSource,
) -> None:
    special = source.special
    for batch in islice(stream_batches(source, 0), 12):
        assert len(batch.input_ids) == len(batch.positions) == source.data.strip_tokens
        bounds = batch.boundaries.tolist()
        lengths = np.diff(bounds)
        assert bounds[0] == 0
        assert bounds[-1] == batch.num_tokens <= source.data.strip_tokens
        assert len(batch.doc_ids) == len(lengths)
        assert batch.longest == lengths.max()
        assert batch.positions[: bounds[-1]].tolist() == [
            n for size in lengths for n in range(size)
        ]
        assert (batch.input_ids[bounds[-1] :] == special["pad"]).all()
        assert (batch.input_ids[bounds[:-1]] == special["first"]).all()
        assert (batch.input_ids[[end - 1 for end in bounds[1:]]] == special["last"]).all()
        assert (batch.mention_spans < bounds[-1]).all()


def test_a_strip_is_full_when_the_next_document_does_not_fit(source: StreamSource) -> None:
    found = [list(islice(stream_batches(source, stream), 8)) for stream in range(3)]
    for batches in found:
        for batch, after in zip(batches, batches[1:], strict=False):
            first = after.boundaries[1].item()
            assert batch.num_tokens + first > source.data.strip_tokens


def test_an_empty_strip_is_never_made() -> None:
    member = Example("1", np.arange(6), np.zeros(0), 0, 0, 0)
    states = [StreamState(0, 0, done) for done in range(1, 4)]
    found = list(strips(iter([(member, state) for state in states]), strip_tokens=8))
    assert [(len(members), state) for members, state in found] == [(1, s) for s in states]


@pytest.mark.parametrize("streams", [3, 5])
@pytest.mark.parametrize("size", [2, 3])
def test_any_number_of_ranks_trains_on_the_same_micro_batches(
    shard_set: ShardSet, streams: int, size: int
) -> None:
    source = source_of(shard_set, streams=streams)
    alone = take(open_ranks(source, 1), 12)
    assert all(list(step) == list(range(streams)) for step in alone)
    assert {state.epoch for step in alone for *_, state in step.values()} >= {0, 1}
    assert take(open_ranks(source, size), 12) == [dict(sorted(s.items())) for s in alone]


@pytest.mark.slow
def test_loader_processes_give_the_same_micro_batches(shard_set: ShardSet) -> None:
    alone = open_ranks(source_of(shard_set), 1)
    workers = open_ranks(source_of(shard_set, loader_workers=2), 1)
    found, wanted = take(workers, 3), take(alone, 6)
    children = multiprocessing.active_children()
    assert len(children) == 2
    for child in children:  # as when SIGTERM goes to all processes of a job
        os.kill(child.pid or 0, signal.SIGTERM)
    found += take(workers, 3)
    assert found == wanted
    assert [list(step) for step in found] == [list(step) for step in wanted], "order of slots"
    assert saved(workers) == saved(alone)


@pytest.mark.parametrize("stop", [0, 1, 5, 11])
@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1), (3, 2)])
def test_a_restored_run_goes_on_at_another_number_of_ranks(
    shard_set: ShardSet, stop: int, before: int, after: int
) -> None:
    source = source_of(shard_set, streams=4)
    whole = take(open_ranks(source, 1), stop + 6)
    stopped = open_ranks(source, before)
    assert take(stopped, stop) == whole[:stop]
    resumed = open_ranks(source, after)
    for rank in resumed:
        rank.restore(saved(stopped))
    assert saved(resumed) == saved(stopped)
    assert take(resumed, 6) == whole[stop:]


def test_a_loader_can_be_set_back(source: StreamSource) -> None:
    (loader,) = open_ranks(source, 1)
    start = saved([loader])
    first = take([loader], 3)
    loader.restore(start)
    assert take([loader], 3) == first


def test_the_state_names_every_stream_once_and_says_what_was_given(source: StreamSource) -> None:
    ranks = open_ranks(source, 2)
    assert saved(ranks) == {str(stream): [0, 0, 0] for stream in range(3)}
    (step,) = take(ranks, 1)
    assert saved(ranks) == {str(slot): list(found[-1]) for slot, found in step.items()}


@pytest.fixture(scope="module")
def tiny_set() -> Iterator[ShardSet]:
    """Six shards of one or two documents: an epoch is over after a few steps."""
    with tempfile.TemporaryDirectory() as folder:
        yield write_shards(
            Path(folder), 11, replace(SMALL, block_documents=1, shard_documents=2), seed=5
        )


@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    streams=st.integers(1, 6),
    group_shards=st.integers(1, 3),
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    stops=st.lists(st.integers(0, 7), min_size=3, max_size=3),
)
def test_any_history_of_stops_and_world_sizes_gives_the_same_steps(
    tiny_set: ShardSet, streams: int, group_shards: int, sizes: list[int], stops: list[int]
) -> None:
    source = source_of(tiny_set, streams=streams, group_shards=group_shards)
    lengths = stops[: len(sizes) - 1] + [3]
    walked: list[Contents] = []
    state = None
    for size, num_steps in zip(sizes, lengths, strict=True):
        ranks = open_ranks(source, min(size, streams))
        for rank in ranks:
            if state is not None:
                rank.restore(state)
        walked += take(ranks, num_steps)
        state = saved(ranks)
    assert walked == take(open_ranks(source, 1), sum(lengths))


def test_epochs_differ_in_order_and_in_masks(source: StreamSource) -> None:
    first, second = read_epochs(source, 0, 2)
    assert {name for name, _ in first} != {name for name, _ in second}
    orders = [epoch_of(source, epoch) for epoch in (0, 1)]
    assert [m.doc_id for m in orders[0]] != [m.doc_id for m in orders[1]]
    alike = [sorted(order, key=lambda m: (m.doc_id, m.offset))[:2] for order in orders]
    masked = [make_batch(source, members, 0, StreamState()) for members in alike]
    assert masked[0].doc_ids == masked[1].doc_ids
    assert masked[0].input_ids.tolist() != masked[1].input_ids.tolist()


def test_another_seed_gives_other_shards_and_another_order(shard_set: ShardSet) -> None:
    first, other, again = (
        read_epochs(source_of(shard_set, seed=seed), 0, 1)[0] for seed in (13, 14, 13)
    )
    assert first == again
    assert {name for name, _ in first} != {name for name, _ in other}
    alone = [epoch_of(source_of(shard_set, seed=seed)) for seed in (13, 14)]
    assert [m.doc_id for m in alone[0]] != [m.doc_id for m in alone[1]]


def test_the_shards_of_a_group_are_mixed(shard_set: ShardSet) -> None:
    source = source_of(shard_set, streams=1, group_shards=10, max_document_tokens=128)
    order = [member.doc_id for member in epoch_of(source)]
    neighbours = [abs(int(a) - int(b)) for a, b in zip(order, order[1:], strict=False)]
    assert len(order) == NUM_DOCUMENTS
    assert np.mean(neighbours) == pytest.approx(NUM_DOCUMENTS / 3, rel=0.4)


def test_an_empty_micro_batch_has_no_targets(source: StreamSource) -> None:
    batch = empty_batch(source)
    assert batch.counts == {"token": 0, "type": 0, "identifier": 0}
    assert batch.num_tokens == 0 and batch.slot == -1
    # One document of nothing, so that attention has something to attend to on every rank.
    assert batch.boundaries.tolist() == [0, 2] and batch.longest == 2
    padding = [source.special["pad"]] * (source.data.strip_tokens - 2)
    assert batch.input_ids.tolist() == [source.special["first"], source.special["last"], *padding]
    assert batch.mention_spans.shape == (0, 2)


def test_validation_is_the_same_every_time_and_apart_from_training(tmp_path: Path) -> None:
    shard_set = write_shards(tmp_path, NUM_DOCUMENTS, replace(SMALL, validation_share=0.2))
    source = source_of(shard_set, streams=1, max_document_tokens=128, validation_strips=99)
    found = list(validation_batches(source))
    assert contents(found) == contents(list(validation_batches(source)))
    names = [name for batch in found for name in batch.doc_ids]
    assert len(names) == len(set(names)) == shard_set.manifest.total("validation").documents
    assert not {member.doc_id for member in epoch_of(source)} & set(names)
    short = source_of(shard_set, streams=1, max_document_tokens=128, validation_strips=2)
    assert len(list(validation_batches(short))) == 2


def test_a_set_without_validation_has_no_validation_batches(source: StreamSource) -> None:
    assert list(validation_batches(source)) == []


def test_too_few_shards_is_an_error_with_a_remedy(shard_set: ShardSet) -> None:
    with pytest.raises(ValueError, match=r"10 training shards for 11 streams; lower data\.streams"):
        source_of(shard_set, streams=11)


def test_another_tokenizer_is_an_error_with_a_remedy(shard_set: ShardSet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"another tokenizer.*shard again with --tokenizer"):
        StreamSource.build(
            shard_set,
            DataConfig(shards=shard_set.url, streams=2),
            MaskingConfig(),
            choose_entities(shard_set, 1, 10),
            tiny_tokenizer(tmp_path),
            13,
        )
    assert own_tokenizer(shard_set).fingerprint == shard_set.manifest.tokenizer


def test_more_workers_than_streams_is_an_error_with_a_remedy(source: StreamSource) -> None:
    with pytest.raises(ValueError, match=r"4 workers for 3 streams: raise data\.streams"):
        StreamLoader(source, World(0, 4))


def test_a_strip_shorter_than_a_document_is_refused() -> None:
    with pytest.raises(ValueError, match="strip_tokens"):
        DataConfig(shards="x", strip_tokens=100, max_document_tokens=101)
