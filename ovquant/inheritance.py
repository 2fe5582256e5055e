"""Profiles that extend others: what a file says goes over what it inherits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ovquant.configfile import read_yaml
from ovquant.errors import ConfigError

EXTENDS = "extends"
MAX_DEPTH = 8
_OWN = ("version", "name", "description")  # of each file; never inherited


def read_extended(path: Path, find: Callable[[str, Path], Path]) -> tuple[dict[str, Any], tuple[Path, ...]]:
    """Return the content of a profile with all that it inherits, and the files that it came from, its own first.

    Nested mappings are merged key by key, everything else replaces what is inherited, and null takes it out. Version, name
    and description are not inherited.

    Args:
        path: of the profile.
        find: returns the file that an ``extends`` in a file names.

    Raises:
        ConfigError: a file is missing or no mapping, or they extend each other in a circle or too deeply.
    """
    contents: list[dict[str, Any]] = []
    files: list[Path] = []
    current: Path | None = path
    while current is not None:
        if current.resolve() in [file.resolve() for file in files]:
            chain = " -> ".join(str(file) for file in (*files, current))
            raise ConfigError(f"{current}: extends: profiles extend each other in a circle: {chain}")
        if len(files) > MAX_DEPTH:
            raise ConfigError(f"{path}: extends: more than {MAX_DEPTH} profiles deep; the last one read is {files[-1]}")
        content = read_yaml(current, "target")
        files.append(current)
        contents.append(content)
        current = _next(content.pop(EXTENDS, None), current, find)
    merged: dict[str, Any] = {}
    for content in reversed(contents):
        merged = merge({key: value for key, value in merged.items() if key not in _OWN}, content)
    return merged, tuple(files)


def _next(name: Any, path: Path, find: Callable[[str, Path], Path]) -> Path | None:
    if name is None:
        return None
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{path}: extends: expected the name of a profile or the path of one, found {name!r}")
    try:
        found = find(name, path)
    except ConfigError as error:
        raise ConfigError(f"{path}: extends: {error}") from None
    if not found.is_file():
        raise ConfigError(f"{path}: extends: {found}: no such file (paths are relative to the file that extends)")
    return found


def merge(inherited: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return `inherited` with `own` over it: mappings merge, lists and single values replace, null takes out."""
    merged = dict(inherited)
    for key, value in own.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        elif value is None and key in merged:
            del merged[key]
        else:
            merged[key] = value
    return merged
