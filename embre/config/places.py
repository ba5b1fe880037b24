"""What a text of a config names: a URL, a file of sqlite, or else a path."""

import re
from pathlib import Path

SQLITE = "sqlite:///"
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


def is_url(text: str) -> bool:
    """Whether it is a URL, or a model of the registry (`models:/…`).

    >>> is_url("s3://bucket/shards"), is_url("runs/shards")
    (True, False)
    """
    return bool(SCHEME.match(text))


def sqlite_file(uri: str) -> Path | None:
    """The file of a tracking store in sqlite, None of another store.

    >>> sqlite_file("sqlite:///runs/mlflow.db").as_posix()
    'runs/mlflow.db'
    """
    if not uri.startswith(SQLITE):
        return None
    return Path(uri.removeprefix(SQLITE).partition("?")[0])
