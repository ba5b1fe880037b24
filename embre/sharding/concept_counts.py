"""Count the mentions and surface forms of each concept, per part and per shard, and sum them."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from embre.atomic_files import write_atomic
from embre.entity_types import TYPE_INDEX
from embre.shards.entities import SCHEMA
from embre.shards.mention_columns import MentionColumns, meaning_of

COUNT = np.dtype([("hash", "<u8"), ("count", "<u8")])
FORM_KEYS = ["spelling", "name"]  # as in the input files
NAME_KEYS = ["hash", "concept_type", "concept", "name"]  # canonical


def forms_of(columns: MentionColumns) -> pa.Table:
    """Count each combination of a spelling (type, tab, identifier) and a surface form."""
    meanings = map(meaning_of, columns.spellings.to_pylist())
    has_concept = np.array([bool(one.identifiers) for one in meanings], dtype=bool)
    rows = np.flatnonzero(has_concept[columns.meaning])
    arrays = [pa.array(columns.meaning[rows]), columns.surfaces.take(pa.array(rows))]
    ones = pa.array(np.ones(len(rows), dtype=np.int64))
    table = pa.table([*arrays, ones], names=["meaning", "name", "count"])
    table = _sum([table], ["meaning", "name"])
    spellings = columns.spellings.take(table["meaning"].combine_chunks())
    return pa.table([spellings, table["name"], table["count"]], names=[*FORM_KEYS, "count"])


def write_forms(path: Path, tables: list[pa.Table]) -> None:
    """Sum the tables of `forms_of` and write them as one Arrow file."""
    table = _sum(tables, FORM_KEYS)
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    write_atomic(path, memoryview(sink.getvalue()))


def count_concepts(mentions: np.ndarray) -> np.ndarray:
    """(num_concepts,) of COUNT: the number of mention rows of each concept hash other than 0."""
    hashes, counts = np.unique(mentions["concept"][mentions["concept"] != 0], return_counts=True)
    rows = np.empty(len(hashes), dtype=COUNT)
    rows["hash"], rows["count"] = hashes, counts
    return rows


def concept_table(forms: Iterable[Path], counts: Iterable[np.ndarray]) -> pa.Table:
    """The concept table, of SCHEMA: each counted concept with its rows and most frequent name.

    `forms` are files of `write_forms`, `counts` arrays of `count_concepts`.
    """
    names = _add_up((_wide(pa.ipc.open_file(str(path)).read_all()) for path in forms), FORM_KEYS)
    names = names.join(_meanings(names), "spelling", join_type="inner")
    names = _sum([names.select([*NAME_KEYS, "count"])], NAME_KEYS)
    names = names.sort_by([("hash", "ascending"), ("count", "descending"), ("name", "ascending")])
    hashes = names["hash"].to_numpy()
    first = np.flatnonzero(np.append(True, hashes[1:] != hashes[:-1])) if len(hashes) else []
    names = names.select(NAME_KEYS).take(pa.array(first, pa.int64()))
    signed = (pa.table({"hash": c["hash"], "count": c["count"].astype(np.int64)}) for c in counts)
    total = _add_up(signed, ["hash"])
    table = names.join(total, "hash", join_type="inner")
    table = table.select(["hash", "concept_type", "concept", "count", "name"])
    return table.rename_columns(SCHEMA.names).cast(SCHEMA)


def _meanings(names: pa.Table) -> pa.Table:
    """A row for each concept of each spelling."""
    types = [*TYPE_INDEX]
    rows = [
        (spelling, hash, types[kind], identifier)
        for spelling in names["spelling"].unique().to_pylist()
        for kind, hashes, identifiers in [meaning_of(spelling)]
        for hash, identifier in zip(hashes, identifiers, strict=False)
    ]
    columns = zip(*rows, strict=True) if rows else [()] * 4
    kinds = (pa.large_string(), pa.uint64(), pa.string(), pa.string())
    arrays = [pa.array(values, kind) for values, kind in zip(columns, kinds, strict=True)]
    return pa.table(arrays, names=["spelling", "hash", "concept_type", "concept"])


def _wide(table: pa.Table) -> pa.Table:
    """Use 64-bit offsets for strings: a dump may have more than 2 GB of distinct spellings, which
    Arrow silently groups wrongly with 32-bit offsets."""
    return table.cast(
        pa.schema(
            (f.name, pa.large_string() if f.name in FORM_KEYS else f.type) for f in table.schema
        )
    )


def _add_up(tables: Iterable[pa.Table], keys: list[str]) -> pa.Table:
    """One table with a row for each key and the sum of its counts.

    New rows are buffered until they outnumber the merged ones, so memory is bounded by the number
    of keys, and many tables cost no more than grouping all rows a few times.
    """
    total, waiting, num_waiting = [], [], 0
    for table in tables:
        waiting.append(table)
        num_waiting += len(table)
        if num_waiting > sum(map(len, total)):
            total, waiting, num_waiting = [_sum(total + waiting, keys)], [], 0
    return _sum(total + waiting, keys)


def _sum(tables: list[pa.Table], keys: list[str]) -> pa.Table:
    grouped = pa.concat_tables(tables).group_by(keys, use_threads=False)
    return grouped.aggregate([("count", "sum")]).rename_columns([*keys, "count"])
