"""Summaries of a shard set as table rows of strings, shared by the dataset card and the tools."""

from collections.abc import Iterator

from embre.shards.shard_set import Manifest
from embre.shards.statistics import ShardStatistics

SPLIT_COLUMNS = ("split", "shards", "documents", "tokens", "mentions", "MB")
MENTION_COLUMNS = ("type", "mentions", "share", "with an identifier")


def split_rows(manifest: Manifest) -> Iterator[tuple[str, ...]]:
    """Yield a row of SPLIT_COLUMNS per split."""
    for split in dict.fromkeys(shard.split for shard in manifest.shards):
        total = manifest.total(split)
        shards = sum(shard.split == split for shard in manifest.shards)
        numbers = (shards, total.documents, total.tokens, sum(total.mentions.values()))
        yield split, *(f"{number:,}" for number in numbers), f"{total.bytes / 1e6:,.1f}"


def mention_rows(statistics: ShardStatistics) -> Iterator[tuple[str, ...]]:
    """Yield a row of MENTION_COLUMNS per entity type, then one for all."""
    total, normalised = sum(statistics.mentions.values()), sum(statistics.normalised.values())
    for name, count in statistics.mentions.items():
        yield name, f"{count:,}", share(count, total), share(statistics.normalised[name], count)
    yield "all", f"{total:,}", share(total, total), share(normalised, total)


def share(count: int, total: int) -> str:
    """`count / total` as in `12.5%`; a dash if `total` is 0."""
    return f"{count / total:.1%}" if total else "–"
