"""What a shard set holds, as rows of words for a table: the card and the tools show the same."""

from collections.abc import Iterator

from embre.shards.shard_set import Manifest
from embre.shards.statistics import ShardStatistics

SPLIT_COLUMNS = ("split", "shards", "documents", "tokens", "mentions", "MB")
MENTION_COLUMNS = ("type", "mentions", "share", "with an identifier")


def split_rows(manifest: Manifest) -> Iterator[tuple[str, ...]]:
    """SPLIT_COLUMNS of each split that there is."""
    for split in dict.fromkeys(shard.split for shard in manifest.shards):
        total = manifest.total(split)
        shards = sum(shard.split == split for shard in manifest.shards)
        numbers = (shards, total.documents, total.tokens, sum(total.mentions.values()))
        yield split, *(f"{number:,}" for number in numbers), f"{total.bytes / 1e6:,.1f}"


def mention_rows(statistics: ShardStatistics) -> Iterator[tuple[str, ...]]:
    """MENTION_COLUMNS of each entity type, and of all."""
    total, normalised = sum(statistics.mentions.values()), sum(statistics.normalised.values())
    for name, count in statistics.mentions.items():
        yield name, f"{count:,}", share(count, total), share(statistics.normalised[name], count)
    yield "all", f"{total:,}", share(total, total), share(normalised, total)


def share(count: int, total: int) -> str:
    """`12.5%`; a dash where there is nothing to have a share of."""
    return f"{count / total:.1%}" if total else "–"
