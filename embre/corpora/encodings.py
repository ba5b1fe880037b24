"""The encoding that an XML file declares: what is not UTF-8 is made UTF-8 before it is cut."""

import codecs
import re
from typing import BinaryIO

from embre.corpora.window import Window

DECLARATION = re.compile(rb"""\A\s*<\?xml[^>]*?\sencoding\s*=\s*["']([\w.-]{1,40})["']""")
ONE_BYTE = re.compile(r"iso8859-\d+|cp125\d")
UTF_8 = {"utf-8", "ascii"}


class _Recoded:
    """A stream whose bytes are letters of another alphabet each."""

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        self.stream, self.encoding = stream, encoding

    def read1(self, size: int) -> bytes:
        return _recoded(self.stream.read1(size), self.encoding)  # pyright: ignore[reportAttributeAccessIssue]


def recode(window: Window, head_bytes: int) -> bool:
    """Let a window show UTF-8, whatever its head declares; False where that cannot be."""
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
    """The same for somebody who copies a file: its head declares UTF-8 where it was made that."""
    declared = DECLARATION.match(window.data)
    if declared and recode(window, declared.end()) and declared[1].lower() != b"utf-8":
        start, end = declared.span(1)
        window.data = window.data[:start] + b"UTF-8" + window.data[end:]


def _recoded(data: bytes, encoding: str) -> bytes:
    # A byte that means nothing stays as it is: no UTF-8, so that its document is unreadable.
    return data.decode(encoding, "surrogateescape").encode("utf-8", "surrogateescape")
