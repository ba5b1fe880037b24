"""The entity vocabulary: which concepts an encoder is taught to identify, chosen from a shard set.

A shard names a concept by its hash, so another choice needs no re-sharding.
"""

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embre.encode import TYPE_INDEX
from embre.shards import ShardSet

CONCEPTS = "concepts.parquet"
SCHEMA = pa.schema(
    [
        ("hash", pa.uint64()),
        ("type", pa.string()),
        ("identifier", pa.string()),
        ("count", pa.int64()),
        ("name", pa.string()),
    ]
)

ConceptRow = tuple[int, str, str, int, str]


@dataclass(frozen=True, slots=True)
class EntityVocabulary:
    """The chosen concepts. Within a type, id 0 is the most frequent concept.

    `hashes` (V,) sorted; `ids` (V,) the id within its type of each hash; `sizes` the number of
    concepts of each entity type, in the order of ENTITY_TYPES; `table` all their rows.
    """

    hashes: np.ndarray
    ids: np.ndarray
    sizes: tuple[int, ...]
    table: pa.Table

    def lookup(self, hashes: np.ndarray) -> np.ndarray:
        """(n,) the id within its type of each concept hash, -1 outside the vocabulary."""
        if len(self.hashes) == 0:
            return np.full(len(hashes), -1, dtype=np.int64)
        spot = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        return np.where(self.hashes[spot] == hashes, self.ids[spot], -1)

    def names(self, type_name: str) -> list[tuple[str, str]]:
        """(identifier, most frequent surface form) of a type's concepts, in the order of ids."""
        rows = self.table.filter(pa.compute.equal(self.table["type"], type_name))  # type: ignore[attr-defined]
        return list(zip(rows["identifier"].to_pylist(), rows["name"].to_pylist(), strict=True))

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the concepts and their ids."""
        return hashlib.sha256(self.hashes.tobytes() + self.ids.tobytes()).hexdigest()


def write_concepts(path: Path, rows: Iterable[ConceptRow]) -> str:
    """Write the concept table, most frequent first within each type; returns its SHA-256."""
    ordered = sorted(rows, key=lambda row: (TYPE_INDEX[row[1]], -row[3], row[2]))
    columns = list(zip(*ordered, strict=True)) or [[]] * len(SCHEMA)
    table = pa.table([pa.array(c, t.type) for c, t in zip(columns, SCHEMA, strict=True)], SCHEMA)
    pq.write_table(table, path, compression="zstd")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def save_vocabulary(path: Path, entities: EntityVocabulary) -> None:
    """Write the rows of a vocabulary; `vocabulary_of` reads them back to the same ids."""
    pq.write_table(entities.table, path, compression="zstd")


def choose_entities(shard_set: ShardSet, min_count: int, max_per_type: int) -> EntityVocabulary:
    """The concepts mentioned at least `min_count` times, at most `max_per_type` of each type."""
    with fsspec.open(f"{shard_set.url}/{CONCEPTS}", "rb") as file:
        data = file.read()  # type: ignore[union-attr]
    if hashlib.sha256(data).hexdigest() != shard_set.manifest.concepts["sha256"]:
        raise ValueError(
            f"{shard_set.url}/{CONCEPTS}: not the table of the manifest (another SHA-256); "
            "copy or write the shard set again"
        )
    return vocabulary_of(pq.read_table(io.BytesIO(data)), min_count, max_per_type)


def vocabulary_of(
    table: pa.Table, min_count: int = 1, max_per_type: int = 1 << 62
) -> EntityVocabulary:
    """The vocabulary of a concept table whose rows are in the order of `write_concepts`."""
    types = np.array([TYPE_INDEX[name] for name in table["type"].to_pylist()], dtype=np.int64)
    counts = table["count"].to_numpy()
    starts = np.searchsorted(types, np.arange(len(TYPE_INDEX)))
    ids = np.arange(len(types)) - starts[types] if len(types) else types
    keep = (counts >= min_count) & (ids < max_per_type)
    chosen = table.filter(pa.array(keep))
    hashes, kept_ids = table["hash"].to_numpy()[keep], ids[keep]
    order = np.argsort(hashes)
    sizes = np.bincount(types[keep], minlength=len(TYPE_INDEX))
    return EntityVocabulary(
        hashes=hashes[order],
        ids=kept_ids[order].astype(np.int64),
        sizes=tuple(int(size) for size in sizes),
        table=chosen,
    )
