"""A YAML file as a config.

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
Lines = Mapping[tuple[str | int, ...], int]  # where a key stands in a file, by its path


class StrictSafeLoader(yaml.SafeLoader):
    """Plain values, and two things less: aliases, which make gigabytes of a few lines, and a key
    that is there twice, of which the last would count without a word."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """A node of the file, which may have no anchor and be no alias."""
        event: Any = self.peek_event()
        if event.anchor is not None:
            why = "anchors and aliases (&, *) are not read; write the value where it is meant"
            raise ComposerError(None, None, why, event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys are there once."""
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == MERGE or not isinstance(key_node, yaml.ScalarNode):
                why = "a key is a name; << and keys of several values are not read"
                raise ConstructorError(None, None, why, key_node.start_mark)
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                why = f"the key {key} is there twice"
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
    """What stands in a YAML file, and in which lines; ConfigError where it is no mapping."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such config; shipped ones are in configs/") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a YAML file: {error}") from error
    values, lines = _parse(text, Path(path), "not a YAML file")
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: a config is a mapping of sections, this is {type(values).__name__}"
        )
    return values, lines


def check_config(
    kind: type[Config],
    values: dict[str, Any],
    place: str,
    lines: Lines = MappingProxyType({}),
) -> Config:
    """Values as a config; every problem in one ConfigError."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_explain(kind, problem, lines) for problem in error.errors())
        raise ConfigError(f"{place}: {problems}") from error


def dump_config(config: RunConfig) -> str:
    """The resolved config as YAML, as a run directory keeps it."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def explained(config: Section, indent: str = "") -> str:
    """The resolved config as YAML, each key with what it means behind it."""
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
        said = type(config).model_fields[name].description
        lines += [f"{indent}{first}  # {said}", *(f"{indent}{line}" for line in rest)]
    return "\n".join(lines)


def _summary(kind: type[Section]) -> str:
    return " ".join((kind.__doc__ or "").partition("\n\n")[0].split())


def _parse(text: str, place: Path | str, what: str) -> tuple[Any, Lines]:
    """The value of a YAML text, and where its keys stand; ConfigError in one line, with the number
    of a file's line. What stands there is not shown: it may be a secret."""
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
    except (yaml.YAMLError, ValueError) as error:  # no text, or a date that there is not
        raise ConfigError(f"{place}: {what}: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ConfigError(f"{place}: {what}: too many brackets within brackets") from error


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
        raise ConfigError(f"{override!r}: an override is written section.key=value")
    *path, last = key.split(".")
    for name in path:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{key}: {name} is a value, not a section")
    values[last], _ = _parse(text, key, "the value is no YAML, see if it needs quotes")


def is_another(config: RunConfig, path: Path) -> bool:
    """Whether the config in a file is that of another run. None there, or a damaged one, says
    nothing: each checkpoint knows what it was made with."""
    try:
        read_values(path)
    except ConfigError:
        return False
    try:
        return bool(differences(config, path))
    except ConfigError:  # of another kind of run
        return True


def differences(config: RunConfig, path: Path) -> dict[str, tuple[Any, Any]]:
    """What decides the numbers of a run and stands otherwise in a file: the value there and the one
    here, by key, None where there is none.

    Raises ConfigError where the file cannot be read or is of another kind of run.
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
