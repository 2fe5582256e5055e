"""YAML files read into validated, frozen models; every fault of a file is reported at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from ovquant.errors import ConfigError, did_you_mean

FILE_VERSION = 1
_MAX_FILE_BYTES = 1_000_000


class FileModel(BaseModel):
    """A frozen part of a file; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


ModelT = TypeVar("ModelT", bound=FileModel)


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
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such {kind} file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a directory, expected a {kind} file (YAML)") from None
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: cannot be read as a {kind} file: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark is not None else str(path)
        problem = getattr(error, "problem", None) or "malformed"
        raise ConfigError(f"{where}: not valid YAML: {problem}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply to be a {kind} file") from None
    if not isinstance(data, dict):
        found = "nothing" if data is None else type(data).__name__
        raise ConfigError(f"{path}: a {kind} file is a mapping of keys to values, found {found}")
    return data


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
        faults = [_fault_line(model, fault) for fault in error.errors()]
        raise ConfigError("\n".join(f"{where}: {line}" for line in dict.fromkeys(faults))) from None


def load(model: type[ModelT], path: Path, kind: str) -> ModelT:
    """Read and validate the file at `path`.

    Raises:
        ConfigError: as `read_yaml` and `validate`.
    """
    return validate(model, read_yaml(path, kind), str(path))


def _fault_line(model: type[BaseModel], fault: Any) -> str:
    location = tuple(part for part in fault["loc"] if not _is_type_tag(part))
    key = ".".join(str(part) for part in location) or "file"
    kind = fault["type"]
    if kind == "extra_forbidden":
        accepted = _fields_at(model, location[:-1])
        hint = did_you_mean(str(location[-1]), accepted)
        listing = f"; accepted: {', '.join(sorted(accepted))}" if accepted else ""
        return f"{key}: unknown key{hint}{listing}"
    if kind == "missing":
        return f"{key}: required key is missing"
    message = str(fault["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    found = fault.get("input")
    if kind == "value_error" or isinstance(found, Mapping):
        return f"{key}: {message}"
    hint = ""
    if kind == "literal_error" and isinstance(found, str):
        hint = did_you_mean(found, str(fault["ctx"]["expected"]).replace("'", "").replace(" or ", ", ").split(", "))
    shown = repr(found) if len(repr(found)) <= 60 else repr(found)[:57] + "..."
    return f"{key}: {message}, found {shown}{hint}"


def _is_type_tag(part: object) -> bool:
    """Tell the names which pydantic adds for the branches of a union from keys of the file."""
    return isinstance(part, str) and ("[" in part or part in {"none", "str", "int", "float", "bool"})


def _fields_at(model: type[BaseModel], location: Sequence[object]) -> list[str]:
    """Return the keys that are accepted in `model` at `location`."""
    current: list[type[BaseModel]] = [model]
    for part in location:
        following: list[type[BaseModel]] = []
        for candidate in current:
            field = candidate.model_fields.get(str(part))
            if field is not None:
                following.extend(_models_in(field.annotation))
            elif isinstance(part, int) or not candidate.model_fields:
                following.append(candidate)
        current = following or current
    return [name for candidate in current for name in candidate.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _models_in(argument)]
