from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import small
from fakes.operations import ops
from openvino import opset13 as opset

from ovquant import runtime
from ovquant.operations import Operation
from ovquant.scopes import matching, misses, resolve
from ovquant.selectors import ScopeRole, ScopeSelector


def selected(role: ScopeRole, operations: tuple[Operation, ...]) -> set[str]:
    return set(resolve(ScopeSelector(roles=(role,)), operations))


@pytest.fixture(scope="module")
def convolutional(tmp_path_factory: pytest.TempPathFactory) -> tuple[Operation, ...]:
    return _operations(small.conv_model(tmp_path_factory.mktemp("conv") / "model.onnx"))


@pytest.fixture(scope="module")
def two_inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Operation, ...]:
    return _operations(small.two_input_model(tmp_path_factory.mktemp("two") / "model.onnx"))


@pytest.fixture(scope="module")
def layernorm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Operation, ...]:
    return _operations(small.layernorm_model(tmp_path_factory.mktemp("norm") / "model.onnx"))


def _operations(path: Path) -> tuple[Operation, ...]:
    return runtime.operations(runtime.read_model(path))


def rms_norm_stored_as_f16() -> tuple[Operation, ...]:
    """An RMSNorm of which the constants are f16 behind a Convert, as in a model that is compressed to f16."""

    def named(name: str, node: ov.Node) -> ov.Node:
        node.set_friendly_name(name)
        return node

    def half(name: str, value: float) -> ov.Node:
        return named(name, opset.convert(opset.constant(np.full((1, 1, 8), value, np.float16)), np.float32))

    x = opset.parameter([1, 6, 8], np.float32, "x")
    y = named("y", opset.matmul(x, opset.constant(np.ones((8, 8), np.float32)), False, False))
    square = named("square", opset.multiply(y, y))
    mean = named("mean", opset.reduce_mean(square, opset.constant(np.int64([2])), True))
    root = named("root", opset.sqrt(named("safe", opset.add(mean, half("eps", 1e-3)))))
    inverse = named("inverse", opset.divide(opset.constant(np.float32(1)), root))
    scale = named("scale", opset.multiply(inverse, half("gain", 2)))
    return runtime.operations(ov.Model([named("normal", opset.multiply(y, scale))], [x]))


class TestRealModels:
    def test_the_stem_is_the_first_convolution(self, convolutional: tuple[Operation, ...]) -> None:
        assert selected("first_convolution", convolutional) == {"stem"}

    def test_the_depthwise_convolution_is_found(self, convolutional: tuple[Operation, ...]) -> None:
        assert selected("depthwise", convolutional) == {"depthwise"}

    def test_the_classifier_is_the_last_matmul(self, convolutional: tuple[Operation, ...]) -> None:
        assert selected("last_matmul", convolutional) == {"logits"}

    def test_pooling_is_no_normalization(self, convolutional: tuple[Operation, ...]) -> None:
        assert selected("normalization", convolutional) == set()

    def test_each_head_is_a_last_matmul(self, two_inputs: tuple[Operation, ...]) -> None:
        assert selected("last_matmul", two_inputs) == {"second", "distance"}

    def test_a_model_without_convolutions_has_no_first_one(self, two_inputs: tuple[Operation, ...]) -> None:
        assert selected("first_convolution", two_inputs) == set()
        assert selected("depthwise", two_inputs) == set()

    def test_a_layernorm_in_steps_is_found_whole(self, layernorm: tuple[Operation, ...]) -> None:
        statistics = {"mean", "square", "square_mean", "mean_square", "variance", "add_eps", "sqrt"}
        assert selected("normalization", layernorm) == statistics | {"centre", "scale"}

    def test_only_the_matmul_behind_the_layernorm_is_last(self, layernorm: tuple[Operation, ...]) -> None:
        assert selected("last_matmul", layernorm) == {"y"}


class TestSelectors:
    def test_a_type_selects_all_of_its_operations(self, convolutional: tuple[Operation, ...]) -> None:
        assert resolve(ScopeSelector(types=("Relu",)), convolutional) == ("depthwise_relu", "stem_relu")

    def test_a_pattern_is_matched_from_the_start_of_the_name(self, convolutional: tuple[Operation, ...]) -> None:
        assert resolve(ScopeSelector(patterns=("depth",)), convolutional) == ("depthwise", "depthwise_relu")
        assert resolve(ScopeSelector(patterns=("wise",)), convolutional) == ()

    def test_a_name_is_matched_whole(self, convolutional: tuple[Operation, ...]) -> None:
        assert resolve(ScopeSelector(names=("stem", "depth")), convolutional) == ("stem",)

    def test_what_several_lists_select_is_united_and_sorted(self, convolutional: tuple[Operation, ...]) -> None:
        selector = ScopeSelector(types=("Add",), patterns=("point",), names=("stem",), roles=("last_matmul", "first_convolution"))
        assert resolve(selector, convolutional) == ("logits", "pointwise", "residual", "stem")

    def test_an_empty_selector_selects_nothing(self, convolutional: tuple[Operation, ...]) -> None:
        assert resolve(ScopeSelector(), convolutional) == ()

    def test_types_are_whole_words(self, convolutional: tuple[Operation, ...]) -> None:
        assert resolve(ScopeSelector(types=("Convolution",)), convolutional) == ("pointwise", "stem")

    @pytest.mark.parametrize(
        "selector",
        [
            ScopeSelector(types=("Constant", "Parameter", "Result")),
            ScopeSelector(names=("w1", "image", "logits/sink_port_0")),
            ScopeSelector(patterns=("w1", "image", "logits/")),
        ],
    )
    def test_constants_inputs_and_outputs_are_never_selected(
        self, selector: ScopeSelector, convolutional: tuple[Operation, ...]
    ) -> None:
        assert {"w1", "image", "logits/sink_port_0"} <= {operation.name for operation in convolutional}
        assert resolve(selector, convolutional) == ()

    def test_a_pattern_for_everything_leaves_constants_out(self, convolutional: tuple[Operation, ...]) -> None:
        names = set(resolve(ScopeSelector(patterns=(".*",)), convolutional))
        apart = {o.name for o in convolutional if o.type in {"Constant", "Parameter", "Result"}}
        assert names == {o.name for o in convolutional} - apart


class TestMisses:
    @pytest.mark.parametrize(
        ("selector", "told"),
        [
            (ScopeSelector(types=("Convolutoin",)), "types 'Convolutoin' matches nothing in this model (nearest: Convolution"),
            (ScopeSelector(types=("relu",)), "types 'relu' matches nothing in this model (nearest: Relu)"),
            (ScopeSelector(names=("features/stem",)), "names 'features/stem' matches nothing in this model (nearest: stem"),
            (
                ScopeSelector(patterns=("^pointwize.*",)),
                "patterns '^pointwize.*' matches nothing in this model (nearest: pointwise",
            ),
            (
                ScopeSelector(places=("depthwise[4]",)),
                "places 'depthwise[4]' matches nothing in this model (nearest: depthwise[0])",
            ),
            (ScopeSelector(places=("Add(3)[0]",)), "(nearest: Add[0])"),
            (ScopeSelector(places=("Convolution[9]",)), "(nearest: Convolution[0] to Convolution[1])"),
            (ScopeSelector(places=("depthwize[0]",)), "(nearest: depthwise"),
            (ScopeSelector(roles=("normalization",)), "roles 'normalization' matches nothing in this model"),
            (ScopeSelector(names=("zzz",)), "names 'zzz' matches nothing in this model"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_an_entry_that_matches_nothing_is_told_with_what_is_nearest(
        self, selector: ScopeSelector, told: str, convolutional: tuple[Operation, ...]
    ) -> None:
        (miss,) = misses(selector, convolutional)
        assert told in str(miss)

    def test_entries_that_match_are_left(self, convolutional: tuple[Operation, ...]) -> None:
        mixed = ScopeSelector(
            types=("Relu", "Gelu"), names=("stem", "nose"), patterns=("point", "line"), roles=("last_matmul", "normalization"),
            places=("depthwise[0]", "depthwise[1]"),
        )  # fmt: skip
        left = matching(mixed, convolutional)
        assert left == ScopeSelector(
            types=("Relu",), names=("stem",), patterns=("point",), roles=("last_matmul",), places=("depthwise[0]",)
        )
        assert [miss.entry for miss in misses(mixed, convolutional)] == ["Gelu", "nose", "line", "normalization", "depthwise[1]"]
        assert misses(left, convolutional) == []
        assert resolve(left, convolutional) == resolve(mixed, convolutional)


class TestFirstConvolution:
    def test_parallel_stems_are_all_first(self) -> None:
        model = ops("""
            a = Parameter()
            b = Parameter()
            left = Convolution(a)
            right = GroupConvolution(b)
            both = Concat(left, right)
            next = Convolution(both)
        """)
        assert selected("first_convolution", model) == {"left", "right"}

    def test_a_convolution_that_only_a_detour_precedes_is_not_first(self) -> None:
        model = ops("""
            a = Parameter()
            early = Convolution(a)
            late = Add(a, early)
            second = Convolution(late)
        """)
        assert selected("first_convolution", model) == {"early"}

    def test_a_convolution_behind_a_matmul_is_not_first(self) -> None:
        assert selected("first_convolution", ops("a = Parameter()\nm = MatMul(a)\nc = Convolution(m)")) == set()

    def test_what_is_computed_ahead_of_the_stem_does_not_hide_it(self) -> None:
        model = ops("a = Parameter()\nmean = Subtract(a)\nscale = Divide(mean)\nstem = Convolution(scale)")
        assert selected("first_convolution", model) == {"stem"}


class TestLastMatmul:
    def test_a_matmul_that_a_convolution_follows_is_not_last(self) -> None:
        model = ops("a = Parameter()\nm = MatMul(a)\nr = Relu(m)\nc = Convolution(r)\nout = Result(c)")
        assert selected("last_matmul", model) == set()

    def test_a_matmul_with_one_head_ahead_and_one_output_of_its_own_is_not_last(self) -> None:
        model = ops("a = Parameter()\nm = MatMul(a)\nout = Result(m)\nhead = MatMul(m)\nout2 = Result(head)")
        assert selected("last_matmul", model) == {"head"}


class TestDepthwise:
    def test_grouped_convolutions_with_several_channels_per_group_are_not_depthwise(self) -> None:
        wide = Operation(name="wide", type="GroupConvolution", inputs=("a",), group_channels=(4, 8, 8))
        multiplied = Operation(name="multiplied", type="GroupConvolution", inputs=("a",), group_channels=(16, 1, 2))
        assert selected("depthwise", (Operation(name="a", type="Parameter", inputs=()), wide, multiplied)) == {"multiplied"}


class TestNormalization:
    @pytest.mark.parametrize("kind", ["MVN", "NormalizeL2", "GroupNormalization", "RMS", "BatchNormInference", "LRN"])
    def test_fused_normalizations_are_found_by_type(self, kind: str) -> None:
        assert selected("normalization", ops(f"x = Parameter()\nnorm = {kind}(x)\nmore = Add(norm, x)")) == {"norm"}

    def test_rms_norm_is_found_up_to_the_step_that_scales_the_data(self) -> None:
        model = ops("""
            x = Parameter()
            y = MatMul(x)
            two = Constant()
            square = Power(y, two)
            mean = ReduceMean(square)
            eps = Constant()
            safe = Add(mean, eps)
            root = Sqrt(safe)
            one = Constant()
            inverse = Divide(one, root)
            normal = Multiply(y, inverse)
            gain = Constant()
            weighted = Multiply(normal, gain)
            out = MatMul(weighted)
        """)
        assert selected("normalization", model) == {"square", "mean", "safe", "root", "inverse", "normal"}

    def test_layernorm_with_power_is_found(self) -> None:
        model = ops("""
            x = Parameter()
            y = MatMul(x)
            mean = ReduceMean(y)
            centred = Subtract(y, mean)
            two = Constant()
            square = Power(centred, two)
            variance = ReduceMean(square)
            eps = Constant()
            safe = Add(variance, eps)
            root = Sqrt(safe)
            normal = Divide(centred, root)
            out = MatMul(normal)
        """)
        assert selected("normalization", model) == {"mean", "centred", "square", "variance", "safe", "root", "normal"}

    def test_layernorm_with_squared_difference_and_inverse_root_is_found(self) -> None:
        model = ops("""
            x = Parameter()
            y = MatMul(x)
            mean = ReduceMean(y)
            square = SquaredDifference(y, mean)
            variance = ReduceMean(square)
            eps = Constant()
            safe = Add(variance, eps)
            minus_half = Constant()
            inverse = Power(safe, minus_half)
            centred = Subtract(y, mean)
            normal = Multiply(centred, inverse)
            out = MatMul(normal)
        """)
        assert selected("normalization", model) == {"mean", "square", "variance", "safe", "inverse", "centred", "normal"}

    def test_a_norm_whose_root_is_reshaped_is_found(self) -> None:
        model = ops("""
            x = Parameter()
            norm = ReduceL2(x)
            two = Constant()
            root = Power(norm, two)
            axis = Constant()
            column = Unsqueeze(root, axis)
            normal = Divide(x, column)
            out = MatMul(normal)
        """)
        assert selected("normalization", model) == {"norm", "root", "column", "normal"}

    GAIN_FOLDED_IN = """
        x = Parameter()
        y = MatMul(x)
        mean = ReduceMean(y)
        square = SquaredDifference(y, mean)
        variance = ReduceMean(square)
        minus_half = Constant()
        inverse = Power(variance, minus_half)
        {gain}
        centred = Subtract(y, mean)
        scale = Multiply(inverse, gain)
        normal = Multiply(centred, scale)
        out = MatMul(normal)
    """
    FOUND_WITH_GAIN = frozenset({"mean", "square", "variance", "inverse", "scale", "centred", "normal"})

    def test_a_gain_folded_into_the_scale_does_not_hide_the_data(self) -> None:
        model = ops(self.GAIN_FOLDED_IN.format(gain="gain = Constant()"))
        assert selected("normalization", model) == self.FOUND_WITH_GAIN

    def test_constants_stored_as_f16_neither_hide_the_data_nor_are_selected(self) -> None:
        operations = rms_norm_stored_as_f16()
        assert {operation.type for operation in operations if operation.name in {"eps", "gain"}} == {"Constant"}
        assert selected("normalization", operations) == {"square", "mean", "safe", "root", "inverse", "scale", "normal"}

    def test_a_softmax_in_steps_is_no_normalization(self) -> None:
        model = ops("""
            x = Parameter()
            y = MatMul(x)
            top = ReduceMax(y)
            shifted = Subtract(y, top)
            power = Exp(shifted)
            total = ReduceSum(power)
            share = Divide(power, total)
            out = MatMul(share)
        """)
        assert selected("normalization", model) == set()

    def test_the_root_of_a_dimension_is_no_normalization(self) -> None:
        model = ops("""
            x = Parameter()
            shape = ShapeOf(x)
            number = Convert(shape)
            root = Sqrt(number)
            scores = MatMul(x, x)
            scaled = Divide(scores, root)
        """)
        assert selected("normalization", model) == set()

    @pytest.mark.parametrize("distance", ["Sqrt(total)", "Power(total, half)"])
    def test_a_euclidean_distance_is_no_normalization(self, distance: str) -> None:
        model = ops(f"""
            x = Parameter()
            left = MatMul(x)
            right = MatMul(x)
            square = SquaredDifference(left, right)
            total = ReduceSum(square)
            half = Constant()
            distance = {distance}
            temperature = Constant()
            scaled = Divide(distance, temperature)
            out = MatMul(scaled)
        """)
        assert selected("normalization", model) == set()

    @pytest.mark.parametrize("data", ["y", "centred"])
    @pytest.mark.parametrize("step", ["Multiply(square, y)", "Divide(y, square)"])
    def test_the_square_of_data_is_no_normalization(self, data: str, step: str) -> None:
        model = ops(f"""
            x = Parameter()
            y = MatMul(x)
            mean = ReduceMean(y)
            centred = Subtract(y, mean)
            two = Constant()
            square = Power({data}, two)
            product = {step}
            out = MatMul(product)
        """)
        assert selected("normalization", model) == set()

    @pytest.mark.parametrize(
        "square",
        [
            "Multiply(centred, centred)",
            "SquaredDifference(sum, mean)",
            "Power(centred, two)",
        ],
    )
    def test_a_residual_sum_ahead_of_a_layernorm_is_not_swallowed(self, square: str) -> None:
        model = ops(f"""
            x = Parameter()
            y = MatMul(x)
            gate = Sigmoid(y)
            gated = Multiply(y, gate)
            sum = Add(gated, x)
            mean = ReduceMean(sum)
            centred = Subtract(sum, mean)
            two = Constant()
            square = {square}
            variance = ReduceMean(square)
            eps = Constant()
            safe = Add(variance, eps)
            root = Sqrt(safe)
            normal = Divide(centred, root)
            gain = Constant()
            weighted = Multiply(normal, gain)
            bias = Constant()
            shifted = Add(weighted, bias)
            next = Add(shifted, sum)
            product = Multiply(next, gate)
        """)
        assert selected("normalization", model) == {"mean", "centred", "square", "variance", "safe", "root", "normal"}


def test_the_first_depthwise_is_the_one_that_no_other_precedes():
    def group(name: str, source: str) -> Operation:
        return Operation(name=name, type="GroupConvolution", inputs=(source,), group_channels=(8, 1, 1))

    operations = [
        Operation(name="x", type="Parameter", inputs=()),
        Operation(name="stem", type="Convolution", inputs=("x",)),
        group("one", "stem"),
        group("beside", "stem"),
        group("two", "one"),
    ]
    assert resolve(ScopeSelector(roles=("first_depthwise",)), operations) == ("beside", "one")
    assert resolve(ScopeSelector(roles=("depthwise",)), operations) == ("beside", "one", "two")
