"""The machine and the software that results were obtained with."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_ROOT = Path("/")
_BUSY_COLUMNS = (0, 1, 2, 5, 6)  # user, nice, system, irq, softirq of a "cpu" line of /proc/stat, see proc(5)
_STOLEN_COLUMN = 7
_OWN_COLUMNS = (11, 12)  # utime, stime of /proc/self/stat, counted from after the command's name
SUMS_IN_32_BITS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
_BUSY_SHARE = 0.05  # of all CPUs; less is what an idle system does by itself
_CLOCK_CHANGE = 1.1
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


def available_bytes(root: Path = _ROOT) -> int:
    """Return the memory that is free for a process: the system's, or what is left of its control group's limit."""
    import psutil

    free = int(psutil.virtual_memory().available)
    limit, used = (_read(root / "sys/fs/cgroup" / name).strip() for name in ("memory.max", "memory.current"))
    return min(free, max(0, int(limit) - int(used))) if limit.isdecimal() and used.isdecimal() else free


# What decides how fast 8 bits and half floats are -> the kernel's flag (Documentation/arch/x86/cpuinfo; cpufeatures.h).
CPU_FEATURES = {
    "AVX2": "avx2",
    "AVX-512": "avx512f",
    "AVX512-VNNI": "avx512_vnni",
    "AVX-VNNI": "avx_vnni",
    "AMX-INT8": "amx_int8",
    "AMX-BF16": "amx_bf16",
    "AMX-FP16": "amx_fp16",
    "AVX512-BF16": "avx512_bf16",
    "AVX512-FP16": "avx512_fp16",
}


def sums_in_32_bits(flags: frozenset[str]) -> frozenset[str]:
    """Return those of a CPU's flags that mean that 8-bit products are summed in 32 bits, which does not saturate."""
    return flags & SUMS_IN_32_BITS


def may_saturate(device: str) -> bool:
    """Return whether 8-bit sums on a device may saturate: on CPUs that add products in pairs to 16 bits, being without VNNI."""
    flags = cpu_flags()
    return device.startswith("CPU") and (flags is None or not sums_in_32_bits(flags))


def describe_host() -> dict[str, Any]:
    """Return what the host is, for manifests: no names, no addresses."""
    return {"system": platform.system(), "machine": platform.machine(), "n_cpus": os.cpu_count()}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MachineState:
    """What the kernel tells about the machine at one moment; None for what it does not tell.

    Attributes:
        cpu_seconds: CPU time that the machine could have spent since it started, all CPUs together.
        others_seconds: CPU time spent on anything but this process.
        stolen_seconds: CPU time that a hypervisor gave to other machines.
        megahertz: clock of the fastest CPU; those that rest run slower than those at work.
        n_throttled: how often a CPU was slowed down because it was too hot.
    """

    cpu_seconds: float | None = None
    others_seconds: float | None = None
    stolen_seconds: float | None = None
    megahertz: float | None = None
    n_throttled: int | None = None


def machine_state(root: Path = _ROOT) -> MachineState:
    """Return the state of the machine now.

    Args:
        root: where `proc` and `sys` are.
    """
    ticks = _cpu_ticks(root)
    own = _own_ticks(root)
    per_second = os.sysconf("SC_CLK_TCK")
    is_known = len(ticks) > _STOLEN_COLUMN
    busy = sum(ticks[column] for column in _BUSY_COLUMNS) if is_known else 0
    return MachineState(
        cpu_seconds=sum(ticks[: _STOLEN_COLUMN + 1]) / per_second if is_known else None,
        others_seconds=(busy - own) / per_second if is_known and own is not None else None,
        stolen_seconds=ticks[_STOLEN_COLUMN] / per_second if is_known else None,
        megahertz=_megahertz(root),
        n_throttled=_n_throttled(root),
    )


def _read(path: Path) -> str:
    """Return a file's text, empty where there is none to read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _cpu_ticks(root: Path) -> list[int]:
    """Return the columns of all CPUs' line in /proc/stat, empty where it is missing."""
    first = _read(root / "proc/stat").partition("\n")[0].split()
    return [int(field) for field in first[1:]] if first[:1] == ["cpu"] else []


def _own_ticks(root: Path) -> int | None:
    # The command's name is in parentheses and may itself hold spaces and parentheses.
    fields = _read(root / "proc/self/stat").rpartition(")")[2].split()
    return sum(int(fields[column]) for column in _OWN_COLUMNS) if len(fields) > max(_OWN_COLUMNS) else None


def _megahertz(root: Path) -> float | None:
    """Return the clock of the fastest CPU: what cpufreq tells, else /proc/cpuinfo."""
    kilohertz = _numbers(root, "cpufreq/scaling_cur_freq")
    if kilohertz:
        return max(kilohertz) / 1000
    lines = [line.partition(":") for line in _read(root / "proc/cpuinfo").splitlines() if line.startswith("cpu MHz")]
    return max((float(value) for _, _, value in lines), default=None)


def _n_throttled(root: Path) -> int | None:
    counts = _numbers(root, "thermal_throttle/core_throttle_count")
    return sum(counts) if counts else None


def _numbers(root: Path, name: str) -> list[int]:
    """Return what a file of each CPU's directory holds."""
    texts = [_read(path) for path in sorted((root / "sys/devices/system/cpu").glob(f"cpu[0-9]*/{name}"))]
    return [int(text) for text in texts if text.strip().isdigit()]


def disturbances(states: Sequence[MachineState]) -> str | None:
    """Return in words what disturbed the machine between the first and the last state; None if nothing can be read off.

    Args:
        states: in the order of time.
    """
    if not states:
        return None
    found = []
    spent = _grown(states, "cpu_seconds")
    for name, what in (("others_seconds", "other processes"), ("stolen_seconds", "other virtual machines")):
        share = _grown(states, name) / spent if spent > 0 else 0.0
        if share > _BUSY_SHARE:
            found.append(f"{what} took {100 * share:.0f} % of the CPU time")
    clocks = [state.megahertz for state in states if state.megahertz is not None]
    if clocks and max(clocks) > _CLOCK_CHANGE * min(clocks):
        found.append(f"the CPU clock went from {min(clocks):.0f} to {max(clocks):.0f} MHz")
    if (n_times := _grown(states, "n_throttled")) > 0:
        found.append(f"the CPU got too hot and was slowed down {n_times:.0f} times")
    return ", ".join(found) or None


def _grown(states: Sequence[MachineState], name: str) -> float:
    """Return by how much a count grew from the first to the last state, 0 where it is not known."""
    first, last = getattr(states[0], name), getattr(states[-1], name)
    return 0.0 if first is None or last is None else float(last - first)
