"""Read tar as a stream of members, in memory, without trusting any header.

The standard library's reader stops silently at a damaged header, allocates whatever an extended
header claims, and fills sparse members with zeros.
"""

import io
from collections.abc import Iterator
from typing import NamedTuple

from embre.corpora.streams import BrokenArchive, InnerStream

BLOCK = 512
READ_BYTES = 1 << 16
MAX_EXTENDED_BYTES = 1 << 20  # a long name or a list of attributes
REGULAR, FOLDER = (b"0", b"\0", b"7"), b"5"
# Links, devices, pipes: their size, if they state one, is not followed by data.
WITHOUT_DATA = (b"1", b"2", b"3", b"4", FOLDER, b"6")


class Member(NamedTuple):
    """An archive member; `content` is None unless it is a regular file."""

    name: str
    content: "MemberStream | None"
    is_folder: bool


class MemberStream(InnerStream):
    """The bytes of one member."""

    def __init__(self, archive: io.BufferedReader, size: int) -> None:
        self.archive, self.left = archive, size

    def some(self, most: int) -> bytes:
        if not self.left:
            return b""
        piece = self.archive.read1(min(most, self.left, READ_BYTES))
        if not piece:
            raise BrokenArchive(f"the tar ends {self.left:,} bytes before its member does")
        self.left -= len(piece)
        return piece


def is_tar(head: bytes) -> bool:
    """Whether a file begins like a tar."""
    return head[257:262] == b"ustar"


def read_members(archive: io.BufferedReader) -> Iterator[Member]:
    """Yield every member, also those of tars appended to the first (`cat a.tar b.tar`).

    Read `content` before requesting the next member. Raises BrokenArchive for damage, also from
    reading a content.
    """
    more: dict[bytes, bytes] = {}  # the extended headers of the next member
    while header := _next_header(archive):
        kind, size = header[156:157], _number(header[124:136])
        if kind in b"xgLK":
            content = _extended(archive, size)
            if kind == b"x":
                more |= _attributes(content)
            elif kind == b"L":
                more[b"path"] = content.rstrip(b"\0")
            continue
        if b"size" in more:
            size = _decimal(more[b"size"])
        if kind == b"S":
            _skip_sparse_map(archive, header)
        plain = kind in REGULAR and not any(key.startswith(b"GNU.sparse") for key in more)
        stream = MemberStream(archive, 0 if kind in WITHOUT_DATA else size)
        name = (more.get(b"path") or _name(header)).decode(errors="replace")
        yield Member(name, stream if plain else None, kind == FOLDER)
        while stream.some(READ_BYTES):
            pass
        if kind not in WITHOUT_DATA:
            _read(archive, -size % BLOCK)
        more = {}


def _next_header(archive: io.BufferedReader) -> bytes | None:
    header = _read(archive, BLOCK)
    # Padding follows the end marker. It is read to its end, because only then a gzip around the
    # tar compares its checksum.
    while not any(header):
        if not (header := archive.read(BLOCK)):
            return None
    if len(header) < BLOCK:
        raise BrokenArchive("data after the end marker of the tar")
    # The checksum counts its own field as spaces.
    if _number(header[148:156]) != sum(header[:148]) + sum(header[156:]) + 8 * ord(" "):
        raise BrokenArchive("a damaged header in the tar")
    return header


def _read(archive: io.BufferedReader, size: int) -> bytes:
    data = archive.read(size)
    if len(data) < size:
        raise BrokenArchive("the tar ends before its end marker")
    return data


def _extended(archive: io.BufferedReader, size: int) -> bytes:
    if size > MAX_EXTENDED_BYTES:
        raise BrokenArchive(f"an extended header of {size:,} bytes in the tar")
    content = _read(archive, size)
    _read(archive, -size % BLOCK)
    return content


def _attributes(content: bytes) -> dict[bytes, bytes]:
    """Lines `LENGTH KEY=VALUE`, where the length counts the line: `18 path=a/b/c.xml`."""
    found, start = {}, 0
    while start < len(content):
        space = content.find(b" ", start, start + 20)
        end = start + _decimal(content[start:space])
        key, equals, value = content[space + 1 : end - 1].partition(b"=")
        if not equals or not space < end <= len(content):
            raise BrokenArchive("a damaged extended header in the tar")
        found[key] = value
        start = end
    return found


def _skip_sparse_map(archive: io.BufferedReader, header: bytes) -> None:
    more = header[482]
    while more:
        more = _read(archive, BLOCK)[504]


def _name(header: bytes) -> bytes:
    name, folder = header[:100].split(b"\0")[0], header[345:500].split(b"\0")[0]
    # GNU's old format has other fields where POSIX has the folder.
    return folder + b"/" + name if folder and header[257:263] == b"ustar\0" else name


def _number(field: bytes) -> int:
    """Parse octal digits, or a binary number if the first bit is set."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not digits.isdigit() or b"8" in digits or b"9" in digits:
        raise BrokenArchive("a damaged number in a header of the tar")
    return int(digits, 8)


def _decimal(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 20:
        raise BrokenArchive("a damaged number in an extended header of the tar")
    return int(digits)
