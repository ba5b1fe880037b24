"""The micro-batches of a step depend on seed and step alone: not on ranks, workers or restarts."""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice, permutations, takewhile
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embre.config import DataConfig, MaskingConfig
from embre.corpora.assemble import as_checked
from embre.demo.corpus import make_corpus
from embre.shards.encode import encode_documents
from embre.shards.entities import choose_entities
from embre.shards.mention_row import MENTION_ROW
from embre.shards.shard_set import Block, DamagedShard, ShardEntry, ShardSet
from embre.stream.batch import Batch, empty_batch, make_batch
from embre.stream.examples import NO_EXAMPLES, Examples, cut, document_keys, join
from embre.stream.layout import NUM_SPECIAL, with_padding
from embre.stream.order import FIRST, rounds, scatter, stream_batches, strips, validation_batches
from embre.stream.source import StreamSource, StreamState
from embre.stream.stream_loader import StreamLoader, _ahead
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
            batch.rows.tolist(),
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


def epoch_of(source: StreamSource, epoch: int = 0, stream: int = 0) -> Examples:
    """The examples of an epoch of a stream, in their order."""
    found = rounds(source, stream, StreamState(epoch))
    return join([members for members, _ in takewhile(lambda one: one[1].epoch == epoch, found)])


def read_epochs(source: StreamSource, stream: int, num_epochs: int) -> list[list[Piece]]:
    """The pieces of each epoch of a stream, out of its micro-batches with the masks left off."""
    found, epochs = [], []
    bare = source.with_masking(MaskingConfig(entity_rate=0, token_rate=0))
    for batch in stream_batches(bare, stream):
        bounds = batch.boundaries[: len(batch.doc_ids) + 1].tolist()
        for name, start, end in zip(batch.doc_ids, bounds[:-1], bounds[1:], strict=True):
            found.append((name, tuple(batch.input_ids[start + 1 : end - 1].tolist())))
        if batch.state.epoch > len(epochs):
            assert batch.state.round == 0
            last = len(found) - batch.state.done
            epochs.append(found[:last])
            found = found[last:]
            if len(epochs) == num_epochs:
                break
    return epochs


def test_the_key_of_a_document_is_that_of_seed_epoch_and_id() -> None:
    digest = hashlib.blake2b("7/3/PMC12ü".encode(), digest_size=8).digest()
    assert document_keys(7, 3, ["1", "PMC12ü"])[1] == int.from_bytes(digest, "little")
    assert len(document_keys(7, 3, [])) == 0


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
    members = join([epoch_of(source, stream=stream) for stream in range(source.data.streams)])
    assert (members.lengths + NUM_SPECIAL <= source.data.max_document_tokens).all()
    owner = np.repeat(np.arange(len(members)), np.diff(members.mention_starts)).tolist()
    for example, (start, end, kind, concept) in zip(owner, members.mentions.tolist(), strict=True):
        shift = int(members.offsets[example])
        found[members.doc_ids[example]].append((start + shift, end + shift, kind, concept))
    for name, (_, rows) in documents.items():
        assert sorted(found[name]) == sorted(rows.tolist())


def block_of(num_tokens: int, passages: list[int], mentions: list[tuple[int, int]]) -> Block:
    return Block(
        tokens=np.arange(num_tokens),
        docs=np.array([[0, start] for start in passages]),
        mentions=np.array([(*span, 0, 1) for span in mentions], dtype=MENTION_ROW),
        doc_ids=["1"],
    )


def cut_at_ten(block: Block) -> Examples:
    return cut(block, limit=10, seed=0, epoch=0)


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
    found = cut_at_ten(block_of(25, passages, mentions))
    assert found.token_starts.tolist() == [0, *ends]
    assert found.offsets.tolist() == [0, *ends[:-1]]
    assert found.doc_ids == ["1"] * len(ends)
    assert len(set(found.keys.tolist())) == 1


def test_a_short_document_is_one_piece() -> None:
    found = cut_at_ten(block_of(10, [0, 4], [(2, 5)]))
    assert found.token_starts.tolist() == [0, 10]
    assert found.mentions.tolist() == [(2, 5, 0, 1)]


def test_only_a_mention_that_a_cut_goes_through_is_left_out() -> None:
    found = cut_at_ten(block_of(25, [0], [(0, 14), (3, 5), (12, 14), (24, 25)]))
    assert found.token_starts.tolist() == [0, 10, 20, 25]
    assert found.mention_starts.tolist() == [0, 1, 2, 3]
    assert [row[:2] for row in found.mentions.tolist()] == [(3, 5), (2, 4), (4, 5)]


def test_a_document_of_nothing_is_an_example_too() -> None:
    block = Block(
        tokens=np.arange(3),
        docs=np.array([[0, 0], [1, 0], [2, 3]]),
        mentions=np.array([(0, 2, 0, 1)], dtype=MENTION_ROW),
        doc_ids=["empty", "full", "last"],
    )
    found = cut_at_ten(block)
    assert found.doc_ids == ["empty", "full", "last"]
    assert found.lengths.tolist() == [0, 3, 0]
    assert found.mention_starts.tolist() == [0, 0, 1, 1]


def test_strips_have_one_length_and_documents_start_at_position_zero(
    source: StreamSource,
) -> None:
    special = source.settings.special
    for batch in islice(stream_batches(source, 0), 12):
        assert len(batch.input_ids) == len(batch.positions) == source.data.strip_tokens
        bounds = batch.boundaries[: len(batch.doc_ids) + 1].tolist()
        lengths = np.diff(bounds)
        assert bounds[0] == 0
        assert bounds[-1] == batch.num_tokens <= source.data.strip_tokens
        assert batch.positions[: bounds[-1]].tolist() == [
            n for size in lengths for n in range(size)
        ]
        assert (batch.input_ids[bounds[-1] :] == special.pad).all()
        assert (batch.input_ids[bounds[:-1]] == special.first).all()
        assert (batch.input_ids[[end - 1 for end in bounds[1:]]] == special.last).all()
        assert (batch.rows[batch.mention_spans[:, 1] - 1] < bounds[-1]).all()


def test_padding_is_cut_into_pieces_that_attention_can_afford(source: StreamSource) -> None:
    for batch in islice(stream_batches(source, 0), 12):
        lengths = np.diff(batch.boundaries.tolist())
        assert batch.boundaries[-1] == source.data.strip_tokens
        assert lengths.min() > 0
        assert lengths.max() <= batch.longest == source.data.max_document_tokens
    full = np.array([0, 60, source.data.strip_tokens])
    assert with_padding(full, source.settings).tolist() == full.tolist()


def test_rows_are_the_places_that_a_head_reads(source: StreamSource) -> None:
    for batch in islice(stream_batches(source, 0), 12):
        spans = [range(a, b) for a, b in batch.mention_spans.tolist()]
        read = {0, len(batch.rows) - 1} | set(batch.token_spots.tolist()) | set(chain(*spans))
        assert read == set(range(len(batch.rows)))
        of_rows = np.searchsorted(batch.boundaries.numpy(), batch.rows.numpy(), side="right") - 1
        assert np.bincount(of_rows, minlength=len(batch.boundaries) - 1).tolist() == (
            np.diff(batch.row_boundaries.tolist()).tolist()
        )
        for places in (batch.rows[a:b] for a, b in batch.mention_spans.tolist()):
            assert places.diff().eq(1).all(), "a mention lies whole in the rows"


def test_a_strip_is_full_when_the_next_document_does_not_fit(source: StreamSource) -> None:
    found = [list(islice(stream_batches(source, stream), 8)) for stream in range(3)]
    for batches in found:
        for batch, after in zip(batches, batches[1:], strict=False):
            first = after.boundaries[1].item()
            assert batch.num_tokens + first > source.data.strip_tokens


def test_an_empty_strip_is_never_made() -> None:
    found = strips(iter([(same_length(6, 3), FIRST), (NO_EXAMPLES, StreamState(0, 1))]), 8)
    assert [(len(members), state) for members, state in found] == [
        (1, StreamState(0, 0, 1)),
        (1, StreamState(0, 0, 2)),
        (1, StreamState(0, 1, 0)),  # it could have gone on in the next round
    ]


def same_length(num_tokens: int, num_examples: int) -> Examples:
    one = cut_at_ten(block_of(num_tokens, [0], []))
    return join([one] * num_examples)


def test_a_strip_goes_on_in_the_next_round() -> None:
    parts = [(same_length(3, 5), FIRST), (same_length(3, 4), StreamState(0, 1))]
    found = [(len(members), state) for members, state in strips(iter(parts), strip_tokens=15)]
    assert found == [
        (3, StreamState(0, 0, 3)),
        (3, StreamState(0, 1, 1)),
        (3, StreamState(0, 1, 4)),
    ]


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


def test_a_micro_batch_travels_between_processes_as_arrays(source: StreamSource) -> None:
    batch = next(stream_batches(source, 0))
    data = bytes(ForkingPickler.dumps(batch))
    assert b"storage" not in data, "a tensor would go as a file descriptor"
    again = ForkingPickler.loads(data)
    for name in batch.__slots__:
        value, other = getattr(batch, name), getattr(again, name)
        if isinstance(value, torch.Tensor):
            assert other.dtype == value.dtype and torch.equal(other, value), name
        else:
            assert other == value, name


def test_what_fails_a_step_ahead_fails_in_its_turn() -> None:
    def steps() -> Iterator[list[Batch]]:
        yield []
        raise DamagedShard("shard 7")

    ahead = _ahead(steps())
    assert next(ahead) == []
    with pytest.raises(DamagedShard, match="shard 7"):
        next(ahead)


@pytest.mark.slow
def test_loader_processes_can_be_set_back_with_a_step_on_its_way(shard_set: ShardSet) -> None:
    (loader,) = open_ranks(source_of(shard_set, loader_workers=2), 1)
    start = saved([loader])
    first = take([loader], 2)
    loader.restore(start)
    assert take([loader], 2) == first
    for child in multiprocessing.active_children():
        child.kill()
    with pytest.raises(RuntimeError, match="exited unexpectedly|killed"):
        take([loader], 20)


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


def test_a_resumed_run_reads_the_shards_that_mix_and_no_more(
    shard_set: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(shard_set, streams=1, shuffle_shards=3)
    (loader,) = open_ranks(source, 1)
    states = []
    while not states or states[-1]["0"][0] < 2:
        loader.step()
        states.append(saved([loader]))
    read: list[str] = []
    real = ShardSet.load

    def load(self: ShardSet, shard: ShardEntry) -> list[Block]:
        read.append(shard.name)
        return real(self, shard)

    monkeypatch.setattr(ShardSet, "load", load)
    for state in states:
        loader.restore(state)
        read.clear()
        loader.step()
        # Those of its round, and where the strip goes on in the next what that one opens: a shard,
        # or all of its own at the beginning of an epoch.
        last = state["0"][1] == len(shard_set.shards("train")) - 1
        assert 3 <= len(read) <= (6 if last else 4)


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
    shuffle_shards=st.integers(1, 7),
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    stops=st.lists(st.integers(0, 7), min_size=3, max_size=3),
)
def test_any_history_of_stops_and_world_sizes_gives_the_same_steps(
    tiny_set: ShardSet, streams: int, shuffle_shards: int, sizes: list[int], stops: list[int]
) -> None:
    source = source_of(tiny_set, streams=streams, shuffle_shards=shuffle_shards)
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


def damage(shard_set: ShardSet, folder: Path) -> tuple[ShardSet, set[str]]:
    """A copy whose first training shard has one flipped byte, and the documents of that shard."""
    copy = Path(shutil.copytree(shard_set.url, folder / "damaged"))
    first = shard_set.shards("train")[0]
    lost = {name for block in shard_set.load(first) for name in block.doc_ids}
    data = bytearray((copy / first.name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / first.name).write_bytes(data)
    return ShardSet.open(copy), lost


def test_a_damaged_shard_stops_a_run_or_is_set_aside_whole(
    shard_set: ShardSet, tmp_path: Path
) -> None:
    damaged, lost = damage(shard_set, tmp_path)
    careful = source_of(damaged, streams=2)
    with pytest.raises(DamagedShard, match=r"train-000000\.tar.*copy or write it again"):
        list(islice(stream_batches(careful, 0), 40)) + list(islice(stream_batches(careful, 1), 40))
    aside = tmp_path / "set_aside"
    source = source_of(damaged, streams=2, set_aside=aside, on_bad_shard="set_aside")
    epochs = [{n for s in (0, 1) for n in epoch_of(source, epoch, s).doc_ids} for epoch in (0, 1)]
    whole = {n for s in (0, 1) for n in epoch_of(source_of(shard_set, streams=2), 0, s).doc_ids}
    assert epochs == [whole - lost, whole - lost] and lost
    (note,) = aside.iterdir()
    assert note.name == "train-000000.tar.txt" and "the shard is damaged" in note.read_text()
    assert take(open_ranks(source, 2), 9) == take(open_ranks(source, 1), 9)


def test_a_stream_without_any_sound_shard_ends_with_an_error(
    shard_set: ShardSet, tmp_path: Path
) -> None:
    damaged, _ = damage(shard_set, tmp_path)
    source = source_of(damaged, streams=10, set_aside=tmp_path / "aside", on_bad_shard="set_aside")
    with pytest.raises(ValueError, match="no document in an epoch; write the damaged shards again"):
        for stream in range(10):
            epoch_of(source, stream=stream)


def test_an_empty_micro_batch_has_no_targets(source: StreamSource) -> None:
    batch = empty_batch(source.settings)
    assert batch.counts == {"token": 0, "type": 0, "identifier": 0}
    assert batch.num_tokens == 0 and batch.slot == -1 and batch.doc_ids == ()
    # One document of nothing, so that attention has something to attend to on every rank.
    assert batch.boundaries.tolist() == [0, 2, 50, 98, 128]
    special = source.settings.special
    padding = [special.pad] * (source.data.strip_tokens - 2)
    assert batch.input_ids.tolist() == [special.first, special.last, *padding]
    assert batch.mention_spans.shape == (0, 2)


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
