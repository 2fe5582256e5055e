"""Metrics against scikit-learn and against their own definitions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from sklearn import metrics as sk

from ovquant.errors import ConfigError, DataError
from ovquant.job import MetricSpec
from ovquant.metrics.scores import FunctionMetric, build_metric
from ovquant.protocols import Metric, Outputs

RNG = np.random.default_rng(0)
N, C = 200, 6
LABELS = RNG.integers(0, C, N)
LOGITS = (RNG.normal(size=(N, C)) + 1.5 * np.eye(C)[LABELS]).astype(np.float32)
BINARY_LABELS = RNG.integers(0, 2, N)
BINARY_LOGITS = (RNG.normal(size=N) + BINARY_LABELS).astype(np.float32)
TARGETS = RNG.normal(size=N)
VALUES = (TARGETS + 0.3 * RNG.normal(size=N)).astype(np.float32)


def outputs(rows: np.ndarray) -> Outputs:
    """Return rows as a model gives them: one array per item, batch axis 1."""
    return {"out": [row[np.newaxis] for row in rows]}


def metric(name: str, **options) -> Metric:
    return build_metric(MetricSpec(name=name, **options), ["out", "other"])


def score(name: str, rows: np.ndarray, labels: Sequence[Any]) -> float:
    return metric(name).value(outputs(rows), labels)


# Top-k accuracy


def test_accuracy_is_that_of_scikit_learn():
    assert score("accuracy", LOGITS, LABELS) == pytest.approx(sk.accuracy_score(LABELS, LOGITS.argmax(axis=1)))


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("name", ["top{}", "top-{}"])
def test_top_k_is_that_of_scikit_learn(name, k):
    expected = sk.top_k_accuracy_score(LABELS, LOGITS, k=k, labels=range(C))
    assert score(name.format(k), LOGITS, LABELS) == pytest.approx(expected)


@given(st.integers(1, 4), st.integers(0, 10_000))
def test_top_k_of_rows_without_ties_is_that_of_scikit_learn(k, seed):
    rng = np.random.default_rng(seed)
    rows = rng.permuted(np.tile(np.arange(5.0), (12, 1)), axis=1)
    labels = rng.integers(0, 5, 12)
    assert score(f"top{k}", rows, labels) == pytest.approx(sk.top_k_accuracy_score(labels, rows, k=k, labels=range(5)))


def test_top_k_per_item_is_one_for_a_hit_and_zero_for_a_miss():
    rows = np.array([[3, 2, 1, 0], [3, 2, 1, 0], [3, 2, 1, 0]], np.float32)
    np.testing.assert_array_equal(metric("top2").per_item(outputs(rows), [0, 1, 2]), [1, 1, 0])


def test_ties_with_the_true_class_count_against_it():
    assert score("top2", np.ones((1, 3), np.float32), [0]) == 0


@pytest.mark.parametrize(("label", "expected"), [(0, 1), (1, 0)])
def test_accuracy_takes_the_first_of_equal_scores(label, expected):
    assert score("accuracy", np.ones((1, 3), np.float32), [label]) == expected


def test_accuracy_is_the_same_for_logits_and_probabilities():
    probabilities = special.softmax(LOGITS, axis=1)
    assert score("accuracy", probabilities, LABELS) == score("accuracy", LOGITS, LABELS)


@pytest.mark.parametrize("wrong", [-1, C, 1000])
def test_label_out_of_range_is_told_with_the_range_and_the_count(wrong):
    labels = LABELS.copy()
    labels[[3, 7]] = wrong
    with pytest.raises(
        DataError,
        match=rf"metric 'accuracy': label {wrong} is out of range: the output has {C} classes, 0\.\.5 \(2 of {N} labels are\)",
    ):
        score("accuracy", LOGITS, labels)


@pytest.mark.parametrize("labels", [["cat", "dog"], [0.0, 1.0], [[0, 1], [1, 0]]])
def test_labels_that_are_no_class_indices_are_refused(labels):
    with pytest.raises(DataError, match=r"metric 'accuracy': labels must be class indices \(integers\), found "):
        score("accuracy", LOGITS[:2], labels)


@pytest.mark.parametrize("k", [C, C + 1])
def test_k_that_every_item_would_meet_is_refused(k):
    with pytest.raises(
        DataError, match=rf"metric 'top{k}': k must be at least 1 and below the number of classes, the output has {C}"
    ):
        score(f"top{k}", LOGITS, LABELS)


def test_top_0_is_refused_for_what_it_is():
    with pytest.raises((ConfigError, DataError), match=r"at least 1|top0.*unknown"):
        score("top0", LOGITS, LABELS)


# scikit-learn scorers


def test_f1_macro_is_that_of_scikit_learn():
    expected = sk.f1_score(LABELS, LOGITS.argmax(axis=1), average="macro")
    assert score("f1_macro", LOGITS, LABELS) == pytest.approx(expected)


def test_balanced_accuracy_is_that_of_scikit_learn():
    expected = sk.balanced_accuracy_score(LABELS, LOGITS.argmax(axis=1))
    assert score("balanced_accuracy", LOGITS, LABELS) == pytest.approx(expected)


@pytest.mark.parametrize("is_share", [False, True])
def test_roc_auc_of_a_single_score_is_that_of_scikit_learn(is_share):
    scores = special.expit(BINARY_LOGITS) if is_share else BINARY_LOGITS
    expected = sk.roc_auc_score(BINARY_LABELS, BINARY_LOGITS)
    assert score("roc_auc", scores[:, np.newaxis], BINARY_LABELS) == pytest.approx(expected)


def test_roc_auc_of_two_classes_is_that_of_scikit_learn():
    rows = np.stack([-BINARY_LOGITS, BINARY_LOGITS], axis=1)
    assert score("roc_auc", rows, BINARY_LABELS) == pytest.approx(sk.roc_auc_score(BINARY_LABELS, BINARY_LOGITS))


def test_f1_of_a_single_score_splits_logits_at_0_and_shares_at_a_half():
    expected = sk.f1_score(BINARY_LABELS, BINARY_LOGITS > 0)
    assert score("f1", BINARY_LOGITS[:, np.newaxis], BINARY_LABELS) == pytest.approx(expected)
    assert score("f1", special.expit(BINARY_LOGITS)[:, np.newaxis], BINARY_LABELS) == pytest.approx(expected)


@pytest.mark.parametrize("is_share", [False, True])
def test_log_loss_takes_logits_and_probabilities(is_share):
    probabilities = special.softmax(LOGITS.astype(np.float64), axis=1)
    rows = probabilities if is_share else LOGITS
    assert score("neg_log_loss", rows, LABELS) == pytest.approx(-sk.log_loss(LABELS, probabilities), rel=1e-5)


def test_r2_is_that_of_scikit_learn():
    assert score("r2", VALUES[:, np.newaxis], TARGETS) == pytest.approx(sk.r2_score(TARGETS, VALUES))


def test_r2_of_several_values_is_that_of_scikit_learn():
    targets = np.stack([TARGETS, TARGETS**2], axis=1)
    rows = np.stack([VALUES, VALUES**2], axis=1)
    assert score("r2", rows, list(targets)) == pytest.approx(sk.r2_score(targets, rows))


def test_error_scorers_are_negated_so_that_higher_is_better():
    expected = -sk.mean_absolute_error(TARGETS, VALUES)
    assert score("neg_mean_absolute_error", VALUES[:, np.newaxis], TARGETS) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["r2", "neg_mean_absolute_error"])
def test_regression_scorers_take_whole_numbers_for_targets(name):
    ages = np.array([23, 41, 30, 65])
    rows = np.array([[25.0], [40.0], [33.0], [60.0]])
    expected = {"r2": sk.r2_score(ages, rows[:, 0]), "neg_mean_absolute_error": -sk.mean_absolute_error(ages, rows[:, 0])}
    assert score(name, rows, ages) == pytest.approx(expected[name])


def test_regression_scorers_read_values_even_where_targets_are_0_and_1():
    targets = np.array([0, 1, 1, 0])
    rows = np.array([[0.2], [0.4], [0.9], [0.3]])
    assert score("neg_mean_absolute_error", rows, targets) == pytest.approx(-sk.mean_absolute_error(targets, rows[:, 0]))


def test_scorers_check_the_range_of_labels():
    with pytest.raises(DataError, match="metric 'f1_macro': label 9 is out of range: the output has 6 classes"):
        score("f1_macro", LOGITS, np.full(N, 9))


def test_scorer_that_does_not_fit_is_told_by_its_name():
    with pytest.raises(DataError, match="metric 'f1_macro' does not fit this output and these labels: "):
        score("f1_macro", LOGITS, TARGETS)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_score_that_is_undefined_on_the_data_is_refused():
    with pytest.raises(DataError, match="metric 'roc_auc' is nan on this data"):
        score("roc_auc", BINARY_LOGITS[:, np.newaxis], np.ones(N, int))


# Python functions


def write_function(folder: Path, code: str) -> str:
    (folder / "mine.py").write_text("import numpy as np\n" + code)
    return f"{folder / 'mine.py'}:score"


def test_function_per_item_gives_scores_whose_mean_is_the_value(tmp_path):
    code = "def score(outputs, labels):\n    return [float(o.argmax() == y) for o, y in zip(outputs['out'], labels)]"
    mine = metric(write_function(tmp_path, code))
    hits = (LOGITS.argmax(axis=1) == LABELS).astype(float)
    np.testing.assert_array_equal(mine.per_item(outputs(LOGITS), LABELS), hits)
    assert mine.value(outputs(LOGITS), LABELS) == pytest.approx(hits.mean())


def test_function_of_all_items_gives_no_scores_per_item(tmp_path):
    code = "def score(outputs, labels):\n    return np.median([abs(o[0, 0] - y) for o, y in zip(outputs['out'], labels)])"
    mine = metric(write_function(tmp_path, code), direction="minimize")
    assert mine.per_item(outputs(VALUES[:, np.newaxis]), TARGETS) is None
    assert mine.value(outputs(VALUES[:, np.newaxis]), TARGETS) == pytest.approx(np.median(np.abs(VALUES - TARGETS)))
    assert mine.direction == "minimize"


def test_function_is_maximized_unless_told(tmp_path):
    assert metric(write_function(tmp_path, "def score(outputs, labels):\n    return 1")).direction == "maximize"


def test_function_that_raises_is_told_by_type_and_message():
    mine = FunctionMetric("mine.py:score", lambda outputs, labels: 1 / 0, "maximize")
    with pytest.raises(DataError, match=r"metric 'mine\.py:score' raised ZeroDivisionError: division by zero"):
        mine.value(outputs(LOGITS), LABELS)


@pytest.mark.parametrize("shape", [(3,), (N, 1), (0,)])
def test_function_that_returns_another_number_of_scores_is_refused(shape):
    mine = FunctionMetric("mine.py:score", lambda outputs, labels: np.zeros(shape), "maximize")
    with pytest.raises(
        DataError, match=rf"must return one finite number or {N} of them \(one per item\), found shape \({shape[0]},"
    ):
        mine.value(outputs(LOGITS), LABELS)


@pytest.mark.parametrize(("result", "told"), [(np.nan, "nan"), (np.inf, "inf"), (None, "None|nan")])
def test_function_that_returns_no_finite_number_is_told_what_it_returned(result, told):
    mine = FunctionMetric("mine.py:score", lambda outputs, labels: result, "maximize")
    with pytest.raises(DataError, match=f"found ({told})"):
        mine.value(outputs(LOGITS), LABELS)


def test_function_file_that_is_missing_is_told():
    with pytest.raises(DataError, match=r"nope\.py: no such Python file"):
        metric("nope.py:score")


# Choice by name


def test_first_output_is_read_unless_told():
    both = {"out": list(LOGITS[:, np.newaxis]), "other": list(-LOGITS[:, np.newaxis])}
    assert metric("accuracy").value(both, LABELS) == sk.accuracy_score(LABELS, LOGITS.argmax(axis=1))
    assert metric("accuracy", output="other").value(both, LABELS) == sk.accuracy_score(LABELS, LOGITS.argmin(axis=1))


@pytest.mark.parametrize(("name", "hint"), [("acuracy", "accuracy"), ("f1_marco", "f1_macro"), ("Accuracy", "accuracy")])
def test_unknown_metric_gets_a_hint_and_what_is_accepted(name, hint):
    with pytest.raises(ConfigError, match=rf"metric '{name}': unknown \(did you mean '{hint}'\?\); accepted: accuracy, topK"):
        metric(name)


def test_unknown_output_gets_a_hint_and_the_outputs():
    with pytest.raises(ConfigError, match=r"metric 'accuracy': no output 'othr' \(did you mean 'other'\?\); outputs: out, other"):
        metric("accuracy", output="othr")
