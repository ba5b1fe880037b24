"""What a dataset card counts of a shard set: lengths of documents, mentions with an identifier.

A shard is counted while its blocks are at hand (`statistics_of`), and counts are added up
(`add_up`), so nothing is read again to describe a set of many millions of documents.
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

# Three bins an octave, up to a million tokens; what is longer goes to the last. A power of two is
# a bound, so the share of documents that a model of 512 positions cuts can be read off.
LENGTH_BOUNDS = np.unique(np.round(2 ** (np.arange(61) / 3)).astype(np.int64))


class ShardStatistics(msgspec.Struct, frozen=True):
    """Counts of one shard or of many.

    `documents_by_length` counts documents of at least LENGTH_BOUNDS[i] tokens and fewer than the
    next. By entity type: `mentions`; `normalised`, those of them with an identifier; `rows`, one
    for each mention and concept, as a shard stores them.
    """

    documents_by_length: list[int]
    mentions: dict[str, int]
    normalised: dict[str, int]
    rows: dict[str, int]

    @property
    def documents(self) -> int:
        return sum(self.documents_by_length)

    def documents_from(self, num_tokens: int) -> int:
        """Documents of at least so many tokens; the number must be a bound."""
        return sum(self.documents_by_length[LENGTH_BOUNDS.tolist().index(num_tokens) :])


class StoredStatistics(msgspec.Struct, frozen=True):
    """Statistics in a file beside the manifest, and the digest of the shards they count."""

    shard_set: str
    statistics: ShardStatistics


def statistics_of(blocks: Iterable[Block]) -> ShardStatistics:
    """Count some blocks, as those of a shard."""
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
    """The statistics of several shards as one."""
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
    """Count a whole shard set: the stored statistics, else every shard is read.

    `progress` is told of each shard.
    """
    return stored_statistics(shard_set) or add_up(_each(shard_set, progress))


def stored_statistics(shard_set: ShardSet) -> ShardStatistics | None:
    """The statistics beside the manifest; None where there are none, or of other shards."""
    try:
        data = read_bytes(f"{shard_set.url}/{STATISTICS}")
        stored = msgspec.json.decode(data, type=StoredStatistics)
    except (OSError, msgspec.MsgspecError):  # a bucket may say 403 of what is not there
        return None
    return stored.statistics if stored.shard_set == shard_set.manifest.digest else None


def write_statistics(folder: Path, manifest: Manifest, statistics: ShardStatistics) -> None:
    """Keep statistics with the shards that they count."""
    stored = StoredStatistics(manifest.digest, statistics)
    (folder / STATISTICS).write_bytes(msgspec.json.format(msgspec.json.encode(stored), indent=1))


def _each(shard_set: ShardSet, progress: Callable[[], None]) -> Iterable[ShardStatistics]:
    for shard in shard_set.manifest.shards:
        yield statistics_of(shard_set.load(shard))
        progress()


def _sum(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    return {name: count + second[name] for name, count in first.items()}
