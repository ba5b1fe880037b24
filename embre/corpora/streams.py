"""Streams inside archives, which can be damaged."""

import io


class BrokenArchive(Exception):
    """A gzip or tar that is damaged or ends early."""


class Bomb(BrokenArchive):
    """A decompression bomb: a gzip made to fill memory or disk."""


class InnerStream(io.RawIOBase):
    """A raw stream over `some(n)`, which returns 1 to n bytes, or b"" at the end.

    Bytes before a fault are returned first; only the next read raises BrokenArchive.
    """

    fault: BrokenArchive | None = None

    def some(self, most: int) -> bytes:
        raise NotImplementedError

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        view, filled = memoryview(buffer), 0
        while filled < len(view) and self.fault is None:
            try:
                piece = self.some(len(view) - filled)
            except BrokenArchive as fault:
                self.fault = fault
                break
            if not piece:
                break
            view[filled : filled + len(piece)] = piece
            filled += len(piece)
        if self.fault and not filled:
            raise self.fault
        return filled
