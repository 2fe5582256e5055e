"""Metrics by name; of them top-k accuracy, scikit-learn scorers, Python functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from scipy import special
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, is_classifier
from sklearn.metrics import get_scorer, get_scorer_names

from ovquant import extensions
from ovquant.datasets.readers import load_function
from ovquant.errors import ConfigError, DataError, did_you_mean, first_line
from ovquant.job import MetricSpec, split_entry
from ovquant.metrics.registry import TASK_METRICS, build_task_metric, require_options
from ovquant.protocols import Array, Metric, Outputs

Direction = Literal["maximize", "minimize"]
Truth = Literal["labels", "reference"]


def build_metric(spec: MetricSpec, output_names: Sequence[str]) -> Metric:
    """Return the metric of a job's entry.

    Args:
        spec: name and output.
        output_names: of the model.

    Raises:
        ConfigError: no such metric or output.
    """
    output = spec.output or output_names[0]
    if output not in output_names:
        hint = did_you_mean(output, output_names)
        raise ConfigError(f"metric {spec.name!r}: no output {output!r}{hint}; outputs: {', '.join(output_names)}")
    metric = build_task_metric(spec, output)
    if metric is None:
        metric = _build_score(spec, output)
        require_options(spec, ("output", "labels"))
    metric.column = spec.labels
    return metric


def _build_score(spec: MetricSpec, output: str) -> Metric:
    entry = split_entry(spec.name)
    if entry is not None:
        return FunctionMetric(spec.label, load_function(*entry), spec.direction)
    top = re.fullmatch(r"accuracy|top-?(\d+)", spec.name)
    if top is not None:
        return TopK(spec.label, int(top[1] or 1), output)
    if spec.name in get_scorer_names():
        return SklearnScorer(spec.label, get_scorer(spec.name), output)
    installed = extensions.names(extensions.METRICS)
    if spec.name in installed:
        function = extensions.metric_function(spec.name)
        return FunctionMetric(spec.label, function, _direction_of(function, spec))
    names = ["accuracy", "top5", *TASK_METRICS, *get_scorer_names(), *installed]
    raise ConfigError(
        f"metric {spec.name!r}: unknown{did_you_mean(spec.name, names)}; accepted: accuracy, topK (top5), "
        f"{', '.join(TASK_METRICS)}, "
        f"a scikit-learn scorer (f1_macro, r2 ...), {''.join(f'{name}, ' for name in installed)}or file.py:function"
    )


def _direction_of(function: Any, spec: MetricSpec) -> Direction:
    """Return which way is better: what an installed metric says of itself in its attribute ``direction``, else the job."""
    told = getattr(function, "direction", spec.direction)
    if told not in {"maximize", "minimize"}:
        raise ConfigError(f"metric {spec.name!r}: its attribute direction must be maximize or minimize, found {told!r}")
    return cast(Direction, told)


def _rows(outputs: Outputs, name: str) -> NDArray[np.float64]:
    """Return one output as [N, values per item]."""
    return np.stack([np.asarray(array, dtype=np.float64).reshape(-1) for array in outputs[name]])


def _label_array(labels: Sequence[Any], metric: str) -> Array:
    """Return labels as an array.

    Raises:
        DataError: there are several for each item, or they are of different shapes.
    """
    if len(labels) and isinstance(labels[0], Mapping):
        raise DataError(
            f"metric {metric!r}: each item has several labels ({', '.join(map(str, labels[0]))}); name one by labels: ..."
        )
    try:
        return np.asarray(labels)
    except ValueError as error:
        raise DataError(f"metric {metric!r}: labels must be numbers, or rows of the same length: {first_line(error)}") from error


def _class_labels(labels: Sequence[Any], n_classes: int, metric: str) -> NDArray[np.int64]:
    """Return labels as class indices.

    Raises:
        DataError: a label is no integer, or the output has no such class.
    """
    array = _label_array(labels, metric)
    if array.dtype.kind not in "iub" or array.ndim != 1:
        hint = "; texts of a CSV become class numbers by data.class_names" if array.dtype.kind == "U" else ""
        raise DataError(
            f"metric {metric!r}: labels must be class indices (integers), found {str(labels[0])[:60]!r} of {array.dtype}{hint}"
        )
    outside = array[(array < 0) | (array >= n_classes)]
    if len(outside):
        raise DataError(
            f"metric {metric!r}: label {int(outside[0])} is out of range: the output has {n_classes} classes, 0..{n_classes - 1} "
            f"({len(outside)} of {len(array)} labels are). Where class folders are called by numbers that are no labels, list "
            "them in their order in data.class_names"
        )
    return array.astype(np.int64)


class TopK:
    """Share of items whose class is among the k highest scores."""

    direction: Direction = "maximize"
    truth: Truth = "labels"
    column: str | None = None

    def __init__(self, name: str, k: int, output: str) -> None:
        """Keep the name by which the user asked for it."""
        self.name, self._k, self._output = name, k, output

    def per_item(self, outputs: Outputs, labels: Sequence[Any]) -> NDArray[np.float64]:
        """Return 1 or 0 per item, shape [N].

        For k = 1 the first of equal scores is the answer, as for argmax; for others ties with the true class count against it.
        """
        scores = _rows(outputs, self._output)
        if not 1 <= self._k < scores.shape[1]:
            raise DataError(
                f"metric {self.name!r}: k must be at least 1 and below the number of classes, the output has {scores.shape[1]}"
            )
        classes = _class_labels(labels, scores.shape[1], self.name)
        if self._k == 1:
            return np.asarray(scores.argmax(axis=1) == classes, dtype=np.float64)
        true = scores[np.arange(len(scores)), classes]
        return np.asarray((scores >= true[:, None]).sum(axis=1) <= self._k, dtype=np.float64)

    def value(self, outputs: Outputs, labels: Sequence[Any]) -> float:
        """Return the share, 0..1."""
        return float(self.per_item(outputs, labels).mean())


class _Classifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Stands for the model before a scorer: X holds item indices."""

    def __init__(self, scores: Array) -> None:
        self.scores = scores
        self.classes_ = np.arange(scores.shape[1]) if scores.shape[1] > 1 else np.arange(2)

    def predict_proba(self, indices: Array) -> Array:
        scores = self.scores[indices[:, 0]]
        if scores.shape[1] == 1:
            positive = scores if _is_share(scores) else special.expit(scores)
            return np.hstack([1 - positive, positive])
        is_distribution = _is_share(scores) and np.allclose(scores.sum(axis=1), 1, atol=1e-2)
        return scores / scores.sum(axis=1, keepdims=True) if is_distribution else np.asarray(special.softmax(scores, axis=1))

    def predict(self, indices: Array) -> Array:
        return np.asarray(self.predict_proba(indices).argmax(axis=1))


class _Regressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    def __init__(self, values: Array) -> None:
        self.values = values

    def predict(self, indices: Array) -> Array:
        values = self.values[indices[:, 0]]
        return values[:, 0] if values.shape[1] == 1 else values


def _is_share(scores: Array) -> bool:
    return bool(scores.min() >= 0 and scores.max() <= 1 + 1e-3)


# scikit-learn's scorers do not tell what they are for (sklearn.metrics.get_scorer_names, user guide section 3.4.1).
_REGRESSION = frozenset({"r2", "explained_variance", "d2_absolute_error_score", "max_error"})
_NEGATED_CLASSIFICATION = frozenset({"neg_log_loss", "neg_brier_score", "neg_negative_likelihood_ratio"})


class SklearnScorer:
    """Any scikit-learn scorer that fits: probabilities and classes for classification, values for regression.

    Scorers are all better when higher (``neg_...`` for errors).
    """

    direction: Direction = "maximize"
    truth: Truth = "labels"
    column: str | None = None

    def __init__(self, name: str, scorer: Any, output: str) -> None:
        """Keep the scorer, and the name that results give it."""
        self.name, self._output, self._scorer = name, output, scorer
        self._scorer_name = name.partition("@")[0]

    def is_classification(self, labels: Sequence[Any]) -> bool:
        """Return True if the scorer compares classes: it is none for regression, and labels are whole numbers."""
        name = self._scorer_name
        is_regression = name in _REGRESSION or (name.startswith("neg_") and name not in _NEGATED_CLASSIFICATION)
        return not is_regression and all(isinstance(label, int | np.integer | np.bool_) for label in labels)

    def per_item(self, outputs: Outputs, labels: Sequence[Any]) -> NDArray[np.float64] | None:
        """Return None: scorers are taken over all items."""
        return None

    def value(self, outputs: Outputs, labels: Sequence[Any]) -> float:
        """Return the score.

        Raises:
            DataError: the scorer does not fit output and labels.
        """
        rows = _rows(outputs, self._output)
        truth = _label_array(labels, self.name)
        estimator = _Classifier(rows) if self.is_classification(labels) else _Regressor(rows)
        if is_classifier(estimator):
            _class_labels(labels, max(2, rows.shape[1]), self.name)
        try:
            value = float(self._scorer(estimator, np.arange(len(rows))[:, None], truth))
        except Exception as error:
            raise DataError(f"metric {self.name!r} does not fit this output and these labels: {first_line(error)}") from error
        if not np.isfinite(value):
            raise DataError(f"metric {self.name!r} is {value} on this data")
        return value


class FunctionMetric:
    """A user's function ``f(outputs, labels)``.

    It gets output name -> list of arrays (one per item, batch axis 1) and the list of labels, and returns one score per item
    (whose mean is the metric) or one number.
    """

    truth: Truth = "labels"
    column: str | None = None

    def __init__(self, name: str, function: Callable[..., Any], direction: Direction) -> None:
        """Keep function and direction."""
        self.name, self.direction, self._function = name, direction, function

    def per_item(self, outputs: Outputs, labels: Sequence[Any]) -> NDArray[np.float64] | None:
        """Return the scores if the function gives one per item."""
        result = self._call(outputs, labels)
        return result if result.shape == (len(labels),) else None

    def value(self, outputs: Outputs, labels: Sequence[Any]) -> float:
        """Return the function's number, or the mean of its scores."""
        return float(self._call(outputs, labels).mean())

    def _call(self, outputs: Outputs, labels: Sequence[Any]) -> NDArray[np.float64]:
        try:
            result = np.asarray(self._function(outputs, labels), dtype=np.float64)
        except Exception as error:
            raise DataError(f"metric {self.name!r} raised {type(error).__name__}: {first_line(error)}") from error
        if result.shape not in {(), (len(labels),)} or not np.isfinite(result).all():
            raise DataError(
                f"metric {self.name!r} must return one finite number or {len(labels)} of them (one per item), "
                f"found {result if result.ndim == 0 else f'shape {result.shape}'}"
            )
        return result
