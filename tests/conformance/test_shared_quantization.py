"""From shared statistics or by one plain `nncf.quantize` call: the model is the same, bit for bit."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import children
import numpy as np
import openvino as ov
import pytest
import small
from onnx import TensorProto, helper, numpy_helper

from ovquant import runtime
from ovquant.protocols import Sample
from ovquant.quantization import internals, matching, passes, plain, shared, statistics, store
from ovquant.quantization.shared import DEFAULT_MEMORY_BYTES, SharedQuantizer
from ovquant.quantization.store import ArrayStore
from ovquant.selectors import ScopeRole, ScopeSelector
from ovquant.strategy import (
    InferencePrecision,
    ModelType,
    NncfTargetDevice,
    OverflowFix,
    Preset,
    PropagationRule,
    RangeEstimator,
    Strategy,
    WeightsRangeEstimator,
)

N_SAMPLES = 12
SCOPED = ScopeSelector(
    types=("Add", "GRUSequence"),
    patterns=("key.*", "LSTM.*"),
    names=("pointwise/WithoutBiases", "head"),
    places=("Convolution[-1]", "MatMul(2)[0]"),
    roles=("first_convolution", "last_matmul", "depthwise", "first_depthwise", "normalization"),
)
# Smaller and larger subsets in turns, so that each comes before and after a larger one of the same statistics.
STRATEGIES = {
    "default": Strategy(),
    "minmax of some": Strategy(
        preset="performance",
        subset_size=7,
        target_device="CPU",
        overflow_fix="disable",
        activations_range_estimator="MINMAX",
        inference_precision="bf16",
    ),
    "accurate": Strategy(
        preset="mixed",
        subset_size=N_SAMPLES,
        fast_bias_correction=False,
        overflow_fix="enable",
        activations_range_estimator="MEAN_MINMAX",
        target_device="GPU",
        inference_precision="f16",
    ),
    "without bias correction": Strategy(
        subset_size=5,
        fast_bias_correction=False,
        disable_bias_correction=True,
        overflow_fix="first_layer_only",
        activations_range_estimator="MEDIAN_MINMAX",
        target_device="NPU",
    ),
    "no outliers, another device": Strategy(
        subset_size=9, activations_range_estimator="MEAN_NO_OUTLIERS_MINMAX", target_device="CPU_SPR"
    ),
    "weights cut, per tensor, branches apart": Strategy(
        subset_size=9,
        weights_range_estimator="MEAN_QUANTILE",
        activations_per_channel=False,
        quantizer_propagation_rule="DO_NOT_MERGE_BRANCHES",
    ),
    "like branches merged": Strategy(
        preset="mixed",
        subset_size=7,
        weights_range_estimator="MINMAX",
        quantizer_propagation_rule="MERGE_IF_ALL_BRANCHES_SAME",
    ),
    "requantized branches": Strategy(quantizer_propagation_rule="MERGE_WITH_POTENTIAL_REQUANTIZATION"),
    "one quantizer for all branches": Strategy(subset_size=7, quantizer_propagation_rule="MERGE_ALL_IN_ONE"),
    "quantiles": Strategy(preset="mixed", subset_size=9, activations_range_estimator="MEAN_QUANTILE"),
    "histogram": Strategy(subset_size=9, activations_range_estimator="HISTOGRAM"),
    "float scope": Strategy(subset_size=8, ignored_scope=SCOPED),
    "transformer": Strategy(model_type="transformer"),
    "transformer, not smoothed": Strategy(
        model_type="transformer",
        preset="performance",
        subset_size=7,
        smooth_quant_alpha_matmul=-1.0,
        smooth_quant_alpha_convolution=-1.0,
    ),
    "transformer, smoothed everywhere, accurate": Strategy(
        model_type="transformer",
        subset_size=7,
        smooth_quant_alpha_matmul=0.3,
        smooth_quant_alpha_convolution=0.6,
        fast_bias_correction=False,
        ignored_scope=SCOPED,
    ),
    "transformer, smoothed everywhere, quantiles": Strategy(
        model_type="transformer",
        subset_size=7,
        smooth_quant_alpha_matmul=0.3,
        smooth_quant_alpha_convolution=0.6,
        activations_range_estimator="MEAN_QUANTILE",
    ),
    "transformer, smoothed convolutions": Strategy(
        model_type="transformer",
        preset="mixed",
        subset_size=1,
        smooth_quant_alpha_matmul=-1.0,
        smooth_quant_alpha_convolution=0.5,
        overflow_fix="disable",
    ),
    "transformer, smoothed at both ends, histogram": Strategy(
        model_type="transformer",
        subset_size=5,
        smooth_quant_alpha_matmul=0.0,
        smooth_quant_alpha_convolution=1.0,
        activations_range_estimator="HISTOGRAM",
        disable_bias_correction=True,
    ),
}
NOTHING = Strategy(ignored_scope=ScopeSelector(types=("Einsum",)))


@dataclasses.dataclass(frozen=True)
class Case:
    """A model with its calibration samples, and what plain calls make of it."""

    path: Path
    samples: list[Sample]
    model: ov.Model
    plainly: dict[Strategy, tuple[Any, ...]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, path: Path, samples: list[Sample]) -> Case:
        return cls(path, samples, runtime.read_model(path))

    def plain(self, strategy: Strategy) -> tuple[Any, ...]:
        if strategy not in self.plainly:
            operations = runtime.operations(self.model)
            self.plainly[strategy] = identity(plain.quantize(self.model, strategy, self.samples, operations))
        return self.plainly[strategy]

    def quantizer(
        self, store: Path, samples: list[Sample] | None = None, memory_bytes: int = DEFAULT_MEMORY_BYTES
    ) -> SharedQuantizer:
        operations = runtime.operations(self.model)
        return SharedQuantizer(self.model, operations, samples or self.samples, ArrayStore(store), memory_bytes)


def identity(model: ov.Model) -> tuple[Any, ...]:
    """Return what the model computes, what it is asked by, and what NNCF noted in it."""
    noted = {name: noted_value(value) for name, value in model.get_rt_info().items()}
    return runtime.graph_digest(model), runtime.input_infos(model), runtime.output_names(model), noted


def noted_value(value: Any) -> Any:
    content = value.value if isinstance(value, ov.OVAny) else value
    return {name: noted_value(part) for name, part in content.items()} if isinstance(content, dict) else str(content)


def tokens(rng: np.random.Generator, n_tokens: int = 4) -> Sample:
    return {"tokens": rng.normal(size=(1, n_tokens, 16)).astype(np.float32)}


def convolutional(folder: Path) -> Case:
    pixels = small.normalized(small.images(N_SAMPLES))
    return Case.of(small.biased_conv_model(folder / "conv.onnx"), [{"image": item[np.newaxis]} for item in pixels])


def attending(folder: Path) -> Case:
    """Sentences of two lengths, one outside the usual range."""
    rng = np.random.default_rng(0)
    samples = [tokens(rng, 3 + 2 * (index % 2)) for index in range(N_SAMPLES)]
    samples[10]["tokens"][...] *= 4
    return Case.of(small.attention_model(folder / "attention.onnx"), samples)


def recurrent(folder: Path) -> Case:
    rng = np.random.default_rng(0)
    shapes = {"frames": (1, 5, 6), "facts": (1, 4)}
    samples = [{name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(N_SAMPLES)]
    return Case.of(small.recurrent_model(folder / "recurrent.onnx"), samples)


def two_inputs(folder: Path) -> Case:
    """Without biases; the batch is dynamic and differs from sample to sample."""
    rng = np.random.default_rng(0)
    samples = [
        {name: rng.normal(size=(1 + index % 3, n)).astype(np.float32) for name, n in {"left": 8, "right": 4}.items()}
        for index in range(N_SAMPLES)
    ]
    return Case.of(small.two_input_model(folder / "two.onnx"), samples)


CASES: dict[str, Callable[[Path], Case]] = {
    "convolutional": convolutional,
    "attending": attending,
    "recurrent": recurrent,
    "two inputs": two_inputs,
}
_cases: dict[str, Case] = {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("shared")
    _cases.clear()


@pytest.fixture(params=["convolutional", "attending", "recurrent"])
def case(request: pytest.FixtureRequest, folder: Path) -> Case:
    return case_of(request.param, folder)


@pytest.fixture
def conv(folder: Path) -> Case:
    return case_of("convolutional", folder)


@pytest.fixture
def attention(folder: Path) -> Case:
    return case_of("attending", folder)


def case_of(name: str, folder: Path) -> Case:
    if name not in _cases:
        _cases[name] = CASES[name](folder)
    return _cases[name]


# What the strategies cover


def values(gene: str) -> set[Any]:
    return {getattr(strategy, gene) for strategy in STRATEGIES.values()}


CHOICES = {
    "preset": {None, *get_args(Preset)},
    "model_type": {None, *get_args(ModelType)},
    "fast_bias_correction": {True, False},
    "disable_bias_correction": {True, False},
    "overflow_fix": {None, *get_args(OverflowFix)},
    "activations_range_estimator": {None, *get_args(RangeEstimator)},
    "weights_range_estimator": {None, *get_args(WeightsRangeEstimator)},
    "activations_per_channel": {None, False},
    "quantizer_propagation_rule": {None, *get_args(PropagationRule)},
    "inference_precision": set(get_args(InferencePrecision)),
    "target_device": set(get_args(NncfTargetDevice)),
}


@pytest.mark.parametrize("gene", CHOICES)
def test_strategies_cover_every_value_of_a_gene(gene):
    assert values(gene) == CHOICES[gene]


def test_strategies_cover_every_gene():
    amounts = {"subset_size", "ignored_scope", "smooth_quant_alpha_matmul", "smooth_quant_alpha_convolution"}
    apart = {"disable_channel_alignment"}  # see below
    assert {field.name for field in dataclasses.fields(Strategy)} == {*CHOICES, *amounts, *apart}


def test_strategies_cover_subsets_around_the_number_of_samples():
    sizes = [strategy.subset_size for strategy in STRATEGIES.values()]
    assert min(sizes) == 1
    assert N_SAMPLES in sizes
    assert max(sizes) > N_SAMPLES
    pairs = list(itertools.pairwise(size for size in sizes if size < N_SAMPLES))
    assert any(first < second for first, second in pairs)
    assert any(first > second for first, second in pairs)


@pytest.mark.parametrize("gene", ["smooth_quant_alpha_matmul", "smooth_quant_alpha_convolution"])
def test_strategies_cover_smooth_quant_off_and_several_values(gene):
    effective = {getattr(strategy, gene) for strategy in STRATEGIES.values() if strategy.model_type == "transformer"}
    assert min(effective) < 0
    assert len([alpha for alpha in effective if alpha >= 0]) >= 3


def test_strategies_cover_every_way_to_name_a_scope():
    scopes = [strategy.ignored_scope for strategy in STRATEGIES.values()]
    for kind in ScopeSelector.model_fields:
        assert any(getattr(scope, kind) for scope in scopes)
    assert {role for scope in scopes for role in scope.roles} == set(get_args(ScopeRole))


# The same models


def unequal(case: Case, quantizer: SharedQuantizer) -> list[str]:
    """Return the strategies whose models are not those of plain calls."""
    return [name for name, strategy in STRATEGIES.items() if identity(quantizer.quantize(strategy)) != case.plain(strategy)]


def test_models_from_statistics_collected_together_equal_plain_ones(case, tmp_path):
    quantizer = case.quantizer(tmp_path)
    quantizer.prepare(STRATEGIES.values())
    n_prepared = quantizer.n_passes
    assert 0 < n_prepared < len(STRATEGIES)
    assert unequal(case, quantizer) == []
    assert (quantizer.n_passes, quantizer.fallback) == (n_prepared, None)


def test_models_from_statistics_collected_one_by_one_equal_plain_ones(case, folder):
    quantizer = case.quantizer(folder / "one by one" / case.path.stem)
    assert unequal(case, quantizer) == []
    assert quantizer.fallback is None
    assert 0 < quantizer.n_passes < 2 * len(STRATEGIES)


def test_models_of_a_dynamic_batch_without_biases_equal_plain_ones(folder, tmp_path):
    dynamic = case_of("two inputs", folder)
    quantizer = dynamic.quantizer(tmp_path)
    assert unequal(dynamic, quantizer) == []
    assert quantizer.fallback is None


def test_strategies_differ_in_what_they_make(case):
    """Otherwise the tests above could not fail."""
    digests = {case.plain(strategy)[0] for strategy in STRATEGIES.values()}
    assert len(digests) > len(STRATEGIES) / 2


def test_model_of_which_all_stays_in_float_equals_the_plain_one(conv, tmp_path):
    everything = Strategy(ignored_scope=ScopeSelector(patterns=(".*",)))
    quantizer = conv.quantizer(tmp_path)
    assert identity(quantizer.quantize(everything)) == conv.plain(everything)
    assert quantizer.fallback is None


def test_aligned_channels_are_those_of_the_plain_call_or_fail_like_it(case, tmp_path):
    """In NNCF 3.4.0 alignment raises wherever there is something to align."""
    aligned = [
        Strategy(disable_channel_alignment=False),
        Strategy(disable_channel_alignment=False, subset_size=5, model_type="transformer"),
    ]
    quantizer = case.quantizer(tmp_path)
    for strategy in aligned:
        try:
            expected = case.plain(strategy)
        except Exception as error:
            with pytest.raises(type(error)):
                quantizer.quantize(strategy)
        else:
            assert identity(quantizer.quantize(strategy)) == expected
            assert quantizer.fallback is None


def test_scope_that_matches_nothing_is_the_same_error(conv, tmp_path):
    quantizer = conv.quantizer(tmp_path)
    quantizer.prepare([NOTHING])
    with pytest.raises(ValueError, match="matches nothing in this model") as shared:
        quantizer.quantize(NOTHING)
    with pytest.raises(ValueError, match="matches nothing in this model") as plainly:
        conv.plain(NOTHING)
    assert str(shared.value) == str(plainly.value)
    assert quantizer.fallback is None


def test_scope_that_matches_nothing_leaves_the_others_prepared(conv, tmp_path):
    quantizer = conv.quantizer(tmp_path)
    quantizer.prepare([NOTHING, Strategy()])
    assert quantizer.n_passes > 0
    n_prepared = quantizer.n_passes
    assert identity(quantizer.quantize(Strategy())) == conv.plain(Strategy())
    assert quantizer.n_passes == n_prepared


def test_float_model_is_left_as_it_is(attention, tmp_path):
    before = runtime.graph_digest(attention.model)
    quantizer = attention.quantizer(tmp_path)
    for strategy in (Strategy(), STRATEGIES["transformer, smoothed everywhere, accurate"]):
        quantizer.quantize(strategy)
    assert runtime.graph_digest(attention.model) == before


def test_same_strategy_twice_gives_the_same_model(attention, tmp_path):
    strategy = STRATEGIES["transformer"]
    quantizer = attention.quantizer(tmp_path)
    first, second = quantizer.quantize(strategy), quantizer.quantize(strategy)
    assert first is not second
    assert identity(first) == identity(second) == attention.plain(strategy)


def test_models_are_the_same_where_next_to_nothing_is_remembered(case, tmp_path, monkeypatch):
    limits = {
        shared: ["_MAX_STAGES", "_MAX_SETUPS", "_MAX_SHIFTS", "_MAX_LAYERS"],
        statistics: ["_MAX_SEEN", "_RESULTS_BYTES"],
        matching: ["_MAX_KEPT"],
        store: ["_MAX_OPEN"],
    }
    for module, names in limits.items():
        for name in names:
            monkeypatch.setattr(module, name, 1)
    quantizer = case.quantizer(tmp_path)
    for strategy in [*STORED, *STORED]:
        assert identity(quantizer.quantize(strategy)) == case.plain(strategy), strategy.describe()
    assert quantizer.fallback is None


def test_nothing_is_written_to_stdout(conv, tmp_path, capfd):
    quantizer = conv.quantizer(tmp_path)
    quantizer.prepare([Strategy()])
    quantizer.quantize(Strategy(fast_bias_correction=False))
    assert capfd.readouterr().out == ""


# Models with something special


def single(folder: Path, nodes: list[Any], weights: dict[str, np.ndarray], shape: list[int | str]) -> Path:
    """Write a model with one input ``x`` and one output ``y`` of that shape."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)]
    initializers = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    return small._save(folder / "special.onnx", nodes, inputs, outputs, initializers)


def assert_shared_equals_plain(case: Case, store: Path, *strategies: Strategy) -> None:
    """Check strategies prepared together, and each with a store of its own."""
    together = case.quantizer(store / "together")
    together.prepare(strategies)
    for index, strategy in enumerate(strategies):
        for quantizer in (together, case.quantizer(store / str(index))):
            assert identity(quantizer.quantize(strategy)) == case.plain(strategy), strategy.describe()
            assert quantizer.fallback is None


SEVERAL = [
    Strategy(preset="mixed"),
    Strategy(subset_size=5, activations_range_estimator="MEAN_QUANTILE"),
    Strategy(subset_size=8, activations_range_estimator="HISTOGRAM"),
    Strategy(model_type="transformer"),
]


def test_tensors_without_dimensions_are_shared(tmp_path):
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["h"], "first"),
        helper.make_node("ReduceMean", ["h"], ["mean"], "mean", keepdims=0),
        helper.make_node("Mul", ["h", "mean"], ["scaled"], "scale"),
        helper.make_node("MatMul", ["scaled", "second"], ["y"], "second"),
    ]
    weights = {name: rng.normal(size=(8, 8)) for name in ("first", "second")}
    samples = [{"x": rng.normal(size=(1, 4, 8)).astype(np.float32)} for _ in range(N_SAMPLES)]
    case = Case.of(single(tmp_path, nodes, weights, [1, 4, 8]), samples)
    assert_shared_equals_plain(case, tmp_path / "store", *SEVERAL)


def test_sample_without_elements_is_left_to_the_plain_call(tmp_path):
    """NNCF leaves it out, so that statistics are of other samples than the first ones."""
    rng = np.random.default_rng(0)
    samples = [
        {"x": rng.normal(size=(1, 0 if index == 3 else 1 + index % 3, 8)).astype(np.float32)} for index in range(N_SAMPLES)
    ]
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["y"], "product")]
    case = Case.of(single(tmp_path, nodes, {"weight": rng.normal(size=(8, 8))}, [1, "T", 8]), samples)
    quantizer = case.quantizer(tmp_path / "store")
    quantizer.prepare(SEVERAL)
    assert identity(quantizer.quantize(SEVERAL[0])) == case.plain(SEVERAL[0])
    assert "without elements" in str(quantizer.fallback)
    assert quantizer.n_passes == 0


def test_loops_that_differ_only_in_direction_have_statistics_of_their_own(tmp_path):
    """A running mean over rows that grow: forwards it ends small, backwards it begins large."""
    vector = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [8]) for name in ("state", "row", "next", "seen")]
    steps = [
        helper.make_node("Add", ["state", "row"], ["both"]),
        helper.make_node("Mul", ["both", "share"], ["next"]),
        helper.make_node("Identity", ["next"], ["seen"]),
    ]
    share = numpy_helper.from_array(np.full(8, 1.5, np.float32), "share")
    body = helper.make_graph(steps, "body", vector[:2], vector[2:], [share])
    nodes = []
    for direction, name in enumerate(("forwards", "backwards")):
        scan = {"body": body, "num_scan_inputs": 1, "scan_input_directions": [direction]}
        nodes.append(helper.make_node("Scan", ["zero", "x"], [f"{name}_last", f"{name}_seen"], name, **scan))
        nodes.append(helper.make_node("MatMul", [f"{name}_seen", "weight"], [f"{name}_y"], f"{name}_product"))
    nodes.append(helper.make_node("Add", ["forwards_y", "backwards_y"], ["y"], "sum"))
    rng = np.random.default_rng(0)
    weights = {"weight": rng.normal(size=(8, 8)), "zero": np.zeros(8)}
    growing = np.geomspace(0.01, 10, 4)[:, np.newaxis]
    samples = [{"x": (growing * rng.normal(size=(4, 8))).astype(np.float32)} for _ in range(N_SAMPLES)]
    case = Case.of(single(tmp_path, nodes, weights, [4, 8]), samples)
    assert_shared_equals_plain(case, tmp_path / "store", *SEVERAL)


class Drawn:
    """A model of a convolution with bias, some blocks, pooling and a MatMul, with drawn weights."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def weight(self, *shape: int, scale: float = 0.3, is_positive: bool = False) -> str:
        values = self._rng.normal(size=shape)
        values = np.abs(values) + 0.3 if is_positive else values * scale
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), f"weight {len(self.weights)}"))
        return self.weights[-1].name

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = f"{kind} {len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def convolved(self, x: str, n_in: int = 8) -> str:
        return self.add("Conv", x, self.weight(8, n_in, 3, 3, scale=0.2), self.weight(8), pads=[1, 1, 1, 1])

    def batch_normalized(self, x: str) -> str:
        scale, variance = (self.weight(8, is_positive=True) for _ in range(2))
        return self.add("BatchNormalization", x, scale, self.weight(8), self.weight(8), variance)

    def linear(self, x: str) -> str:
        return self.add("Add", self.add("MatMul", x, self.weight(12, 12)), self.weight(12))

    def swish(self, x: str) -> str:
        return self.add("Mul", x, self.add("Sigmoid", x))

    def prelu(self, x: str) -> str:
        return self.add("PRelu", x, self.weight(8, 1, 1, is_positive=True))

    def relu(self, x: str) -> str:
        return self.add("Relu", x)

    def residual(self, x: str) -> str:
        return self.add("Add", x, self.convolved(x))

    def save(self, path: Path, blocks: tuple[str, ...]) -> Path:
        x = self.convolved("image", 3)
        for block in blocks:
            x = getattr(self, block)(x)
        flat = self.add("Flatten", self.add("GlobalAveragePool", x))
        self.nodes.append(helper.make_node("MatMul", [flat, self.weight(8, 4)], ["y"], "head"))
        inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 12, 12])]
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])]
        return small._save(path, self.nodes, inputs, outputs, self.weights)


# Each was seen to come out otherwise in the last bits on some CPU, where a pass looks at other tensors than the plain call
# does, or at the same ones in another way: blocks, seed of the weights, strategies.
FUSED: list[tuple[str, int, list[Strategy]]] = [
    ("prelu", 0, [Strategy(activations_range_estimator="HISTOGRAM")]),
    ("swish batch_normalized residual", 0, [Strategy(activations_range_estimator="MEAN_QUANTILE")]),
    ("linear", 1, [Strategy(model_type="transformer", activations_range_estimator="MEAN_QUANTILE")]),
    ("relu batch_normalized", 0, [Strategy(model_type="transformer"), Strategy(activations_range_estimator="MINMAX")]),
    (
        "prelu relu swish batch_normalized residual",
        103835,
        [Strategy(activations_range_estimator="MEAN_QUANTILE"), Strategy(activations_range_estimator="HISTOGRAM")],
    ),
    (
        "prelu batch_normalized residual batch_normalized",
        709727,
        [Strategy(activations_range_estimator="MEAN_QUANTILE"), Strategy(fast_bias_correction=False)],
    ),
]


@pytest.mark.parametrize(("blocks", "seed", "strategies"), FUSED, ids=[blocks for blocks, _, _ in FUSED])
def test_operations_that_are_fused_or_not_as_tensors_are_looked_at_round_as_in_a_plain_call(tmp_path, blocks, seed, strategies):
    samples = [{"image": item[np.newaxis]} for item in small.normalized(small.images(N_SAMPLES))]
    case = Case.of(Drawn(seed).save(tmp_path / "drawn.onnx", tuple(blocks.split())), samples)
    assert_shared_equals_plain(case, tmp_path / "store", *strategies)


# Branches, which are left to the plain call


@pytest.fixture
def branched(tmp_path: Path) -> Case:
    rng = np.random.default_rng(0)
    samples = [{"x": rng.normal(size=(1, 8)).astype(np.float32)} for _ in range(N_SAMPLES)]
    return Case.of(small.branched_model(tmp_path / "branched.onnx"), samples)


BRANCHED = [Strategy(), Strategy(subset_size=4, preset="mixed"), Strategy(model_type="transformer")]


def test_model_with_branches_is_quantized_plainly_and_says_why(branched, tmp_path):
    quantizer = branched.quantizer(tmp_path / "store")
    quantizer.prepare(BRANCHED)
    told = []
    for strategy in BRANCHED:
        assert identity(quantizer.quantize(strategy)) == branched.plain(strategy)
        told.append(quantizer.fallback)
    assert told[0] is not None
    assert "branches (If)" in told[0]
    assert set(told) == {told[0]}


def test_model_with_branches_needs_no_shared_pass(branched, tmp_path):
    quantizer = branched.quantizer(tmp_path / "store")
    quantizer.prepare(BRANCHED)
    assert quantizer.n_passes == 0


# Sharing


def has_usual_places(strategy: Strategy) -> bool:
    """Return whether quantizers are where NNCF places them by default; elsewhere it may look at other sensitive operations."""
    return (strategy.canonical().quantizer_propagation_rule, strategy.activations_per_channel) == ("MERGE_ALL_IN_ONE", None)


def test_strategies_of_one_model_need_one_pass_where_statistics_are_reduced_within_it(conv, tmp_path):
    reduced = [s for s in STRATEGIES.values() if s.model_type is None and s.activations_range_estimator not in WHOLE]
    fast = [strategy for strategy in reduced if strategy.canonical().fast_bias_correction and has_usual_places(strategy)]
    assert len(fast) >= 5
    quantizer = conv.quantizer(tmp_path)
    quantizer.prepare(fast)
    assert quantizer.n_passes == 1


WHOLE = ("MEAN_QUANTILE", "HISTOGRAM")


@pytest.mark.parametrize(
    "smaller",
    [
        Strategy(subset_size=4),
        Strategy(subset_size=9, activations_range_estimator="MEAN_MINMAX"),
        Strategy(activations_range_estimator="MEDIAN_MINMAX"),
        Strategy(activations_range_estimator="MINMAX", overflow_fix="disable"),
        Strategy(activations_range_estimator="MEAN_NO_OUTLIERS_MINMAX", subset_size=6),
        Strategy(disable_bias_correction=True),
        Strategy(overflow_fix="enable", inference_precision="bf16"),
    ],
    ids=Strategy.describe,
)
def test_what_was_reduced_serves_smaller_subsets_and_other_aggregators(conv, tmp_path, smaller):
    quantizer = conv.quantizer(tmp_path)
    quantizer.quantize(Strategy())
    assert quantizer.n_passes == 1
    assert identity(quantizer.quantize(smaller)) == conv.plain(smaller)
    assert quantizer.n_passes == 1


def test_what_a_smaller_subset_gave_does_not_serve_a_larger_one(conv, tmp_path):
    quantizer = conv.quantizer(tmp_path)
    quantizer.quantize(Strategy(subset_size=4))
    assert identity(quantizer.quantize(Strategy())) == conv.plain(Strategy())
    assert quantizer.n_passes == 2


def test_quantiles_of_a_larger_subset_serve_a_smaller_one(conv, tmp_path):
    strategies = [Strategy(subset_size=size, activations_range_estimator="MEAN_QUANTILE") for size in (9, 5)]
    quantizer = conv.quantizer(tmp_path)
    quantizer.quantize(strategies[0])
    n_before = quantizer.n_passes
    assert identity(quantizer.quantize(strategies[1])) == conv.plain(strategies[1])
    assert quantizer.n_passes == n_before


def test_smoothed_model_is_shared_by_strategies_of_the_same_alphas(attention, tmp_path):
    first, second = Strategy(model_type="transformer"), Strategy(model_type="transformer", overflow_fix="disable", preset="mixed")
    quantizer = attention.quantizer(tmp_path)
    quantizer.quantize(first)
    n_before = quantizer.n_passes
    assert identity(quantizer.quantize(second)) == attention.plain(second)
    assert quantizer.n_passes == n_before


# The store


STORED = [
    STRATEGIES[name]
    for name in (
        "default",
        "accurate",
        "quantiles",
        "histogram",
        "transformer, smoothed everywhere, accurate",
        "transformer, smoothed at both ends, histogram",
    )
]


@pytest.fixture(scope="module")
def filled(folder: Path) -> Path:
    """Return a store that serves some strategies on the convolutional model; treat it as read-only."""
    quantizer = case_of("convolutional", folder).quantizer(folder / "filled")
    quantizer.prepare(STORED)
    for strategy in STORED:
        quantizer.quantize(strategy)
    return folder / "filled"


def test_second_quantizer_on_the_store_needs_no_pass(conv, filled):
    quantizer = conv.quantizer(filled)
    quantizer.prepare(STORED)
    for strategy in STORED:
        assert identity(quantizer.quantize(strategy)) == conv.plain(strategy), strategy.describe()
    assert (quantizer.n_passes, quantizer.fallback) == (0, None)


def test_another_process_on_the_store_needs_no_pass(conv, filled):
    sent = (children.quantize, conv.path, conv.samples, filled, STORED)
    digests, n_passes, fallback = children.in_another_process(*sent)
    assert digests == [conv.plain(strategy)[0] for strategy in STORED]
    assert (n_passes, fallback) == (0, None)


def test_statistics_of_other_samples_are_not_used(conv, filled):
    changed = [dict(sample) for sample in conv.samples]
    changed[3] = {"image": changed[3]["image"] * np.float32(1.5)}
    other = Case(conv.path, changed, conv.model)
    assert other.plain(Strategy())[0] != conv.plain(Strategy())[0]
    quantizer = conv.quantizer(filled, samples=changed)
    assert identity(quantizer.quantize(Strategy())) == other.plain(Strategy())
    assert quantizer.n_passes == 1


def test_statistics_of_samples_in_another_order_are_not_used(conv, filled):
    strategy = Strategy(subset_size=4)
    turned = conv.samples[::-1]
    other = Case(conv.path, turned, conv.model)
    assert other.plain(strategy)[0] != conv.plain(strategy)[0]
    assert identity(conv.quantizer(filled, samples=turned).quantize(strategy)) == other.plain(strategy)


@pytest.mark.parametrize("is_newest_first", [True, False], ids=["newest first", "oldest first"])
def test_store_serves_the_larger_subset_in_whatever_order_its_files_are_read(conv, tmp_path, monkeypatch, is_newest_first):
    first = conv.quantizer(tmp_path)
    first.quantize(Strategy(subset_size=4))
    first.quantize(Strategy())
    listed = Path.glob

    def ordered(folder: Path, pattern: str) -> list[Path]:
        return sorted(listed(folder, pattern), key=lambda path: path.stat().st_mtime_ns, reverse=is_newest_first)

    monkeypatch.setattr(Path, "glob", ordered)
    second = conv.quantizer(tmp_path)
    assert identity(second.quantize(Strategy())) == conv.plain(Strategy())
    assert second.n_passes == 0


def test_store_that_cannot_be_written_leaves_the_plain_call(conv, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    quantizer = conv.quantizer(tmp_path / "file" / "store")
    assert identity(quantizer.quantize(Strategy())) == conv.plain(Strategy())
    assert quantizer.fallback is not None


# Memory


def test_little_memory_means_more_passes_and_the_same_models(conv, tmp_path):
    strategies = [STRATEGIES[name] for name in ("quantiles", "histogram", "transformer, smoothed everywhere, accurate")]
    passes = []
    for memory_bytes in (DEFAULT_MEMORY_BYTES, 30_000, 10_000):
        quantizer = conv.quantizer(tmp_path / str(memory_bytes), memory_bytes=memory_bytes)
        quantizer.prepare(strategies)
        for strategy in strategies:
            assert identity(quantizer.quantize(strategy)) == conv.plain(strategy), strategy.describe()
        assert quantizer.fallback is None
        passes.append(quantizer.n_passes)
    assert passes[0] < passes[1] < passes[2]


# Other versions of NNCF


def forget_parts() -> None:
    internals.internals.cache_clear()
    passes._aggregator_type.cache_clear()


@pytest.fixture
def other_nncf(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Return what changes NNCF for one test."""
    forget_parts()
    with contextlib.ExitStack() as later:
        later.callback(forget_parts)
        with monkeypatch.context() as patch:
            yield patch


@pytest.mark.parametrize("version", ["3.3.0", "3.5.0", "4.0"])
def test_other_version_of_nncf_is_used_plainly(conv, tmp_path, other_nncf, version):
    other_nncf.setattr(plain.nncf(), "__version__", version)
    quantizer = conv.quantizer(tmp_path)
    quantizer.prepare([Strategy()])
    assert identity(quantizer.quantize(Strategy()))[0] == conv.plain(Strategy())[0]
    assert quantizer.fallback == f"RuntimeError: NNCF {version} is not of the series 3.4.x"
    assert quantizer.n_passes == 0


def test_patch_release_of_nncf_is_shared(conv, tmp_path, other_nncf):
    other_nncf.setattr(plain.nncf(), "__version__", "3.4.99")
    quantizer = conv.quantizer(tmp_path)
    quantizer.quantize(Strategy())
    assert (quantizer.fallback, quantizer.n_passes) == (None, 1)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        ("nncf.common.tensor_statistics.statistic_point", "StatisticPointsContainer"),
        ("nncf.openvino.statistics.aggregator", "OVStatisticsAggregator"),
        ("nncf.quantization.algorithms.min_max.algorithm.MinMaxQuantization", "get_cached_statistic_points"),
        ("nncf.common.tensor_statistics.collectors.TensorCollector", "set_cache"),
    ],
)
def test_nncf_without_a_part_that_sharing_needs_is_used_plainly(conv, tmp_path, other_nncf, owner, name):
    expected = conv.plain(Strategy())
    other_nncf.delattr(f"{owner}.{name}")
    quantizer = conv.quantizer(tmp_path)
    other_nncf.setattr(plain, "quantize", lambda *arguments: SimpleNamespace(arguments=arguments))
    found = quantizer.quantize(Strategy(subset_size=5))
    assert isinstance(found, SimpleNamespace)
    assert len(found.arguments[2]) == 5
    assert quantizer.fallback.startswith("RuntimeError: NNCF 3.4")
    assert name in quantizer.fallback
    other_nncf.undo()
    assert conv.plain(Strategy()) == expected


def test_part_that_works_otherwise_leaves_the_plain_call(conv, tmp_path, other_nncf):
    expected = conv.plain(STRATEGIES["quantiles"])

    def changed(*arguments: object) -> None:
        raise TypeError("takes 7 arguments")

    other_nncf.setattr(internals.internals().TensorCollector, "create_statistics_container", changed)
    quantizer = conv.quantizer(tmp_path)
    plainly = plain.quantize

    def unchanged(*arguments: Any) -> ov.Model:
        other_nncf.undo()
        return plainly(*arguments)

    other_nncf.setattr(plain, "quantize", unchanged)
    assert identity(quantizer.quantize(STRATEGIES["quantiles"])) == expected
    assert quantizer.fallback == "TypeError: takes 7 arguments"
