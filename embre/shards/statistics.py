"""Statistics of a shard set for its dataset card: document lengths, mentions with an identifier.

Each shard is counted while its blocks are in memory (`statistics_of`) and the counts are summed
(`add_up`), so that a set of many millions of documents is not read again.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import numpy as np

from embre.entity_types import TYPE_INDEX
from embre.object_store import read_bytes
from embre.shards.mention_row import count_types, last_of_span
from embre.shards.shard_set import Block, Manifest, ShardSet

STATISTICS = "statistics.json"

# Three bins per octave, up to a million tokens; longer documents go to the last bin. Powers of two
# are bounds, which gives the share of documents that a model of 512 positions truncates.
LENGTH_BOUNDS = np.unique(np.round(2 ** (np.arange(61) / 3)).astype(np.int64))


class ShardStatistics(msgspec.Struct, frozen=True):
    """Counts of one shard or of many.

    `documents_by_length[i]` counts documents of at least LENGTH_BOUNDS[i] and fewer than
    LENGTH_BOUNDS[i + 1] tokens. By entity type: `mentions`; `normalised`, mentions with an
    identifier; `rows`, one per mention and concept, as stored in a shard.
    """

    documents_by_length: list[int]
    mentions: dict[str, int]
    normalised: dict[str, int]
    rows: dict[str, int]

    @property
    def documents(self) -> int:
        return sum(self.documents_by_length)

    def documents_from(self, num_tokens: int) -> int:
        """Number of documents of at least `num_tokens` tokens, one of LENGTH_BOUNDS."""
        return sum(self.documents_by_length[LENGTH_BOUNDS.tolist().index(num_tokens) :])


class StoredStatistics(msgspec.Struct, frozen=True):
    """The statistics file beside the manifest, with the digest of the shards that it counts."""

    shard_set: str
    statistics: ShardStatistics


def statistics_of(blocks: Iterable[Block]) -> ShardStatistics:
    """Compute the statistics of blocks, usually those of one shard."""
    lengths = np.zeros(len(LENGTH_BOUNDS), dtype=np.int64)
    mentions, normalised, all_rows = np.zeros((3, len(TYPE_INDEX)), dtype=np.int64)
    for block in blocks:
        bins = np.searchsorted(LENGTH_BOUNDS, np.diff(block.starts()), side="right") - 1
        lengths += np.bincount(bins, minlength=len(lengths))
        rows = block.mentions
        last = last_of_span(rows)
        mentions += count_types(rows[last])
        normalised += count_types(rows[last & (rows["concept"] != 0)])
        all_rows += count_types(rows)
    return ShardStatistics(
        lengths.tolist(),
        *(
            dict(zip(TYPE_INDEX, counts.tolist(), strict=True))
            for counts in (mentions, normalised, all_rows)
        ),
    )


def add_up(parts: Iterable[ShardStatistics]) -> ShardStatistics:
    """Sum the statistics of several shards."""
    total = statistics_of([])
    for part in parts:
        by_length = zip(total.documents_by_length, part.documents_by_length, strict=True)
        total = ShardStatistics(
            [count + more for count, more in by_length],
            _sum(total.mentions, part.mentions),
            _sum(total.normalised, part.normalised),
            _sum(total.rows, part.rows),
        )
    return total


def statistics_of_set(
    shard_set: ShardSet, progress: Callable[[], None] = lambda: None
) -> ShardStatistics:
    """The statistics of a whole shard set: the stored ones, otherwise every shard is read.

    `progress` is called after each shard that is read.
    """
    return stored_statistics(shard_set) or add_up(_each(shard_set, progress))


def stored_statistics(shard_set: ShardSet) -> ShardStatistics | None:
    """The statistics beside the manifest; None if missing or of other shards."""
    try:
        data = read_bytes(f"{shard_set.url}/{STATISTICS}")
        stored = msgspec.json.decode(data, type=StoredStatistics)
    except (OSError, msgspec.MsgspecError):  # a bucket may return 403 for a missing file
        return None
    return stored.statistics if stored.shard_set == shard_set.manifest.digest else None


def write_statistics(folder: Path, manifest: Manifest, statistics: ShardStatistics) -> None:
    """Write the statistics beside the manifest, bound to its digest."""
    stored = StoredStatistics(manifest.digest, statistics)
    (folder / STATISTICS).write_bytes(msgspec.json.format(msgspec.json.encode(stored), indent=1))


def _each(shard_set: ShardSet, progress: Callable[[], None]) -> Iterable[ShardStatistics]:
    for shard in shard_set.manifest.shards:
        yield statistics_of(shard_set.load(shard))
        progress()


def _sum(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    return {name: count + second[name] for name, count in first.items()}
