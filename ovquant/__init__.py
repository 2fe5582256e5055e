"""Searches post-training quantization strategies for OpenVINO models with a genetic algorithm, for one target device."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import openvino as ov

    from ovquant.api import EvaluationResult, QuantizedModel, SearchResult, evaluate, quantize, resume, search
    from ovquant.targets import load_target

# Imported when they are first asked for, so that the command line starts at once.
_PLACES = {
    "EvaluationResult": "ovquant.api",
    "QuantizedModel": "ovquant.api",
    "SearchResult": "ovquant.api",
    "evaluate": "ovquant.api",
    "load_target": "ovquant.targets",
    "quantize": "ovquant.api",
    "resume": "ovquant.api",
    "search": "ovquant.api",
}
__all__ = [
    "EvaluationResult",
    "QuantizedModel",
    "SearchResult",
    "evaluate",
    "load",
    "load_target",
    "quantize",
    "resume",
    "search",
]


def load(path: str | Path, device: str | None = None, properties: Mapping[str, Any] | None = None) -> ov.CompiledModel:
    """Return the model of a package that ovquant wrote, compiled as it was measured; see `ovquant.loading.load`.

    Needs OpenVINO and numpy only.

    Args:
        path: directory or zip file, in any layout of ``ovquant export``.
        device: OpenVINO device; None takes the one that it was made for.
        properties: go over the compile properties that it was measured with.
    """
    from ovquant.loading import load as load_package

    return load_package(path, device, properties)


def __getattr__(name: str) -> Any:
    """Return a public function or class."""
    if name not in _PLACES:
        raise AttributeError(f"module 'ovquant' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
