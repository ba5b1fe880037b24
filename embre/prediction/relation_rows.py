"""Predicted relations as a Parquet dataset, one table per input file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from embre.atomic_files import atomic_file
from embre.document import Document

RELATIONS = "relations"  # the folder of the dataset
ROWS_AT_ONCE = 16384
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


@contextmanager
def writing_table(out: Path, target: str, source: str) -> Iterator["RelationRows"]:
    """Write the table of an output atomically: yield its rows, to which documents are added.

    `source` is the value of the column `file`.
    """
    path = table_of(out, target)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial, pq.ParquetWriter(partial, SCHEMA) as writer:
        rows = RelationRows(writer, source)
        yield rows
        rows.flush()


class RelationRows:
    """A buffer of rows of a table."""

    def __init__(self, writer: pq.ParquetWriter, source: str) -> None:
        self._writer, self._source = writer, source
        self._rows: list[tuple[object, ...]] = []

    def add(self, doc: Document) -> None:
        """Add a row for each relation of a document."""
        self._rows += [
            (
                *(doc.doc_id, *relation.head, *relation.tail),
                *(relation.type, relation.novel, relation.probability, self._source),
            )
            for relation in doc.relations
        ]
        if len(self._rows) >= ROWS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Write the buffered rows, even if there are none: an empty table is valid too."""
        columns = list(zip(*self._rows, strict=True)) or [()] * len(SCHEMA)
        arrays = [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)]
        self._writer.write_table(pa.table(arrays, schema=SCHEMA))
        self._rows = []
