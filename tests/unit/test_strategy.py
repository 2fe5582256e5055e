from __future__ import annotations

import dataclasses
import json
import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovquant.records import strategy_from_json
from ovquant.selectors import ScopeRole, ScopeSelector
from ovquant.strategy import (
    InferencePrecision,
    NncfTargetDevice,
    OverflowFix,
    PropagationRule,
    RangeEstimator,
    Strategy,
    WeightsRangeEstimator,
)

WORDS = st.lists(st.sampled_from(["a", "b", "c"]), max_size=3).map(tuple)
SELECTORS = st.builds(
    ScopeSelector,
    types=WORDS,
    patterns=WORDS,
    names=WORDS,
    roles=st.lists(st.sampled_from(get_args(ScopeRole)), max_size=3).map(tuple),
)
ALPHAS = st.sampled_from([-1, -0.5, 0, 0.5, 0.95, 1])
STRATEGIES = st.builds(
    Strategy,
    preset=st.sampled_from([None, "performance", "mixed"]),
    model_type=st.sampled_from([None, "transformer"]),
    subset_size=st.sampled_from([1, 300]),
    fast_bias_correction=st.booleans(),
    disable_bias_correction=st.booleans(),
    ignored_scope=st.just(ScopeSelector()) | SELECTORS,
    overflow_fix=st.sampled_from([None, *get_args(OverflowFix)]),
    activations_range_estimator=st.sampled_from([None, *get_args(RangeEstimator)]),
    weights_range_estimator=st.sampled_from([None, *get_args(WeightsRangeEstimator)]),
    activations_per_channel=st.sampled_from([None, False]),
    disable_channel_alignment=st.booleans(),
    quantizer_propagation_rule=st.sampled_from([None, *get_args(PropagationRule)]),
    smooth_quant_alpha_matmul=ALPHAS,
    smooth_quant_alpha_convolution=ALPHAS,
    inference_precision=st.sampled_from(get_args(InferencePrecision)),
    target_device=st.sampled_from(get_args(NncfTargetDevice)),
)
TRANSFORMER = Strategy(model_type="transformer")


def replace(strategy: Strategy, **changes: object) -> Strategy:
    return dataclasses.replace(strategy, **changes)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(Strategy(), Strategy(preset="performance"), id="performance is the preset of other models"),
        pytest.param(Strategy(), Strategy(weights_range_estimator="MINMAX"), id="weights are cut nowhere"),
        pytest.param(Strategy(), Strategy(quantizer_propagation_rule="MERGE_ALL_IN_ONE"), id="all branches are merged"),
        pytest.param(TRANSFORMER, replace(TRANSFORMER, preset="mixed"), id="mixed is the preset of transformers"),
        pytest.param(Strategy(), Strategy(overflow_fix="first_layer_only"), id="overflow fix on the first layer is the default"),
        pytest.param(
            Strategy(disable_bias_correction=True, fast_bias_correction=False),
            Strategy(disable_bias_correction=True, fast_bias_correction=True),
            id="the bias correction that is off need not be fast",
        ),
        pytest.param(
            Strategy(smooth_quant_alpha_matmul=0.1, smooth_quant_alpha_convolution=0.2),
            Strategy(),
            id="SmoothQuant is for transformers",
        ),
        pytest.param(
            replace(TRANSFORMER, smooth_quant_alpha_matmul=-0.5),
            replace(TRANSFORMER, smooth_quant_alpha_matmul=-1),
            id="any negative alpha is off",
        ),
        pytest.param(Strategy(target_device="GPU"), Strategy(target_device="NPU"), id="GPU and NPU are one"),
        pytest.param(Strategy(target_device="CPU"), Strategy(target_device="ANY"), id="CPU and ANY are one"),
        pytest.param(
            Strategy(ignored_scope=ScopeSelector(types=("b", "a", "b"), names=("y", "x"), roles=("last_matmul", "depthwise"))),
            Strategy(ignored_scope=ScopeSelector(types=("a", "b"), names=("x", "y"), roles=("depthwise", "last_matmul"))),
            id="order and repetition in a scope say nothing",
        ),
        pytest.param(
            replace(TRANSFORMER, smooth_quant_alpha_convolution=1),
            replace(TRANSFORMER, smooth_quant_alpha_convolution=1.0),
            id="whole numbers are numbers",
        ),
    ],
)
def test_strategies_that_give_the_same_model_have_one_canonical_form_and_one_digest(first: Strategy, second: Strategy) -> None:
    assert first.canonical() == second.canonical()
    assert first.digest == second.digest


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Strategy(), TRANSFORMER),
        (Strategy(), Strategy(preset="mixed")),
        (Strategy(), Strategy(overflow_fix="disable")),
        (Strategy(), Strategy(fast_bias_correction=False)),
        (Strategy(), Strategy(disable_bias_correction=True)),
        (Strategy(), Strategy(subset_size=299)),
        (Strategy(), Strategy(activations_range_estimator="MINMAX")),
        (Strategy(), Strategy(weights_range_estimator="MEAN_QUANTILE")),
        (Strategy(), Strategy(activations_per_channel=False)),
        (Strategy(), Strategy(disable_channel_alignment=False)),
        (Strategy(), Strategy(quantizer_propagation_rule="DO_NOT_MERGE_BRANCHES")),
        (Strategy(), Strategy(inference_precision="bf16")),
        (Strategy(), Strategy(target_device="CPU_SPR")),
        (TRANSFORMER, replace(TRANSFORMER, smooth_quant_alpha_matmul=-1)),
        (TRANSFORMER, replace(TRANSFORMER, smooth_quant_alpha_convolution=0.5)),
        (Strategy(ignored_scope=ScopeSelector(types=("a",))), Strategy(ignored_scope=ScopeSelector(names=("a",)))),
    ],
)
def test_strategies_that_give_different_models_stay_apart(first: Strategy, second: Strategy) -> None:
    assert first.canonical() != second.canonical()
    assert first.digest != second.digest


def test_canonical_form_names_what_nncf_resolves_by_itself() -> None:
    assert (Strategy().canonical().preset, Strategy().canonical().overflow_fix) == ("performance", "first_layer_only")
    assert TRANSFORMER.canonical().preset == "mixed"


@given(STRATEGIES)
def test_canonical_is_idempotent(strategy: Strategy) -> None:
    assert strategy.canonical().canonical() == strategy.canonical()


@given(STRATEGIES)
def test_a_strategy_and_its_canonical_form_share_the_digest(strategy: Strategy) -> None:
    assert strategy.canonical().digest == strategy.digest


@given(STRATEGIES, STRATEGIES, st.sets(st.sampled_from([field.name for field in dataclasses.fields(Strategy)])))
def test_digests_are_equal_exactly_if_canonical_forms_are(first: Strategy, other: Strategy, changed: set[str]) -> None:
    second = replace(first, **{name: getattr(other, name) for name in changed})
    assert (first.digest == second.digest) == (first.canonical() == second.canonical())


def test_zero_has_no_sign_in_a_digest() -> None:
    negative, positive = (replace(TRANSFORMER, smooth_quant_alpha_matmul=zero) for zero in (-0.0, 0.0))
    assert negative.canonical() == positive.canonical()
    assert negative.digest == positive.digest


def test_digests_do_not_change_between_versions() -> None:
    scope = ScopeSelector(roles=("depthwise",))
    assert Strategy().digest == "5ee763e8f46f"
    assert Strategy(model_type="transformer", subset_size=100, ignored_scope=scope).digest == "35775d337992"


@given(STRATEGIES)
def test_a_strategy_survives_json(strategy: Strategy) -> None:
    assert strategy_from_json(json.loads(json.dumps(strategy.as_dict()))) == strategy


def test_a_value_that_nncf_does_not_know_is_refused_when_read() -> None:
    with pytest.raises(ValueError, match="activations_range_estimator"):
        strategy_from_json({**Strategy().as_dict(), "activations_range_estimator": "MINMAXX"})


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [("conv(", "missing ), unterminated subpattern at position 4"), ("*", "nothing to repeat at position 0")],
)
def test_a_selector_takes_regular_expressions_only(pattern: str, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{pattern!r} is no regular expression: {problem}")):
        ScopeSelector(patterns=("ok.*", pattern))


def test_a_selector_is_empty_only_if_all_its_lists_are() -> None:
    assert ScopeSelector().is_empty
    assert not ScopeSelector(types=("Add",)).is_empty
    assert not ScopeSelector(patterns=("a",)).is_empty
    assert not ScopeSelector(names=("a",)).is_empty
    assert not ScopeSelector(roles=("depthwise",)).is_empty


def differences(strategy: Strategy) -> list[str]:
    """What `describe` lists ahead of the precision."""
    return strategy.describe().partition(";")[0].split(", ")


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (Strategy(), ["NNCF default"]),
        (Strategy(preset="performance", overflow_fix="first_layer_only", target_device="NPU"), ["NNCF default"]),
        (TRANSFORMER, ["model_type=transformer"]),
        (replace(TRANSFORMER, preset="mixed"), ["model_type=transformer"]),
        (
            replace(TRANSFORMER, preset="performance", subset_size=100),
            ["model_type=transformer", "preset=performance", "subset_size=100"],
        ),
        (Strategy(smooth_quant_alpha_matmul=0.5), ["NNCF default"]),
        (replace(TRANSFORMER, smooth_quant_alpha_matmul=-1), ["model_type=transformer", "smooth_quant_alpha_matmul=-1"]),
        (
            Strategy(ignored_scope=ScopeSelector(types=("Multiply", "Add"), roles=("last_matmul",))),
            ["ignored_scope=last_matmul+Add+Multiply"],
        ),
    ],
)
def test_describe_lists_what_differs_from_nncf_default(strategy: Strategy, expected: list[str]) -> None:
    assert differences(strategy) == expected


def test_describe_ends_with_the_precision() -> None:
    assert Strategy(inference_precision="bf16").describe().endswith("; bf16")


@given(STRATEGIES)
def test_describe_is_the_same_for_the_same_model(strategy: Strategy) -> None:
    assert strategy.describe() == strategy.canonical().describe()
