"""Kinds of places in a config: a URL, an SQLite file, or a path."""

import re
from pathlib import Path

SQLITE = "sqlite:///"
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


def is_url(text: str) -> bool:
    """Whether `text` is a URL, or a model of the registry (`models:/…`).

    >>> is_url("s3://bucket/shards"), is_url("runs/shards")
    (True, False)
    """
    return bool(SCHEME.match(text))


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite tracking store; None for other stores.

    >>> sqlite_file("sqlite:///runs/mlflow.db").as_posix()
    'runs/mlflow.db'
    """
    if not uri.startswith(SQLITE):
        return None
    return Path(uri.removeprefix(SQLITE).partition("?")[0])
