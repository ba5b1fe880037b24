"""A rank's part of a checkpoint: a file of tensors, and a note that it is complete."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from embre.atomic_files import fsync_path


def save_state(state: dict[str, Tensor], file: Path) -> None:
    """Call `save_file`, raising OSError with the errno that safetensors has only in its message."""
    try:
        save_file(state, file)
    except SafetensorError as error:
        if not (number := re.search(r"os error (\d+)", str(error))):
            raise
        raise OSError(int(number[1]), str(error)) from error


def write_note(path: Path, note: Mapping[str, Any]) -> None:
    """Write a note in place; the reader polls the file until it is valid JSON."""
    path.write_text(json.dumps(note))
    fsync_path(path)


def read_note(path: Path) -> dict[str, Any] | None:
    """Read a note; None if it is missing or incomplete."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class StoredState(Mapping[str, Tensor]):
    """The whole state in a checkpoint's files; tensors are read on access."""

    files: Mapping[str, Any]

    @classmethod
    def open(cls, files: Iterable[Path]) -> "StoredState":
        opened = [safe_open(path, "pt") for path in files]
        return cls({name: file for file in opened for name in file.keys()})

    def __getitem__(self, name: str) -> Tensor:
        return self.files[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)
