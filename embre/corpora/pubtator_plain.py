"""Fast path for PubTator text: read all plain documents of a chunk at once.

A plain document is ASCII: title, abstract, mention lines that match the text with distinct spans,
and optional relations. Compiled loops find them and their mentions. The rest is left to the full
reader, which would read plain documents with equal results.
"""

import numpy as np
import pyarrow as pa

from embre.corpora.gather import gather
from embre.corpora.pubtator_blocks import Blocks, MentionLines, find_blocks
from embre.corpora.raw import CheckedDocument, Chunk, PlainDocuments
from embre.document import Passage

MAX_BYTES = 1 << 24  # only a chunk of one huge document is larger


def read_plain(chunk: Chunk) -> tuple[PlainDocuments, list[Chunk]]:
    """Split a chunk into its plain documents and the chunks of the rest."""
    data = np.frombuffer(chunk.data if len(chunk.data) < MAX_BYTES else b"", dtype=np.uint8)
    block_rows, mention_rows = find_blocks(data)
    blocks, lines = Blocks(*block_rows.T), MentionLines(*mention_rows.T)
    plain = blocks.plain.astype(bool)
    return PlainDocuments(
        docs=_documents(chunk, blocks, plain),
        doc_of=(np.cumsum(plain) - 1)[lines.block],
        starts=np.ascontiguousarray(lines.start),
        ends=np.ascontiguousarray(lines.end),
        surfaces=_strings(data, lines.surface, lines.surface_end),
        spellings=_strings(data, lines.spelling, lines.spelling_end),
    ), _rest(chunk, blocks, plain)


def _strings(data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> pa.Array:
    pieces, offsets = gather(data, starts, ends)
    buffers = pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(pieces)
    return pa.StringArray.from_buffers(len(starts), *buffers)


def _documents(chunk: Chunk, blocks: Blocks, plain: np.ndarray) -> list[CheckedDocument]:
    text = chunk.data.decode("latin-1")  # one character per byte; plain documents are ASCII
    docs = []
    spans = (blocks.start, blocks.digits, blocks.title, blocks.title_end)
    spans += (blocks.abstract, blocks.abstract_end)
    for start, digits, title, title_end, abstract, abstract_end in zip(
        *(column[plain].tolist() for column in spans), strict=True
    ):
        doc_id, size = text[start : start + digits], title_end - title
        words = f"{text[title:title_end]} {text[abstract:abstract_end]}"
        passages = (Passage(0, size, "title"), Passage(size + 1, len(words), "abstract"))
        docs.append(CheckedDocument(doc_id, doc_id, None, words, passages, [], chunk.file))
    return docs


def _rest(chunk: Chunk, blocks: Blocks, plain: np.ndarray) -> list[Chunk]:
    """Return the blocks that are not plain, adjacent ones in one chunk."""
    if len(chunk.data) >= MAX_BYTES:
        return [chunk]
    begins = np.append(blocks.start, len(chunk.data)).tolist()
    change = np.flatnonzero(np.diff(np.concatenate([[True], plain, [True]]))).reshape(-1, 2)
    return [
        chunk._replace(
            line=chunk.line + int(blocks.line[first]), data=chunk.data[begins[first] : begins[last]]
        )
        for first, last in change.tolist()
    ]
