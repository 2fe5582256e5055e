"""What a machine and one of its devices are. Sent to other machines as it is: needs openvino and numpy and nothing else."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Mapping
from typing import Any

from ovquant import runtime
from ovquant.environment import cpu_flags, describe_host, may_saturate, versions


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A machine and one of its devices.

    Attributes:
        full_name: what the device calls itself.
        capabilities: OpenVINO's OPTIMIZATION_CAPABILITIES of the device.
        precisions: floats that it computes in.
        cpu_flags: of the CPU, as the kernel names them; None where it does not tell.
        may_saturate: 8-bit sums on the device may.
        host: system, architecture, number of CPUs.
        openvino, python: versions.
        load: processes that ran or waited to, over the last minute, for each CPU; None where it is not known.
    """

    full_name: str
    capabilities: tuple[str, ...]
    precisions: tuple[str, ...]
    cpu_flags: tuple[str, ...] | None
    may_saturate: bool
    host: Mapping[str, Any]
    openvino: str
    python: str
    load: float | None

    def __str__(self) -> str:
        """Return it in words."""
        host = f"{self.host['system']} {self.host['machine']}, {self.host['n_cpus']} CPUs"
        return f"{self.full_name}, {host}, OpenVINO {self.openvino}"


def describe(device: str) -> Machine:
    """Return what this machine is, and a device that it has."""
    flags = cpu_flags()
    return Machine(
        full_name=runtime.device_name(device),
        capabilities=tuple(sorted(runtime.device_capabilities(device))),
        precisions=tuple(sorted(runtime.device_precisions(device))),
        cpu_flags=None if flags is None else tuple(sorted(flags)),
        may_saturate=may_saturate(device),
        host=describe_host(),
        openvino=openvino_version(),
        python=platform.python_version(),
        load=_load(),
    )


def openvino_version() -> str:
    """Return OpenVINO's version here; where it was not installed as a Python package, as it tells by itself."""
    return versions().get("openvino") or str(runtime.openvino().__version__).partition("-")[0]


def _load() -> float | None:
    try:
        return round(os.getloadavg()[0] / (os.cpu_count() or 1), 2)
    except OSError:
        return None


def from_json(content: Mapping[str, Any]) -> Machine:
    """Return the machine that `dataclasses.asdict` wrote, by way of JSON."""
    found: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    return Machine(**found)
