"""What every `ovquant.protocols.Metric` must do."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from ovquant.job import MetricSpec
from ovquant.metrics.scores import FunctionMetric, SklearnScorer, TopK, build_metric
from ovquant.protocols import Metric, Outputs

N, C = 60, 4
LABELS = np.random.default_rng(0).integers(0, C, N).tolist()
CODE = """
def is_right(outputs, labels):
    return [float(o.argmax() == y) for o, y in zip(outputs["out"], labels)]

def n_wrong(outputs, labels):
    return sum(int(o.argmax() != y) for o, y in zip(outputs["out"], labels))
"""
METRICS = {
    "accuracy": TopK,
    "top2": TopK,
    "f1_macro": SklearnScorer,
    "neg_log_loss": SklearnScorer,
    "is_right": FunctionMetric,
    "n_wrong": FunctionMetric,
}
MEANS = {"accuracy", "top2", "is_right"}


def outputs(noise: float, seed: int = 1) -> Outputs:
    """Return logits that tell the labels, the better the less noise."""
    rows = 3 * np.eye(C)[LABELS] + noise * np.random.default_rng(seed).normal(size=(N, C))
    return {"out": [row[np.newaxis].astype(np.float32) for row in rows]}


@pytest.fixture(params=METRICS)
def name(request: pytest.FixtureRequest, tmp_path) -> str:
    """Return the name of a metric as a user writes it."""
    if METRICS[request.param] is not FunctionMetric:
        return request.param
    (tmp_path / "mine.py").write_text(CODE)
    return f"{tmp_path / 'mine.py'}:{request.param}"


@pytest.fixture
def metric(name: str) -> Metric:
    found = build_metric(MetricSpec(name=name, direction="minimize" if name.endswith("n_wrong") else "maximize"), ["out"])
    assert type(found) is METRICS[name.rpartition(":")[2]]
    return found


def test_name_is_the_one_that_was_asked_for(metric, name):
    assert metric.name == name


def test_direction_is_valid(metric):
    assert metric.direction in {"maximize", "minimize"}


def test_better_outputs_have_a_better_value_in_that_direction(metric):
    good, bad = metric.value(outputs(0.1), LABELS), metric.value(outputs(20), LABELS)
    assert good > bad if metric.direction == "maximize" else good < bad


def test_value_is_a_finite_number(metric):
    value = metric.value(outputs(3), LABELS)
    assert type(value) is float
    assert np.isfinite(value)


def test_value_is_the_mean_of_the_scores_per_item_where_it_is_a_mean(metric, name):
    scores = metric.per_item(outputs(3), LABELS)
    if name.rpartition(":")[2] not in MEANS:
        assert scores is None
    else:
        assert (scores.shape, scores.dtype) == ((N,), np.float64)
        assert metric.value(outputs(3), LABELS) == pytest.approx(scores.mean())


def test_score_of_an_item_does_not_depend_on_the_others(metric):
    scores = metric.per_item(outputs(3), LABELS)
    first = metric.per_item({"out": outputs(3)["out"][:7]}, LABELS[:7])
    np.testing.assert_array_equal(first, None if scores is None else scores[:7])


def test_value_is_the_same_each_time(metric):
    assert metric.value(outputs(3), LABELS) == metric.value(outputs(3), LABELS)


def test_value_does_not_depend_on_the_order_of_the_items(metric):
    order = np.random.default_rng(2).permutation(N)
    shuffled = {"out": [outputs(3)["out"][i] for i in order]}
    assert metric.value(shuffled, [LABELS[i] for i in order]) == pytest.approx(metric.value(outputs(3), LABELS))


@pytest.mark.parametrize("as_labels", [list, tuple, np.asarray, lambda labels: [np.int64(label) for label in labels]])
def test_labels_may_be_any_sequence_of_integers(metric, as_labels):
    assert metric.value(outputs(3), as_labels(LABELS)) == metric.value(outputs(3), LABELS)


def test_arguments_are_left_as_they_are(metric):
    given, labels = outputs(3), list(LABELS)
    kept = copy.deepcopy(given)
    metric.per_item(given, labels)
    metric.value(given, labels)
    assert labels == LABELS
    np.testing.assert_array_equal(given["out"], kept["out"])
