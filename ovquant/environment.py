"""The machine and the software that results were obtained with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

_PACKAGES = ("ovquant", "openvino", "nncf", "optuna", "numpy", "scikit-learn")


def silence_telemetry() -> None:
    """Keep OpenVINO and NNCF from sending usage data: both fall back to stubs where `openvino_telemetry` is missing.

    Must be called before either is imported.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def versions() -> dict[str, str]:
    """Return package -> version, Python included."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def cpu_flags() -> frozenset[str] | None:
    """Return the CPU's feature flags as the kernel names them; None where there is no /proc/cpuinfo."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return None


def describe_host() -> dict[str, Any]:
    """Return what the host is, for manifests: no names, no addresses."""
    return {"system": platform.system(), "machine": platform.machine(), "n_cpus": os.cpu_count()}
