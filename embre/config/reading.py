"""Read a YAML file as a config.

Unknown keys are refused with the nearest known one; `section.key=value` overrides a value.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from embre.config.run import RunConfig
from embre.config.sections import Section
from embre.refused import Refused
from embre.wording import nearest


class ConfigError(Refused):
    """A config that cannot be used; the message names the file, the key and the remedy."""


MERGE = "tag:yaml.org,2002:merge"
Config = TypeVar("Config", bound=Section)
Lines = Mapping[tuple[str | int, ...], int]  # line number of each key, by its path


class StrictSafeLoader(yaml.SafeLoader):
    """SafeLoader that also refuses aliases, which can expand a few lines to gigabytes, and
    duplicate keys, of which the last would win silently."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node; anchors and aliases are refused."""
        event: Any = self.peek_event()
        if event.anchor is not None:
            why = "anchors and aliases (&, *) are not supported; repeat the value"
            raise ComposerError(None, None, why, event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping; duplicate keys are refused."""
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == MERGE or not isinstance(key_node, yaml.ScalarNode):
                why = "keys must be plain names; << and composite keys are not supported"
                raise ConstructorError(None, None, why, key_node.start_mark)
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                why = f"duplicate key {key}"
                raise ConstructorError(None, None, why, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_config(kind: type[Config], path: str | Path, overrides: list[str] | None = None) -> Config:
    """Read a YAML file, apply `section.key=value` overrides and check the result.

    Raises ConfigError naming the file, the key and the remedy.
    """
    values, lines = read_values(path)
    for override in overrides or []:
        _apply(values, override)
    return check_config(kind, values, str(path), lines)


def read_values(path: str | Path) -> tuple[dict[str, Any], Lines]:
    """Values of a YAML file and the lines of their keys; ConfigError if it is not a mapping."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such config file; shipped ones are in configs/") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a YAML file: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give the YAML file of a config") from error
    values, lines = _parse(text, Path(path), "not a YAML file")
    if values is None:
        raise ConfigError(f"{path}: the file is empty; shipped configs are in configs/")
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: a config must be a mapping of sections, not {type(values).__name__}"
        )
    return values, lines


def check_config(
    kind: type[Config],
    values: dict[str, Any],
    place: str,
    lines: Lines = MappingProxyType({}),
) -> Config:
    """Validate values as a config; one ConfigError lists every problem."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_explain(kind, problem, lines) for problem in error.errors())
        raise ConfigError(f"{place}: {problems}") from error


def dump_config(config: RunConfig) -> str:
    """The resolved config as YAML, as a run directory keeps it."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def explained(config: Section, indent: str = "") -> str:
    """The resolved config as YAML, each key followed by its description."""
    lines = []
    for name, value in config:
        if isinstance(value, Section):
            lines += [
                f"{indent}{name}:  # {_summary(type(value))}",
                explained(value, f"{indent}  "),
            ]
            continue
        values = config.model_dump(mode="json", include={name})
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=math.inf)
        first, *rest = text.splitlines()
        description = type(config).model_fields[name].description
        lines += [f"{indent}{first}  # {description}", *(f"{indent}{line}" for line in rest)]
    return "\n".join(lines)


def _summary(kind: type[Section]) -> str:
    return " ".join((kind.__doc__ or "").partition("\n\n")[0].split())


def _parse(text: str, place: Path | str, what: str) -> tuple[Any, Lines]:
    """The value of a YAML text and the lines of its keys.

    Raises ConfigError, in one line, with the line number. The value is not shown: it may be a
    secret.
    """
    try:
        loader = StrictSafeLoader(text)
        root: Any = loader.get_single_node()
        if root is None:
            return None, {}
        return loader.construct_document(root), dict(_lines(root, ()))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f":{mark.line + 1}" if mark and isinstance(place, Path) else ""
        raise ConfigError(f"{place}{line}: {what}: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:  # not text, or an impossible date
        raise ConfigError(f"{place}: {what}: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ConfigError(f"{place}: {what}: nested too deeply") from error


def _lines(
    node: yaml.Node, path: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], int]]:
    inner: list[Any] = []
    if isinstance(node, yaml.MappingNode):
        inner = [(key.value, key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        inner = [(number, value, value) for number, value in enumerate(node.value)]
    for name, stands, value in inner:
        if isinstance(name, str | int):
            yield (*path, name), stands.start_mark.line + 1
            yield from _lines(value, (*path, name))


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{override!r}: write overrides as section.key=value")
    *path, last = key.split(".")
    for name in path:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{key}: {name} is a value, not a section")
    values[last], _ = _parse(text, key, "the value is not valid YAML; it may need quotes")


def is_another(config: RunConfig, path: Path) -> bool:
    """Whether the file holds the config of another run.

    False if it is missing or damaged: each checkpoint has its own fingerprint.
    """
    try:
        read_values(path)
    except ConfigError:
        return False
    try:
        return bool(differences(config, path))
    except ConfigError:  # of another kind of run
        return True


def differences(config: RunConfig, path: Path) -> dict[str, tuple[Any, Any]]:
    """Settings that determine a run's results and differ from those in a file.

    Maps keys to (value in the file, value in `config`), None for a missing one. Raises ConfigError
    if the file cannot be read or is of another kind of run.
    """
    there, here = load_config(type(config), path).numbers(), config.numbers()
    return {
        key: (there.get(key), here.get(key))
        for key in sorted({*there, *here})
        if (key in there, there.get(key)) != (key in here, here.get(key))
    }


def _explain(kind: type[BaseModel], problem: Any, lines: Lines) -> str:
    key = ".".join(str(part) for part in problem["loc"]) or "config"
    if problem["type"] != "extra_forbidden":
        return f"{key}: {problem['msg'].removeprefix('Value error, ')}"
    known = _known_keys(kind, problem["loc"][:-1])
    hint = nearest(str(problem["loc"][-1]), sorted(known))
    line = f" (line {lines[problem['loc']]})" if problem["loc"] in lines else ""
    return f"{key}{line}: unknown key; {hint}"


def _known_keys(kind: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    names = iter(path)
    for name in names:
        annotation = kind.model_fields[name].annotation
        if get_origin(annotation) in (dict, list):
            next(names)  # a key of the mapping or a place in the list, not of a section
        options = getattr(annotation, "__args__", (annotation,))
        kind = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    return list(kind.model_fields)
