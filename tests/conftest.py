"""What tests share: where the real corpora lie on a development machine; a tiny BERT's folder."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported: no test asks the hub
# A developer's server and cluster are not for tests; module fixtures come before other fixtures.
for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
    os.environ.pop(name, None)

# Under pytest-xdist (`make test`) what shares a group runs in one process, one after the other.
RAY_GROUP = "ray"

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of a file stay in one process, for what they share; all tests that start Ray are in
    one, since two clusters side by side are too much for a small machine."""
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny BERT's tokenizer; a file that needs more in it has one of its own."""
    from tests.tiny import tiny_tokenizer  # imports transformers, which reads HF_HUB_OFFLINE

    found = tmp_path_factory.mktemp("bert")
    tiny_tokenizer(found)
    return found
