"""Searches post-training quantization strategies for OpenVINO models with a genetic algorithm, for one target device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import openvino as ov

__all__ = ["load"]


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
