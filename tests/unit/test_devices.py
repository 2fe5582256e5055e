"""Devices that are not here, and requirements that this one does not meet."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from ovquant import devices, environment, runtime
from ovquant.address import Address
from ovquant.errors import DeviceError
from ovquant.job import DataSpec
from ovquant.machine import Machine, describe, from_json
from ovquant.remote import Site
from ovquant.targets import Genes, Requirements, Target, load_target, shipped_names
from ovquant.tasks import BenchSpec


def target(device: str = "CPU", **requirements: tuple[str, ...]) -> Target:
    return Target(version=1, name="mine", device=device, requirements=Requirements(**requirements))


@pytest.fixture
def flags(monkeypatch: pytest.MonkeyPatch):
    def set_flags(*names: str) -> None:
        for module in (devices, environment):
            monkeypatch.setattr(module, "cpu_flags", lambda: frozenset(names))

    return set_flags


def test_a_device_that_is_here_is_used_without_notes():
    device = devices.resolve_device(target(), None)
    assert (device.name, device.notes) == ("CPU", ())
    assert device.full_name


@pytest.mark.parametrize("device", ["GPU", "GPU.1", "NPU", "cpu"])
def test_a_missing_device_is_an_error_that_lists_those_that_are_here(device: str):
    with pytest.raises(DeviceError, match=rf"target 'mine': device '{device}' is not on this machine.*devices here: .*CPU"):
        devices.resolve_device(target(device), None)


def test_another_device_is_a_dry_run():
    device = devices.resolve_device(target("GPU"), "CPU")
    assert device.name == "CPU"
    assert device.notes == ("DRY RUN: measured on CPU, not on the device of target 'mine' (GPU).",)


def test_the_targets_own_device_is_no_dry_run():
    assert devices.resolve_device(target("CPU"), "CPU").notes == ()


def test_a_missing_cpu_flag_is_an_error(flags):
    flags("avx2")
    with pytest.raises(DeviceError, match="CPU flag amx_int8 is missing"):
        devices.resolve_device(target(cpu_flags_any=("amx_int8",)), None)


def test_one_of_several_flags_is_enough(flags):
    flags("avx_vnni")
    assert devices.unmet_requirements(Requirements(cpu_flags_any=("avx512_vnni", "avx_vnni")), "CPU") == []


def test_a_flag_that_must_not_be_there_is_an_error(flags):
    flags("avx2", "avx512_vnni")
    with pytest.raises(DeviceError, match="avx512_vnni must not be there"):
        devices.resolve_device(load_target("cpu-avx2"), None)


def test_unmet_requirements_make_a_dry_run_of_an_explicit_device(flags):
    flags("avx2")
    assert "DRY RUN" in devices.resolve_device(load_target("cpu-amx"), "CPU").notes[0]


def test_cpu_flags_are_not_asked_of_other_devices(flags, monkeypatch: pytest.MonkeyPatch):
    flags()
    monkeypatch.setattr(runtime, "device_capabilities", lambda device: frozenset({"INT8", "FP16"}))
    requirements = Requirements(cpu_flags_any=("amx_int8",), capabilities=("INT8",))
    assert devices.unmet_requirements(requirements, "GPU") == []


def test_a_gpu_without_int8_is_not_what_igpu_requires(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runtime, "device_capabilities", lambda device: frozenset({"FP32", "FP16"}))
    assert devices.unmet_requirements(load_target("igpu").requirements, "GPU") == [
        "OpenVINO capability INT8 (offered: FP16, FP32)"
    ]


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_profile_requires_int8(name: str):
    assert "INT8" in load_target(name).requirements.capabilities


@pytest.mark.parametrize(
    ("names", "genes", "told"),
    [
        (("avx2",), {"overflow_fix": ["disable"]}, "8-bit sums saturate on this CPU .* does not hold enable"),
        (("avx2",), {}, "does not hold enable"),
        (("avx2",), {"overflow_fix": ["disable", "enable"]}, "enable is there against it"),
        (("avx512_vnni",), {"overflow_fix": ["disable", "enable"]}, "enable is dropped by a search here"),
        (("avx_vnni",), {"target_device": ["CPU", "CPU_SPR"]}, "CPU_SPR leaves sums .* this one has none"),
        (("avx_vnni",), {"inference_precision": ["f32", "f16"]}, "CPU does not compute in f16"),
    ],
)
def test_what_does_not_fit_the_cpu_is_told(flags, names: tuple[str, ...], genes: dict[str, list[str]], told: str):
    flags(*names)
    profile = Target.model_validate({"version": 1, "name": "mine", "device": "CPU", "genes": genes})
    assert any(re.search(told, remark) for remark in devices.remarks(profile, "CPU"))


def test_a_profile_that_fits_is_told_nothing(flags):
    flags("avx2", "avx512_vnni")
    fixed = Target(version=1, name="mine", device="CPU", genes=Genes(overflow_fix=("disable",), inference_precision=("f32",)))
    assert [remark for remark in devices.remarks(fixed, "CPU") if "bf16" not in remark] == []


def test_a_property_that_the_device_lacks_is_told_with_the_nearest():
    profile = Target(version=1, name="mine", device="CPU", compile_properties={"INFERENCE_NUM_THREAD": 2})
    assert any("no such property (did you mean 'INFERENCE_NUM_THREADS'?)" in one for one in devices.remarks(profile, "CPU"))


def test_bf16_by_default_is_told_unless_the_profile_says_what_it_wants(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runtime, "default_precision", lambda device: "bf16")
    assert any("runs in bf16 here by default" in remark for remark in devices.remarks(target(), "CPU"))
    pinned = Target(version=1, name="mine", device="CPU", compile_properties={"INFERENCE_PRECISION_HINT": "f32"})
    assert not any("by default" in remark for remark in devices.remarks(pinned, "CPU"))


# Another machine


def machine(**changes: object) -> Machine:
    return dataclasses.replace(describe("CPU"), **{"load": 0.0, **changes})


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch):
    def resolve(profile: Target, **changes: object) -> devices.Device:
        def found(address: Address, device: str, folder: Path, where: str) -> Site:
            return Site(address=address, device=device, search="0" * 16, machine=machine(**changes))

        monkeypatch.setattr(devices, "site_at", found)
        return devices.resolve_device(profile, None, Address(host="board", user="me"), Path("out"))

    return resolve


def test_a_machine_that_is_like_this_one_has_no_notes(there):
    device = there(target())
    assert (device.name, device.here, device.notes) == ("CPU", "CPU", ())
    assert device.where == f"CPU ({device.full_name}) of ssh://me@board"


def test_a_device_that_only_the_other_machine_has_is_measured_there_and_the_cpu_validates_here(there):
    device = there(target("GPU"), full_name="Graphics")
    assert (device.name, device.here, device.where) == ("GPU", "CPU", "GPU (Graphics) of ssh://me@board")
    assert device.notes == ("Accuracy and divergence are those of CPU on this machine, which has no GPU.",)
    spec = BenchSpec(
        model="m.onnx",
        target=target("GPU").model_copy(update={"compile_properties": {"GPU_QUEUE_THROTTLE": "LOW"}}),
        device=device.here,
        data=DataSpec(path="d.npz"),
        seed=0,
        metrics=(),
        output_kinds={},
        model_dir="models",
        site=device.site,
    )
    assert spec.properties == {"PERFORMANCE_HINT": "LATENCY"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"openvino": "2025.3.0"}, "OpenVINO 2025.3.0 measures latency, .* everything else: kernels may differ"),
        ({"may_saturate": True}, "8-bit sums saturate where latency is measured, and not on this machine"),
        ({"precisions": ("f16", "f32")}, "This machine does not compute in f16"),
        ({"load": 1.5}, "was busy at the start: a load of 1.5 for each of its CPUs"),
    ],
)
def test_what_differs_from_this_machine_is_told(there, flags, changes: dict[str, object], told: str):
    flags("avx512_vnni")
    assert any(re.match(f".*{told}", note) for note in there(target(), **{"may_saturate": False, **changes}).notes)


def test_requirements_are_those_of_the_other_machine(there):
    with pytest.raises(DeviceError, match="CPU flag amx_int8 is missing"):
        there(target(cpu_flags_any=("amx_int8",)), cpu_flags=("avx2",))
    assert there(target(cpu_flags_any=("amx_int8",)), cpu_flags=("amx_int8",)).notes == ()


def test_a_machine_travels_as_json():
    here = describe("CPU")
    assert from_json(json.loads(json.dumps(dataclasses.asdict(here)))) == here
