"""Convert XML in another declared encoding to UTF-8 before it is cut."""

import codecs
import re
from typing import BinaryIO

from embre.corpora.window import Window

DECLARATION = re.compile(rb"""\A\s*<\?xml[^>]*?\sencoding\s*=\s*["']([\w.-]{1,40})["']""")
ONE_BYTE = re.compile(r"iso8859-\d+|cp125\d")
UTF_8 = {"utf-8", "ascii"}


class _Recoded:
    """A stream in a single-byte encoding, read as UTF-8."""

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        self.stream, self.encoding = stream, encoding

    def read1(self, size: int) -> bytes:
        return _recoded(self.stream.read1(size), self.encoding)  # pyright: ignore[reportAttributeAccessIssue]


def recode(window: Window, head_bytes: int) -> bool:
    """Make a window yield UTF-8; count the file and return False if its encoding is unknown."""
    declared = DECLARATION.match(window.data[:head_bytes])
    name = declared[1].decode() if declared else "utf-8"
    try:
        encoding = codecs.lookup(name).name
    except LookupError:
        encoding = name
    if encoding in UTF_8:
        return True
    if not ONE_BYTE.fullmatch(encoding):
        window.drop("file/unknown_encoding", name)
        return False
    window.data = _recoded(window.data, encoding)
    window.stream = _Recoded(window.stream, encoding)  # pyright: ignore[reportAttributeAccessIssue]
    return True


def as_utf_8(window: Window) -> None:
    """`recode` for a copy: the XML declaration is changed to UTF-8 too."""
    declared = DECLARATION.match(window.data)
    if declared and recode(window, declared.end()) and declared[1].lower() != b"utf-8":
        start, end = declared.span(1)
        window.data = window.data[:start] + b"UTF-8" + window.data[end:]


def _recoded(data: bytes, encoding: str) -> bytes:
    # An undefined byte is kept: it is invalid UTF-8, so its document counts as unreadable.
    return data.decode(encoding, "surrogateescape").encode("utf-8", "surrogateescape")
