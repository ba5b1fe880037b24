"""Compare two shard sets: token ids and mention spans, document by document."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np

from embre.shards.shard_set import ShardSet

Content = dict[str, tuple[list[int], set[tuple[int, int, int]]]]


def read_naive(folder: Path) -> Content:
    """Read the baseline's documents: token ids, and start, end and type of mentions."""
    found: Content = {}
    for path in sorted(folder.glob("*.tar")):
        members: dict[str, bytes] = {}
        with tarfile.open(path) as archive:
            for member in archive:
                stream = archive.extractfile(member)
                assert stream is not None
                members[member.name] = stream.read()
        for name in [name for name in members if name.endswith(".meta.json")]:
            doc_id = json.loads(members[name])["id"]
            tokens = np.load(io.BytesIO(members[f"{doc_id}.tokens.npy"]))
            mentions = np.load(io.BytesIO(members[f"{doc_id}.mentions.npy"]))
            found[doc_id] = tokens.tolist(), {tuple(row) for row in mentions.tolist()}
    return found


def read_ours(folder: Path, wanted: set[str]) -> Content:
    """Read the `wanted` documents of a shard set in the same form."""
    found: Content = {}
    shard_set = ShardSet.open(folder)
    for shard in shard_set.manifest.shards:
        for block in shard_set.load(shard):
            starts = block.starts().tolist()
            rows = block.mentions[["start", "end", "type"]].tolist()
            mention_starts = block.mentions["start"].astype(np.int64)
            cuts = np.searchsorted(mention_starts, starts).tolist()
            for index, doc_id in enumerate(block.doc_ids):
                if doc_id in wanted:
                    start, end = starts[index], starts[index + 1]
                    mentions = rows[cuts[index] : cuts[index + 1]]
                    spans = {(first - start, last - start, kind) for first, last, kind in mentions}
                    found[doc_id] = block.tokens[start:end].tolist(), spans
    return found


def check_same(naive: Path, ours: Path) -> int:
    """Return the number of documents; raises AssertionError with the first that differs."""
    theirs = read_naive(naive)
    mine = read_ours(ours, set(theirs))
    for doc_id, content in theirs.items():
        if doc_id not in mine:
            raise AssertionError(f"document {doc_id} of {naive} is missing in {ours}")
        for what, there, here in zip(("tokens", "mentions"), content, mine[doc_id], strict=True):
            if there != here:
                raise AssertionError(
                    f"document {doc_id} has other {what} in {ours} than in {naive}:\n"
                    f"{sorted(here)[:20]}\n{sorted(there)[:20]}"
                )
    return len(theirs)
