"""Models with one structure key run the same kernels: what leaves the key as it is, and what changes it."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino as ov
import pytest
import small
from hypothesis import given
from hypothesis import strategies as st
from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, QuantizationParameters
from openvino import opset13 as ops

from ovquant import structure
from ovquant.structure import structure_key

ROOT = Path(__file__).parents[2]
HAS_BF16 = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
WINDOW = ([1, 1], [1, 1], [1, 1], [1, 1])  # strides, padding, dilation of a 3x3 convolution that keeps the size


def key(model: ov.Model, device: str = "CPU", **properties: Any) -> str:
    compiled = ov.Core().compile_model(model, device, properties)
    return structure_key(model, compiled, device=device, properties=properties)


def quantized(path: Path, n_samples: int = 8, **arguments: Any) -> ov.Model:
    """Return the convolutional model, quantized."""
    model = ov.convert_model(str(path))
    side = list(model.inputs[0].get_shape())[-1]
    samples = [item[np.newaxis] for item in small.normalized(small.images(n_samples, side=side))]
    return nncf.quantize(model, nncf.Dataset(samples), subset_size=n_samples, **arguments)


def constant_inputs(node: ov.Node) -> list[tuple[int, np.ndarray]]:
    """Return inputs that are float constants, with their values."""
    found = [(port, value.get_node()) for port, value in enumerate(node.input_values())]
    constants = [(port, source) for port, source in found if source.get_type_name() == "Constant"]
    return [(port, np.array(source.get_data())) for port, source in constants if source.get_element_type() == ov.Type.f32]


def revalued(model: ov.Model, change: Callable[[str, list[np.ndarray]], list[np.ndarray]], *types: str) -> ov.Model:
    """Return a copy in which `change` was applied to all float constants that feed operations of these types."""
    model = model.clone()
    for node in model.get_ordered_ops():
        inputs = constant_inputs(node) if node.get_type_name() in types else []
        if inputs:
            new = change(node.get_type_name(), [values for _, values in inputs])
            for (port, _), values in zip(inputs, new, strict=True):
                node.input(port).replace_source_output(ops.constant(np.asarray(values, dtype=np.float32)).output(0))
    model.validate_nodes_and_infer_types()
    return model


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.conv_model(tmp_path_factory.mktemp("structure") / "model.onnx")


@pytest.fixture(scope="module")
def base(path: Path) -> ov.Model:
    return quantized(path)


@pytest.fixture(scope="module")
def base_key(base: ov.Model) -> str:
    return key(base)


# Small graphs by hand


def constant(rng: np.random.Generator, *shape: int) -> ov.Node:
    return ops.constant(rng.normal(size=shape).astype(np.float32))


def quantize_to(value: Any, low: Any, high: Any, levels: int = 256) -> ov.Node:
    bounds = [ops.constant(np.asarray(bound, dtype=np.float32)) for bound in (low, high, low, high)]
    return ops.fake_quantize(value, *bounds, levels)


def convolution(value: Any, rng: np.random.Generator, n_channels: int = 8) -> ov.Node:
    """Return a 3x3 convolution with weights in 8 bits, as NNCF stores them."""
    weights = rng.integers(-127, 128, size=(8, n_channels, 3, 3)).astype(np.int8)
    scale = ops.constant(rng.uniform(0.001, 0.01, size=(8, 1, 1, 1)).astype(np.float32))
    return ops.convolution(value, ops.multiply(ops.convert(ops.constant(weights), "f32"), scale), *WINDOW)


def one_convolution(low: Any, high: Any, levels: int = 256, seed: int = 0, shape: tuple[int, ...] = (1, 8, 6, 6)) -> ov.Model:
    data = ops.parameter(shape, np.float32, "data")
    return ov.Model([ops.result(convolution(quantize_to(data, low, high, levels), np.random.default_rng(seed)))], [data], "one")


def two_branches(first: tuple[float, float], second: tuple[float, float], joint: str = "concat", seed: int = 0) -> ov.Model:
    """Return a model of two convolutions whose results are quantized to two ranges, then joined and used."""
    rng = np.random.default_rng(seed)
    data = ops.parameter([1, 8, 6, 6], np.float32, "data")
    start = quantize_to(data, -1.28, 1.27)
    ends = [
        quantize_to(ops.relu(ops.add(convolution(start, rng), constant(rng, 1, 8, 1, 1))), *range_) for range_ in (first, second)
    ]
    joined = ops.concat(ends, 1) if joint == "concat" else quantize_to(ops.add(*ends), *second)
    return ov.Model([ops.result(convolution(joined, rng, 16 if joint == "concat" else 8))], [data], "two")


def compressed(*, scale: int | None, zero_point: int | None, offset: int = 3, seed: int = 0) -> ov.Model:
    """Return a MatMul with weights in 8 bits, its scales and zero points by channel (16), of the tensor (1) or absent."""
    rng = np.random.default_rng(seed)
    weights = ops.convert(ops.constant(rng.integers(0, 200, size=(16, 32)).astype(np.uint8)), "f32")
    if zero_point:
        points = np.full((zero_point, 1), offset, dtype=np.uint8)
        points[1:] += rng.integers(0, 2, size=(zero_point, 1), dtype=np.uint8)[1:]
        points[-1:] += zero_point > 1
        weights = ops.subtract(weights, ops.convert(ops.constant(points), "f32"))
    if scale:
        weights = ops.multiply(weights, ops.constant(rng.uniform(0.01, 0.1, size=(scale, 1)).astype(np.float32)))
    data = ops.parameter([4, 32], np.float32, "data")
    return ov.Model([ops.result(ops.matmul(data, weights, False, True))], [data], "compressed")


# The same key


def test_of_the_same_model_compiled_again_and_run(base: ov.Model, base_key: str):
    assert len(base_key) == 64
    assert key(base) == base_key
    compiled = ov.Core().compile_model(base.clone(), "CPU", {})
    compiled(np.zeros((1, 3, small.SIDE, small.SIDE), dtype=np.float32))
    assert structure_key(base, compiled, device="CPU") == base_key


def test_in_another_process_read_again_or_quantized_again(path: Path, base: ov.Model, base_key: str, tmp_path: Path):
    ov.save_model(base, str(tmp_path / "saved.xml"), compress_to_fp16=False)
    assert key(ov.Core().read_model(tmp_path / "saved.xml")) == base_key
    code = """if True:
        import importlib.util, sys
        from pathlib import Path
        import openvino as ov
        spec = importlib.util.spec_from_file_location("test_structure", sys.argv[1])
        tests = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tests)
        print("key", tests.key(ov.Core().read_model(sys.argv[2])))
        print("key", tests.key(tests.quantized(Path(sys.argv[3]))))
    """
    arguments = [sys.executable, "-c", code, __file__, str(tmp_path / "saved.xml"), str(path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "PYTHONHASHSEED": "7"}
    ran = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True, timeout=300)
    assert [line.split()[1] for line in ran.stdout.splitlines() if line.startswith("key ")] == [base_key, base_key]


def test_with_other_calibration_samples_and_bias_correction(path: Path, base_key: str):
    assert key(quantized(path, 3)) == base_key
    assert key(quantized(path, fast_bias_correction=False)) == base_key


def test_with_other_weights_scales_and_biases(path: Path, base: ov.Model, base_key: str):
    rng = np.random.default_rng(0)

    def jitter(_: str, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return [values * rng.uniform(0.5, 2, size=values.shape) for values in inputs]

    assert key(revalued(base, jitter, "Multiply", "Add")) == base_key
    model = ov.convert_model(str(path))
    assert key(revalued(model, jitter, "Convolution", "GroupConvolution", "MatMul", "Add")) == key(model)


def test_with_other_ranges_of_the_same_class(base: ov.Model, base_key: str):
    rng = np.random.default_rng(0)

    def widen(_: str, inputs: list[np.ndarray]) -> list[np.ndarray]:
        factor = rng.uniform(0.5, 2)
        return [values * factor for values in inputs]

    assert key(revalued(base, widen, "FakeQuantize")) == base_key


def test_whatever_operations_are_called(base: ov.Model, base_key: str):
    renamed = base.clone()
    for index, node in enumerate(renamed.get_ordered_ops()):
        node.set_friendly_name(f"it/{len(renamed.get_ops()) - index}")
    assert key(renamed) == base_key


def test_in_whatever_order_inputs_and_outputs_come(tmp_path: Path):
    model = ov.convert_model(str(small.two_input_model(tmp_path / "model.onnx")))
    model.reshape({"left": [1, 8], "right": [1, 4]})
    other = model.clone()
    other = ov.Model(other.get_results()[::-1], other.get_parameters()[::-1], "reversed")
    assert key(other) == key(model)


def test_for_a_default_and_the_same_in_words(base: ov.Model, base_key: str):
    n_threads = ov.Core().compile_model(base, "CPU", {}).get_property("INFERENCE_NUM_THREADS")
    assert key(base, INFERENCE_NUM_THREADS=n_threads) == base_key


def test_wherever_compiled_models_are_kept(base: ov.Model, base_key: str, tmp_path: Path):
    assert key(base, CACHE_DIR=str(tmp_path)) == base_key
    assert key(base, CACHE_DIR=str(tmp_path)) == base_key  # this time loaded from there


# Another key


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"preset": nncf.QuantizationPreset.MIXED}, id="asymmetric activations"),
        pytest.param({"ignored_scope": nncf.IgnoredScope(names=["pointwise"])}, id="ignored scope"),
        pytest.param({"target_device": nncf.TargetDevice.CPU_SPR}, id="other quantized tensors"),
        pytest.param(
            {
                "advanced_parameters": AdvancedQuantizationParameters(
                    weights_quantization_params=QuantizationParameters(per_channel=False)
                )
            },
            id="weights per tensor",
        ),
    ],
)
def test_differs_for_another_quantization(path: Path, base_key: str, arguments: dict[str, Any]):
    assert key(quantized(path, **arguments)) != base_key


def test_differs_for_the_float_model_and_another_input_shape(path: Path, base_key: str, tmp_path: Path):
    wide = small.conv_model(tmp_path / "wide.onnx", side=small.SIDE + 4)
    keys = {base_key, key(quantized(wide)), key(ov.convert_model(str(path))), key(ov.convert_model(str(wide)))}
    assert len(keys) == 4


def test_differs_for_other_properties_and_another_device(base: ov.Model, base_key: str):
    others = [key(base, INFERENCE_NUM_THREADS=1), key(base, PERFORMANCE_HINT="THROUGHPUT", NUM_STREAMS=2)]
    if HAS_BF16:
        others += [key(base, INFERENCE_PRECISION_HINT="f32")]
    compiled = ov.Core().compile_model(base, "CPU", {})
    others += [structure_key(base, compiled, device="CPU of another machine")]
    others += [structure_key(base, compiled, device="CPU", properties={"OF_A_PLUGIN_THAT_DOES_NOT_TELL": "1"})]
    assert len({base_key, *others}) == len(others) + 1


def test_differs_for_any_weight_where_sparse_ones_have_kernels_of_their_own():
    keys = [key(compressed(scale=16, zero_point=None, seed=seed), **{structure._SPARSITY: 0.5}) for seed in (0, 0, 1)]
    assert keys[0] == keys[1] != keys[2]


def activated(function: Callable[..., ov.Node], stride: int = 1, exponent: float = 2.0) -> ov.Model:
    """Return a convolution with something fused: the runtime graph shows none of the arguments."""
    rng = np.random.default_rng(0)
    data = ops.parameter([1, 8, 6, 6], np.float32, "data")
    value = function(ops.convolution(data, constant(rng, 8, 8, 3, 3), [stride, 1], [stride, 1], [1, 1], [1, 1]))
    return ov.Model([ops.result(ops.power(value, ops.constant(np.float32(exponent))))], [data], "activated")


def test_differs_for_what_the_runtime_graph_hides():
    models = [activated(ops.relu), activated(ops.abs), activated(functools.partial(ops.elu, alpha=1.0))]
    models += [activated(functools.partial(ops.elu, alpha=0.5)), activated(ops.relu, exponent=0.5)]
    assert len({key(model) for model in models}) == len(models)
    assert key(activated(ops.relu)) == key(models[0])


def test_differs_for_what_is_inside_a_branch():
    def branching(function: Callable[..., ov.Node], seed: int) -> ov.Model:
        condition, data = ops.parameter([], ov.Type.boolean, "condition"), ops.parameter([4, 4], np.float32, "data")
        inner = [ops.parameter([4, 4], np.float32) for _ in range(2)]
        weights = constant(np.random.default_rng(seed), 4, 4)
        bodies = [
            ov.Model([ops.result(f(ops.matmul(x, weights, False, False)))], [x])
            for x, f in zip(inner, [ops.relu, function], strict=True)
        ]
        either = ops.if_op(condition)
        either.set_then_body(bodies[0])
        either.set_else_body(bodies[1])
        either.set_input(data.output(0), *inner)
        output = either.set_output(bodies[0].results[0], bodies[1].results[0])
        return ov.Model([ops.result(output)], [condition, data], "branching")

    assert key(branching(ops.tanh, 0)) == key(branching(ops.tanh, 1))
    assert key(branching(ops.tanh, 0)) != key(branching(ops.sigmoid, 0))


# Ranges and zero points


BY_CHANNEL = np.arange(1, 9, dtype=np.float32).reshape(1, 8, 1, 1)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param((0, 2.55), (0, 7.1), id="unsigned"),
        pytest.param((-1.28, 1.27), (-5.12, 5.08), id="symmetric"),
        pytest.param((-0.3, 2.25), (-3.3, 4.92), id="asymmetric"),
        pytest.param((-1.28 * BY_CHANNEL, 1.27 * BY_CHANNEL), (-1.28 / BY_CHANNEL, 1.27 / BY_CHANNEL), id="by channel"),
        pytest.param((-1.1 / BY_CHANNEL, BY_CHANNEL), (-0.1 * BY_CHANNEL, 13 / BY_CHANNEL), id="zero points by channel"),
    ],
)
def test_is_the_same_for_ranges_of_a_class(one: tuple[Any, Any], other: tuple[Any, Any]):
    assert key(one_convolution(*one)) == key(one_convolution(*other, seed=1))


def test_differs_for_ranges_of_other_classes():
    ranges: list[tuple[Any, ...]] = [
        (0, 2.55),
        (-1.28, 1.27),
        (-0.3, 2.25),
        (0.2, 2.75),  # above zero: the convolution is not done in 8 bits at all
        (-2.55, 0),
        (-1.27, 1.27, 255),
        (0 * BY_CHANNEL, BY_CHANNEL),
        (0 * BY_CHANNEL, 0 * BY_CHANNEL + 1),
        (-1.28 * BY_CHANNEL, 1.27 * BY_CHANNEL),
        (-1.02 * BY_CHANNEL, 1.53 * BY_CHANNEL),
        (-1.1 / BY_CHANNEL, BY_CHANNEL),
    ]
    assert len({key(one_convolution(*range_)) for range_ in ranges}) == len(ranges)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param((0.2, 2.75), (0.21, 2.75), id="above zero"),
        pytest.param((-1.281, 1.27), (-1.282, 1.27), id="hardly symmetric"),
        pytest.param((-0.004, 2.55), (-0.003, 2.55), id="zero point rounded to 0"),
        pytest.param((0, 1e-6), (0, 9e-7), id="tiny"),
    ],
)
def test_tells_ranges_apart_where_a_threshold_is_near(one: tuple[float, float], other: tuple[float, float]):
    assert key(one_convolution(*one)) != key(one_convolution(*other))


def test_tells_ranges_apart_that_are_computed():
    def computed(high: float) -> ov.Model:
        model = one_convolution(0, 1)
        quantizer = next(node for node in model.get_ordered_ops() if node.get_type_name() == "FakeQuantize")
        for port in (2, 4):
            double = ops.multiply(ops.constant(np.float32(high)), ops.constant(np.float32(2)))
            quantizer.input(port).replace_source_output(double.output(0))
        return model

    assert key(computed(3)) == key(computed(3))
    assert key(computed(3)) != key(computed(3.1))


def test_differs_for_other_scales_and_zero_points_of_weights():
    layouts = [
        {"scale": 16, "zero_point": None},
        {"scale": 1, "zero_point": None},
        {"scale": 16, "zero_point": 1},
        {"scale": 16, "zero_point": 16},
        {"scale": 1, "zero_point": 1},
        {"scale": 16, "zero_point": 1, "offset": 0},
    ]
    assert len({key(compressed(**layout)) for layout in layouts}) == len(layouts)
    for layout in layouts:
        assert key(compressed(**layout, seed=1)) == key(compressed(**layout))


def test_where_a_concat_makes_one_range_of_several():
    equal = key(two_branches((0, 4), (0, 4)))
    assert equal == key(two_branches((0, 6), (0, 6), seed=1))
    narrow = key(two_branches((0, 4), (0, 1.8)))
    assert narrow == key(two_branches((0, 6), (0, 1.7), seed=1))
    # Whether the smaller range has 255 levels or 256 is a matter of rounding.
    hardly = [key(two_branches((0, 4), (0, 4 - 4 / 255 * steps))) for steps in (0.49, 0.485)]
    others = [key(two_branches((0, 2), (0, 4))), key(two_branches((-2, 1.984375), (0, 4))), *hardly]
    assert len({equal, narrow, *others}) == 6


def test_where_a_ratio_of_steps_may_be_1():
    """`two_branches` quantizes the sum to the second range."""
    sums = [key(two_branches((0, first), (0, second), "add")) for first, second in [(4, 3), (6, 3.5), (4, 4), (6, 6)]]
    assert len(set(sums)) == 4


# No runtime graph, dynamic shapes


class Secretive:
    """A compiled model of a plugin that has no runtime graph to show."""

    def __init__(self, compiled: ov.CompiledModel) -> None:
        self.get_property = compiled.get_property

    def get_runtime_model(self) -> ov.Model:
        raise RuntimeError("Not Implemented")


def secret_key(model: ov.Model, **arguments: Any) -> str:
    compiled = Secretive(ov.Core().compile_model(model, "CPU", {}))
    return structure_key(model, compiled, device="CPU", **arguments)  # type: ignore[arg-type]


def test_without_a_runtime_graph_only_equal_models_share(base: ov.Model, base_key: str):
    found = secret_key(base)
    assert found == secret_key(base.clone())
    assert found != base_key
    changed = revalued(base, lambda _, inputs: [values * np.float32(1.001) for values in inputs], "FakeQuantize")
    assert found != secret_key(changed)
    weights = base.clone()
    stored = next(node for node in weights.get_ordered_ops() if node.get_element_type() == ov.Type.i8)
    values = np.array(stored.get_data())
    values.flat[0] ^= 1
    stored.output(0).get_target_inputs().pop().replace_source_output(ops.constant(values).output(0))
    assert found != secret_key(weights)


def test_dynamic_shapes_count_as_they_are_run(tmp_path: Path):
    model = ov.convert_model(str(small.two_input_model(tmp_path / "model.onnx")))
    compiled = ov.Core().compile_model(model, "CPU", {})
    with pytest.raises(ValueError, match="input shapes"):
        structure_key(model, compiled, device="CPU")

    def ran(n_rows: int) -> str:
        compiled({"left": np.ones((n_rows, 8), dtype=np.float32), "right": np.ones((n_rows, 4), dtype=np.float32)})
        return structure_key(model, compiled, device="CPU")

    keys = [ran(n_rows) for n_rows in (1, 3, 1)]
    assert keys[0] == keys[2] != keys[1]
    changed = revalued(model, lambda _, inputs: [values * 2 for values in inputs], "MatMul")
    compiled = ov.Core().compile_model(changed, "CPU", {})
    model = changed
    assert ran(1) == keys[0]
    one, three = ({"left": (n, 8), "right": (n, 4)} for n in (1, 3))
    assert secret_key(model, input_shapes=one) == secret_key(model, input_shapes=one)
    assert secret_key(model, input_shapes=one) != secret_key(model, input_shapes=three)


# Graphs


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[str], list[tuple[tuple[int, int], ...]], list[int]]:
    """Return contents and sources of nodes, and another order of them that is topological too."""
    n_nodes = draw(st.integers(1, 8))
    contents = draw(st.lists(st.sampled_from("ab"), min_size=n_nodes, max_size=n_nodes))
    sources = [
        tuple(draw(st.lists(st.tuples(st.integers(0, index - 1), st.integers(0, 1)), max_size=3))) if index else ()
        for index in range(n_nodes)
    ]
    order: list[int] = []
    while len(order) < n_nodes:
        ready = [i for i in range(n_nodes) if i not in order and all(source in order for source, _ in sources[i])]
        order.append(draw(st.sampled_from(ready)))
    return contents, sources, order


@given(graphs())
def test_digests_do_not_depend_on_the_order_of_nodes(case):
    contents, sources, order = case
    moved = [tuple((order.index(source), output) for source, output in sources[index]) for index in order]
    expected = structure._digests(contents, sources)
    assert structure._digests([contents[index] for index in order], moved) == [expected[index] for index in order]


def test_digests_tell_which_of_two_equal_nodes_feeds_what():
    contents = ["a", "a", "b", "b", "c", "c"]
    both_ways = structure._digests(contents, [(), (), ((0, 0),), ((1, 0),), ((0, 0),), ((1, 0),)])
    one_way = structure._digests(contents, [(), (), ((0, 0),), ((0, 0),), ((1, 0),), ((1, 0),)])
    swapped = structure._digests(["a", "b", "c"], [(), (), ((1, 0), (0, 0))])
    assert sorted(both_ways) != sorted(one_way)
    assert sorted(structure._digests(["a", "b", "c"], [(), (), ((0, 0), (1, 0))])) != sorted(swapped)


def test_takes_milliseconds():
    rng = np.random.default_rng(0)
    data = ops.parameter([1, 8, 8, 8], np.float32, "data")
    value = quantize_to(data, -1.28, 1.27)
    for high in range(1, 61):
        value = quantize_to(ops.relu(ops.add(convolution(value, rng), constant(rng, 1, 8, 1, 1))), 0, high)
    model = ov.Model([ops.result(value)], [data], "deep")
    compiled = ov.Core().compile_model(model, "CPU", {})
    assert len(compiled.get_runtime_model().get_ops()) > 200
    times = []
    for _ in range(5):
        start = time.perf_counter()
        structure_key(model, compiled, device="CPU")
        times.append(time.perf_counter() - start)
    assert min(times) < 0.2  # takes a fifth of that alone on a machine


# What really runs


def varied_models(rng: np.random.Generator) -> list[ov.Model]:
    """Return models of one architecture with ranges of several classes."""

    def draw() -> tuple[float, float]:
        step = rng.uniform(0.01, 0.05)
        zero_point = rng.choice([0, 0, 128, 77])
        return -zero_point * step, (255 - zero_point) * step

    models = []
    for _ in range(60):
        first = draw()
        second = first if rng.random() < 0.4 else draw()
        models.append(two_branches(first, second, rng.choice(["concat", "add"]), seed=int(rng.integers(1000))))
    return models


def primitives_of(told: str) -> frozenset[str]:
    """Return the primitives that oneDNN made for a model, without the numbers that are fused into them and without times."""
    lines = [line.split(",cpu,", 1)[1].rpartition(",")[0] for line in told.splitlines() if "primitive,create" in line]
    return frozenset(re.sub(r"(?<=eltwise_)(\w+)[-:.e\d]*", r"\1", line) for line in lines)


def test_one_key_means_the_same_primitives(tmp_path: Path):
    """OneDNN tells which primitives are made, and with what fused: the runtime graph hides the latter."""
    models = varied_models(np.random.default_rng(0))
    for index, model in enumerate(models):
        ov.save_model(model, str(tmp_path / f"{index}.xml"), compress_to_fp16=False)
    code = """if True:
        import ctypes, sys
        import openvino as ov
        core = ov.Core()
        for index in range(int(sys.argv[2])):
            ctypes.CDLL(None).fflush(None)
            print("model", index, flush=True)
            core.compile_model(core.read_model(f"{sys.argv[1]}/{index}.xml"), "CPU", {})
        ctypes.CDLL(None).fflush(None)
    """
    environment = {**os.environ, "ONEDNN_VERBOSE": "profile_create"}
    arguments = [sys.executable, "-c", code, str(tmp_path), str(len(models))]
    told = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True, timeout=300).stdout
    if "primitive,create" not in told:
        pytest.skip("this oneDNN does not tell")
    primitives = [primitives_of(part) for part in told.split("model ")[1:]]
    by_key: dict[str, set[frozenset[str]]] = {}
    for model, made in zip(models, primitives, strict=True):
        by_key.setdefault(key(model), set()).add(made)
    assert all(len(made) == 1 for made in by_key.values())
    assert len(set(primitives)) < len(by_key) < len(models)


class Refusing:
    """A compiled model that does not tell its properties at first."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def get_property(self, name: str) -> Any:
        self.asked.append(name)
        if len(self.asked) == 1:
            raise RuntimeError("busy")
        return ["NUM_STREAMS"] if name == "SUPPORTED_PROPERTIES" else "1"


def test_names_of_properties_are_asked_for_until_they_are_told_and_then_no_more() -> None:
    compiled: Any = Refusing()
    told = [structure._properties(compiled, "X", {}) for _ in range(3)]
    assert told == [{}, {"NUM_STREAMS": "1"}, {"NUM_STREAMS": "1"}]
    assert compiled.asked.count("SUPPORTED_PROPERTIES") == 2
