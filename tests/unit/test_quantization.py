"""One strategy is one `nncf.quantize` call."""

from __future__ import annotations

from pathlib import Path

import nncf
import numpy as np
import onnx
import openvino as ov
import pytest
import small
from nncf.quantization.advanced_parameters import (
    AdvancedQuantizationParameters,
    AdvancedSmoothQuantParameters,
    QuantizationParameters,
    QuantizerPropagationRule,
)
from nncf.quantization.range_estimator import RangeEstimatorParametersSet
from onnx import numpy_helper

from ovquant import quantization, runtime
from ovquant.protocols import Sample
from ovquant.selectors import ScopeSelector
from ovquant.strategy import Strategy


def biased_conv_model(path: Path) -> Path:
    """Write the convolutional model with a bias behind each convolution, as exporters fold batch normalization into."""
    small.conv_model(path)
    model, rng = onnx.load(str(path)), np.random.default_rng(3)
    for node in model.graph.node:
        if node.op_type == "Conv":
            node.input.append(f"{node.name}_bias")
            model.graph.initializer.append(numpy_helper.from_array(rng.normal(size=16).astype(np.float32), node.input[-1]))
    onnx.save(model, str(path))
    return path


class Case:
    """A model with its calibration samples."""

    def __init__(self, model: ov.Model, samples: list[Sample]) -> None:
        self.model, self.samples, self.operations = model, samples, runtime.operations(model)
        self._digests: dict[str, str] = {}

    def quantize(self, strategy: Strategy) -> ov.Model:
        return quantization.quantize(self.model, strategy, self.samples, self.operations)

    def digest(self, **genes) -> str:
        strategy = Strategy(**genes)
        if repr(strategy) not in self._digests:
            self._digests[repr(strategy)] = runtime.graph_digest(self.quantize(strategy))
        return self._digests[repr(strategy)]

    def plain_digest(self, *, advanced: dict | None = None, **arguments) -> str:
        """Return the digest of what `nncf.quantize` itself makes of arguments in its own words."""
        parameters = AdvancedQuantizationParameters(**(advanced or {}))
        model = nncf.quantize(self.model, nncf.Dataset(self.samples), advanced_parameters=parameters, **arguments)
        return runtime.graph_digest(model)


@pytest.fixture(scope="module")
def conv(tmp_path_factory: pytest.TempPathFactory) -> Case:
    path = biased_conv_model(tmp_path_factory.mktemp("conv") / "model.onnx")
    batch = small.normalized(small.images(16))
    return Case(runtime.read_model(path), [{"image": item[np.newaxis]} for item in batch])


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The same model as an IR whose biases are constants, as OpenVINO's converter writes it."""
    path = biased_conv_model(tmp_path_factory.mktemp("folded") / "model.onnx")
    batch = small.normalized(small.images(16))
    return Case(ov.convert_model(str(path)), [{"image": item[np.newaxis]} for item in batch])


@pytest.fixture(scope="module")
def layernorm(tmp_path_factory: pytest.TempPathFactory) -> Case:
    path = small.layernorm_model(tmp_path_factory.mktemp("layernorm") / "model.onnx")
    rng = np.random.default_rng(0)
    samples = [{"tokens": rng.normal(size=(1, 6, 8)).astype(np.float32)} for _ in range(20)]
    return Case(runtime.read_model(path), samples)


# Equal to a direct call


CONV_CASES = {
    "default": (Strategy(), {}),
    "preset, subset and range estimator": (
        Strategy(preset="mixed", subset_size=7, activations_range_estimator="MEAN_QUANTILE"),
        {
            "preset": nncf.QuantizationPreset.MIXED,
            "subset_size": 7,
            "advanced": {"activations_range_estimator_params": RangeEstimatorParametersSet.MEAN_QUANTILE},
        },
    ),
    "weights cut, per tensor, branches apart": (
        Strategy(
            weights_range_estimator="MEAN_QUANTILE",
            activations_per_channel=False,
            quantizer_propagation_rule="DO_NOT_MERGE_BRANCHES",
        ),
        {
            "advanced": {
                "weights_range_estimator_params": RangeEstimatorParametersSet.MEAN_QUANTILE,
                "activations_quantization_params": QuantizationParameters(per_channel=False),
                "quantizer_propagation_rule": QuantizerPropagationRule.DO_NOT_MERGE_BRANCHES,
            }
        },
    ),
    "accurate bias correction and overflow fix": (
        Strategy(fast_bias_correction=False, overflow_fix="enable"),
        {"fast_bias_correction": False, "advanced": {"overflow_fix": nncf.OverflowFix.ENABLE}},
    ),
    "no bias correction, target device": (
        Strategy(disable_bias_correction=True, target_device="CPU_SPR"),
        {"target_device": nncf.TargetDevice.CPU_SPR, "advanced": {"disable_bias_correction": True}},
    ),
    "scope by role and type": (
        Strategy(ignored_scope=ScopeSelector(roles=("first_convolution",), types=("Add",))),
        {"ignored_scope": nncf.IgnoredScope(names=["stem/WithoutBiases"], types=["Add"])},
    ),
    "transformer with SmoothQuant on convolutions": (
        Strategy(model_type="transformer", smooth_quant_alpha_convolution=0.5, overflow_fix="disable"),
        {
            "model_type": nncf.ModelType.TRANSFORMER,
            "advanced": {
                "smooth_quant_alphas": AdvancedSmoothQuantParameters(convolution=0.5),
                "overflow_fix": nncf.OverflowFix.DISABLE,
            },
        },
    ),
}


@pytest.mark.parametrize("name", CONV_CASES)
def test_quantize_equals_a_direct_call_on_convolutions(folded, name):
    strategy, arguments = CONV_CASES[name]
    assert runtime.graph_digest(folded.quantize(strategy)) == folded.plain_digest(**arguments)


@pytest.mark.parametrize("alpha", [-1, 0.5])
def test_quantize_equals_a_direct_call_with_smooth_quant_on_matmuls(layernorm, alpha):
    strategy = Strategy(model_type="transformer", preset="performance", smooth_quant_alpha_matmul=alpha)
    expected = layernorm.plain_digest(
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.PERFORMANCE,
        advanced={"smooth_quant_alphas": AdvancedSmoothQuantParameters(matmul=alpha)},
    )
    assert runtime.graph_digest(layernorm.quantize(strategy)) == expected


# Every gene has an effect, so that the tests above can fail


@pytest.mark.parametrize(
    "genes",
    [
        {"preset": "mixed"},
        {"subset_size": 7},
        {"fast_bias_correction": False},
        {"disable_bias_correction": True},
        {"overflow_fix": "enable"},
        {"overflow_fix": "disable"},
        {"activations_range_estimator": "MEAN_QUANTILE"},
        {"target_device": "CPU_SPR"},
        {"model_type": "transformer"},
        {"ignored_scope": ScopeSelector(roles=("depthwise",))},
    ],
    ids=str,
)
def test_gene_changes_the_model(folded, genes):
    assert folded.digest(**genes) != folded.digest()


@pytest.mark.parametrize("genes", [{"smooth_quant_alpha_matmul": -1}, {"smooth_quant_alpha_matmul": 0.5}], ids=str)
def test_smooth_quant_of_matmuls_changes_a_transformer(layernorm, genes):
    assert layernorm.digest(model_type="transformer", **genes) != layernorm.digest(model_type="transformer")


def test_smooth_quant_of_convolutions_changes_a_transformer(folded):
    assert folded.digest(model_type="transformer", smooth_quant_alpha_convolution=0.5) != folded.digest(model_type="transformer")


@pytest.mark.parametrize("genes", [{"fast_bias_correction": False}, {"disable_bias_correction": True}], ids=str)
def test_bias_correction_has_an_effect_on_an_onnx_file_with_biases(conv, genes):
    assert conv.digest(**genes) != conv.digest()


def test_onnx_file_is_quantized_as_well_as_what_openvino_converts_it_to(conv, folded):
    assert conv.digest() == folded.digest()


# What strategies mean


@pytest.mark.parametrize(
    "strategy",
    [
        Strategy(preset="mixed", fast_bias_correction=False, disable_bias_correction=True),
        Strategy(smooth_quant_alpha_matmul=0.3, smooth_quant_alpha_convolution=0.7),
        Strategy(model_type="transformer", smooth_quant_alpha_matmul=-0.5),
        Strategy(target_device="NPU", overflow_fix="first_layer_only"),
    ],
    ids=["bias correction off", "SmoothQuant without transformer", "negative alpha", "defaults by name"],
)
def test_canonical_form_gives_the_same_model(folded, strategy):
    assert strategy.canonical() != strategy
    assert runtime.graph_digest(folded.quantize(strategy)) == runtime.graph_digest(folded.quantize(strategy.canonical()))


def fake_quantized(model: ov.Model) -> set[str]:
    """Return the operations with a FakeQuantize right before them."""
    nodes = model.get_ordered_ops()
    return {
        node.get_friendly_name()
        for node in nodes
        if any(value.get_node().get_type_name() == "FakeQuantize" for value in node.input_values())
    }


def test_ignored_operations_stay_in_float_and_no_others(conv):
    scoped = conv.quantize(Strategy(ignored_scope=ScopeSelector(names=("pointwise/WithoutBiases",))))
    plain = fake_quantized(conv.quantize(Strategy()))
    assert {"stem/WithoutBiases", "depthwise/WithoutBiases", "pointwise/WithoutBiases"} <= plain
    assert plain - fake_quantized(scoped) == {"pointwise/WithoutBiases"}


def test_scope_that_matches_nothing_is_an_error(conv):
    with pytest.raises(ValueError, match="matches nothing in this model"):
        conv.quantize(Strategy(ignored_scope=ScopeSelector(types=("LSTMSequence",))))


def test_float_model_is_left_as_it_is(conv):
    before = runtime.graph_digest(conv.model)
    conv.quantize(Strategy(model_type="transformer", smooth_quant_alpha_convolution=0.5))
    assert runtime.graph_digest(conv.model) == before


def test_nothing_is_written_to_stdout(conv, capfd):
    conv.quantize(Strategy())
    assert capfd.readouterr().out == ""
