"""Shards → micro-batches, in an order that no rank, worker or clock decides.

    ShardSet ─examples─▶ (Example, StreamState)… ─strips─▶ (Example…, StreamState) ─batch─▶ Batch

The order of documents is a function of (seed, epoch). A fixed number of logical streams share the
permuted shards of an epoch; a step is one micro-batch from every stream, whichever rank reads it.
A stream's state is three integers, so a resumed run opens one group of shards and goes on.
"""

import hashlib
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from typing import NamedTuple

import numpy as np

from embre.batch import NUM_SPECIAL, Batch, Example, StreamSource, StreamState, make_batch
from embre.shards import Block, ShardEntry

FIRST = StreamState()


def stream_batches(
    source: StreamSource, stream: int, state: StreamState = FIRST
) -> Iterator[Batch]:
    """The micro-batches of one logical stream, for ever, from a state on."""
    shards = source.shard_set.shards("train")

    def order(epoch: int) -> list[ShardEntry]:
        shuffled = np.random.default_rng((source.seed, epoch, 0)).permutation(len(shards))
        return [shards[index] for index in shuffled[stream :: source.data.streams]]

    found = examples(source, order, stream, state)
    for members, after in strips(found, source.data.strip_tokens):
        yield make_batch(source, members, stream, after)


def validation_batches(source: StreamSource) -> Iterator[Batch]:
    """The first `validation_strips` micro-batches of the validation split; always the same."""
    shards = source.shard_set.shards("validation")
    if not shards:
        return
    found = examples(source, lambda epoch: shards if epoch == 0 else [], stream=0)
    # Nothing follows the one epoch: the last strip is closed half full.
    for members, after in islice(
        strips(found, source.data.strip_tokens), source.data.validation_strips
    ):
        yield make_batch(source, members, 0, after)


def examples(
    source: StreamSource,
    order: Callable[[int], list[ShardEntry]],
    stream: int,
    state: StreamState = FIRST,
) -> Iterator[tuple[Example, StreamState]]:
    """Examples in their order, each with the stream's state after it.

    `order` gives the shards of an epoch; an epoch without shards ends the stream. A few shards at
    a time are read whole and their examples permuted together.
    """
    epoch, first_group, first = state
    while shards := order(epoch):
        size = source.data.group_shards
        groups = [shards[at : at + size] for at in range(0, len(shards), size)]
        for group in range(first_group, len(groups)):
            blocks = [b for shard in groups[group] for b in source.shard_set.load(shard)]
            limit = source.data.max_document_tokens - NUM_SPECIAL
            spots = [(block, spot) for block in blocks for spot in find_spots(block, limit)]
            rng = np.random.default_rng((source.seed, epoch, 1, stream, group))
            shuffled = rng.permutation(len(spots)).tolist()
            for done in range(first, len(spots)):
                block, spot = spots[shuffled[done]]
                yield example(block, spot, source.seed, epoch), StreamState(epoch, group, done + 1)
            first = 0
        epoch, first_group = epoch + 1, 0


class Spot(NamedTuple):
    """Where an example is in its block: document, and tokens of it; then mention rows."""

    doc: int
    first_of_doc: int
    start: int
    end: int
    first_row: int
    last_row: int


def find_spots(block: Block, limit: int) -> list[Spot]:
    """The documents of a block, in pieces where they are longer than `limit` tokens."""
    starts = block.starts()
    found = np.array(list(pieces(block, starts, limit)), dtype=np.int64).reshape(-1, 3)
    # Rows are sorted by their start; out of the structure numpy would copy them for each search.
    row_starts = np.ascontiguousarray(block.mentions["start"]).astype(np.int64)
    rows = (np.searchsorted(row_starts, found[:, column]) for column in (1, 2))
    columns = (found[:, 0], starts[found[:, 0]], found[:, 1], found[:, 2], *rows)
    return [Spot(*spot) for spot in zip(*(column.tolist() for column in columns), strict=True)]


def pieces(block: Block, starts: np.ndarray, limit: int) -> Iterator[tuple[int, int, int]]:
    """(document, start, end) in tokens of the block, each at most `limit` long.

    A longer document is cut where a passage starts, else between mentions, else anywhere.
    """
    bounds = starts.tolist()
    for doc, (start, end) in enumerate(pairwise(bounds)):
        while end - start > limit:
            cut = _cut(block, start, start + limit)
            yield doc, start, cut
            start = cut
        yield doc, start, end


def _cut(block: Block, start: int, limit: int) -> int:
    inside = _mentions(block, start, limit + 1)

    def across(cut: int) -> np.ndarray:
        return inside[(inside["start"] < cut) & (inside["end"] > cut)]

    passages = block.docs[:, 1]
    late = passages[(passages > (start + limit) // 2) & (passages <= limit)]
    for cut in late[::-1].tolist():
        if not across(cut).size:
            return cut
    cut = limit
    while (cut_through := across(cut)).size:
        cut = int(cut_through["start"].min())
    return cut if cut > start else limit


def _mentions(block: Block, start: int, end: int) -> np.ndarray:
    """The rows that begin in a range; a block's mentions are sorted by their start."""
    low, high = np.searchsorted(block.mentions["start"], (start, end))
    return block.mentions[low:high]


def example(block: Block, spot: Spot, seed: int, epoch: int) -> Example:
    """One piece of a block as an example."""
    doc_id = block.doc_ids[spot.doc]
    return Example(
        doc_id=doc_id,
        tokens=block.tokens[spot.start : spot.end],
        mentions=block.mentions[spot.first_row : spot.last_row],
        start=spot.start,
        offset=spot.start - spot.first_of_doc,
        key=document_key(seed, epoch, doc_id),
    )


def document_key(seed: int, epoch: int, doc_id: str) -> int:
    """64 bits of (seed, epoch, document)."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{doc_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def strips(
    found: Iterator[tuple[Example, StreamState]], strip_tokens: int
) -> Iterator[tuple[list[Example], StreamState]]:
    """Whole examples while they fit; the state is the one after the last of them."""
    members: list[Example] = []
    room, last = strip_tokens, StreamState()
    for member, state in found:
        need = len(member.tokens) + NUM_SPECIAL
        if need > room:
            yield members, last
            members, room = [], strip_tokens
        members.append(member)
        room -= need
        last = state
    if members:
        yield members, last
