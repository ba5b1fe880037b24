"""What tests share: where the real corpora lie on a development machine; a tiny BERT's folder."""

import os
import signal
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported: no test asks the hub
# A developer's server and cluster are not for tests; module fixtures come before other fixtures.
for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
    os.environ.pop(name, None)
# A shell ignores Ctrl-C in what it starts in the background, and child processes would inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Under pytest-xdist (`make test`) what shares a group runs in one process, one after the other.
RAY_GROUP = "ray"

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of a file stay in one process, for what they share; all tests that start Ray are in
    one, since two clusters side by side are too much for a small machine. pytest-xdist hands groups
    out in this order: the longest, which is Ray's, comes first, and files without slow tests last,
    so that the processes end together."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (not item.get_closest_marker("ray"), item.path not in slow))
    for item in items:
        group = RAY_GROUP if item.get_closest_marker("ray") else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder of real corpora; a test that asks for it is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"the real corpora are not on this machine (looked in {SHARED})")
    return SHARED


@pytest.fixture(autouse=True)
def no_tracking_server() -> Iterator[None]:
    """`mlflow.set_tracking_uri` writes into the environment; the next test must not see it."""
    yield
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(scope="session", autouse=True)
def databases_of_mlflow_are_copied() -> Iterator[None]:
    """MLflow makes each new database by all migrations since its beginnings, which takes seconds.
    In this process it makes the first one so; the others are copies."""
    if "mlflow" not in sys.modules:  # no test needs it
        yield
        return
    from mlflow.store.db import utils

    migrate = utils._initialize_tables
    template = sqlite3.connect(":memory:", check_same_thread=False)

    def make(engine: Any) -> None:
        with closing(engine.raw_connection()) as connection:
            empty = is_empty(connection.driver_connection)
            if empty and not is_empty(template):
                template.backup(connection.driver_connection)
                return
        migrate(engine)
        if empty:
            with closing(engine.raw_connection()) as connection:
                connection.driver_connection.backup(template)

    def is_empty(database: sqlite3.Connection) -> bool:
        return not database.execute("SELECT * FROM sqlite_master").fetchone()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "_initialize_tables", make)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny BERT's tokenizer; a file that needs more in it has one of its own."""
    from tests.tiny import tiny_tokenizer  # imports transformers, which reads HF_HUB_OFFLINE

    found = tmp_path_factory.mktemp("bert")
    tiny_tokenizer(found)
    return found
