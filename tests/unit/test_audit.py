from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small

from ovquant import quantization, runtime
from ovquant.audit import Audit, Kernel, audits
from ovquant.strategy import Strategy

SAMPLES = [{"image": item[np.newaxis]} for item in small.normalized(small.images(8))]


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[Audit, Audit]:
    model = runtime.read_model(small.conv_model(tmp_path_factory.mktemp("conv") / "model.onnx"))
    quantized = quantization.quantize(model, Strategy(subset_size=8), SAMPLES, runtime.operations(model))
    properties = {"INFERENCE_PRECISION_HINT": "f32"}
    found = audits([model, quantized], "CPU", properties, SAMPLES[0], n_runs=5)
    return found[0], found[1]


def test_layers_of_a_float_model_run_in_float(audited: tuple[Audit, Audit]) -> None:
    for name in ("stem", "depthwise", "pointwise", "logits"):
        kernel = audited[0].of(name)
        assert kernel is not None
        assert kernel.precision == "f32"
        assert not kernel.is_integer
    assert "int8" not in audited[0].shares()


def test_layers_of_a_quantized_model_run_on_integers(audited: tuple[Audit, Audit]) -> None:
    kernels = [audited[1].of(name) for name in ("stem", "depthwise", "pointwise")]
    assert all(kernel is not None and kernel.is_integer for kernel in kernels)
    assert audited[1].shares()["int8"] > 0


def test_layers_and_precisions_are_those_that_benchmark_app_reports(tmp_path: Path) -> None:
    model = runtime.read_model(small.conv_model(tmp_path / "model.onnx"))
    quantized = quantization.quantize(model, Strategy(subset_size=8), SAMPLES, runtime.operations(model))
    for name, one in (("float", model), ("int8", quantized)):
        runtime.save_model(runtime.with_shapes(one, {"image": SAMPLES[0]["image"].shape}), tmp_path / f"{name}.xml")
    script = Path(__file__).parents[1] / "benchmarks" / "audit_agreement.py"
    models = [tmp_path / "float.xml", tmp_path / "int8.xml"]
    command = [sys.executable, script, *models, "--rounds", "1", "--seconds", "1"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("; 0 differ;") == 2
    assert " 0 of them in 8 bits" in done.stdout.splitlines()[0]
    assert " 0 of them in 8 bits" not in done.stdout.splitlines()[1]


def test_shares_are_of_the_whole(audited: tuple[Audit, Audit]) -> None:
    for one in audited:
        assert sum(one.shares().values()) == pytest.approx(1)
        assert one.total_us > 0


def test_an_operation_that_is_not_there_has_no_kernel(audited: tuple[Audit, Audit]) -> None:
    assert audited[0].of("nobody") is None


def test_conversions_are_counted_apart_and_stand_for_no_layer() -> None:
    def kernel(kind: str, precision: str, time_us: float, *origins: str) -> Kernel:
        return Kernel(name=kind, kind=kind, precision=precision, origins=origins, time_us=time_us)

    found = Audit(
        kernels=(kernel("Reorder", "i8", 10, "a"), kernel("Convolution", "u8", 60, "a"), kernel("Eltwise", "f32", 30, "b"))
    )
    assert found.shares() == pytest.approx({"int8": 0.6, "f32": 0.3, "conversions": 0.1})
    assert found.of("a") == found.kernels[1]


def test_a_device_that_is_not_here_is_an_error(tmp_path) -> None:
    model = runtime.read_model(small.conv_model(tmp_path / "model.onnx"))
    with pytest.raises(RuntimeError):
        audits([model], "NOWHERE", {}, SAMPLES[0])
