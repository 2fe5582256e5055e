"""Probing: what a profile is made of, on the CPU that is here and on made-up devices."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes.devices import GPU, NPU, OLD_GPU, FakeCore, plug_in

from ovquant import devices, kernels, probing
from ovquant.console import Console
from ovquant.environment import CPU_FEATURES, cpu_flags
from ovquant.errors import DeviceError, OutputError
from ovquant.kernels import KernelTime
from ovquant.probing import Probe, probe_device, probe_target, profile
from ovquant.records import Interval
from ovquant.targets import MeasurementPlan, Target, load_target


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "PLAN", MeasurementPlan(visits=6, burst=4, discard=1, seconds=0.05))


def timed(kind: str, precision: str, speedup: float, width: float = 0.02) -> KernelTime:
    interval = Interval(value=speedup, low=speedup * (1 - width), high=speedup * (1 + width))
    return KernelTime(kind=kind, precision=precision, median_ms=1 / speedup, speedup=interval)


def probe(*times: KernelTime, **changed: Any) -> Probe:
    made = Probe(
        device="CPU",
        full_name="Some CPU: #1",
        facts={},
        capabilities=frozenset({"FP32", "INT8"}),
        flags=frozenset({"avx2"}),
        own_precision="f32",
        precisions=("f32",),
        times=times or (timed("convolution", "f32", 1.0), timed("convolution", "int8", 2.0)),
        faults=(),
    )
    return dataclasses.replace(made, **changed)


def target_of(one: Probe) -> Target:
    return Target.model_validate(yaml.safe_load(profile(one, "mine")))


def test_the_cpu_that_is_here_is_what_the_operating_system_says() -> None:
    found = probe_device("CPU")
    assert found.flags == cpu_flags()
    told = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout.split()
    for flag in CPU_FEATURES.values():
        assert (flag in (found.flags or ())) == (flag in told)
    assert {one.kind for one in found.times} == set(kernels.KINDS)
    assert "INT8" in found.capabilities


def test_the_profile_of_this_cpu_is_met_by_this_cpu() -> None:
    target = target_of(probe_device("CPU"))
    assert devices.unmet_requirements(target.requirements, "CPU") == []
    assert not any("no such property" in remark or "dropped" in remark for remark in devices.remarks(target, "CPU"))


def test_without_vnni_overflow_is_searched_and_vnni_must_not_be_there() -> None:
    target = target_of(probe())
    assert target.genes.overflow_fix == ("first_layer_only", "enable", "disable")
    assert set(target.requirements.cpu_flags_none) == {"avx512_vnni", "avx_vnni", "amx_int8"}
    assert target.genes.inference_precision == ("f32",)


def test_with_amx_sums_do_not_saturate_and_bf16_comes_first_where_it_is_fast() -> None:
    times = [timed("convolution", "f32", 1.0), timed("convolution", "bf16", 3.0), timed("convolution", "int8", 3.1)]
    amx = probe(
        *times,
        capabilities=frozenset({"FP32", "BF16", "INT8"}),
        flags=frozenset({"avx2", "avx512_vnni", "amx_int8", "amx_bf16"}),
        own_precision="bf16",
        precisions=("f32", "bf16"),
    )
    target = target_of(amx)
    assert target.nncf_target_device == "CPU_SPR"
    assert target.genes.overflow_fix == ("first_layer_only",)
    assert target.requirements.cpu_flags_any == ("amx_int8",)
    assert target.requirements.capabilities == ("INT8", "BF16")
    assert target.genes.inference_precision == ("bf16", "f32")


@pytest.mark.parametrize(("speedup", "width", "is_first"), [(0.9, 0.02, True), (1.02, 0.05, True), (1.5, 0.05, False)])
def test_kernels_that_gain_nothing_by_int8_may_stay_in_float_first(speedup: float, width: float, is_first: bool) -> None:
    times = [timed("convolution", "f32", 1), timed("convolution", "int8", 2)]
    times += [timed("depthwise", "f32", 1), timed("depthwise", "int8", speedup, width)]
    scopes = target_of(probe(*times)).genes.ignored_scope
    assert scopes is not None
    assert (list(scopes)[:2] == ["none", "depthwise"]) == is_first
    shipped = load_target("cpu").genes.ignored_scope or {}
    assert set(scopes) == set(shipped)
    assert all(scopes[name] == shipped[name] for name in shipped)


def test_the_comments_hold_the_evidence() -> None:
    text = profile(
        probe(timed("matmul", "f32", 1.0), timed("matmul", "int8", 0.5), faults=("depthwise in f32: no\nway",)), "mine"
    )
    comments = [line.strip() for line in text.splitlines() if line.strip().startswith("#")]
    assert any("matmul      int8     2.000 ms  0.50x [0.49, 0.51]" in line for line in comments)
    assert any("not timed: depthwise in f32: no way" in line for line in comments)
    assert any("INT8 is not faster than float for any of the kernels" in line for line in comments)
    assert any("INT8 gains nothing there beyond doubt, so these come first: matmuls" in line for line in comments)


def test_a_gpu_is_probed_by_its_own_properties(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, FakeCore({"GPU": GPU}))
    found = probe_device("GPU")
    text = profile(found, "mine")
    assert "# execution units: 128" in text
    assert "# XMX: yes; DP4A or XMX: yes." in text
    target = Target.model_validate(yaml.safe_load(text))
    assert (target.device, target.nncf_target_device) == ("GPU", "GPU")
    assert set(target.genes.inference_precision or ()) == {"f32", "f16"}
    assert "INFERENCE_PRECISION_HINT" not in target.compile_properties
    assert target.requirements.capabilities == ("INT8", "FP16")
    assert target.requirements.cpu_flags_none == ()
    assert "enable" not in (target.genes.overflow_fix or ())


def test_what_a_device_refuses_to_run_is_told_and_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, FakeCore({"NPU": NPU}, refused={"NPU": "f32"}))
    found = probe_device("NPU")
    assert found.times[0].precision == "f16"
    target = target_of(found)
    assert target.genes.inference_precision == ("f16",)
    assert any("convolution in f32: cannot be compiled for NPU" in fault for fault in found.faults)
    assert "# tiles: 2" in profile(found, "mine")


def test_a_device_that_is_not_here_or_is_several_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match="device 'GPU' is not on this machine"):
        probe_device("GPU")
    plug_in(monkeypatch, FakeCore({"AUTO": GPU}))
    with pytest.raises(DeviceError, match="profiles are for one device"):
        probe_device("AUTO")


def test_nothing_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "probe_device", lambda device: pytest.fail("probed for nothing"))
    path = tmp_path / "mine.yaml"
    path.write_text("mine")
    for there, told in ((path, "is there already"), (tmp_path / "no" / "x.yaml", "no directory"), (tmp_path / "x", "YAML")):
        with pytest.raises(OutputError, match=told):
            probe_target(there, "CPU", Console(is_quiet=True))
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("file", "name"), [("my box.yaml", "my-box"), ("_odd$.yaml", "odd-"), ("é.yaml", "-"), ("a" * 90 + ".yaml", "a" * 64)]
)
def test_the_profile_is_called_like_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, name: str) -> None:
    monkeypatch.setattr(probing, "probe_device", lambda device: probe())
    result = probe_target(tmp_path / file, "CPU", Console(is_quiet=True))
    assert load_target(str(tmp_path / file)).name == result["target"]["name"] == (name if name != "-" else "probed")


def test_an_old_gpu_is_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, FakeCore({"GPU": OLD_GPU}))
    remarks = devices.remarks(load_target("igpu"), "GPU")
    assert remarks == ["GPU has neither DP4A nor XMX: INT8 will be slower than float, and is worth its smaller size at most"]
