"""Predicted relations as Parquet: a table for each input file, all of them one dataset."""

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
    """Where the table of an output is."""
    return out / RELATIONS / f"{target}.parquet"


@contextmanager
def writing_table(out: Path, target: str, source: str) -> Iterator["RelationRows"]:
    """Takes the documents of an output as they come by; behind the block its table is there.

    `source` is what the column `file` says.
    """
    path = table_of(out, target)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial, pq.ParquetWriter(partial, SCHEMA) as writer:
        rows = RelationRows(writer, source)
        yield rows
        rows.flush()


class RelationRows:
    """The rows of a table that are not written yet."""

    def __init__(self, writer: pq.ParquetWriter, source: str) -> None:
        self._writer, self._source = writer, source
        self._rows: list[tuple[object, ...]] = []

    def add(self, doc: Document) -> None:
        """A row for each relation of a document."""
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
        """Write them, also where there are none: a table without rows is one."""
        columns = list(zip(*self._rows, strict=True)) or [()] * len(SCHEMA)
        arrays = [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)]
        self._writer.write_table(pa.table(arrays, schema=SCHEMA))
        self._rows = []
