"""Open the user's input: a file, folder or archive, local or in a bucket."""

import hashlib
import io
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import fsspec
from fsspec.implementations.local import LocalFileSystem

from embre.corpora import gunzip
from embre.corpora.gunzip import Gunzip
from embre.corpora.streams import BrokenArchive
from embre.corpora.tar import Member, is_tar, read_members
from embre.corpora.window import count_fault
from embre.object_store import SCHEMES, StoreFailed, with_retries
from embre.refused import Refused
from embre.tally import Tally
from embre.wording import without_secrets

HEAD_BYTES = 1 << 16
MAX_LAYERS = 4  # .gz in .tar in .gz; a file that unpacks to itself must end somewhere

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")


class Source(NamedTuple):
    """A location: file system, path on it, and the name to show.

    `size` in bytes and `version` (see `version_of`) are those of the listing that it comes from.
    """

    filesystem: Any
    path: str
    name: str
    size: int | None = None
    version: str | None = None


class Opened(NamedTuple):
    """A stream of plain bytes, its name, and whether a folder or archive holds it."""

    stream: io.BufferedReader
    name: str
    inside: bool


def locate(name: str) -> Source:
    """Locate a local path or a URL of an allowed scheme.

    Raises FileNotFoundError for a missing path, Refused for other schemes, `pipe:` and chained
    URLs, and for a remote store the errors of `with_retries`.
    """
    scheme, shown = _SCHEME.match(name), without_secrets(name)
    if not Path(name).exists() and (scheme or "::" in name):
        if "::" in name or scheme is None or scheme[1].lower() not in SCHEMES:
            allowed = ", ".join(f"{scheme}://" for scheme in SCHEMES)
            raise Refused(f"cannot read {shown!r}: give a local path or a URL with {allowed}")
        # Raises OSError with the command that installs a missing driver.
        filesystem, path = with_retries(name, partial(fsspec.url_to_fs, name))
    else:
        filesystem, path = fsspec.filesystem("file"), str(Path(name).absolute())
    if not isinstance(filesystem, LocalFileSystem):
        with_retries(name, partial(filesystem.info, path))
    elif not filesystem.exists(path):
        if os.path.islink(path):
            raise FileNotFoundError(_broken_link(path))
        raise FileNotFoundError(
            f"{shown!r} does not exist; give a PubTator or BioC file, a folder of them, or a .gz, "
            ".tar or .tar.gz of them"
        )
    # The shown name has no query: a signed URL carries its secret there.
    return Source(filesystem, path, name.split("?")[0] if scheme else name)


def list_files(source: Source) -> list[Source]:
    """List all files below a folder, sorted, or the file itself.

    Local symbolic links are followed; a folder that several links lead to is read once. Raises
    FileNotFoundError for an empty folder or a broken link.
    """
    # `isdir` on a web server downloads the whole file.
    if source.name.startswith("https:") or not source.filesystem.isdir(source.path):
        return [source]
    folder = source.path.rstrip("/")
    if isinstance(source.filesystem, LocalFileSystem):
        found: dict[str, dict[str, Any]] = dict.fromkeys(sorted(_walk(folder)), {})
    else:  # with details, or each file would take another request
        find = partial(source.filesystem.find, folder, detail=True)
        found = dict(sorted(with_retries(source.name, find).items()))
        source.filesystem.invalidate_cache()  # fsspec would search it from its start for each file
    if not found:
        raise FileNotFoundError(f"the folder {source.name!r} is empty")
    shown = source.name.rstrip("/")
    return [
        Source(
            *(source.filesystem, path, shown + path[len(folder) :]),
            *(info.get("size"), _version(info)),
        )
        for path, info in found.items()
    ]


def _walk(top: str) -> Iterator[str]:
    seen: set[str] = set()  # real paths: a link may lead back up
    for folder, inner, names in os.walk(top, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            inner.clear()
            continue
        seen.add(real)
        # A link comes last, so that a folder beside it is read under its own name.
        inner.sort(key=lambda name: (os.path.islink(os.path.join(folder, name)), name))
        for path in (os.path.join(folder, name) for name in names):
            if os.path.islink(path) and not os.path.exists(path):
                raise FileNotFoundError(_broken_link(path))
            yield path


def _broken_link(path: str) -> str:
    return f"{path}: a broken link (to {os.readlink(path)}); remove or repair it"


class Watch:
    """Count and hash the stored bytes of files while they are read."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self.sha256 = hashlib.sha256()

    def see(self, data: memoryview) -> None:
        self.num_bytes += len(data)
        self.sha256.update(data)


# Keys that change with a file: local, S3, HTTP, Google's and Azure's file systems.
VERSION_KEYS = (
    *("mtime", "ETag", "LastModified", "Last-Modified", "last_modified", "updated"),
    *("Content-MD5", "created"),
)


def version_of(source: Source) -> str | None:
    """Return a string that changes when the file does (size and modification mark); None if its
    file system gives neither."""
    return _version(source.filesystem.info(source.path))


def size_and_version(source: Source) -> tuple[int, str | None]:
    """Return the size of a file, 0 if unknown, and its version: those of the listing, else as they
    are now."""
    if source.version is not None:
        return source.size or 0, source.version
    info = with_retries(source.name, partial(source.filesystem.info, source.path))
    return info.get("size") or 0, _version(info)


def _version(info: dict[str, Any]) -> str | None:
    marks = [info[key] for key in VERSION_KEYS if info.get(key) is not None]
    known = [one for one in (info.get("size"), *marks[:1]) if one is not None]
    return " ".join(map(str, known)) or None


class StoredFile(io.RawIOBase):
    """The stored bytes of a file.

    If a remote store fails, the file is reopened and read from the last byte on. Raises the errors
    of `with_retries`, and StoreFailed if the store cannot seek or the file has changed.
    """

    def __init__(self, source: Source, watch: Watch | None = None) -> None:
        super().__init__()
        self._source, self._watch, self._num_read = source, watch, 0
        self._version = with_retries(source.name, partial(version_of, source))
        self._stream = with_retries(source.name, self._open)

    def _open(self) -> Any:
        return self._source.filesystem.open(self._source.path, "rb")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        data = with_retries(self._source.name, partial(self._read, len(buffer)))
        buffer[: len(data)] = data
        self._num_read += len(data)
        if self._watch:
            self._watch.see(memoryview(data))
        return len(data)

    def _read(self, most: int) -> bytes:
        stream, self._stream = self._stream or self._open_again(), None
        try:
            data = stream.read(most)
        except Exception:
            with suppress(Exception):
                stream.close()
            raise
        self._stream = stream
        return data

    def _open_again(self) -> Any:
        self._source.filesystem.invalidate_cache()
        if version_of(self._source) != self._version:
            raise StoreFailed(
                f"{self._source.name}: changed while it was read; run the same command again"
            )
        stream = self._open()
        try:
            stream.seek(self._num_read)
        except ValueError as error:  # a web server without range requests
            stream.close()
            raise StoreFailed(
                f"{self._source.name}: the store failed after {self._num_read:,} bytes and cannot "
                "continue there; run the same command again, or fetch the file first"
            ) from error
        return stream

    def close(self) -> None:
        if not self.closed and self._stream:
            self._stream.close()
        super().close()


def stored_sha256(source: Source) -> str:
    """SHA-256 over the stored bytes of all files of a source, as `Watch` computes it."""
    watch = Watch()
    for file in list_files(source):
        with StoredFile(file, watch) as stream:
            while stream.read(1 << 20):
                pass
    return watch.sha256.hexdigest()


def open_plain(
    source: Source, inside: bool, tally: Tally, watch: Watch | None = None
) -> Iterator[Opened]:
    """Yield the plain files in a file: itself, or the contents of its gzip and tar layers.

    Damage is counted in `tally`. A watch sees all bytes of the file, also those after damage or an
    end marker.
    """
    with StoredFile(source, watch) as stored:
        try:
            yield from _unpack(stored, source.name, inside, tally, MAX_LAYERS)
        except BrokenArchive as fault:
            count_fault(fault, source.name, tally)
        while watch and stored.read(1 << 20):
            pass


def _unpack(stream: Any, name: str, inside: bool, tally: Tally, layers: int) -> Iterator[Opened]:
    """Unpack gzip and tar layers, detected by their first bytes, without temporary files."""
    buffered = io.BufferedReader(stream, HEAD_BYTES)
    try:
        head = buffered.peek(HEAD_BYTES)
        if layers and head.startswith(gunzip.MAGIC):
            yield from _unpack(Gunzip(buffered), name, inside, tally, layers - 1)
        elif layers and is_tar(head):
            for member in read_members(buffered):
                yield from _unpack_member(member, f"{name}/{member.name}", tally, layers - 1)
        else:
            yield Opened(buffered, name, inside)
    finally:
        buffered.detach()  # the caller closes the stream


def _unpack_member(member: Member, name: str, tally: Tally, layers: int) -> Iterator[Opened]:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        tally.drop("member/unsafe_name", name)
    elif member.content is not None:
        try:
            yield from _unpack(member.content, name, True, tally, layers)
        except BrokenArchive as fault:
            count_fault(fault, name, tally)
    elif not member.is_folder:
        tally.drop("member/not_a_file", name)
