from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
import small

from ovquant import quantization, runtime
from ovquant.errors import ModelError
from ovquant.inference import CompiledModel
from ovquant.selectors import ScopeSelector
from ovquant.strategy import Strategy
from ovquant.switches import SWITCHES, Switched, switched

N_SAMPLES = 8


class Case:
    """A model with samples, quantized without bias correction, which switches leave to the float model."""

    def __init__(self, path: Path, samples: list[dict[str, Any]]) -> None:
        self.model = runtime.read_model(path)
        self.operations = runtime.operations(self.model)
        self.samples = samples
        self.switched = switched(self.model, self.quantized())
        self.compiled = CompiledModel(self.switched.model, "CPU", {}, "f32")

    def quantized(self, *ignored: str) -> ov.Model:
        scope = ScopeSelector(names=ignored)
        # Overflow fix: without VNNI, 8-bit sums of other weights saturate, which FakeQuantize does not.
        strategy = Strategy(
            subset_size=len(self.samples), disable_bias_correction=True, ignored_scope=scope, overflow_fix="enable"
        )
        return quantization.quantize(self.model, strategy, self.samples, self.operations)

    def run(self, left_out: set[str]) -> list[np.ndarray]:
        switches = np.array([name not in left_out for name in self.switched.layers])
        return [out for sample in self.samples for out in self.compiled.infer({**sample, SWITCHES: switches}).values()]


def plainly(model: ov.Model, samples: list[dict[str, Any]]) -> list[np.ndarray]:
    compiled = CompiledModel(model, "CPU", {}, "f32")
    return [out for sample in samples for out in compiled.infer(sample).values()]


@pytest.fixture(scope="module")
def conv(tmp_path_factory: pytest.TempPathFactory) -> Case:
    path = small.conv_model(tmp_path_factory.mktemp("conv") / "model.onnx")
    return Case(path, [{"image": item[np.newaxis]} for item in small.normalized(small.images(N_SAMPLES))])


@pytest.fixture(scope="module")
def two_inputs(tmp_path_factory: pytest.TempPathFactory) -> Case:
    path = small.two_input_model(tmp_path_factory.mktemp("two") / "model.onnx")
    rng = np.random.default_rng(0)
    sides = {"left": 8, "right": 4}
    return Case(path, [{n: rng.normal(size=(1, k)).astype(np.float32) for n, k in sides.items()} for _ in range(N_SAMPLES)])


@pytest.mark.parametrize("case", ["conv", "two_inputs"])
def test_with_all_layers_off_it_is_the_float_model(case: str, request: pytest.FixtureRequest) -> None:
    mine: Case = request.getfixturevalue(case)
    expected = plainly(mine.model, mine.samples)
    for found, wanted in zip(mine.run(set(mine.switched.layers)), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def error(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    return float(np.mean([np.mean((a - b) ** 2) for a, b in zip(found, expected, strict=True)]))


def test_with_all_layers_on_it_is_as_far_from_the_float_model_as_the_quantized_one(conv: Case) -> None:
    """Not bit for bit: int8 kernels round in another way."""
    floats = plainly(conv.model, conv.samples)
    quantized = plainly(conv.quantized(), conv.samples)
    assert error(conv.run(set()), quantized) < 0.2 * error(floats, quantized)


@pytest.mark.parametrize("name", ["stem", "depthwise", "pointwise", "logits"])
def test_a_layer_off_is_that_layer_ignored(name: str, conv: Case) -> None:
    expected = plainly(conv.quantized(name), conv.samples)
    assert error(conv.run({name}), expected) < 0.2 * error(conv.run(set()), plainly(conv.model, conv.samples))
    assert error(conv.run({name}), expected) < error(conv.run(set()), expected)


def test_layers_come_in_topological_order_and_have_all_that_is_quantized(conv: Case) -> None:
    order = [operation.name for operation in conv.operations]
    assert list(conv.switched.layers) == sorted(conv.switched.layers, key=order.index)
    assert {"stem", "depthwise", "pointwise", "logits"} <= set(conv.switched.layers)


def test_the_float_model_is_left_as_it_is(conv: Case) -> None:
    before = runtime.graph_digest(conv.model)
    found = switched(conv.model, conv.quantized())
    assert isinstance(found, Switched)
    assert runtime.graph_digest(conv.model) == before


def test_a_model_without_anything_quantized_is_refused(conv: Case) -> None:
    with pytest.raises(ModelError, match="no layer of the float one"):
        switched(conv.model, conv.model)
