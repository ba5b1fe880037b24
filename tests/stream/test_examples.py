"""Documents become examples: whole, or in pieces that no mention is cut by."""

import hashlib
from collections import defaultdict

import numpy as np
import pytest

from embre.shards.mention_row import MENTION_ROW
from embre.shards.shard_set import Block
from embre.stream.examples import document_keys, join
from embre.stream.layout import NUM_SPECIAL
from embre.stream.source import StreamSource
from tests.stream.steps import (
    block_of,
    cut_at_ten,
    epoch_of,
)


def test_the_key_of_a_document_is_that_of_seed_epoch_and_id() -> None:
    digest = hashlib.blake2b("7/3/PMC12ü".encode(), digest_size=8).digest()
    assert document_keys(7, 3, ["1", "PMC12ü"])[1] == int.from_bytes(digest, "little")
    assert len(document_keys(7, 3, [])) == 0


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
