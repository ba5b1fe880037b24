"""What a sharding run is to read: names, patterns and URLs as a list of inputs."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import fsspec

from embre.corpora.sources import list_files, locate
from embre.wording import without_secrets


class Input(NamedTuple):
    """A file, folder, archive or URL, and its bytes as they are stored."""

    source: str
    bytes: int
    modified: float

    @property
    def name(self) -> str:
        """What the manifest calls it: no folder of this machine, no secret of a URL."""
        plain = self.source.split("?")[0]
        return Path(plain if "://" in plain else os.path.abspath(plain)).name


def find_inputs(names: Sequence[str]) -> list[Input]:
    """Every input, patterns spelt out in order.

    Raises FileNotFoundError for a name that is not there or a pattern that matches nothing,
    Refused for a URL that may not be read.
    """
    found = []
    for source in (match for name in names for match in _matches(name)):
        files = list_files(locate(source))
        size = sum(file.filesystem.size(file.path) or 0 for file in files)
        local = [Path(file.path) for file in files if Path(file.path).is_file()]
        modified = max((path.stat().st_mtime for path in local), default=0.0)
        found.append(Input(source, size, modified))
    return found


def place_by_name(place: str, inputs: Sequence[Input]) -> str:
    """A place of a tally that begins with the name of its input and not with how it was given."""
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
        matches = [filesystem.unstrip_protocol(path) for path in filesystem.glob(pattern)]
    else:
        matches = glob.glob(name, recursive=True)
    if not matches:
        raise FileNotFoundError(f"nothing matches {without_secrets(name)!r}")
    yield from sorted(matches)
