"""Where MLflow keeps runs and models: the address that is given, checked before it is used."""

import os
from pathlib import Path

from embre.config import ConfigError
from embre.config.places import SQLITE, is_url, sqlite_file
from embre.config.secret_values import SECRETS

VARIABLE = "MLFLOW_TRACKING_URI"


def resolve_uri(
    given: str | None, storage: str | Path = "runs", key: str = "--tracking-uri"
) -> str:
    """What `key` gives, else the environment, else a sqlite file in `storage`; nothing is written.

    Raises ConfigError for a folder, and where a password would be written down.
    """
    uri = given or os.environ.get(VARIABLE)
    if not uri:
        return f"{SQLITE}{Path(storage).absolute()}/mlflow.db"
    if sqlite_file(uri):
        return f"{SQLITE}{Path(uri.removeprefix(SQLITE)).absolute()}"
    key = key if given else VARIABLE
    if "@" in uri.split("://")[-1].split("/")[0] or any(
        pattern.search(uri) for pattern in SECRETS.values()
    ):
        raise ConfigError(
            f"{key}: a user or password is in it, and would be written down; set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
        )
    if uri.startswith("file:") or not (is_url(uri) or uri == "databricks"):
        raise ConfigError(
            f"{key}: {uri} is a folder, and MLflow no longer keeps runs in folders; give "
            "sqlite:///PATH/mlflow.db or the URL of a server, or leave it out"
        )
    return uri


def refuse_missing(uri: str) -> None:
    """FileNotFoundError for a sqlite file that is not there, where a model is looked for: MLflow
    would make it, and its folders."""
    file = sqlite_file(uri)
    if file and not file.exists():
        raise FileNotFoundError(
            f"there is no registry at {uri}: give tracking.uri (--tracking-uri), or set {VARIABLE}"
        )
