"""What the tests of the stream share: steps of ranks, epochs of streams, made-up blocks."""

import json
from itertools import takewhile
from typing import Any

import numpy as np

from embre.config import MaskingConfig
from embre.shards.mention_row import MENTION_ROW
from embre.shards.shard_set import Block
from embre.stream.batch import Batch
from embre.stream.examples import Examples, cut, join
from embre.stream.order import rounds, stream_batches
from embre.stream.source import StreamSource, StreamState
from embre.stream.stream_loader import StreamLoader
from embre.world import World

NUM_DOCUMENTS = 40

# What a rank would train on in a step: by slot, what is in the micro-batch and asked of it.
Contents = dict[int, tuple[Any, ...]]
Piece = tuple[str, tuple[int, ...]]


def contents(batches: list[Batch]) -> Contents:
    return {
        batch.slot: (
            batch.doc_ids,
            batch.input_ids.tolist(),
            batch.rows.tolist(),
            batch.token_target_rows.tolist(),
            batch.token_labels.tolist(),
            batch.mention_spans.tolist(),
            batch.mention_ids.tolist(),
            batch.cu_seqlens.tolist(),
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
        bounds = batch.cu_seqlens[: len(batch.doc_ids) + 1].tolist()
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


def block_of(num_tokens: int, passages: list[int], mentions: list[tuple[int, int]]) -> Block:
    return Block(
        tokens=np.arange(num_tokens),
        docs=np.array([[0, start] for start in passages]),
        mentions=np.array([(*span, 0, 1) for span in mentions], dtype=MENTION_ROW),
        doc_ids=["1"],
    )


def cut_at_ten(block: Block) -> Examples:
    return cut(block, limit=10, seed=0, epoch=0)


def same_length(num_tokens: int, num_examples: int) -> Examples:
    one = cut_at_ten(block_of(num_tokens, [0], []))
    return join([one] * num_examples)
