"""Predicted relations as a Parquet dataset, one table per input file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from embre.atomic_files import atomic_file
from embre.document import Document

RELATIONS = "relations"  # the folder of the dataset
ROWS_AT_ONCE = 16384
Row = tuple[str, str, str, str, str, str, bool | None, float | None]
SCHEMA = pa.schema(
    [
        ("document", pa.string()),
        ("first_type", pa.string()),
        ("first", pa.string()),
        ("second_type", pa.string()),
        ("second", pa.string()),
        ("type", pa.string()),
        ("novel", pa.bool_()),
        ("probability", pa.float64()),
        ("file", pa.string()),
    ]
)


def table_of(out: Path, target: str) -> Path:
    """The path of the table of an output."""
    return out / RELATIONS / f"{target}.parquet"


def rows_of(doc: Document) -> list[Row]:
    """The rows of a document, without the column `file`: one for each relation."""
    return [
        (
            doc.doc_id,
            relation.head.type,
            relation.head.identifier,
            relation.tail.type,
            relation.tail.identifier,
            relation.type,
            relation.novel,
            relation.probability,
        )
        for relation in doc.relations
    ]


@contextmanager
def writing_table(out: Path, target: str, source: str) -> Iterator[Callable[[list[Row]], None]]:
    """Write the table of an output atomically: yield a function that adds rows.

    `source` is the value of the column `file`.
    """
    path, waiting = table_of(out, target), list[Row]()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial, pq.ParquetWriter(partial, SCHEMA) as writer:

        def flush() -> None:
            """Write the waiting rows, even if there are none: an empty table is valid too."""
            columns = [*zip(*waiting, strict=True)] or [()] * (len(SCHEMA) - 1)
            columns.append((source,) * len(waiting))
            arrays = [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)]
            writer.write_table(pa.table(arrays, schema=SCHEMA))
            waiting.clear()

        def add(rows: list[Row]) -> None:
            waiting.extend(rows)
            if len(waiting) >= ROWS_AT_ONCE:
                flush()

        yield add
        flush()
