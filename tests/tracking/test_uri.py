"""Where MLflow keeps runs: what is given or the default, and nothing is made by asking."""

from pathlib import Path

import pytest

from embre.config import ConfigError
from embre.tracking.registry import fetch
from embre.tracking.uri import VARIABLE, refuse_missing, resolve_uri


def test_what_is_given_comes_before_the_environment_and_a_file_in_the_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    assert resolve_uri(None, "there") == f"sqlite:///{tmp_path}/there/mlflow.db"
    monkeypatch.setenv(VARIABLE, "http://mlflow:5000")
    assert resolve_uri(None, "there") == "http://mlflow:5000"
    assert resolve_uri("sqlite:///a/b.db") == f"sqlite:///{tmp_path}/a/b.db"
    assert resolve_uri("sqlite:////a/me@host/b.db") == "sqlite:////a/me@host/b.db"
    assert resolve_uri("databricks") == "databricks"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("https://me:pw@host/mlflow", "MLFLOW_TRACKING_PASSWORD"),
        ("postgresql://host/mlflow?user=me&password=pw", "MLFLOW_TRACKING_PASSWORD"),
        ("mlruns", "mlruns is a folder"),
        ("file:///mlruns", "file:///mlruns is a folder"),
    ],
)
def test_what_cannot_be_a_store_is_refused_under_its_name(
    uri: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=f"^tracking.uri: .*{message}") as refused:
        resolve_uri(uri, "runs", "tracking.uri")
    assert "pw" not in str(refused.value)
    monkeypatch.setenv(VARIABLE, uri)
    with pytest.raises(ConfigError, match=f"^{VARIABLE}: .*{message}"):
        resolve_uri(None, "runs", "tracking.uri")


def test_a_registry_that_is_not_there_is_named_and_not_made(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mistyped/mlflow.db"
    with pytest.raises(FileNotFoundError, match="mistyped/mlflow.db; give tracking.uri"):
        fetch("models:/one@champion", uri, tmp_path / "model")
    assert not list(tmp_path.iterdir())
    (tmp_path / "mlflow.db").touch()
    refuse_missing(f"sqlite:///{tmp_path}/mlflow.db?timeout=20")
    refuse_missing("http://mlflow:5000")
