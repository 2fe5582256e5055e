"""Profiles and metrics that other installed packages bring along as Python entry points."""

from __future__ import annotations

import importlib.resources
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from ovquant.errors import ConfigError, first_line

TARGETS = "ovquant.targets"
METRICS = "ovquant.metrics"


def names(group: str) -> list[str]:
    """Return the names in a group, sorted; nothing is imported."""
    return sorted({entry.name for entry in entry_points(group=group)})


def profile_path(name: str) -> Path:
    """Return the file of a profile: ``NAME.yaml`` in the Python package that its entry point names.

    Raises:
        ConfigError: two packages have the name, or the package or the file is missing.
    """
    entry = _entry(TARGETS, name)
    try:
        path = Path(str(importlib.resources.files(entry.module))) / f"{name}.yaml"
    except Exception as error:
        raise ConfigError(f"{_told(entry)}: cannot be imported: {first_line(error)}") from error
    if not path.is_file():
        raise ConfigError(f"{_told(entry)}: has no file {path.name} in {path.parent}; ask its maker, or remove the package")
    return path


def metric_function(name: str) -> Any:
    """Return the function of a metric: ``f(outputs, labels)``, as in a Python entry of a job.

    Raises:
        ConfigError: two packages have the name, or the function cannot be imported or called.
    """
    entry = _entry(METRICS, name)
    try:
        function = entry.load()
    except Exception as error:
        raise ConfigError(f"{_told(entry)}: cannot be imported: {first_line(error)}") from error
    if not callable(function):
        raise ConfigError(f"{_told(entry)}: is no function; expected f(outputs, labels)")
    return function


def _entry(group: str, name: str) -> EntryPoint:
    found = list({entry.value: entry for entry in entry_points(group=group, name=name)}.values())
    if not found:
        raise ConfigError(f"{group}: no installed package has an entry point {name!r}")
    if len(found) > 1:
        raise ConfigError(f"{name!r} comes with more than one package; remove all but one: {', '.join(map(_told, found))}")
    return found[0]


def _told(entry: EntryPoint) -> str:
    package = "" if entry.dist is None else f" of package {entry.dist.name}"
    return f"entry point {entry.name} = {entry.value} ({entry.group}){package}"
