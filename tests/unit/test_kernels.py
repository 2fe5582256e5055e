"""Reference kernels: quantized ones compute what the float ones do, run in 8 bits, and are timed side by side."""

from __future__ import annotations

import numpy as np
import pytest

from ovquant import kernels, runtime
from ovquant.inference import CompiledModel
from ovquant.targets import MeasurementPlan
from ovquant.turns import SystemClock

PROPERTIES = {"PERFORMANCE_HINT": "LATENCY"}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "PLAN", MeasurementPlan(visits=6, burst=4, discard=1, seconds=0.05))


@pytest.mark.parametrize("kind", kernels.KINDS)
def test_the_quantized_kernel_is_close_to_the_float_one(kind: str) -> None:
    outputs = []
    for is_quantized in (False, True):
        model = kernels.reference_model(kind, is_quantized=is_quantized)
        model.inputs[0].set_names({"x"})
        sample = {"x": np.abs(np.random.default_rng(3).normal(size=kernels.KINDS[kind].shape)).astype(np.float32)}
        (output,) = CompiledModel(model, "CPU", PROPERTIES, "f32").infer(sample).values()
        outputs.append(output)
    error = np.linalg.norm(outputs[1] - outputs[0]) / np.linalg.norm(outputs[0])
    assert 0 < error < 0.2
    assert runtime.count_fake_quantize(model) == 6


def test_every_kind_is_timed_in_float_and_int8() -> None:
    times, faults = kernels.time_kernels("CPU", ("f32",), PROPERTIES, SystemClock())
    assert faults == []
    assert [(one.kind, one.precision) for one in times] == [(kind, p) for kind in kernels.KINDS for p in ("f32", "int8")]
    for one in times:
        assert one.median_ms > 0
        assert one.speedup.low <= one.speedup.value <= one.speedup.high
        if one.precision == "f32":
            assert (one.speedup.value, one.share) == (1.0, None)
        else:
            assert one.share is not None
            assert 0 < one.share <= 1  # how large it is depends on what else the machine does
