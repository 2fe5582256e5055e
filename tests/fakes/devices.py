"""A machine with devices that are not here: their properties are scripted, and what is compiled for them runs on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import openvino as ov
import pytest

from ovquant import inference, runtime

GPU: dict[str, Any] = {
    "FULL_DEVICE_NAME": "Intel(R) Arc(TM) Graphics (iGPU): made up",
    "OPTIMIZATION_CAPABILITIES": ["FP32", "FP16", "INT8", "GPU_HW_MATMUL", "EXPORT_IMPORT"],
    "INFERENCE_PRECISION_HINT": "f16",
    "DEVICE_ARCHITECTURE": "GPU: vendor=0x8086 arch=v12.71.4",
    "GPU_EXECUTION_UNITS_COUNT": 128,
    "SUPPORTED_PROPERTIES": {"PERFORMANCE_HINT": "RW", "INFERENCE_PRECISION_HINT": "RW", "FULL_DEVICE_NAME": "RO"},
}
OLD_GPU = {**GPU, "OPTIMIZATION_CAPABILITIES": ["FP32", "FP16"], "GPU_EXECUTION_UNITS_COUNT": 24}
NPU: dict[str, Any] = {
    "FULL_DEVICE_NAME": "Intel(R) AI Boost",
    "OPTIMIZATION_CAPABILITIES": ["FP16", "INT8", "EXPORT_IMPORT"],
    "INFERENCE_PRECISION_HINT": "f16",
    "DEVICE_ARCHITECTURE": "3720",
    "NPU_MAX_TILES": 2,
    "SUPPORTED_PROPERTIES": {"PERFORMANCE_HINT": "RW", "INFERENCE_PRECISION_HINT": "RW"},
}


class FakeCore:
    """OpenVINO's entry point on a machine with other devices beside the CPU.

    Args:
        devices: name -> property -> value.
        refused: device -> precision hints that its plugin does not compile.
    """

    def __init__(self, devices: Mapping[str, Mapping[str, Any]], refused: Mapping[str, str] | None = None) -> None:
        self._core = ov.Core()
        self._devices = devices
        self._refused = refused or {}

    @property
    def available_devices(self) -> list[str]:
        return ["CPU", *self._devices]

    def get_property(self, device: str, name: str) -> Any:
        if device not in self._devices:
            return self._core.get_property(device, name)
        if name not in self._devices[device]:
            raise RuntimeError(f"Cannot get unsupported property: {name}")
        return self._devices[device][name]

    def compile_model(self, model: ov.Model, device: str, config: Mapping[str, Any]) -> ov.CompiledModel:
        if device in self._devices and config.get("INFERENCE_PRECISION_HINT") == self._refused.get(device, ""):
            raise RuntimeError(f"{device} does not support this precision")
        taken = {key: value for key, value in config.items() if device == "CPU" or key != "INFERENCE_PRECISION_HINT"}
        return self._core.compile_model(model, "CPU", taken)


def plug_in(monkeypatch: pytest.MonkeyPatch, core: FakeCore) -> None:
    """Let ovquant see the devices of a fake core."""
    monkeypatch.setattr(runtime, "core", lambda: core)
    monkeypatch.setattr(inference, "core", lambda: core)
