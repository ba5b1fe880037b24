"""A YAML file as a config.

Unknown keys are refused with the nearest known one; `section.key=value` overrides a value.
"""

import difflib
from pathlib import Path
from typing import Any, TypeVar, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from embre.config.run import RunConfig
from embre.config.sections import Section


class ConfigError(ValueError):
    """A config that cannot be used; the message names the file, the key and the remedy."""


Config = TypeVar("Config", bound=Section)


def load_config(kind: type[Config], path: str | Path, overrides: list[str] | None = None) -> Config:
    """Read a YAML file, apply `section.key=value` overrides and check the result.

    Raises ConfigError naming the file, the key and the remedy.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such config; shipped ones are in configs/") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not a YAML file: {error}".replace("\n", " ")) from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: a config is a mapping of sections, this is {type(values).__name__}"
        )
    for override in overrides or []:
        _apply(values, override)
    return check_config(kind, values, str(path))


def check_config(kind: type[Config], values: dict[str, Any], place: str) -> Config:
    """Values as a config; every problem in one ConfigError."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_explain(kind, problem) for problem in error.errors())
        raise ConfigError(f"{place}: {problems}") from error


def dump_config(config: RunConfig) -> str:
    """The resolved config as YAML: what `--print-config` shows and a run directory keeps."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{override!r}: an override is written section.key=value")
    *path, last = key.split(".")
    for name in path:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{override!r}: {name} is a value, not a section")
    values[last] = yaml.safe_load(text)


def _explain(kind: type[BaseModel], problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"]) or "config"
    if problem["type"] != "extra_forbidden":
        return f"{key}: {problem['msg'].removeprefix('Value error, ')}"
    known = _known_keys(kind, problem["loc"][:-1])
    near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(sorted(known))}"
    return f"{key}: unknown key; {hint}"


def _known_keys(kind: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    names = iter(path)
    for name in names:
        annotation = kind.model_fields[name].annotation
        if get_origin(annotation) in (dict, list):
            next(names)  # a key of the mapping or a place in the list, not of a section
        options = getattr(annotation, "__args__", (annotation,))
        kind = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    return list(kind.model_fields)
