from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import small

from ovquant import quantization, runtime, sensitivity
from ovquant.errors import ModelError
from ovquant.inference import CompiledModel
from ovquant.sensitivity import Ranking, rank
from ovquant.strategy import Strategy
from ovquant.switches import Switched, switched

N_SAMPLES = 40


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Switched, CompiledModel, tuple, list]:
    model = runtime.read_model(small.conv_model(tmp_path_factory.mktemp("conv") / "model.onnx"))
    operations = runtime.operations(model)
    samples = [{"image": item[np.newaxis]} for item in small.normalized(small.images(N_SAMPLES))]
    strategy = Strategy(subset_size=N_SAMPLES, disable_bias_correction=True)
    found = switched(model, quantization.quantize(model, strategy, samples, operations))
    return found, CompiledModel(found.model, "CPU", {}, "f32"), operations, samples


@pytest.fixture(scope="module")
def ranking(case: tuple) -> Ranking:
    return rank(*case, {"logits": "logits"}, seconds_that_pass(0.001))


def seconds_that_pass(step: float) -> Callable[[], float]:
    """Return a clock that a step passes on at each look."""
    return itertools.count(0, step).__next__


def test_layers_come_by_what_they_save(ranking: Ranking) -> None:
    saved = [one.saved.value for one in ranking.layers]
    assert saved == sorted(saved, reverse=True)
    assert saved[0] > 0
    assert all(one.saved.low <= one.saved.value <= one.saved.high for one in (*ranking.layers, *ranking.groups))


def test_each_layer_is_there_once_by_its_place(ranking: Ranking, case: tuple) -> None:
    assert sorted(name for one in ranking.layers for name in one.names) == sorted(case[0].layers)
    assert {one.place for one in ranking.layers} >= {"Convolution[0]", "depthwise[0]", "MatMul[0]"}


def test_what_all_layers_cost_is_told(ranking: Ranking) -> None:
    assert 0 < ranking.all_quantized.low < ranking.all_quantized.value < ranking.all_quantized.high < 1


def test_what_is_saved_is_the_difference_to_the_model_with_that_layer_in_float(ranking: Ranking, case: tuple) -> None:
    model, compiled, _, samples = case
    runs = sensitivity._Runs(model, compiled, samples[: ranking.n_items], {"logits": "logits"})
    for one in ranking.layers:
        assert one.saved.value == pytest.approx((runs.divergences() - runs.divergences(one.names)).mean())


def test_outputs_that_are_not_finite_are_refused(case: tuple) -> None:
    huge = [{"image": np.full_like(sample["image"], 3e38)} for sample in case[3]]
    with pytest.raises(ModelError, match="output 'logits' holds NaN or infinity"):
        rank(case[0], case[1], case[2], huge, {"logits": "logits"})


def test_groups_are_of_several_layers_and_none_is_there_twice(ranking: Ranking, case: tuple) -> None:
    names = [one.names for one in ranking.groups]
    assert all(1 < len(members) < len(case[0].layers) for members in names)
    assert len(set(names)) == len(names)
    assert ("stem", "pointwise") in names  # by type


@pytest.mark.parametrize(("each_s", "n_items"), [(100.0, sensitivity.LEAST_ITEMS), (0.0001, N_SAMPLES)])
def test_as_many_items_are_run_as_there_is_time_for(case: tuple, each_s: float, n_items: int) -> None:
    assert rank(*case, {"logits": "logits"}, seconds_that_pass(each_s)).n_items == n_items
