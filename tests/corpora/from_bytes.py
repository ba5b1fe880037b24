"""Reading bytes in a test as if they were a file, with a window as small as one likes."""

import io

from embre.corpora import FORMATS
from embre.corpora.assemble import assemble
from embre.corpora.raw import CHUNK_BYTES, MAX_DOCUMENT_BYTES
from embre.corpora.window import Window
from embre.document import Document
from embre.tally import Tally


def read_bytes(
    format: str,
    data: bytes,
    tally: Tally | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    max_bytes: int = MAX_DOCUMENT_BYTES,
) -> list[Document]:
    """The documents of a file called `small`."""
    tally = Tally() if tally is None else tally
    cut, read = FORMATS[format].cut, FORMATS[format].read
    chunks = cut(Window(io.BytesIO(data), "small", tally, chunk_bytes, max_bytes))
    return [assemble(raw, tally) for chunk in chunks for raw in read(chunk, tally, True)]
