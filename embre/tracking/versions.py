"""Queries of the registry: versions with their aliases and tags, by name, alias or tag."""

from collections.abc import Mapping
from dataclasses import dataclass

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from embre.tracking.runs import quiet_mlflow

# MLflow's error codes for a missing name and for a missing alias.
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
    """The version that an alias points to; None if there is no such name or alias."""
    quiet_mlflow()
    try:
        found = MlflowClient(uri).get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ABSENT:
            return None
        raise
    return Version(name, str(found.version), found.tags, (alias,), found.run_id or "")


def versions_of(name: str, uri: str) -> list[Version]:
    """All versions of a name, newest first."""
    if "'" in name:  # it would end the string of the condition; no name has one
        return []
    return _search(f"name = '{name}'", uri)


def versions_tagged(tag: str, begin: str, uri: str) -> list[Version]:
    """All versions whose `tag`, a digest, starts with `begin`; by name, newest first."""
    return _search(f"tags.`{tag}` LIKE '{begin}%'", uri)


def names(uri: str) -> list[str]:
    """All registered names, sorted."""
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
    for name in {version.name for version in found}:  # a search does not return aliases
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
