"""Saturation as simulated is what a CPU without VNNI computes; where the CPU has VNNI, only the simulation is tested."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as op

from ovquant import runtime
from ovquant.environment import may_saturate
from ovquant.saturation import MOST_ITEMS, Saturation, saturations

RNG_SEED = 3
WITHOUT_VNNI = pytest.mark.skipif(not may_saturate("CPU"), reason="this CPU adds up in 32 bits")


def fake_quantized(value: Any, low: float, high: float) -> Any:
    bounds = [op.constant(np.float32(bound)) for bound in (low, high, low, high)]
    return op.fake_quantize(value, *bounds, 256)


def dequantized(weights: np.ndarray, scales: np.ndarray) -> Any:
    shape = (-1,) + (1,) * (weights.ndim - 1)
    return op.multiply(
        op.convert(op.constant(weights.astype(np.int8)), "f32"), op.constant(scales.astype(np.float32).reshape(shape))
    )


def large_weights(*shape: int, top: int = 127) -> np.ndarray:
    return np.clip(np.random.default_rng(RNG_SEED).normal(30, 70, shape), -top, top).astype(np.int8)


def scales_of(n_outputs: int) -> np.ndarray:
    return np.random.default_rng(RNG_SEED).uniform(0.5, 2, n_outputs)


def convolution(inputs: int, kernel: int, low: float, high: float, *, stride: int = 1, pad: int = 1, top: int = 127) -> ov.Model:
    x = op.parameter([1, inputs, 9, 8], np.float32, "x")
    x.output(0).set_names({"x"})
    weights = dequantized(large_weights(16, inputs, kernel, kernel, top=top), scales_of(16))
    y = op.convolution(fake_quantized(x, low, high), weights, [stride] * 2, [pad] * 2, [pad] * 2, [1, 1], name="layer")
    return ov.Model([op.result(y)], [x], "m")


def matmul(inputs: int, low: float, high: float, *, is_transposed: bool = True) -> ov.Model:
    x = op.parameter([1, 5, inputs], np.float32, "x")
    x.output(0).set_names({"x"})
    weights = large_weights(16, inputs)
    if is_transposed:
        y = op.matmul(fake_quantized(x, low, high), dequantized(weights, scales_of(16)), False, True, name="layer")
    else:
        scaled = op.multiply(
            op.convert(op.constant(weights.T.copy()), "f32"), op.constant(scales_of(16).astype(np.float32).reshape(1, 16))
        )
        y = op.matmul(fake_quantized(x, low, high), scaled, False, False, name="layer")
    return ov.Model([op.result(y)], [x], "m")


def sample_for(model: ov.Model, low: float, high: float) -> dict[str, np.ndarray]:
    shape = tuple(model.input(0).get_shape())
    levels = np.random.default_rng(RNG_SEED).integers(0, 256, shape)
    return {"x": (low + levels * (high - low) / 255).astype(np.float32)}


def simulated(model: ov.Model, *samples: dict[str, np.ndarray]) -> tuple[Saturation, ...]:
    return saturations(model, runtime.operations(model), samples)


def float_outputs(model: ov.Model, sample: dict[str, np.ndarray]) -> np.ndarray:
    """The outputs without 8-bit kernels: the weights as floats, and no quantizer (samples are on its levels)."""
    copied = model.clone()
    for node in copied.get_ordered_ops():
        if node.get_type_name() == "FakeQuantize":
            for target in node.output(0).get_target_inputs():
                target.replace_source_output(node.input_value(0))
    return runtime.core().compile_model(copied, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(sample)[0]


@WITHOUT_VNNI
@pytest.mark.parametrize(
    ("model", "low", "high"),
    [
        pytest.param(convolution(64, 1, 0, 255, pad=0), 0, 255, id="pointwise"),
        pytest.param(convolution(64, 3, 0, 25.5), 0, 25.5, id="3x3"),
        pytest.param(convolution(3, 3, 0, 255), 0, 255, id="3 channels"),
        pytest.param(convolution(12, 5, 0, 255, stride=2, pad=2), 0, 255, id="stride"),
        pytest.param(convolution(64, 3, -128, 127), -128, 127, id="signed"),
        pytest.param(convolution(64, 3, -100, 155), -100, 155, id="asymmetric"),
        pytest.param(matmul(64, 0, 255), 0, 255, id="MatMul"),
        pytest.param(matmul(65, 0, 255), 0, 255, id="MatMul, odd"),
        pytest.param(matmul(64, -128, 127), -128, 127, id="MatMul, signed"),
        pytest.param(matmul(64, 0, 255, is_transposed=False), 0, 255, id="MatMul, not transposed"),
    ],
)
def test_the_simulated_error_is_that_of_the_device(model: ov.Model, low: float, high: float) -> None:
    sample = sample_for(model, low, high)
    exact = float_outputs(model, sample)
    device = runtime.core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(sample)[0]
    error = float(np.sqrt(((device - exact) ** 2).sum() / (exact.astype(np.float64) ** 2).sum()))
    (found,) = simulated(model, sample)
    assert found.n_values == exact.size
    assert error > 0.01
    assert found.error == pytest.approx(error, rel=1e-3)
    is_hit = np.abs(device - exact) > 1e-4 * np.abs(exact).max()
    assert found.share == pytest.approx(is_hit.mean(), abs=0.02)


@WITHOUT_VNNI
def test_half_the_range_of_weights_does_not_saturate_in_the_simulation_nor_on_the_device() -> None:
    model = convolution(64, 3, 0, 255, top=64)
    sample = sample_for(model, 0, 255)
    (found,) = simulated(model, sample)
    assert (found.is_possible, found.share, found.error) == (False, 0, 0)
    device = runtime.core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(sample)[0]
    assert np.abs(device - float_outputs(model, sample)).max() < 1e-5 * np.abs(device).max()


def test_what_could_saturate_but_does_not_on_the_samples_is_told_apart() -> None:
    (found,) = simulated(convolution(16, 3, 0, 255), {"x": np.full((1, 16, 9, 8), 3, np.float32)})
    assert found.is_possible
    assert (found.share, found.error) == (0, 0)
    assert found.place == "Convolution[0]"


def test_one_pair_is_added_up_as_the_instruction_does() -> None:
    x = op.parameter([1, 2], np.float32, "x")
    x.output(0).set_names({"x"})
    y = op.matmul(fake_quantized(x, 0, 255), dequantized(np.array([[127, 127]], np.int8), np.ones(1)), False, True, name="layer")
    model = ov.Model([op.result(y)], [x], "m")
    (found,) = simulated(model, {"x": np.array([[255, 255]], np.float32)})
    exact = 2 * 255 * 127
    assert found.error == pytest.approx((exact - 32767) / exact)
    assert found.share == 1


def test_layers_that_take_the_same_values_are_told_one_by_one_and_depthwise_ones_not_at_all() -> None:
    x = op.parameter([1, 16, 6, 6], np.float32, "x")
    x.output(0).set_names({"x"})
    shared = op.max_pool(fake_quantized(x, 0, 255), [1, 1], [1, 1], [0, 0], [0, 0], [1, 1])
    taken = shared.output(0)
    sides = ([1, 1], [0, 0], [0, 0], [1, 1])
    one = op.convolution(taken, dequantized(large_weights(8, 16, 1, 1), np.ones(8)), *sides, name="one")
    small = op.convolution(taken, dequantized(large_weights(8, 16, 1, 1, top=20), np.ones(8)), *sides, name="small")
    two = op.convolution(taken, dequantized(-large_weights(8, 16, 1, 1), np.ones(8)), *sides, name="two")
    depthwise = op.group_convolution(taken, dequantized(large_weights(16, 1, 1, 1, 1), np.ones(16)), *sides, name="depthwise")
    model = ov.Model([op.result(node) for node in (one, small, two, depthwise)], [x], "m")
    sample = {"x": np.random.default_rng(0).integers(0, 256, (1, 16, 6, 6)).astype(np.float32)}
    found = {one.name: one for one in simulated(model, sample)}
    assert set(found) == {"one", "two", "small"}
    assert found["one"].error > 0
    assert found["two"].error > 0
    assert not found["small"].is_possible


def test_of_many_positions_and_samples_some_are_taken() -> None:
    x = op.parameter([1, 64, 96, 96], np.float32, "x")
    x.output(0).set_names({"x"})
    weights = dequantized(large_weights(256, 64, 3, 3), np.ones(256))
    y = op.convolution(fake_quantized(x, 0, 255), weights, [1, 1], [1, 1], [1, 1], [1, 1], name="layer")
    sample = {"x": np.full((1, 64, 96, 96), 200, np.float32)}
    (found,) = simulated(ov.Model([op.result(y)], [x], "m"), *[sample] * (MOST_ITEMS + 4))
    assert 256 * MOST_ITEMS <= found.n_values < 256 * 96 * 96
    assert 0 < found.share <= 1


def test_a_float_model_has_nothing_to_saturate() -> None:
    x = op.parameter([1, 4], np.float32, "x")
    x.output(0).set_names({"x"})
    y = op.matmul(x, op.constant(np.ones((4, 4), np.float32)), False, False, name="layer")
    assert simulated(ov.Model([op.result(y)], [x], "m"), {"x": np.ones((1, 4), np.float32)}) == ()
