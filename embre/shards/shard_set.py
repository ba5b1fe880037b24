"""Shards: tars of blocks of tokenised documents, and the manifest that makes a set of them exist.

    Encoded ─pack_block─▶ Block… ─write_shard─▶ name-000000.tar … manifest.json
    manifest.json ─ShardSet.open─▶ ShardSet ─load─▶ Block…

The layout is described in docs/FORMATS.md. The tars are ordinary WebDataset shards.
"""

import hashlib
import io
import json
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from webdataset.tariterators import group_by_keys, tar_file_iterator
from webdataset.writer import TarWriter

from embre.atomic_files import write_atomic
from embre.entity_types import TYPE_INDEX
from embre.object_store import SCHEMES, backoff_delays, read_bytes
from embre.refused import Refused
from embre.shards.mention_row import count_types, last_of_span

if TYPE_CHECKING:  # runs read shards without importing the writers
    from embre.shards.encode import Encoded

FORMAT = 2
MANIFEST = "manifest.json"
RETRIES = 3  # if a remote store returns bytes that do not match the manifest
MEMBERS = frozenset({"docs.npy", "mentions.npy", "meta.json", "tokens.npy"})  # of a block
SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.tar")  # a file of the set's own folder


class DamagedShard(Refused):
    """The bytes of a shard do not match the manifest."""


@dataclass(frozen=True, slots=True)
class Block:
    """Up to a few hundred documents, end to end: one WebDataset sample.

    `tokens` (num_tokens,) all token ids. `docs` (num_passages, 2): document index in the block and
    token where the passage starts. `mentions` (num_mentions,) of MENTION_ROW, spans in tokens of
    the block. `doc_ids` (num_documents) names.
    """

    tokens: np.ndarray
    docs: np.ndarray
    mentions: np.ndarray
    doc_ids: list[str]

    def starts(self) -> np.ndarray:
        """(num_documents + 1,) the token where each document starts, and the end of the last."""
        _, first = np.unique(self.docs[:, 0], return_index=True)
        return np.append(self.docs[first, 1], len(self.tokens)).astype(np.int64)


class ShardEntry(msgspec.Struct, frozen=True):
    """The manifest's entry of one shard; `mentions` are counts by entity type."""

    name: str
    split: str
    bytes: int
    sha256: str
    documents: int
    tokens: int
    mentions: dict[str, int]


class ManifestFormat(msgspec.Struct, frozen=True):
    """The version number, decoded first: other fields may differ between formats."""

    format: int


class Manifest(msgspec.Struct, frozen=True):
    """The manifest of a shard set, written last: without it there is no shard set."""

    format: int
    tokenizer: str
    vocabulary: int
    shards: list[ShardEntry]
    token_digest: str
    concepts: dict[str, str | int]
    settings: dict[str, int | str]
    sources: list[dict[str, str | int]]
    documents_read: int
    dropped: dict[str, int]
    repaired: dict[str, int]
    held_out: dict[str, int]
    plan: str

    @property
    def digest(self) -> str:
        """SHA-256 over all shards and the tokenizer; identifies the data in a run's lineage."""
        lines = [self.tokenizer, *(f"{shard.split} {shard.sha256}" for shard in self.shards)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def total(self, split: str | None = None) -> ShardEntry:
        """The totals of a split, or of all splits, in the form of one entry."""
        chosen = [shard for shard in self.shards if split in (None, shard.split)]
        mentions: dict[str, int] = {}
        for shard in chosen:
            for name, count in shard.mentions.items():
                mentions[name] = mentions.get(name, 0) + count
        return ShardEntry(
            name=f"{len(chosen)} shards",
            split=split or "all",
            bytes=sum(shard.bytes for shard in chosen),
            sha256=self.digest,
            documents=sum(shard.documents for shard in chosen),
            tokens=sum(shard.tokens for shard in chosen),
            mentions=mentions,
        )


def pack_block(encoded: "Encoded", first: int, last: int, vocabulary: int) -> Block:
    """Pack documents `first` to `last` (exclusive); token ids are uint16 if `vocabulary` fits."""
    start, end = encoded.token_starts[[first, last]]
    starts = encoded.token_starts[first:last] - start
    num_passages = np.diff(encoded.passage_starts[first : last + 1])
    passages = encoded.passages[slice(*encoded.passage_starts[[first, last]])]
    docs = np.empty((len(passages), 2), dtype=np.uint32)
    docs[:, 0] = np.repeat(np.arange(last - first), num_passages)
    docs[:, 1] = passages + np.repeat(starts, num_passages)
    mentions = encoded.mentions[slice(*encoded.mention_starts[[first, last]])].copy()
    shift = np.repeat(starts, np.diff(encoded.mention_starts[first : last + 1])).astype(np.uint32)
    mentions["start"] += shift
    mentions["end"] += shift
    return Block(
        tokens=encoded.tokens[start:end].astype(np.uint16 if vocabulary <= 1 << 16 else np.uint32),
        docs=docs,
        mentions=mentions,
        doc_ids=encoded.doc_ids[first:last],
    )


def write_shard(path: Path, split: str, blocks: list[Block]) -> ShardEntry:
    """Write blocks as one tar, byte for byte reproducible (no time stamps, no user)."""
    buffer = io.BytesIO()
    # A float mtime (the default) adds a PAX header to each member: 1 kB and other bytes.
    writer = TarWriter(buffer, user="", group="", mtime=0, encoder=False)
    for index, block in enumerate(blocks):
        writer.write({"__key__": f"{path.stem}-{index:05d}", **_members(block)})
    writer.close()
    data = buffer.getbuffer()
    write_atomic(path, data)
    return ShardEntry(
        name=path.name,
        split=split,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        documents=sum(len(block.doc_ids) for block in blocks),
        tokens=sum(len(block.tokens) for block in blocks),
        mentions=_mentions_by_type(blocks),
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest atomically, which completes the shard set."""
    write_atomic(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1))


@dataclass(frozen=True, slots=True)
class ShardSet:
    """A shard set at a path or URL, with its manifest."""

    url: str
    manifest: Manifest

    @classmethod
    def open(cls, url: str | Path) -> "ShardSet":
        """Read the manifest at a folder or URL prefix.

        Raises FileNotFoundError if there is none; Refused for an unsupported scheme or format,
        a chain of file systems, or a shard name that is not a plain file name.
        """
        url = str(url).rstrip("/")
        scheme = url.split("://")[0] if "://" in url else "file"
        # fsspec treats the part before "::" as a file system that wraps the next one.
        if scheme not in SCHEMES or url.startswith("pipe:") or "::" in url:
            raise Refused(f"{url}: only {', '.join(SCHEMES)} are read")
        try:
            data = read_bytes(f"{url}/{MANIFEST}")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(
                f"{url}: no shard set here (no {MANIFEST}); write one with "
                "`python tools/shard_pubtator.py INPUT… --tokenizer FOLDER --out FOLDER`"
            ) from error
        try:
            written_in = msgspec.json.decode(data, type=ManifestFormat).format
            if written_in != FORMAT:
                raise Refused(f"{url}: shard format {written_in}, not {FORMAT}: shard it again")
            manifest = msgspec.json.decode(data, type=Manifest)
        except msgspec.MsgspecError as error:
            raise Refused(f"{url}/{MANIFEST}: not a shard manifest: {error}") from error
        for number, shard in enumerate(manifest.shards):
            if not SHARD_NAME.fullmatch(shard.name):
                raise Refused(
                    f"{url}/{MANIFEST}: shards.{number}: {shard.name!r} is not the name of a tar "
                    "in the folder of the set"
                )
        return cls(url, manifest)

    def shards(self, split: str) -> list[ShardEntry]:
        """The entries of one split, in order."""
        return [shard for shard in self.manifest.shards if shard.split == split]

    def load(self, shard: ShardEntry) -> list[Block]:
        """Read all blocks of a shard, after checking its bytes against the manifest.

        A truncated or corrupted tar can be read without an error, so nothing is decoded before size
        and digest match. Raises DamagedShard if they do not, for remote stores after retries.
        """
        path = f"{self.url}/{shard.name}"
        for wait_s in (*islice(backoff_delays(path), RETRIES), None):
            data = read_bytes(path)
            if len(data) == shard.bytes and hashlib.sha256(data).hexdigest() == shard.sha256:
                return list(_read_blocks(data, path))
            if wait_s is not None:
                time.sleep(wait_s)
        raise DamagedShard(
            f"{path}: {len(data)} bytes that do not match the manifest ({shard.bytes} bytes, "
            "another SHA-256): the shard is damaged; copy or write it again"
        )


def _members(block: Block) -> dict[str, bytes]:
    return {
        "docs.npy": _npy(block.docs),
        "mentions.npy": _npy(block.mentions),
        "meta.json": json.dumps({"documents": block.doc_ids}).encode(),
        "tokens.npy": _npy(block.tokens),
    }


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _read_blocks(data: bytes, path: str) -> Iterator[Block]:
    files = ({**file, "__url__": path} for file in tar_file_iterator(io.BytesIO(data)))  # type: ignore[arg-type]
    for sample in group_by_keys(files):
        members = set(sample) - {"__key__", "__url__"}
        if members != MEMBERS:  # other WebDataset readers would unpickle a .pkl or .pth
            raise Refused(
                f"{path}: the members of {sample['__key__']!r} are {sorted(members)}, not "
                f"{sorted(MEMBERS)}"
            )
        yield Block(
            tokens=_array(sample, "tokens.npy"),
            docs=_array(sample, "docs.npy"),
            mentions=_array(sample, "mentions.npy"),
            doc_ids=json.loads(sample["meta.json"])["documents"],
        )


def _array(sample: dict[str, Any], member: str) -> np.ndarray:
    try:
        return np.lib.format.read_array(io.BytesIO(sample[member]), allow_pickle=False)
    except ValueError as error:
        place = f"{sample['__url__']}: {member} of {sample['__key__']!r}"
        raise Refused(f"{place} is not an array of numbers: {error}") from error


def _mentions_by_type(blocks: Iterable[Block]) -> dict[str, int]:
    counts = sum(count_types(b.mentions[last_of_span(b.mentions)]) for b in blocks)
    return dict(zip(TYPE_INDEX, counts.tolist(), strict=True))  # type: ignore[union-attr]
