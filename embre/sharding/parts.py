"""Parts: the documents of some megabytes of input, encoded and kept until all have been read.

    documents ─index_of, to_table─▶ tables ─write_part─▶ one Arrow file ─PartRows─▶ any rows

A part is complete when its record exists: a small JSON file beside it, written last.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa

from embre.atomic_files import write_atomic
from embre.corpora.gather import gather
from embre.corpora.raw import CheckedDocument
from embre.end_to_end import within
from embre.held_out import Fingerprint
from embre.shards.encode import Encoded
from embre.shards.mention_row import MENTION_ROW

# What decides whether a document is kept, and its place.
INDEX = np.dtype(
    [
        ("place", "<u8"),  # sort key in the shard set
        ("pmid", "<u8"),  # 0 if none
        ("name", "<u8"),  # PMC number, or a hash of another id; 0 if none
        ("text", "<u8"),  # fingerprints of text and title; 0 if too short
        ("title", "<u8"),
        ("content", "<u8"),  # hash of tokens, passages and mentions
        ("tokens", "<u8"),  # number of tokens
        ("mentions", "<u8"),  # number of mention rows
        ("validation", "?"),
    ]
)
_NOT_PMC = 1 << 63
_MAX_DIGITS = 18  # digits that fit below _NOT_PMC


class PartRecord(msgspec.Struct):
    """Counts of a part. `held`: list, text and title fingerprints of each held-out document."""

    documents_read: int
    bytes_read: int
    documents: int
    dropped: dict[str, int]
    examples: dict[str, list[str]]
    held: list[tuple[int, int, int]]


def split_and_place(name: str, validation_share: float) -> tuple[bool, int]:
    """Return whether a document is for validation, and its place; both depend on its name only.

    They are the first and the second 8 bytes of BLAKE2b over `place/NAME`, little-endian. The name
    is the PMID, so that a full text takes the place of its abstract, or else the document id.
    """
    digest = hashlib.blake2b(f"place/{name}".encode(errors="replace"), digest_size=16).digest()
    share, place = (int.from_bytes(digest[at : at + 8], "little") for at in (0, 8))
    return share < validation_share * 2**64, place


def index_of(
    docs: Sequence[CheckedDocument],
    prints: Sequence[Fingerprint],
    encoded: Encoded,
    validation_share: float,
) -> np.ndarray:
    """(num_documents,) INDEX rows of the encoded documents."""
    rows = []
    for number in encoded.index.tolist():
        doc, found = docs[number], prints[number]
        validation, place = split_and_place(doc.pmid or doc.doc_id, validation_share)
        rows.append((place, _number(doc.pmid), _name(doc), *found, 0, 0, 0, validation))
    index = np.array(rows, dtype=INDEX)
    index["tokens"] = np.diff(encoded.token_starts)
    index["mentions"] = np.diff(encoded.mention_starts)
    index["content"] = _hash_runs(encoded.tokens, encoded.token_starts)
    columns = [(encoded.mentions[name], encoded.mention_starts) for name in MENTION_ROW.names or ()]
    for values, starts in [*columns, (encoded.passages, encoded.passage_starts)]:
        # Multiplied each time, so that two equal columns do not undo each other.
        index["content"] = index["content"] * np.uint64(31) ^ _hash_runs(values, starts)
    return index


def _hash_runs(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(num_runs,) 64-bit hash of the values from each start to the next, in order.

    The sum of all values, each mixed with its index as in SplitMix64. Not cryptographic: it only
    has to distinguish versions of one article.
    """
    place = within(np.diff(starts)).astype(np.uint64)
    mixed = values.astype(np.uint64) + place * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    sums = np.append(np.uint64(0), np.cumsum(mixed, dtype=np.uint64))
    return sums[starts[1:]] - sums[starts[:-1]]


def _number(digits: str | None) -> int:
    digits = digits or ""
    return int(digits) if digits.isdecimal() and len(digits) <= _MAX_DIGITS else 0


def _name(doc: CheckedDocument) -> int:
    if number := _number((doc.pmcid or "").removeprefix("PMC")):
        return number
    if doc.doc_id == doc.pmid:
        return 0
    digest = hashlib.blake2b(doc.doc_id.encode(errors="replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little") | _NOT_PMC


def to_table(encoded: Encoded, index: np.ndarray, vocabulary: int) -> pa.Table:
    """Arrow table with one row per document."""
    token_type = np.uint16 if vocabulary <= 1 << 16 else np.uint32
    return pa.table(
        {
            "doc_id": pa.array(encoded.doc_ids, pa.string()),
            "index": _records(index),
            "tokens": _lists(encoded.token_starts, pa.array(encoded.tokens.astype(token_type))),
            "passages": _lists(
                encoded.passage_starts, pa.array(encoded.passages.astype(np.uint32))
            ),
            "mentions": _lists(encoded.mention_starts, _records(encoded.mentions)),
        }
    )


def from_table(table: pa.Table, rows: np.ndarray | None = None) -> Encoded:
    """The documents of a table: all, or the given rows in their order."""
    table = table.combine_chunks()
    rows = np.arange(table.num_rows) if rows is None else rows
    dtype = np.dtype(table["tokens"].type.value_type.to_pandas_dtype())
    tokens, token_starts = _runs(table["tokens"].chunk(0), rows, dtype)
    passages, passage_starts = _runs(table["passages"].chunk(0), rows, np.dtype(np.uint32))
    mentions, mention_starts = _runs(table["mentions"].chunk(0), rows, MENTION_ROW)
    return Encoded(
        doc_ids=table["doc_id"].take(pa.array(rows)).to_pylist(),
        index=np.arange(len(rows)),
        tokens=tokens,
        token_starts=token_starts,
        passages=passages,
        passage_starts=passage_starts,
        mentions=mentions,
        mention_starts=mention_starts,
    )


def _runs(
    lists: pa.LargeListArray, rows: np.ndarray, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate the lists of the given rows; return values and (num_rows + 1,) offsets."""
    bounds = lists.offsets.to_numpy() * dtype.itemsize
    values = _from_records(lists.values, dtype).view(np.uint8)
    found, starts = gather(values, bounds[rows], bounds[rows + 1])
    return found.view(dtype), starts // dtype.itemsize


def write_part(path: Path, tables: Sequence[pa.Table]) -> None:
    """Write tables as one Arrow file, sorted so that the rows of a shard lie together."""
    sink = pa.BufferOutputStream()
    table = pa.concat_tables(tables).combine_chunks()
    index = _from_records(table["index"].combine_chunks(), INDEX)
    table = table.take(pa.array(np.lexsort((index["place"], index["validation"]))))
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    write_atomic(path, memoryview(sink.getvalue()))


def open_part(path: Path) -> pa.Table:
    """Memory-mapped table of a part."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def read_index(path: Path) -> np.ndarray:
    """(num_documents,) INDEX rows of a part."""
    return np.concatenate(
        [_from_records(chunk, INDEX) for chunk in open_part(path)["index"].chunks]
        or [np.zeros(0, dtype=INDEX)]
    )


@dataclass(frozen=True, slots=True)
class PartRows:
    """Documents of several parts; document n is row `places[n]` of `table`."""

    table: pa.Table
    places: np.ndarray

    @classmethod
    def read(cls, paths: Sequence[Path], parts: np.ndarray, rows: np.ndarray) -> "PartRows":
        """Read documents: document n is row `rows[n]` of the part at `paths[parts[n]]`.

        Each part is read from its first to its last requested row.
        """
        order = np.lexsort((rows, parts))
        numbers, first = np.unique(parts[order], return_index=True)
        last = np.append(first[1:], len(order)) - 1
        lowest, highest = rows[order][first].astype(np.int64), rows[order][last].astype(np.int64)
        sizes = highest - lowest + 1
        slices = [
            open_part(paths[number]).slice(low, size)
            for number, low, size in zip(
                *(c.tolist() for c in (numbers, lowest, sizes)), strict=True
            )
        ]
        shift = np.cumsum(sizes) - sizes - lowest
        places = rows + shift[np.searchsorted(numbers, parts)]
        return cls(pa.concat_tables(slices).combine_chunks(), places)

    def take(self, first: int, last: int) -> Encoded:
        """The documents `first` to `last` (exclusive)."""
        return from_table(self.table, self.places[first:last])


def _lists(starts: np.ndarray, values: pa.Array) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array(starts.astype(np.int64)), values)


def _records(rows: np.ndarray) -> pa.Array:
    rows = np.ascontiguousarray(rows)
    kind = pa.binary(rows.dtype.itemsize)
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(rows), [None, pa.py_buffer(rows)])


def _from_records(array: pa.Array, dtype: np.dtype) -> np.ndarray:
    data = array.buffers()[1]
    if data is None:
        return np.zeros(0, dtype=dtype)
    return np.frombuffer(data, dtype=dtype)[array.offset : array.offset + len(array)]
