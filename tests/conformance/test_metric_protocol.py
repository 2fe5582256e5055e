"""What every `ovquant.protocols.Metric` must do."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from ovquant.job import MetricSpec
from ovquant.metrics.detection import MeanAveragePrecision
from ovquant.metrics.embeddings import CosineToReference, PairSpearman
from ovquant.metrics.scores import FunctionMetric, SklearnScorer, TopK, build_metric
from ovquant.metrics.segmentation import MeanIoU
from ovquant.metrics.sequences import CharacterErrorRate, ExactMatch
from ovquant.metrics.summarized import Summarized
from ovquant.protocols import Metric, Outputs

N, C, SIDE, STEPS = 60, 4, 6, 5
RNG = np.random.default_rng(0)
CLASSES: list[Any] = RNG.integers(0, C, N).tolist()
MASKS: list[Any] = list(RNG.integers(0, C, (N, SIDE, SIDE)))
SEQUENCES: list[Any] = list(RNG.integers(0, C, (N, STEPS)))
SIMILARITIES: list[Any] = RNG.uniform(-1, 1, N).tolist()
EMBEDDINGS: list[Any] = [{"out": row[np.newaxis]} for row in RNG.normal(size=(N, 8)).astype(np.float32)]
CORNERS = RNG.uniform(0, 50, (N, 2, 2))
BOXES: list[Any] = [
    {"boxes": np.concatenate([corner, corner + 10], axis=1), "labels": np.array([0, label])}
    for corner, label in zip(CORNERS, CLASSES, strict=True)
]
CODE = """
def is_right(outputs, labels):
    return [float(o.argmax() == y) for o, y in zip(outputs["out"], labels)]

def n_wrong(outputs, labels):
    return sum(int(o.argmax() != y) for o, y in zip(outputs["out"], labels))

def boxes(outputs):
    found = outputs["out"][0]
    return found[:, :4], found[:, 4], found[:, 5].astype(int)
"""


def _single(rows: np.ndarray) -> list[np.ndarray]:
    return [row[np.newaxis].astype(np.float32) for row in rows]


def _classes(noise: np.ndarray) -> list[np.ndarray]:
    return _single(3 * np.eye(C)[CLASSES] + noise[:, :C])


def _masks(noise: np.ndarray) -> list[np.ndarray]:
    return _single(np.moveaxis(3 * np.eye(C)[np.array(MASKS)], -1, 1) + noise[:, : C * SIDE**2].reshape(N, C, SIDE, SIDE))


def _sequences(noise: np.ndarray) -> list[np.ndarray]:
    return _single(3 * np.eye(C)[np.array(SEQUENCES)] + noise[:, : STEPS * C].reshape(N, STEPS, C))


def _pairs(noise: np.ndarray) -> list[np.ndarray]:
    angles = np.arccos(SIMILARITIES) + 0.3 * noise[:, 0]
    return [np.array([[1, 0], [np.cos(angle), np.sin(angle)]], np.float32) for angle in angles]


def _embeddings(noise: np.ndarray) -> list[np.ndarray]:
    return [label["out"] + row[np.newaxis].astype(np.float32) for label, row in zip(EMBEDDINGS, noise[:, :8], strict=True)]


def _boxes(noise: np.ndarray) -> list[np.ndarray]:
    items = []
    for label, row in zip(BOXES, noise, strict=True):
        corners = label["boxes"] + row[:2, np.newaxis]
        items.append(np.column_stack([corners, 0.5 + 0.4 * np.tanh(row[2:4]), label["labels"]])[np.newaxis])
    return items


@dataclass(frozen=True)
class Case:
    """A metric, labels, and outputs that tell them, the better the less noise."""

    kind: type
    outputs: Callable[[np.ndarray], list[np.ndarray]] = _classes
    labels: Sequence[Any] = field(default_factory=lambda: CLASSES)
    options: dict[str, Any] = field(default_factory=dict)
    is_mean: bool = False


CASES = {
    "accuracy": Case(TopK, is_mean=True),
    "top2": Case(TopK, is_mean=True),
    "f1_macro": Case(SklearnScorer),
    "neg_log_loss": Case(SklearnScorer),
    "is_right": Case(FunctionMetric, is_mean=True),
    "n_wrong": Case(FunctionMetric, options={"direction": "minimize"}),
    "map": Case(MeanAveragePrecision, _boxes, BOXES, {"decode": "boxes"}),
    "map50": Case(MeanAveragePrecision, _boxes, BOXES, {"decode": "boxes"}),
    "miou": Case(MeanIoU, _masks, MASKS),
    "exact_match": Case(ExactMatch, _sequences, SEQUENCES, is_mean=True),
    "cer": Case(CharacterErrorRate, _sequences, SEQUENCES, is_mean=True),
    "spearman": Case(PairSpearman, _pairs, SIMILARITIES),
    "cosine": Case(CosineToReference, _embeddings, EMBEDDINGS, is_mean=True),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def name(case: Case, tmp_path, request: pytest.FixtureRequest) -> str:
    """Return the name of a metric as a user writes it."""
    short = request.node.callspec.params["case"]
    (tmp_path / "mine.py").write_text(CODE)
    return f"{tmp_path / 'mine.py'}:{short}" if case.kind is FunctionMetric else short


@pytest.fixture
def metric(case: Case, name: str, tmp_path) -> Metric:
    options = dict(case.options)
    if "decode" in options:
        options["decode"] = f"{tmp_path / 'mine.py'}:{options['decode']}"
    found = build_metric(MetricSpec(name=name, **options), ["out"])
    assert type(found) is case.kind
    return found


@pytest.fixture
def outputs(case: Case) -> Callable[[float], Outputs]:
    def make(noise: float, seed: int = 1) -> Outputs:
        return {"out": case.outputs(noise * np.random.default_rng(seed).normal(size=(N, C * SIDE**2)))}

    return make


def test_name_is_the_one_that_was_asked_for(metric, name):
    assert metric.name == name


def test_direction_and_truth_are_valid(metric):
    assert metric.direction in {"maximize", "minimize"}
    assert metric.truth in {"labels", "reference"}


def test_it_reads_the_only_labels_unless_told_otherwise(metric):
    assert metric.column is None


def test_better_outputs_have_a_better_value_in_that_direction(metric, case, outputs):
    good, bad = metric.value(outputs(0.1), case.labels), metric.value(outputs(20), case.labels)
    assert good > bad if metric.direction == "maximize" else good < bad


def test_value_is_a_finite_number(metric, case, outputs):
    value = metric.value(outputs(3), case.labels)
    assert type(value) is float
    assert np.isfinite(value)


def test_value_is_the_mean_of_the_scores_per_item_where_it_is_a_mean(metric, case, outputs):
    scores = metric.per_item(outputs(3), case.labels)
    if not case.is_mean:
        assert scores is None
    else:
        assert (scores.shape, scores.dtype) == ((N,), np.float64)
        assert metric.value(outputs(3), case.labels) == pytest.approx(scores.mean())


def test_score_of_an_item_does_not_depend_on_the_others(metric, case, outputs):
    scores = metric.per_item(outputs(3), case.labels)
    first = metric.per_item({"out": outputs(3)["out"][:7]}, case.labels[:7])
    np.testing.assert_array_equal(first, None if scores is None else scores[:7])


def test_summaries_of_items_give_the_value_of_any_choice_of_them(metric, case, outputs):
    if not isinstance(metric, Summarized):
        pytest.skip("it has none")
    summaries = metric.summaries(outputs(1), case.labels)
    assert len(summaries) == N
    picks = np.random.default_rng(3).integers(N, size=N).tolist()
    chosen = {"out": [outputs(1)["out"][i] for i in picks]}
    expected = metric.value(chosen, [case.labels[i] for i in picks])
    assert metric.value_of([summaries[i] for i in picks]) == pytest.approx(expected, abs=1e-12)


def test_value_is_the_same_each_time(metric, case, outputs):
    assert metric.value(outputs(3), case.labels) == metric.value(outputs(3), case.labels)


def test_value_does_not_depend_on_the_order_of_the_items(metric, case, outputs):
    order = np.random.default_rng(2).permutation(N)
    shuffled = {"out": [outputs(3)["out"][i] for i in order]}
    value = metric.value(outputs(3), case.labels)
    assert metric.value(shuffled, [case.labels[i] for i in order]) == pytest.approx(value)


@pytest.mark.parametrize("as_labels", [list, tuple, np.asarray, lambda labels: [np.int64(label) for label in labels]])
def test_labels_may_be_any_sequence(metric, case, as_labels, outputs):
    if case.labels is not CLASSES and as_labels not in {list, tuple}:
        pytest.skip("for classes")
    assert metric.value(outputs(3), as_labels(case.labels)) == metric.value(outputs(3), case.labels)


def test_arguments_are_left_as_they_are(metric, case, outputs):
    given, labels = outputs(3), copy.deepcopy(case.labels)
    kept = copy.deepcopy(given)
    metric.per_item(given, labels)
    metric.value(given, labels)
    np.testing.assert_equal(list(labels), list(case.labels))
    np.testing.assert_array_equal(given["out"], kept["out"])
