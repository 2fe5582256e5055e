"""YAML files read into validated, frozen models; every fault of a file is reported at once."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from ovquant.errors import ConfigError, did_you_mean, first_line

FILE_VERSION = 1
_MAX_FILE_BYTES = 1_000_000
_MAX_VALUES = 200_000  # with what aliases stand for: a short file can describe billions
_MAX_DEPTH = 50


class FileModel(BaseModel):
    """A frozen part of a file; unknown keys are errors.

    Attributes:
        read_before: further keys that files may have, which are taken out before this is made of them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    read_before: ClassVar[tuple[str, ...]] = ()


ModelT = TypeVar("ModelT", bound=FileModel)


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which also refuses a key that is there twice."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                raise yaml.composer.ComposerError(None, None, f"the key {key.value!r} is there twice", key.start_mark)
            seen.add((key.tag, key.value))
        return node


def read_yaml(path: Path, kind: str) -> dict[str, Any]:
    """Return the mapping in the YAML file at `path`.

    Args:
        path: file to read.
        kind: what the file is ("job", "target", "recipe"), for messages.

    Raises:
        ConfigError: the file is missing, no YAML, too large, or not a mapping.
    """
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise ConfigError(f"{path}: larger than {_MAX_FILE_BYTES} bytes; this is no {kind} file")
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such {kind} file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a directory, expected a {kind} file (YAML)") from None
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: cannot be read as a {kind} file: {error}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark is not None else str(path)
        problem = " ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{where}: not valid YAML: {problem}") from None
    except yaml.reader.ReaderError as error:
        before = path.read_text(encoding="utf-8")[: error.position]
        where = f"{path}:{before.count(chr(10)) + 1}:{error.position - before.rfind(chr(10))}"
        raise ConfigError(f"{where}: not valid YAML: {first_line(error)}") from None
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
        # PyYAML lets these escape where a value does not fit its tag, e.g. the date 2024-02-30.
        raise ConfigError(f"{path}: not valid YAML: {first_line(error)}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply to be a {kind} file") from None
    return _mapping(data, path, kind)


def _mapping(data: Any, path: Path, kind: str) -> dict[str, Any]:
    if _n_values(data, {}, 0) > _MAX_VALUES:
        raise ConfigError(f"{path}: holds more than {_MAX_VALUES} values, or is nested too deeply; this is no {kind} file")
    if not isinstance(data, dict):
        found = "nothing" if data is None else type(data).__name__
        raise ConfigError(f"{path}: a {kind} file is a mapping of keys to values, found {found}")
    return data


def _n_values(data: Any, counted: dict[int, int], depth: int) -> int:
    """Return how many values there are, those that aliases repeat once more each time; beyond the limit if nested too deeply."""
    if depth > _MAX_DEPTH:
        return _MAX_VALUES + 1
    if not isinstance(data, dict | list):
        return 1
    if id(data) not in counted:
        counted[id(data)] = _MAX_VALUES + 1  # for a mapping that holds itself
        children = data.values() if isinstance(data, dict) else data
        counted[id(data)] = 1 + sum(_n_values(child, counted, depth + 1) for child in children)
    return counted[id(data)]


def validate(model: type[ModelT], data: Mapping[str, Any], where: str) -> ModelT:
    """Return `data` as a `model`.

    Args:
        model: the file's model.
        data: parsed content.
        where: file name, or "command line", put before each fault.

    Raises:
        ConfigError: one line per fault, all of them.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = _fault_lines(model, data, error)
        raise ConfigError("\n".join(f"{where}: {line}" for line in lines)) from None


def load(model: type[ModelT], path: Path, kind: str) -> ModelT:
    """Read and validate the file at `path`.

    Raises:
        ConfigError: as `read_yaml` and `validate`.
    """
    return validate(model, read_yaml(path, kind), str(path))


def _fault_lines(model: type[BaseModel], data: Mapping[str, Any], error: ValidationError) -> list[str]:
    """Return one line per fault; the faults of all branches of a union at one place are one."""
    by_place: dict[tuple[object, ...], list[Any]] = {}
    for fault in error.errors(include_url=False):
        by_place.setdefault(_place(fault["loc"], data), []).append(fault)
    lines: list[str] = []
    for place, faults in by_place.items():
        if faults[0]["type"] == "too_short" and any(other[: len(place)] == place for other in by_place if other != place):
            continue  # pydantic counts valid elements only
        key = ".".join(str(part) for part in place)
        kinds = [_TYPE_FAULTS[fault["type"]] for fault in faults if fault["type"] in _TYPE_FAULTS]
        if len(faults) > 1 and len(kinds) == len(faults):
            messages = [f"expected {' or '.join(dict.fromkeys(kinds))}, found {_shown(faults[0].get('input'))}"]
        else:
            messages = [message for fault in faults for message in _messages(model, place, fault)]
        lines.extend(f"{key}: {message}" if key else message for message in messages)
    return list(dict.fromkeys(lines))


_TYPE_FAULTS = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "dict_type": "a mapping of keys to values",
    "list_type": "a list",
    "tuple_type": "a list",
}


def _messages(model: type[BaseModel], place: Sequence[object], fault: Any) -> list[str]:
    kind, found = fault["type"], fault.get("input")
    if kind == "extra_forbidden":
        accepted = _fields_at(model, place[:-1])
        hint = did_you_mean(str(place[-1]), accepted)
        listing = f"; accepted: {', '.join(sorted(accepted))}" if accepted else ""
        return [f"unknown key{hint}{listing}"]
    if kind == "missing":
        return ["required key is missing"]
    if kind in _TYPE_FAULTS:
        return [f"expected {_TYPE_FAULTS[kind]}, found {_shown(found)}"]
    if kind in {"too_short", "too_long"}:
        word, limit = ("least", "min_length") if kind == "too_short" else ("most", "max_length")
        n_found = fault["ctx"]["actual_length"]  # None where pydantic stops counting
        return [f"takes at {word} {fault['ctx'][limit]}, found {len(found) if n_found is None else n_found}"]
    message = str(fault["msg"]).removeprefix("Value error, ")
    if kind == "value_error":
        return message.splitlines()
    message = message[:1].lower() + message[1:]
    hint = ""
    if kind == "literal_error" and isinstance(found, str):
        hint = did_you_mean(found, str(fault["ctx"]["expected"]).replace("'", "").replace(" or ", ", ").split(", "))
    return [f"{message}, found {_shown(found)}{hint}"]


def _shown(value: object) -> str:
    return reprlib.repr(value)


def _place(location: Sequence[object], data: object) -> tuple[object, ...]:
    """Return where a fault is in the file: pydantic's location without the names that it adds for branches of a union."""
    place: list[object] = []
    for part in location:
        is_there = (isinstance(data, Mapping) and part in data) or (
            isinstance(data, list | tuple) and isinstance(part, int) and part < len(data)
        )
        if is_there:
            data = data[part]  # type: ignore[index]
        elif (isinstance(part, str) and not part.isidentifier()) or part in _BRANCHES:
            continue
        place.append(part)
    return tuple(place)


_BRANCHES = frozenset({"none", "str", "int", "float", "bool"})


def _fields_at(model: type[BaseModel], place: Sequence[object]) -> list[str]:
    """Return the keys that are accepted in `model` at `place`."""
    current: list[type[BaseModel]] = [model]
    is_user_key = False
    for part in place:
        fields = [candidate.model_fields[str(part)] for candidate in current if str(part) in candidate.model_fields]
        if fields and not is_user_key and not isinstance(part, int):
            current = [found for field in fields for found in _models_in(field.annotation)]
            is_user_key = any(_is_mapping(field.annotation) for field in fields)
        else:
            is_user_key = False
    return [name for candidate in current for name in (*candidate.model_fields, *getattr(candidate, "read_before", ()))]


def _is_mapping(annotation: Any) -> bool:
    """Return True for a mapping whose keys the user chooses."""
    return get_origin(annotation) is dict or any(_is_mapping(argument) for argument in get_args(annotation))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _models_in(argument)]
