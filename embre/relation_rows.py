"""Predicted relations as Parquet: a table for each input file, all of them one dataset."""

from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from embre.document import Document
from embre.durable import PARTIAL, sync

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


class RelationRows:
    """Writes the table of one output while its documents come by."""

    def __init__(self, out: Path, target: str, source: str) -> None:
        """`source` is what the column `file` says."""
        self._path = table_of(out, target)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._partial = self._path.with_name(f"{self._path.name}.{uuid4().hex[:8]}{PARTIAL}")
        self._source = source
        self._writer = pq.ParquetWriter(self._partial, SCHEMA)
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
            self._flush()

    def _flush(self) -> None:
        columns = list(zip(*self._rows, strict=True)) or [()] * len(SCHEMA)
        arrays = [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)]
        self._writer.write_table(pa.table(arrays, schema=SCHEMA))
        self._rows = []

    def finish(self) -> None:
        """Give the table its name: it is complete."""
        self._flush()
        self._writer.close()
        sync(self._partial)
        self._partial.replace(self._path)

    def discard(self) -> None:
        """Remove what was not finished."""
        self._writer.close()
        self._partial.unlink(missing_ok=True)
