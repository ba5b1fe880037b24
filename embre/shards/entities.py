"""The entity vocabulary: the concepts an encoder is trained to identify, chosen from a shard set.

Shards identify concepts by hash, so another vocabulary needs no re-sharding.
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embre.config import PretrainConfig, TypeLimits
from embre.entity_types import TYPE_INDEX
from embre.object_store import read_bytes
from embre.refused import Refused
from embre.shards.shard_set import ShardSet

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


@dataclass(frozen=True, slots=True)
class EntityVocabulary:
    """The chosen concepts. Within a type, id 0 is the most frequent concept.

    `hashes` (V,) sorted; `ids` (V,) the id within its type of each hash; `sizes` the number of
    concepts by entity type, in the order of ENTITY_TYPES; `table` the rows of the concept table,
    ordered by type and id.
    """

    hashes: np.ndarray
    ids: np.ndarray
    sizes: tuple[int, ...]
    table: pa.Table

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the table: loader processes only look up hashes, a fifth of the bytes."""
        empty = self.table.schema.empty_table()
        return EntityVocabulary, (self.hashes, self.ids, self.sizes, empty)

    def lookup(self, hashes: np.ndarray) -> np.ndarray:
        """(n,) the id within its type of each concept hash, -1 outside the vocabulary."""
        if len(self.hashes) == 0:
            return np.full(len(hashes), -1, dtype=np.int64)
        spot = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        return np.where(self.hashes[spot] == hashes, self.ids[spot], -1)

    def ids_of(self, rows: np.ndarray) -> np.ndarray:
        """(m,) the id within its type of each mention row's concept, -1 if it has none in the
        vocabulary."""
        return np.where(rows["concept"] == 0, -1, self.lookup(rows["concept"]))

    @property
    def firsts(self) -> np.ndarray:
        """(T,) the row of the table where each entity type begins."""
        return np.cumsum([0, *self.sizes[:-1]])

    def names(self, type_name: str) -> list[tuple[str, str]]:
        """(identifier, most frequent surface form) of a type's concepts, in the order of ids."""
        rows = self.table.filter(pa.compute.equal(self.table["type"], type_name))  # type: ignore[attr-defined]
        return list(zip(rows["identifier"].to_pylist(), rows["name"].to_pylist(), strict=True))

    def counts(self) -> list[np.ndarray]:
        """Number of mentions in the shard set of each concept by id, one array per type."""
        return np.split(self.table["count"].to_numpy(), np.cumsum(self.sizes)[:-1])

    def row(self, number: int) -> dict[str, Any]:
        """Row `number` of the table; a concept's row is `firsts` of its type plus its id."""
        return self.table.slice(number, 1).to_pylist()[0]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the concepts and their ids."""
        return hashlib.sha256(self.hashes.tobytes() + self.ids.tobytes()).hexdigest()


def write_concepts(path: Path, table: pa.Table) -> str:
    """Write the concept table, most frequent first within each type; returns its SHA-256."""
    order = [("rank", "ascending"), ("count", "descending"), ("identifier", "ascending")]
    table = (
        table.append_column("rank", pa.array(type_numbers(table)))
        .sort_by(order)
        .select(SCHEMA.names)
        .cast(SCHEMA)
    )
    pq.write_table(table, path, compression="zstd")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def save_vocabulary(path: Path, entities: EntityVocabulary) -> None:
    """Write the rows of a vocabulary; `vocabulary_of` reads them back to the same ids."""
    pq.write_table(entities.table, path, compression="zstd")


def read_concepts(shard_set: ShardSet) -> pa.Table:
    """Read the concept table of a shard set. Raises Refused if its digest is not the manifest's."""
    data = read_bytes(f"{shard_set.url}/{CONCEPTS}")
    if hashlib.sha256(data).hexdigest() != shard_set.manifest.concepts["sha256"]:
        raise Refused(
            f"{shard_set.url}/{CONCEPTS}: not the table of the manifest (another SHA-256); "
            "copy or write the shard set again"
        )
    return pq.read_table(io.BytesIO(data))


def chosen(shard_set: ShardSet, run: PretrainConfig) -> EntityVocabulary:
    """The entity vocabulary of a run; empty if the run hides no mentions."""
    if run.masking.objective == "token":
        return choose_entities(shard_set, min_count=1, max_per_type=0)
    wanted = run.entities
    return choose_entities(shard_set, wanted.min_count, wanted.max_per_type, wanted.per_type)


def choose_entities(
    shard_set: ShardSet,
    min_count: int,
    max_per_type: int,
    per_type: Mapping[str, TypeLimits] | None = None,
) -> EntityVocabulary:
    """Choose concepts with at least `min_count` mentions, at most `max_per_type` per type.

    `per_type` overrides the limits of single types.
    """
    return vocabulary_of(read_concepts(shard_set), min_count, max_per_type, per_type)


def vocabulary_of(
    table: pa.Table,
    min_count: int = 1,
    max_per_type: int = 1 << 62,
    per_type: Mapping[str, TypeLimits] | None = None,
) -> EntityVocabulary:
    """Choose from a concept table whose rows are in the order of `write_concepts`."""
    min_counts = np.full(len(TYPE_INDEX), min_count)
    max_sizes = np.full(len(TYPE_INDEX), max_per_type)
    for name, limits in (per_type or {}).items():
        if limits.min_count is not None:
            min_counts[TYPE_INDEX[name]] = limits.min_count
        if limits.max_per_type is not None:
            max_sizes[TYPE_INDEX[name]] = limits.max_per_type
    types, counts = type_numbers(table), table["count"].to_numpy()
    starts = np.searchsorted(types, np.arange(len(TYPE_INDEX)))
    ids = np.arange(len(types)) - starts[types]
    keep = (counts >= min_counts[types]) & (ids < max_sizes[types])
    hashes, kept_ids = table["hash"].to_numpy()[keep], ids[keep]
    order = np.argsort(hashes)
    sizes = np.bincount(types[keep], minlength=len(TYPE_INDEX))
    return EntityVocabulary(
        hashes=hashes[order],
        ids=kept_ids[order].astype(np.int64),
        sizes=tuple(int(size) for size in sizes),
        table=table.filter(pa.array(keep)),
    )


@dataclass(frozen=True, slots=True)
class Coverage:
    """Coverage of a vocabulary of `concepts`: `covered` of `normalised` mention rows are in it.

    A mention of two concepts is two rows. `normalised` rows have an identifier; `rows` are all
    mention rows, None if they were not counted.
    """

    concepts: int
    covered: int
    normalised: int
    rows: int | None = None

    @property
    def of_normalised(self) -> float:
        """The share of mention rows with an identifier whose concept is in the vocabulary."""
        return self.covered / max(self.normalised, 1)

    @property
    def of_all(self) -> float | None:
        """The share of all mention rows whose concept is in the vocabulary."""
        return None if self.rows is None else self.covered / max(self.rows, 1)


def coverage(
    table: pa.Table, entities: EntityVocabulary, rows: Mapping[str, int] | None = None
) -> dict[str, Coverage]:
    """Coverage by entity type, and of `all`, in the shards of a concept table.

    `rows` are all mention rows by type (see ShardStatistics); the table counts the normalised ones.
    """
    types, counts = type_numbers(table), table["count"].to_numpy()
    inside = entities.lookup(table["hash"].to_numpy()) >= 0
    covered = _sums(types[inside], counts[inside])
    normalised = _sums(types, counts)
    found = {
        name: Coverage(entities.sizes[i], covered[i], normalised[i], rows[name] if rows else None)
        for name, i in TYPE_INDEX.items()
    }
    total = sum(rows.values()) if rows else None
    return {**found, "all": Coverage(sum(entities.sizes), sum(covered), sum(normalised), total)}


def type_numbers(table: pa.Table) -> np.ndarray:
    """(rows,) the entity type of each concept, as its index in ENTITY_TYPES."""
    names = table["type"].combine_chunks().dictionary_encode()
    numbers = np.array([TYPE_INDEX[name] for name in names.dictionary.to_pylist()], dtype=np.int64)
    return numbers[names.indices.to_numpy()]


def _sums(types: np.ndarray, counts: np.ndarray) -> list[int]:
    sums = np.zeros(len(TYPE_INDEX), dtype=np.int64)
    np.add.at(sums, types, counts)
    return sums.tolist()
