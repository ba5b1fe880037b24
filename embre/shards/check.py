"""Check a shard set against its manifest: every digest, every count, every mention.

Problems are collected, not raised, so that one check lists all the shards to copy again.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from embre.entity_types import TYPE_INDEX
from embre.shards.entities import CONCEPTS, read_concepts, type_numbers
from embre.shards.shard_set import Block, ShardEntry, ShardSet
from embre.shards.statistics import (
    STATISTICS,
    ShardStatistics,
    add_up,
    statistics_of,
    stored_statistics,
)

IDS_NAMED = 3


@dataclass
class Problems:
    """Problems by file name."""

    by_file: dict[str, list[str]] = field(default_factory=dict)

    def add(self, file: str, why: str) -> None:
        """Add a problem of a file, unless it has it already (from another block)."""
        reasons = self.by_file.setdefault(file, [])
        if why not in reasons:
            reasons.append(why)


class ConceptCounts:
    """Mention counts of the concepts: `expected` by the table, `found` in the shards."""

    def __init__(self, table: pa.Table):
        hashes = table["hash"].to_numpy()
        order = np.argsort(hashes)
        self.hashes = hashes[order]
        self.types = type_numbers(table)[order]
        self.expected = table["count"].to_numpy()[order]
        self.found = np.zeros(len(hashes), dtype=np.int64)

    def count(self, rows: np.ndarray) -> int:
        """Count the concepts of mention rows; returns the number of rows whose concept is not in
        the table with the row's type."""
        rows = rows[rows["concept"] != 0]
        if not len(rows) or not len(self.hashes):
            return len(rows)
        spot = np.minimum(np.searchsorted(self.hashes, rows["concept"]), len(self.hashes) - 1)
        known = (self.hashes[spot] == rows["concept"]) & (self.types[spot] == rows["type"])
        self.found += np.bincount(spot[known], minlength=len(self.found))
        return int((~known).sum())


def check_shards(
    shard_set: ShardSet, progress: Callable[[], None] = lambda: None
) -> dict[str, list[str]]:
    """Read and check a whole shard set; returns the problems by file name.

    `progress` is called after each shard.
    """
    problems, parts, ids = Problems(), [], []
    concepts = _concepts(shard_set, problems)
    for entry in shard_set.manifest.shards:
        try:
            blocks = shard_set.load(entry)
            parts.append(_check_shard(shard_set, entry, blocks, concepts, problems))
            ids.append(_id_hashes(blocks))
        except Exception as error:  # any error of reading a damaged file is a problem to report
            reason = " ".join(str(error).split()) or type(error).__name__
            problems.add(entry.name, reason.removeprefix(f"{shard_set.url}/{entry.name}: "))
            ids.append(np.empty(0, dtype=np.uint64))
        progress()
    _check_ids(shard_set, ids, problems)
    if not problems.by_file:  # otherwise the sums are wrong too
        _check_sums(shard_set, concepts, parts, problems)
    return problems.by_file


def _concepts(shard_set: ShardSet, problems: Problems) -> ConceptCounts | None:
    try:
        table = read_concepts(shard_set)
    except Exception as error:  # as above
        problems.add(CONCEPTS, str(error).removeprefix(f"{shard_set.url}/{CONCEPTS}: "))
        return None
    rows = shard_set.manifest.concepts["rows"]
    if table.num_rows != rows:
        problems.add(CONCEPTS, f"{table.num_rows} rows, {rows} in the manifest")
    return ConceptCounts(table)


def _check_shard(
    shard_set: ShardSet,
    entry: ShardEntry,
    blocks: list[Block],
    concepts: ConceptCounts | None,
    problems: Problems,
) -> ShardStatistics:
    for block in blocks:
        for why in _faults(block, shard_set.manifest.vocabulary):
            problems.add(entry.name, why)
        if concepts and (unknown := concepts.count(block.mentions)):
            problems.add(entry.name, f"{unknown} mention rows whose concept is not in {CONCEPTS}")
    statistics = statistics_of(blocks)
    counted = (
        ("documents", sum(len(block.doc_ids) for block in blocks), entry.documents),
        ("tokens", sum(len(block.tokens) for block in blocks), entry.tokens),
        *(
            (f"mentions of type {name}", count, entry.mentions.get(name, 0))
            for name, count in statistics.mentions.items()
        ),
    )
    for what, count, expected in counted:
        if count != expected:
            problems.add(entry.name, f"{count} {what}, {expected} in the manifest")
    return statistics


def _faults(block: Block, vocabulary: int) -> list[str]:
    """Inconsistencies within a block."""
    documents, passages = block.docs[:, 0], block.docs[:, 1].astype(np.int64)
    numbers, steps = np.unique(documents), np.diff(documents.astype(np.int64))
    if not np.array_equal(numbers, np.arange(len(block.doc_ids))) or (steps < 0).any():
        return ["the document numbers do not match its document ids"]
    if passages[0] != 0 or (np.diff(passages) < 0).any() or passages[-1] > len(block.tokens):
        return ["a passage starts outside its document"]
    faults = []
    if len(block.tokens) and block.tokens.max() >= vocabulary:
        faults.append(f"a token id beyond the vocabulary of {vocabulary}")
    rows = block.mentions
    if (rows["type"] >= len(TYPE_INDEX)).any():
        faults.append("a mention of an unknown type")
    first, starts = rows["start"].astype(np.int64), block.starts()
    if (np.diff(first) < 0).any():  # readers find a document's mentions by binary search
        faults.append("the mentions are not sorted by start")
    # The end of the document in which a mention begins; a start past the last token has none.
    own = np.minimum(np.searchsorted(starts, first, side="right"), len(starts) - 1)
    if ((first >= rows["end"]) | (rows["end"] > starts[own])).any():
        faults.append("a mention outside its document")
    return faults


def _id_hashes(blocks: list[Block]) -> np.ndarray:
    """(num_documents,) 64-bit hash of each id: a set of all ids would not fit into memory."""
    names = (name.encode() for block in blocks for name in block.doc_ids)
    hashes = (hashlib.blake2b(name, digest_size=8).digest() for name in names)
    return np.frombuffer(b"".join(hashes), dtype=np.uint64)


def _check_ids(shard_set: ShardSet, ids: list[np.ndarray], problems: Problems) -> None:
    hashes = np.concatenate([np.empty(0, dtype=np.uint64), *ids])
    order = np.argsort(hashes, kind="stable")
    same = hashes[order][1:] == hashes[order][:-1]
    again = np.sort(order[1:][same])  # second and later occurrences
    ends = np.cumsum([len(part) for part in ids])
    for number in np.unique(np.searchsorted(ends, again, side="right")):
        entry = shard_set.manifest.shards[number]
        names = [name for block in shard_set.load(entry) for name in block.doc_ids]
        start = ends[number] - len(names)
        copies = [names[spot - start] for spot in again if start <= spot < ends[number]]
        some = ", ".join(copies[:IDS_NAMED]) + (", …" if len(copies) > IDS_NAMED else "")
        problems.add(entry.name, f"{len(copies)} duplicate documents ({some})")


def _check_sums(
    shard_set: ShardSet,
    concepts: ConceptCounts | None,
    parts: list[ShardStatistics],
    problems: Problems,
) -> None:
    if concepts and (wrong := int((concepts.found != concepts.expected).sum())):
        problems.add(CONCEPTS, f"{wrong} concepts have another count than in the shards")
    stored = stored_statistics(shard_set)
    if stored is not None and stored != add_up(parts):
        problems.add(STATISTICS, "differs from the counts of the shards")
