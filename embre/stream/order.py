"""Shards → micro-batches, in an order independent of ranks, workers and timing.

    ShardSet ─rounds─▶ (Examples, StreamState) ─strips─▶ (Examples, StreamState) ─make_batch─▶ Batch

The order of documents is a function of (seed, epoch). A fixed number of logical streams share the
permuted shards of an epoch; a step is one micro-batch from every stream, whichever rank reads it.

A stream reads one shard per round. The examples of a shard are scattered over that round and the
next `shuffle_shards` - 1: most in its own round or soon after, few late, so that neighbours are
separated with only a third of the mixed shards in memory. The scattering wraps around at the end of
the epoch: each example comes once, and all rounds are equally full.

A stream's state is three integers; a resumed run opens only the shards of one round.
"""

from collections import defaultdict
from collections.abc import Iterator
from itertools import islice

import numpy as np

from embre.refused import Refused
from embre.shards.shard_set import ShardEntry
from embre.stream.batch import Batch, make_batch
from embre.stream.examples import NO_EXAMPLES, Examples, join
from embre.stream.layout import NUM_SPECIAL
from embre.stream.source import StreamSource, StreamState

FIRST = StreamState()
ORDER, MIX, SCATTER = range(3)  # purposes of a random generator


def stream_batches(
    source: StreamSource, stream: int, state: StreamState = FIRST
) -> Iterator[Batch]:
    """Yield the micro-batches of one logical stream without end, starting at a state."""
    for members, after in strips(rounds(source, stream, state), source.settings.strip_tokens):
        yield make_batch(source.settings, members, stream, after)


def validation_batches(source: StreamSource) -> Iterator[Batch]:
    """Yield the first `validation_strips` validation micro-batches; always the same."""
    for members, after in validation_strips(source):
        yield make_batch(source.settings, members, 0, after)


def validation_strips(source: StreamSource) -> Iterator[tuple[Examples, StreamState]]:
    """Yield the examples of each validation micro-batch, before masking."""
    shards = source.shard_set.shards("validation")
    examples = ((source.read(shard, 0), StreamState(0, at)) for at, shard in enumerate(shards))
    return islice(strips(examples, source.settings.strip_tokens), source.data.validation_strips)


def rounds(
    source: StreamSource, stream: int, state: StreamState = FIRST
) -> Iterator[tuple[Examples, StreamState]]:
    """Yield the examples of a stream round by round, with the state before each round."""
    epoch, first, done = state
    while True:
        shards = shards_of(source, stream, epoch)
        spread = min(source.data.shuffle_shards, len(shards))
        waiting: dict[int, list[Examples]] = defaultdict(list)
        num_examples = 0
        # Negative turns are the last shards, whose late examples wrap around to the first rounds.
        for turn in range(first - spread + 1, len(shards)):
            place = turn % len(shards)
            examples = source.read(shards[place], epoch)
            parts = scatter(examples, spread, _random(source, epoch, SCATTER, stream, place))
            for due, part in enumerate(parts, turn):
                if first <= due < len(shards):
                    waiting[due].append(part)
            if turn >= first:
                here = join(waiting.pop(turn))
                order = _random(source, epoch, MIX, stream, turn).permutation(len(here))
                yield here.take(order[done:]), StreamState(epoch, turn, done)
                num_examples, done = num_examples + len(here), 0
        if not num_examples and not first:
            raise Refused(
                f"{source.shard_set.url}: stream {stream} has no document in an epoch; restore "
                "the damaged shards or lower data.streams"
            )
        epoch, first = epoch + 1, 0


def shards_of(source: StreamSource, stream: int, epoch: int) -> list[ShardEntry]:
    """The training shards of one stream in an epoch, in order."""
    shards = source.shard_set.shards("train")
    order = _random(source, epoch, ORDER).permutation(len(shards))
    return [shards[index] for index in order[stream :: source.data.streams]]


def scatter(examples: Examples, spread: int, random: np.random.Generator) -> list[Examples]:
    """Distribute the examples of a shard over its own round and the `spread` - 1 next ones.

    The lag is the minimum of two uniform draws: among distributions with the same mean lag, a
    linearly decreasing one puts two examples of a shard in the same round least often.
    """
    lags = random.integers(spread, size=(2, len(examples))).min(axis=0)
    return [examples.take(np.flatnonzero(lags == lag)) for lag in range(spread)]


def strips(
    examples: Iterator[tuple[Examples, StreamState]], strip_tokens: int
) -> Iterator[tuple[Examples, StreamState]]:
    """Fill strips with whole examples; yields them with the state after the last one."""
    held, ended = NO_EXAMPLES, FIRST
    for here, (epoch, turn, done) in examples:
        pool, num_held, first = join([held, here]), len(held), 0
        ends = np.cumsum(pool.lengths + NUM_SPECIAL)
        while True:
            room = strip_tokens + (ends[first - 1] if first else 0)
            last = int(np.searchsorted(ends, room, side="right"))
            if last == len(pool):  # the next round may fill it further
                break
            into = last - num_held
            yield (
                pool.part(first, last),
                StreamState(epoch, turn, done + into) if into else ended,
            )
            first = last
        held, ended = pool.part(first, len(pool)), StreamState(epoch, turn, done + len(here))
    if len(held):
        yield held, ended


def _random(source: StreamSource, *numbers: int) -> np.random.Generator:
    return np.random.default_rng((source.seed, *numbers))
