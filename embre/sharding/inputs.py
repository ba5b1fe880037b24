"""The inputs of a sharding run: names, patterns and URLs resolved to a checked list."""

import glob
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import fsspec

from embre.corpora import FORMATS, detect_format
from embre.corpora.sources import (
    HEAD_BYTES,
    Source,
    list_files,
    locate,
    open_plain,
    size_and_version,
)
from embre.object_store import with_retries
from embre.refused import Refused
from embre.tally import Tally
from embre.wording import without_secrets


class Input(NamedTuple):
    """A file, folder, archive or URL, and its size in bytes as stored.

    `key` identifies it in the work folder. It changes with the path, size or
    modification time (remote: ETag) of any of its files, and differs for an input given twice.
    """

    source: str
    bytes: int
    modified: float
    key: str = ""

    @property
    def name(self) -> str:
        """Name in the manifest: the last part of the path, without the query of a URL."""
        plain = self.source.split("?")[0]
        return Path(plain if "://" in plain else os.path.abspath(plain)).name


def find_inputs(names: Sequence[str]) -> list[Input]:
    """List every input in order, with patterns expanded.

    Raises FileNotFoundError for a missing file or a pattern that matches nothing, Refused for a
    URL that may not be read.
    """
    found = []
    num_seen = Counter[str]()
    for source in (match for name in names for match in _matches(name)):
        files = list_files(locate(source))
        local = [Path(file.path) for file in files if Path(file.path).is_file()]
        modified = max((path.stat().st_mtime for path in local), default=0.0)
        digest, num_bytes = hashlib.sha256(), 0
        for file in files:
            size, version = size_and_version(file)
            num_bytes += size
            digest.update(f"{file.name}\n{file.path}\n{version}\n".encode(errors="replace"))
        key = digest.hexdigest()
        found.append(Input(source, num_bytes, modified, f"{key}-{num_seen[key]}"))
        num_seen[key] += 1
    return found


def check_inputs(inputs: Sequence[Input], out: Path) -> None:
    """Check inputs for errors that would otherwise stop the run hours later.

    Raises Refused for a folder that contains `out`, a file of an unknown format or one that cannot
    be unpacked, OSError for a file that cannot be opened. Unknown files within a folder or an
    archive are no error: they are counted when read.
    """
    for one in inputs:
        if out.resolve().is_relative_to(Path(one.source).resolve()):
            raise Refused(f"{out}: is within the input {one.name!r}; choose a folder outside of it")
        source = locate(one.source)
        if list_files(source) == [source]:
            _check_format(source)


def _check_format(file: Source) -> None:
    members = open_plain(file, inside=False, tally=Tally())
    first = next(members, None)
    if first is None:
        raise Refused(
            f"{file.name}: cannot be unpacked or is an empty archive; fetch it again, or leave "
            "it out"
        )
    if not first.inside and detect_format(first.stream.peek(HEAD_BYTES)) is None:
        raise Refused(
            f"{file.name}: contains no documents (unknown format, none of "
            f"{', '.join(FORMATS)}); leave it out"
        )


def place_by_name(place: str, inputs: Sequence[Input]) -> str:
    """Replace the leading path of a tally's place, if it is an input's, by the input's name."""
    for one in inputs:
        before, given, rest = place.partition(one.source.split("?")[0].rstrip("/") or "/")
        if given and not before and rest[:1] in "/:#":  # what may follow a file's name
            return one.name + rest
    return place


def _matches(name: str) -> Iterator[str]:
    is_url = "://" in name
    # In a URL `?` begins a query.
    magic = "*" in name or "[" in name if is_url else glob.has_magic(name)
    if not magic or Path(name).exists():
        yield name
        return
    if is_url:
        locate(name.split("*")[0].split("?")[0].split("[")[0].rsplit("/", 1)[0])
        filesystem, pattern = fsspec.url_to_fs(name)
        glob_remote = partial(filesystem.glob, pattern)
        matches = [filesystem.unstrip_protocol(path) for path in with_retries(name, glob_remote)]
    else:
        matches = glob.glob(name, recursive=True)
    if not matches:
        raise FileNotFoundError(f"nothing matches {without_secrets(name)!r}")
    yield from sorted(matches)
