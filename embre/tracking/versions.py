"""What the registry has: versions with their aliases and tags, by name, alias or tag."""

from collections.abc import Mapping
from dataclasses import dataclass

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from embre.tracking.runs import quiet_mlflow

# What MLflow says of a name that is not there, and of an alias that is not.
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a registered model; `run_id` is its MLflow run."""

    name: str
    number: str
    tags: Mapping[str, str]
    aliases: tuple[str, ...] = ()
    run_id: str = ""


def aliased(name: str, alias: str, uri: str) -> Version | None:
    """The version that an alias points to; None where there is no such name or alias."""
    quiet_mlflow()
    try:
        found = MlflowClient(uri).get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ABSENT:
            return None
        raise
    return Version(name, str(found.version), found.tags, (alias,), found.run_id or "")


def versions_of(name: str, uri: str) -> list[Version]:
    """All versions of a name, the newest first."""
    if "'" in name:  # no name has one, and it would end the condition
        return []
    return _search(f"name = '{name}'", uri)


def versions_tagged(tag: str, begin: str, uri: str) -> list[Version]:
    """All versions of all names whose tag, a digest, begins so; by name, the newest first."""
    return _search(f"tags.`{tag}` LIKE '{begin}%'", uri)


def names(uri: str) -> list[str]:
    """All names in the registry."""
    quiet_mlflow()
    return sorted(found.name for found in MlflowClient(uri).search_registered_models())


def _search(condition: str, uri: str) -> list[Version]:
    quiet_mlflow()
    client = MlflowClient(uri)
    page = client.search_model_versions(condition)
    found = [*page]
    while page.token:
        page = client.search_model_versions(condition, page_token=page.token)
        found += page
    aliases: dict[tuple[str, str], list[str]] = {}
    for name in {version.name for version in found}:  # a search does not tell aliases
        for alias, number in client.get_registered_model(name).aliases.items():
            aliases.setdefault((name, str(number)), []).append(alias)
    found.sort(key=lambda version: (version.name, -int(version.version)))
    return [
        Version(
            version.name,
            str(version.version),
            version.tags,
            tuple(sorted(aliases.get((version.name, str(version.version)), ()))),
            version.run_id or "",
        )
        for version in found
    ]
