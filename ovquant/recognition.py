"""What task a model and labelled items are for: metrics are tried on some items, and those that fit are proposed."""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from ovquant.errors import OvquantError
from ovquant.job import MetricSpec, OutputKind
from ovquant.metrics.divergence import class_axis, guess_kind
from ovquant.metrics.scores import build_metric
from ovquant.protocols import Array

Outputs: TypeAlias = Mapping[str, Sequence[Array]]
Entry: TypeAlias = dict[str, Any]
Task: TypeAlias = Literal[
    "classification", "regression", "detection", "segmentation", "sequence", "pairs", "embedding", "unknown"
]
_ALPHABETS = (string.digits, string.ascii_lowercase, string.ascii_uppercase, string.digits + string.ascii_lowercase)
_UNIT = 1e-2
_GUESSING = 1.5  # times the accuracy of a guess


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A task, and how the float model does on the items that were tried.

    Attributes:
        task: of one kind of label.
        metrics: entries of a job, the first one counts; none where one needs what only the user knows.
        value: of the first metric, None without one.
        is_better_high: direction of that.
        kinds: how outputs are read for the divergence, where that is not guessed.
        class_names: of labels that are names, in an order that the user has to check.
        remark: what the user should know or do.
    """

    task: Task
    metrics: tuple[Entry, ...] = ()
    value: float | None = None
    is_better_high: bool = True
    kinds: Mapping[str, OutputKind] = dataclasses.field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    remark: str | None = None

    @property
    def goodness(self) -> float:
        """The value, more is better; nothing is worse than no value."""
        if self.value is None:
            return -np.inf
        return self.value if self.is_better_high else -self.value


def recognize(
    labels: Sequence[Any] | None, outputs: Outputs, column: str | None = None, alphabets: Sequence[str] = ()
) -> Finding:
    """Return what items with such labels and outputs are for.

    Args:
        labels: one per item, of one column; None where the data has none.
        outputs: of the float model on the same items.
        column: what these labels are called, where the data has several.
        alphabets: that the model's file tells, tried before usual ones.
    """
    if labels is None:
        return _unlabelled(outputs)
    first = labels[0]
    if isinstance(first, Mapping) and "boxes" in first:
        return Finding(task="detection", remark="boxes are decoded by a function of yours")
    if isinstance(first, str):
        return _best([_texts(list(labels), outputs, column, alphabets), _named_classes(list(labels), outputs, column)])
    array = np.asarray(first)
    found = None
    if array.dtype.kind in "iufb":
        if array.ndim == 2 and array.dtype.kind != "f":
            found = _masks(labels, outputs, column)
        elif array.ndim == 1 and array.dtype.kind != "f":
            found = _best(_sequences(labels, outputs, column, None))
        elif array.ndim == 0:
            found = _numbers(labels, outputs, column)
    return found or Finding(task="unknown", remark=f"labels of shape {array.shape} ({array.dtype}) are for a function of yours")


def _best(findings: Sequence[Finding]) -> Finding:
    return max(findings, key=lambda finding: finding.goodness, default=Finding(task="unknown"))


def _tried(task: Task, entry: Entry, labels: Sequence[Any], outputs: Outputs, column: str | None, **more: Any) -> Finding | None:
    """Return a finding if its metric can be computed; None if it does not fit."""
    named = {**entry, **({} if column is None else {"labels": column})}
    try:
        metric = build_metric(MetricSpec.model_validate(named), list(outputs))
        truth = labels if metric.truth == "labels" else _by_item(outputs)
        value = float(metric.value({name: list(arrays) for name, arrays in outputs.items()}, truth))
    except (OvquantError, ValueError, TypeError, IndexError):
        return None
    if not np.isfinite(value):
        return None
    return Finding(task=task, metrics=(named,), value=value, is_better_high=metric.direction == "maximize", **more)


def _by_item(outputs: Outputs) -> list[dict[str, Array]]:
    n_items = len(next(iter(outputs.values())))
    return [{name: arrays[index] for name, arrays in outputs.items()} for index in range(n_items)]


def _output(name: str, outputs: Outputs) -> Entry:
    """Return the key that names an output, left out where that is the first one and there is no other."""
    return {} if len(outputs) == 1 else {"output": name}


def _unlabelled(outputs: Outputs) -> Finding:
    """Return what can be said without labels: vectors of length one are embeddings."""
    for name, arrays in outputs.items():
        lengths = np.array([np.linalg.norm(array, axis=-1).max() for array in arrays if array.ndim >= 2])
        is_share = all(array.min() >= 0 for array in arrays)
        if len(lengths) == len(arrays) and np.allclose(lengths, 1, atol=_UNIT) and not is_share:
            found = _tried("embedding", {"name": "cosine", **_output(name, outputs), "max_drop": 0.01}, (), outputs, None)
            if found is not None:
                return found
    return Finding(task="unknown", remark="the data has no labels")


def _numbers(labels: Sequence[Any], outputs: Outputs, column: str | None) -> Finding:
    """Return what a number for each item is: a class, the similarity of a pair, or a value."""
    is_whole = np.asarray(labels).dtype.kind in "iub"
    found: list[Finding | None] = []
    for name, arrays in outputs.items():
        where = _output(name, outputs)
        if arrays[0].ndim == 2 and arrays[0].shape[0] == 2:
            pair = _tried("pairs", {"name": "spearman", **where, "max_drop": 0.01}, labels, outputs, column)
            near = _tried("pairs", {"name": "cosine", **where, "max_drop": 0.01}, labels, outputs, None)
            if pair is not None and near is not None:
                found.append(dataclasses.replace(pair, metrics=(*pair.metrics, *near.metrics)))
        elif is_whole and arrays[0].ndim == 2 and arrays[0].shape[1] > 1:
            entry = {"name": "accuracy", **where, "max_drop": 0.01}
            tried = _tried("classification", entry, labels, outputs, column)
            if tried is not None and (tried.value or 0.0) <= _GUESSING / arrays[0].shape[1]:
                remark = "CHECK: the float model does no better than guessing, by this preprocessing and order of classes"
                tried = dataclasses.replace(tried, remark=remark)
            found.append(tried)
    fitting = [finding for finding in found if finding is not None]
    if fitting:
        return _best(fitting)
    for name, arrays in outputs.items():
        if arrays[0].size == 1:
            entry = {"name": "neg_mean_absolute_error", **_output(name, outputs), "max_drop": "5%"}
            found.append(_tried("regression", entry, labels, outputs, column))
    return _best([finding for finding in found if finding is not None])


def _named_classes(labels: list[str], outputs: Outputs, column: str | None) -> Finding:
    """Return a classification whose labels are names; their order is a guess."""
    names = tuple(sorted(set(labels)))
    for name, arrays in outputs.items():
        if arrays[0].ndim == 2 and arrays[0].shape[1] == len(names):
            numbers = [names.index(label) for label in labels]
            entry = {"name": "accuracy", **_output(name, outputs), "max_drop": 0.01}
            found = _tried("classification", entry, numbers, outputs, column, class_names=names)
            if found is not None:
                return dataclasses.replace(found, remark="CHECK class_names: they must have the order of the model's output")
    return Finding(task="unknown", remark=f"labels are texts ({len(names)} different ones)")


def _masks(labels: Sequence[Any], outputs: Outputs, column: str | None) -> Finding:
    """Return a segmentation by the output whose scores agree best with the masks."""
    found = []
    for name, arrays in outputs.items():
        if arrays[0].ndim != 4 or arrays[0].dtype.kind != "f":
            continue
        n_classes = arrays[0].shape[1] if arrays[0].shape[2:] == np.asarray(labels[0]).shape else arrays[0].shape[3]
        outside = sorted({int(value) for label in labels for value in np.unique(label) if not 0 <= value < n_classes})
        ignored = {"ignore_index": outside[0]} if len(outside) == 1 else {}
        is_share = class_axis(4) == 1 and guess_kind(list(arrays), is_classified=True) == "probabilities"
        entry = {"name": "miou", **_output(name, outputs), **ignored, "max_drop": 0.01}
        kinds: dict[str, OutputKind] = {} if is_share else {name: "logits"}
        found.append(_tried("segmentation", entry, labels, outputs, column, kinds=kinds))
    fitting = [finding for finding in found if finding is not None]
    remark = "no output has scores for each pixel of the masks; a function of yours may resize them"
    return _best(fitting) if fitting else Finding(task="segmentation", remark=remark)


def _texts(labels: list[str], outputs: Outputs, column: str | None, alphabets: Sequence[str]) -> Finding:
    """Return sequences of symbols, whose alphabet is one of those given, a usual one, or the symbols that occur."""
    seen = "".join(sorted(set("".join(labels))))
    usual = [alphabet for alphabet in (*alphabets, *_ALPHABETS) if set(seen) <= set(alphabet)]
    found = [one for alphabet in (*usual, seen) if alphabet for one in _sequences(labels, outputs, column, alphabet)]
    if not found:
        remark = f"labels are texts, of {len(seen)} symbols; which class stands for which has to be told by alphabet"
        return Finding(task="sequence", remark=remark)
    return _best(found)


def _sequences(labels: Sequence[Any], outputs: Outputs, column: str | None, alphabet: str | None) -> list[Finding]:
    """Return the ways to read an output as a sequence that fit."""
    spelt: Entry = {} if alphabet is None else {"alphabet": alphabet}
    found = []
    for name, arrays in outputs.items():
        for how in _readings(arrays):
            options = {**_output(name, outputs), **how, **spelt}
            scores = arrays[0].ndim == 3 and arrays[0].dtype.kind == "f"
            is_share = scores and guess_kind(list(arrays), is_classified=True) == "probabilities"
            kinds: dict[str, OutputKind] = {name: "logits"} if scores and not is_share else {}
            one = _tried("sequence", {"name": "cer", **options, "max_drop": 0.01}, labels, outputs, column, kinds=kinds)
            exact = _tried("sequence", {"name": "exact_match", **options, "max_drop": 0.05}, labels, outputs, column)
            if one is not None and exact is not None:
                remark = "CHECK decode, blank and alphabet: of the ways that fit, this one has the fewest errors"
                found.append(dataclasses.replace(one, metrics=(*one.metrics, *exact.metrics), remark=remark))
    return found


def _readings(arrays: Sequence[Array]) -> Iterator[Entry]:
    first = arrays[0]
    if first.dtype.kind in "iu" or first.ndim == 3:
        yield {"decode": "argmax"}
    if first.dtype.kind == "f" and first.ndim == 3:
        yield {"decode": "ctc", "blank": 0}
        yield {"decode": "ctc", "blank": int(first.shape[-1]) - 1}
