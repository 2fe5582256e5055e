"""Is the device that a target asks for here, and is it what the target requires?"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ovquant import runtime
from ovquant.address import Address
from ovquant.console import Console
from ovquant.environment import cpu_flags, may_saturate
from ovquant.errors import DeviceError, did_you_mean
from ovquant.machine import Machine, openvino_version
from ovquant.remote import Site, site_at
from ovquant.strategy import DEFAULT_OVERFLOW_FIX
from ovquant.targets import Requirements, Target, find_target, load_target

_BUSY_LOAD = 0.3  # processes that run or wait to, for each CPU


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The device that is really used.

    Attributes:
        name: OpenVINO device.
        full_name: what the device calls itself.
        notes: what must be said beside every result, e.g. that this is a dry run on another device.
        site: the machine that it is in; None is this one.
    """

    name: str
    full_name: str
    notes: tuple[str, ...] = ()
    site: Site | None = None

    @property
    def where(self) -> str:
        """Where latency is measured, in words."""
        return f"{self.name} ({self.full_name})" + ("" if self.site is None else f" of {self.site.address}")

    @property
    def here(self) -> str:
        """The device of this machine that models are validated on: of the same name, if there is one."""
        return self.name if runtime.has_device(self.name) else "CPU"


def resolve_device(target: Target, override: str | None, address: Address | None = None, folder: Path = Path()) -> Device:
    """Return the device for a target, checked.

    Args:
        target: profile.
        override: device to use instead, for a dry run; its requirements are not enforced then.
        address: of the machine that it is in; None is this one.
        folder: of the search, which names its files on another machine.

    Raises:
        DeviceError: the device is not there, or does not meet the target's requirements; the machine cannot be measured on.
    """
    name = override or target.device
    where = f"target {target.name!r}" if override is None else "--device"
    site: Site | None = None
    if address is None:
        runtime.require_device(name, where)
        full_name = runtime.device_name(name)
    else:
        site = site_at(address, name, folder, where)
        full_name = site.machine.full_name
    unmet = unmet_requirements(target.requirements, name, None if site is None else site.machine)
    is_dry = override is not None and (override != target.device or bool(unmet))
    if unmet and not is_dry:
        raise DeviceError(
            f"target {target.name!r}: {full_name} does not meet its requirements: {'; '.join(unmet)}. "
            f"Choose another target, or make a dry run with --device {name}"
        )
    notes = [] if site is None else _notes_on(site)
    if is_dry:
        notes.append(f"DRY RUN: measured on {name}, not on the device of target {target.name!r} ({target.device}).")
    return Device(name=name, full_name=full_name, notes=tuple(notes), site=site)


def _notes_on(site: Site) -> list[str]:
    """Return in words what makes a difference between the machine that latency is measured on and this one."""
    there, notes = site.machine, []
    here = site.device if runtime.has_device(site.device) else "CPU"
    if here != site.device:
        notes.append(f"Accuracy and divergence are those of {here} on this machine, which has no {site.device}.")
    if (version := openvino_version()) != there.openvino:
        notes.append(f"OpenVINO {there.openvino} measures latency, {version} everything else: kernels may differ.")
    if there.may_saturate and not may_saturate(here):
        notes.append("8-bit sums saturate where latency is measured, and not on this machine: accuracy there may be lower.")
    lacking = sorted(set(there.precisions) - runtime.device_precisions(here))
    if lacking:
        names = ", ".join(lacking)
        notes.append(f"This machine does not compute in {names}: what runs so by default there is validated otherwise here.")
    if there.load is not None and there.load > _BUSY_LOAD:
        notes.append(f"The machine that measures was busy at the start: a load of {there.load:g} for each of its CPUs.")
    return notes


def unmet_requirements(requirements: Requirements, device: str, machine: Machine | None = None) -> list[str]:
    """Return in words what a device lacks, of another machine or of this one."""
    unmet = []
    offered = runtime.device_capabilities(device) if machine is None else machine.capabilities
    missing = [name for name in requirements.capabilities if name not in offered]
    if missing:
        unmet.append(f"OpenVINO capability {', '.join(missing)} (offered: {', '.join(sorted(offered))})")
    flags = cpu_flags() if machine is None else None if machine.cpu_flags is None else frozenset(machine.cpu_flags)
    if flags is None or not device.startswith("CPU"):
        return unmet
    if requirements.cpu_flags_any and not flags & set(requirements.cpu_flags_any):
        unmet.append(f"CPU flag {' or '.join(requirements.cpu_flags_any)} is missing")
    present = sorted(flags & set(requirements.cpu_flags_none))
    if present:
        unmet.append(f"CPU flag {', '.join(present)} must not be there (results would not hold on the target)")
    return unmet


def remarks(target: Target, device: str) -> list[str]:
    """Return in words what of a profile does not fit the device, or is as it may not be expected there."""
    offered, flags = runtime.device_capabilities(device), cpu_flags()
    found = []
    if "INT8" not in offered:
        lacks = "has neither DP4A nor XMX" if device.startswith("GPU") else "does not list INT8"
        found.append(f"{device} {lacks}: INT8 will be slower than float, and is worth its smaller size at most")
    own = runtime.default_precision(device)
    if own == "bf16" and "INFERENCE_PRECISION_HINT" not in target.compile_properties:
        found.append("the float model runs in bf16 here by default: speed-ups are over bf16, drops are from f32")
    found.extend(_overflow_remarks(target, device))
    computes_in = runtime.device_precisions(device) | {own}
    lacking = sorted(set(target.genes.inference_precision or ()) - computes_in)
    if lacking:
        found.append(
            f"genes.inference_precision: {device} does not compute in {', '.join(lacking)} (it does in "
            f"{', '.join(sorted(computes_in))}); dropped by a search here"
        )
    devices = {target.nncf_target_device, *(target.genes.target_device or ())}
    if "CPU_SPR" in devices and flags is not None and "amx_int8" not in flags:
        found.append("CPU_SPR leaves sums and products in float, which pays on CPUs with AMX; this one has none")
    options = runtime.device_options(device)
    for name in target.compile_properties if options else ():
        if name not in options:
            found.append(f"compile_properties.{name}: {device} has no such property{did_you_mean(name, options)}")
    return found


def _overflow_remarks(target: Target, device: str) -> list[str]:
    fixes = target.genes.overflow_fix or (DEFAULT_OVERFLOW_FIX,)
    if may_saturate(device):
        if "enable" not in fixes:
            return ["8-bit sums saturate on this CPU (it has no VNNI), and genes.overflow_fix does not hold enable"]
        return ["8-bit sums saturate on this CPU (it has no VNNI): genes.overflow_fix enable is there against it"]
    if device.startswith("CPU") and "enable" in fixes and fixes != ("enable",):
        return ["genes.overflow_fix: enable is dropped by a search here, as 8-bit sums do not saturate on this CPU"]
    return []


def check_target(name: str, console: Console) -> dict[str, Any]:
    """Check a profile's file, compare it with this machine, and say what was found.

    Raises:
        ConfigError: faults in the file.
    """
    target = load_target(name)
    console.result(f"{find_target(name)}: valid (target {target.name!r}, device {target.device})")
    told: list[str] = []
    if runtime.has_device(target.device):
        unmet = unmet_requirements(target.requirements, target.device)
        told = remarks(target, target.device)
    else:
        unmet = [f"device {target.device} is not here (devices: {', '.join(runtime.available_devices())})"]
    for problem in unmet:
        console.warn(f"this machine cannot measure for it: {problem}")
    if not unmet:
        console.result("this machine meets its requirements")
    for remark in told:
        console.warn(remark)
    return {"target": target.name, "is_valid": True, "unmet": unmet, "remarks": told}
