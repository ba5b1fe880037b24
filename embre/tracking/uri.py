"""The URI of the tracking store and registry, resolved and checked."""

import os
from pathlib import Path

from embre.config import ConfigError
from embre.config.places import SQLITE, is_url, sqlite_file
from embre.config.secret_values import SECRETS

VARIABLE = "MLFLOW_TRACKING_URI"


def resolve_uri(
    given: str | None, storage: str | Path = "runs", key: str = "--tracking-uri"
) -> str:
    """The `given` URI, else that of the environment, else a sqlite file in `storage`.

    Writes nothing. `key` names the origin of `given` in messages. Raises ConfigError for a folder,
    and for a URI with a user, password or other secret.
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
            f"{key}: contains a user or password, which would be written to disk; set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
        )
    if uri.startswith("file:") or not (is_url(uri) or uri == "databricks"):
        raise ConfigError(
            f"{key}: {uri} is a folder, which MLflow no longer supports as a store; give "
            "sqlite:///PATH/mlflow.db or the URL of a server, or leave it out"
        )
    return uri


def refuse_missing(uri: str) -> None:
    """Raise FileNotFoundError for a missing sqlite file, which MLflow would create."""
    file = sqlite_file(uri)
    if file and not file.exists():
        raise FileNotFoundError(
            f"no registry at {uri}; give tracking.uri (--tracking-uri) or set {VARIABLE}"
        )
