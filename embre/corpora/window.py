"""A buffered window over a stream, from which every format's `cut` reads.

It holds at most about one document and one block, and tracks its line number in the file.
"""

import codecs
from collections.abc import Callable, Iterator
from typing import BinaryIO

from embre.corpora.raw import CHUNK_BYTES, MAX_DOCUMENT_BYTES, Chunk
from embre.corpora.streams import Bomb, BrokenArchive
from embre.tally import Tally

READ_BYTES = 1 << 20
MARK_BYTES = 4096  # longer than any mark between documents that is searched for


class Window:
    """A stream buffer: `data[at:]` is read but not yet taken; `line` is the line number of `at`.

    `broken` is true if the stream ended in damage.
    """

    def __init__(
        self,
        stream: BinaryIO,
        file: str,
        tally: Tally,
        chunk_bytes: int = CHUNK_BYTES,
        max_bytes: int = MAX_DOCUMENT_BYTES,
    ) -> None:
        self.stream, self.file, self.tally = stream, file, tally
        self.chunk_bytes, self.max_bytes = chunk_bytes, max_bytes
        self.data, self.at, self.line = b"", 0, 1
        self.started = self.ended = self.broken = False

    @property
    def size(self) -> int:
        return len(self.data) - self.at

    def more(self) -> bool:
        """Discard what was taken and read another block; False at the end of the stream."""
        pieces, wanted = [self.data[self.at :]], 0 if self.ended else self.chunk_bytes
        try:
            # One small read at a time: what came before a fault is kept.
            while wanted > 0 and (piece := self.stream.read1(min(wanted, READ_BYTES))):  # pyright: ignore[reportAttributeAccessIssue]
                pieces.append(piece)
                wanted -= len(piece)
            self.ended = self.ended or wanted > 0
        except BrokenArchive as fault:
            count_fault(fault, self.file, self.tally)
            self.ended = self.broken = True
        self.data, self.at = b"".join(pieces), 0
        if not self.started:
            self.started, self.data = True, self.data.removeprefix(codecs.BOM_UTF8)
        return len(pieces) > 1

    def take(self, end: int) -> bytes:
        """Return the data up to `end` and move past it."""
        taken = self.data[self.at : end]
        self.skip(end)
        return taken

    def skip(self, end: int) -> None:
        """Move past the data up to `end`."""
        self.line += self.data.count(b"\n", self.at, end)
        self.at = end

    def drop(self, reason: str, detail: str = "") -> None:
        """Count a loss at the current line."""
        self.tally.drop(reason, f"{self.file}:{self.line}", detail)


def count_fault(fault: BrokenArchive, name: str, tally: Tally) -> None:
    """Count an archive that could not be read to its end."""
    reason = "file/bomb" if isinstance(fault, Bomb) else "file/broken_archive"
    tally.drop(reason, name, str(fault))


def cut_at(
    window: Window,
    format: str,
    first_end: Callable[[bytes, int], int],
    last_end: Callable[[bytes, int], int],
) -> Iterator[Chunk]:
    """Cut a window into chunks at ends of documents.

    `first_end` and `last_end` return the position after the first or last end, 0 if there is none.
    Data after the last end stays in the window.
    """
    while True:
        if window.size > window.max_bytes:
            end = first_end(window.data, window.at)
            # An end mark that begins at the limit may not be read completely yet.
            may_end = not window.ended and window.size <= window.max_bytes + MARK_BYTES
            if not (0 < end - window.at <= window.max_bytes or (may_end and not end)):
                _skip_document(window, first_end)
        if end := last_end(window.data, window.at):
            line = window.line
            yield Chunk(window.file, format, line, window.take(end))
        ended = window.ended
        if not window.more() and ended:  # cut once more after the stream ended
            return


def _skip_document(window: Window, first_end: Callable[[bytes, int], int]) -> None:
    window.drop("document/too_large", f"more than {window.max_bytes:,} bytes")
    while not (end := first_end(window.data, window.at)):
        window.skip(max(window.at, len(window.data) - MARK_BYTES))
        if not window.more():
            end = len(window.data)
            break
    window.skip(end)
