"""Opening what the user names: a file, a folder, an archive, here or in a bucket."""

import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import fsspec

from embre.tally import Tally

SCHEMES = ("file", "s3", "gs", "https")
HEAD_BYTES = 1 << 16
MAX_LAYERS = 4  # .gz in .tar in .gz; a file that unpacks to itself must end somewhere
BROKEN = (EOFError, zlib.error, gzip.BadGzipFile, tarfile.ReadError)

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")


class Source(NamedTuple):
    """Where something is: its file system, its path there, and the name to show."""

    filesystem: Any
    path: str
    name: str


class Opened(NamedTuple):
    """A stream of plain bytes, its name, and whether a folder or archive holds it."""

    stream: io.BufferedReader
    name: str
    inside: bool


def locate(name: str) -> Source:
    """Find a local path or a URL of an allowed scheme; `pipe:` and chained URLs are refused."""
    scheme = _SCHEME.match(name)
    if not Path(name).exists() and (scheme or "::" in name):
        if "::" in name or scheme is None or scheme[1].lower() not in SCHEMES:
            allowed = ", ".join(f"{scheme}://" for scheme in SCHEMES)
            raise ValueError(f"cannot read {name!r}: give a local path, or a URL with {allowed}")
        filesystem, path = fsspec.url_to_fs(name)
    else:
        filesystem, path = fsspec.filesystem("file"), str(Path(name).absolute())
    if not filesystem.exists(path):
        raise FileNotFoundError(
            f"there is no {name!r}: give a PubTator or BioC file, a folder of them, "
            "or a .gz, .tar or .tar.gz of them"
        )
    return Source(filesystem, path, name)


def list_files(source: Source) -> list[Source]:
    """The files in a folder and all below it, sorted; or the file itself."""
    # Asking a web server whether a file is a folder downloads all of the file.
    if source.name.startswith("https:") or not source.filesystem.isdir(source.path):
        return [source]
    folder = source.path.rstrip("/")
    found = sorted(source.filesystem.find(folder))
    if not found:
        raise FileNotFoundError(f"the folder {source.name!r} is empty")
    shown = source.name.rstrip("/")
    return [Source(source.filesystem, path, shown + path[len(folder) :]) for path in found]


def open_plain(source: Source, inside: bool, tally: Tally) -> Iterator[Opened]:
    """The plain files in a file: itself, or what its gzip and tar wrappings hold."""
    with source.filesystem.open(source.path, "rb") as stream:
        yield from _unpack(stream, source.name, inside, tally, MAX_LAYERS)


def _unpack(stream: Any, name: str, inside: bool, tally: Tally, layers: int) -> Iterator[Opened]:
    """Take the wrappings off, which are told by their first bytes. Nothing is put on disk."""
    buffered = io.BufferedReader(stream, HEAD_BYTES)
    head = buffered.peek(HEAD_BYTES)
    if layers and head.startswith(b"\x1f\x8b"):
        yield from _unpack(gzip.GzipFile(fileobj=buffered), name, inside, tally, layers - 1)
    elif layers and head[257:262] == b"ustar":
        with tarfile.open(fileobj=buffered, mode="r|") as archive:
            for member in archive:
                yield from _unpack_member(archive, member, name, tally, layers - 1)
    else:
        yield Opened(buffered, name, inside)


def _unpack_member(
    archive: tarfile.TarFile, member: tarfile.TarInfo, name: str, tally: Tally, layers: int
) -> Iterator[Opened]:
    path = PurePosixPath(member.name)
    name = f"{name}/{member.name}"
    if path.is_absolute() or ".." in path.parts:
        tally.drop("member/unsafe_name", name)
    elif member.isfile():
        try:
            yield from _unpack(archive.extractfile(member), name, True, tally, layers)
        except BROKEN as error:
            tally.drop("file/broken_archive", name, str(error))
    elif not member.isdir():
        tally.drop("member/not_a_file", name)
