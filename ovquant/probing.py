"""The use case behind `ovquant targets probe`: what a device offers, timed, and made into a profile that says why."""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml

from ovquant import runtime
from ovquant.configfile import validate
from ovquant.console import Console
from ovquant.devices import remarks
from ovquant.environment import CPU_FEATURES, cpu_flags, sums_in_32_bits, versions
from ovquant.errors import DeviceError, OutputError
from ovquant.kernels import INT8, KernelTime, time_kernels
from ovquant.strategy import InferencePrecision
from ovquant.targets import Target, load_target
from ovquant.turns import SystemClock

_BASES = {"CPU": "cpu", "GPU": "igpu", "NPU": "npu"}
# Told where the device has them. GPU_HW_MATMUL among a GPU's capabilities is XMX; INT8 among them is DP4A or XMX
# (OpenVINO: GPU device, "Supported properties"; ov::intel_gpu::capability::HW_MATMUL).
_FACTS = {
    "architecture": "DEVICE_ARCHITECTURE",
    "execution units": "GPU_EXECUTION_UNITS_COUNT",
    "driver": "NPU_DRIVER_VERSION",
    "tiles": "NPU_MAX_TILES",
}
_XMX = "GPU_HW_MATMUL"
_CHOICES: dict[str, tuple[str, dict[str, list[str]]]] = {
    "convolution": ("convolutions", {"types": ["Convolution"]}),
    "depthwise": ("depthwise", {"roles": ["depthwise"]}),
    "matmul": ("matmuls", {"types": ["MatMul"]}),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What was found of a device.

    Attributes:
        device: OpenVINO device.
        full_name: what it calls itself.
        facts: what else it tells, in words.
        capabilities: OpenVINO's OPTIMIZATION_CAPABILITIES.
        flags: of the CPU; None for other devices, and where the system does not tell.
        own_precision: float precision that it computes in by default.
        precisions: float precisions that it computes in.
        times: of reference kernels.
        faults: what could not be timed.
    """

    device: str
    full_name: str
    facts: Mapping[str, str]
    capabilities: frozenset[str]
    flags: frozenset[str] | None
    own_precision: InferencePrecision
    precisions: tuple[InferencePrecision, ...]
    times: tuple[KernelTime, ...]
    faults: tuple[str, ...]

    @property
    def is_saturating(self) -> bool:
        """Whether 8-bit sums may saturate: on CPUs that are not known to have VNNI."""
        return self.device.startswith("CPU") and not sums_in_32_bits(self.flags or frozenset())

    def best_float(self, kind: str) -> KernelTime | None:
        """Return the fastest float precision of a kind of kernel."""
        return max(self._of(kind, is_int8=False), key=lambda one: one.speedup.value, default=None)

    def int8(self, kind: str) -> KernelTime | None:
        """Return the INT8 time of a kind of kernel."""
        return next(iter(self._of(kind, is_int8=True)), None)

    def is_gaining(self, kind: str) -> bool:
        """Return whether INT8 is faster than the fastest float beyond doubt, or was not timed."""
        best, int8 = self.best_float(kind), self.int8(kind)
        return best is None or int8 is None or int8.speedup.low > best.speedup.value

    def _of(self, kind: str, *, is_int8: bool) -> list[KernelTime]:
        return [one for one in self.times if one.kind == kind and (one.precision == INT8) == is_int8]


def probe_device(device: str) -> Probe:
    """Read what a device tells of itself, and time reference kernels on it.

    Raises:
        DeviceError: it is not here, or none of the kernels runs on it.
    """
    runtime.require_device(device, "--device")
    if device.partition(".")[0] not in _BASES:
        raise DeviceError(f"--device {device}: profiles are for one device; name one of {', '.join(runtime.available_devices())}")
    own = runtime.default_precision(device)
    offered = runtime.device_precisions(device) | {own}
    precisions = tuple(name for name in get_args(InferencePrecision) if name in offered)
    times, faults = time_kernels(device, precisions, {"PERFORMANCE_HINT": "LATENCY"}, SystemClock())
    if not times:
        raise DeviceError(f"{device}: none of the reference kernels runs on it: {'; '.join(faults)}")
    told = {word: runtime.device_property(device, name) for word, name in _FACTS.items()}
    return Probe(
        device=device,
        full_name=runtime.device_name(device),
        facts={word: " ".join(str(value).split()) for word, value in told.items() if value not in (None, "")},
        capabilities=runtime.device_capabilities(device),
        flags=cpu_flags() if device.startswith("CPU") else None,
        own_precision=own,
        precisions=precisions,
        times=tuple(times),
        faults=tuple(faults),
    )


def profile(probe: Probe, name: str) -> str:
    """Return a profile for a device as YAML, with what each choice rests on in comments."""
    base = load_target(_BASES[probe.device.partition(".")[0]]).model_dump(mode="json", exclude_none=True)
    genes = base["genes"]
    content = {
        **base,
        "name": name,
        "description": f"{probe.full_name}, probed",
        "device": probe.device,
        "nncf_target_device": _nncf_device(probe),
        "requirements": _requirements(probe),
    }
    comments = {
        "version": _heading(probe),
        "nncf_target_device": ["CPU_SPR leaves sums and products in float"] if _nncf_device(probe) == "CPU_SPR" else [],
        "requirements": ["without them, this is another device"],
        "genes": _timings(probe),
    }
    if probe.is_saturating:
        genes["overflow_fix"] = ["first_layer_only", "enable", "disable"]
        comments["overflow_fix"] = ["no VNNI: 8-bit products are summed in pairs to 16 bits, which saturates"]
    else:
        genes["overflow_fix"] = ["first_layer_only"]
        comments["overflow_fix"] = [
            f"nothing overflows here: {_wide_sums(probe)}. NNCF's default alone: no choice, no time spent"
        ]
    ordered = _precisions_by_speed(probe)
    genes["inference_precision"] = ordered
    content["compile_properties"].pop("INFERENCE_PRECISION_HINT", None)  # the gene says it
    comments["inference_precision"] = [f"the fastest first; the device's own default is {probe.own_precision}"]
    genes["ignored_scope"], comments["ignored_scope"] = _choices(probe, genes["ignored_scope"])
    return _commented(content, comments)


def _nncf_device(probe: Probe) -> str:
    family = probe.device.partition(".")[0]
    return "CPU_SPR" if family == "CPU" and "amx_int8" in (probe.flags or ()) else family


def _requirements(probe: Probe) -> dict[str, list[str]]:
    content: dict[str, list[str]] = {"capabilities": [name for name in ("INT8", "BF16", "FP16") if name in probe.capabilities]}
    if probe.flags is None:
        return content
    wide = sums_in_32_bits(probe.flags)
    if not wide:
        return {"cpu_flags_none": sorted(sums_in_32_bits(frozenset(CPU_FEATURES.values()))), **content}
    return {"cpu_flags_any": ["amx_int8"] if "amx_int8" in wide else sorted(wide), **content}


def _wide_sums(probe: Probe) -> str:
    wide = sorted(sums_in_32_bits(probe.flags or frozenset()))
    return f"the CPU has {', '.join(wide)}" if wide else "only CPUs saturate"


def _precisions_by_speed(probe: Probe) -> list[InferencePrecision]:
    """Return the float precisions that were timed, by their speed over all kinds of kernels; those within 3 % as they are."""

    def slowness(precision: str) -> float:
        product = 1.0
        for one in probe.times:
            product /= one.speedup.value if one.precision == precision else 1.0
        return product

    timed = [name for name in probe.precisions if any(one.precision == name for one in probe.times)]
    return sorted(timed or [probe.own_precision], key=lambda name: (round(slowness(name) / 0.03), name != probe.own_precision))


def _choices(probe: Probe, shipped: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return what may stay in float, with the kinds that gain nothing by INT8 first, and why."""
    slow = [kind for kind in _CHOICES if not probe.is_gaining(kind)]
    first = {name: scope for kind, (name, scope) in _CHOICES.items() if kind in slow}
    scopes = {name: {key: value for key, value in scope.items() if value} for name, scope in shipped.items()}
    rest = {name: scope for name, scope in scopes.items() if name not in first and name != "none"}
    words = [f"INT8 gains nothing there beyond doubt, so these come first: {', '.join(first)}"] if first else []
    return {"none": {}, **first, **rest}, words


def _heading(probe: Probe) -> list[str]:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    lines = [
        f"Probed {today} with OpenVINO {versions().get('openvino', '?')}: {probe.device}, {probe.full_name}.",
        f"It tells: {', '.join(sorted(probe.capabilities))}.",
        *(f"{word}: {value}" for word, value in probe.facts.items()),
    ]
    if probe.flags is not None:
        has = [word for word, flag in CPU_FEATURES.items() if flag in probe.flags]
        lacks = [word for word, flag in CPU_FEATURES.items() if flag not in probe.flags]
        lines.append(f"CPU has {', '.join(has) or 'none of those looked for'}; has not {', '.join(lacks) or 'none'}.")
    if probe.device.startswith("GPU"):
        lines.append(f"XMX: {'yes' if _XMX in probe.capabilities else 'no'}; DP4A or XMX: {_yes('INT8' in probe.capabilities)}.")
    if not any(probe.is_gaining(kind) and probe.int8(kind) for kind in _CHOICES):
        lines.append("INT8 is not faster than float for any of the kernels that were timed.")
    return lines


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


def _timings(probe: Probe) -> list[str]:
    base = probe.times[0].precision
    lines = [f"Three layers in a row, median ms, and speed over {base} [95 %]:"]
    for one in probe.times:
        told = "" if one.share is None else f"; {one.share:.0%} of the time in 8-bit kernels"
        lines.append(
            f"  {one.kind:11s} {one.precision:5s} {one.median_ms:8.3f} ms  {one.speedup.value:.2f}x "
            f"[{one.speedup.low:.2f}, {one.speedup.high:.2f}]{told}"
        )
    return [*lines, *(f"  not timed: {' '.join(fault.split())}" for fault in probe.faults)]


def _commented(content: Mapping[str, Any], comments: Mapping[str, Sequence[str]]) -> str:
    """Return content as YAML with comments above its keys and those of its genes."""

    def block(key: str, value: Any, indent: str) -> list[str]:
        flow = None if isinstance(value, dict | list) else False
        text = yaml.safe_dump({key: value}, sort_keys=False, width=110, default_flow_style=flow, allow_unicode=True)
        return [*(f"{indent}# {line}" for line in comments.get(key, ())), *(indent + line for line in text.splitlines())]

    lines: list[str] = []
    for key, value in content.items():
        if key != "genes":
            lines.extend(block(key, value, ""))
            continue
        lines.extend(f"# {line}" for line in comments.get(key, ()))
        lines.append("genes:")
        for gene, values in value.items():
            lines.extend(block(gene, values, "  "))
    return "\n".join(lines) + "\n"


def probe_target(path: Path | None, device: str, console: Console) -> dict[str, Any]:
    """Probe a device and write a profile for it to a new file, or show it.

    Raises:
        OutputError: the file is there already, or cannot be written.
        DeviceError: the device is not here, or nothing runs on it.
    """
    if path is not None:
        if path.suffix not in {".yaml", ".yml"}:
            raise OutputError(f"{path}: a profile is a YAML file; give a name that ends in .yaml")
        if path.exists():
            raise OutputError(f"{path}: is there already; nothing was overwritten. Give another name")
        if not path.absolute().parent.is_dir():
            raise OutputError(f"{path}: there is no directory {path.absolute().parent}; make it first")
    console.info(f"Probing {device}; nothing else should run meanwhile ...")
    probe = probe_device(device)
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", "" if path is None else path.stem).lstrip("_.-")[:64]
    text = profile(probe, stem or "probed")
    target = validate(Target, yaml.safe_load(text), "the profile made")
    if path is None:
        console.result(text.rstrip())
    else:
        try:
            with path.open("x", encoding="utf-8") as stream:
                stream.write(text)
        except FileExistsError:
            raise OutputError(f"{path}: is there already; nothing was overwritten. Give another name") from None
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
        for line in (*_heading(probe), *_timings(probe)):
            console.result(line)
        console.result(f"Wrote {path}")
    for remark in remarks(target, device):
        console.warn(remark)
    return {
        "target": target.model_dump(mode="json"),
        "device": {"name": probe.device, "full_name": probe.full_name, **probe.facts},
        "capabilities": sorted(probe.capabilities),
        "cpu_features": None if probe.flags is None else {word: flag in probe.flags for word, flag in CPU_FEATURES.items()},
        "default_precision": probe.own_precision,
        "kernels": [dataclasses.asdict(one) for one in probe.times],
        "not_timed": list(probe.faults),
        "output": None if path is None else str(path),
    }
