"""Items of Python objects: loaders that yield batches, NNCF's data sets, anything that can be iterated over.

Tensors are known by what they can do (``detach``, ``cpu``, ``numpy``); no package is imported for them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ovquant.datasets.conform import conform
from ovquant.errors import DataError, UsageError, first_line
from ovquant.protocols import Array, Sample
from ovquant.runtime import InputInfo

Function = Callable[[Any], Any]
_LABEL_WORDS = ("labels", "label", "y")
_PADDING = -1  # of rows of class numbers, see `ovquant.metrics.sequences`
_MAX_BYTES = 8 << 30


@dataclasses.dataclass(frozen=True, slots=True)
class Raw:
    """What an object yielded: inputs as they are (an array, several in the model's order, or by name), and what labels them.

    Attributes:
        inputs: of one item or of a batch of them.
        label: likewise; None where there is none.
        is_batch: the first axis counts items.
    """

    inputs: Any
    label: Any
    is_batch: bool


def raw_items(
    data: Iterable[Any], transform_fn: Function | None, label_fn: Function | None, n_inputs: int | None
) -> Iterator[Raw]:
    """Yield what an object holds, in its order.

    An object with a ``batch_size`` yields batches, as ``torch.utils.data.DataLoader`` does. Without functions, a mapping
    may hold its label under ``labels``, ``label`` or ``y``; a pair is inputs and label, and for a model with several inputs a
    tuple holds these in order, and possibly the label after them.

    Args:
        data: the object; an ``nncf.Dataset`` brings its own transform.
        transform_fn: from what is yielded to inputs, as for ``nncf.Dataset``.
        label_fn: from what is yielded to a label.
        n_inputs: of the model; None where it is not known yet.

    Raises:
        DataError: a function raised, or inputs cannot be told from labels.
        UsageError: a transform is given twice.
    """
    own = getattr(data, "get_inference_data", None)
    if callable(own):
        if transform_fn is not None:
            raise UsageError("transform_fn: an nncf.Dataset has its own; leave it out")
        pairs = zip(data.get_data(), own(), strict=True)  # type: ignore[attr-defined]
        for number, (item, inputs) in enumerate(pairs):
            yield Raw(inputs, None if label_fn is None else _called(label_fn, item, "label_fn", number), is_batch=False)
        return
    is_batch = getattr(data, "batch_size", None) is not None
    for number, item in enumerate(data):
        if transform_fn is not None:
            inputs, label = _called(transform_fn, item, "transform_fn", number), None
        else:
            inputs, label = _divided(item, n_inputs)
        if label_fn is not None:
            label = _called(label_fn, item, "label_fn", number)
        yield Raw(inputs, label, is_batch)


def _called(function: Function, item: Any, name: str, number: int) -> Any:
    try:
        return function(item)
    except Exception as error:
        raise DataError(f"data[{number}]: {name} raised {type(error).__name__}: {first_line(error)}") from error


def _divided(item: Any, n_inputs: int | None) -> tuple[Any, Any]:
    """Return inputs and label of what was yielded."""
    if isinstance(item, Mapping):
        key = next((word for word in _LABEL_WORDS if word in item), None)
        return {name: value for name, value in item.items() if name != key}, None if key is None else item[key]
    if not isinstance(item, tuple | list):
        return item, None
    n_needed = 1 if n_inputs is None else n_inputs
    if len(item) == n_needed:
        return (item[0] if n_needed == 1 else tuple(item)), None
    if len(item) == n_needed + 1:
        return (item[0] if n_needed == 1 else tuple(item[:-1])), item[-1]
    if len(item) == 2 and isinstance(item[0], Mapping | tuple | list):
        return item[0], item[1]
    raise DataError(
        f"data: yields {len(item)} values for {n_needed} inputs, so it cannot be told which are which: give transform_fn (from "
        "what is yielded to the inputs) and label_fn (to the label)"
    )


def to_array(value: Any) -> Array:
    """Return a tensor, or anything that numpy takes, as an array."""
    if callable(getattr(value, "detach", None)):
        value = value.detach().cpu().numpy()
    return np.asarray(value)


def first_inputs(raw: Raw) -> Any:
    """Return the inputs of the first item as they are, with a batch axis of one where there is one."""

    def first(value: Any) -> Any:
        return value[:1] if raw.is_batch else value

    if isinstance(raw.inputs, Mapping):
        return {name: first(value) for name, value in raw.inputs.items()}
    return tuple(map(first, raw.inputs)) if isinstance(raw.inputs, tuple | list) else first(raw.inputs)


def items_of(raw: Raw, inputs: Sequence[InputInfo], number: int) -> Iterator[tuple[Sample, Any]]:
    """Yield the items of what was yielded, each checked against the model, with its label.

    Raises:
        DataError: one does not fit.
    """
    where = f"data[{number}]"
    named = _named(raw.inputs, inputs, where)
    infos = {info.name: info for info in inputs}
    first = next(iter(named.items()), None)
    if first is None:
        raise DataError(f"{where}: holds no inputs")
    shape = infos[first[0]].shape if first[0] in infos else None
    is_whole = shape is not None and first[1].ndim == len(shape)
    is_split = raw.is_batch or (is_whole and shape is not None and shape[0] == 1 and len(first[1]) > 1)
    if not is_split:
        yield conform(named, inputs, where), _label(raw.label, is_whole=is_whole)
        return
    n_rows = len(first[1])
    if any(len(array) != n_rows for array in named.values()):
        raise DataError(f"{where}: inputs are batches of different sizes")
    labels = _labels(raw.label, n_rows, where)
    for row in range(n_rows):
        yield conform({name: array[row : row + 1] for name, array in named.items()}, inputs, f"{where}[{row}]"), labels[row]


def _named(value: Any, inputs: Sequence[InputInfo], where: str) -> dict[str, Array]:
    if isinstance(value, Mapping):
        return {str(name): to_array(array) for name, array in value.items()}
    values = value if isinstance(value, tuple | list) and len(inputs) > 1 else [value]
    if len(values) != len(inputs):
        raise DataError(f"{where}: {len(values)} inputs, the model takes {len(inputs)} ({', '.join(i.name for i in inputs)})")
    return {info.name: to_array(array) for info, array in zip(inputs, values, strict=True)}


def _label(label: Any, *, is_whole: bool) -> Any:
    """Return the label of one item; a batch axis that its inputs have is taken off."""
    if label is None or isinstance(label, str | Mapping):
        return label
    array = to_array(label)
    return array[0] if is_whole and array.ndim > 0 and len(array) == 1 else array


def _labels(label: Any, n_rows: int, where: str) -> Sequence[Any]:
    if label is None:
        return [None] * n_rows
    if isinstance(label, Mapping):
        columns = {key: _labels(value, n_rows, where) for key, value in label.items()}
        return [{key: column[row] for key, column in columns.items()} for row in range(n_rows)]
    rows: Sequence[Any] = label if isinstance(label, tuple | list) else to_array(label)  # type: ignore[assignment]
    if len(rows) != n_rows:
        raise DataError(f"{where}: {len(rows)} labels for {n_rows} items")
    return [row if isinstance(row, str | Mapping) else to_array(row) for row in rows]


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """What goes into an ``.npz``.

    Attributes:
        arrays: by the name there; the first axis counts items.
        inputs: model input -> array.
        labels: array of the labels, or several of them; None where there are none.
    """

    arrays: dict[str, Array]
    inputs: dict[str, str]
    labels: str | list[str] | None


def stored(items: Iterable[tuple[Sample, Any]], n_items: int | None) -> Stored:
    """Return items as arrays.

    Args:
        items: samples with their labels.
        n_items: that many at most are taken.

    Raises:
        DataError: there are none, they differ in shape, take too much memory, or their labels cannot be kept.
    """
    samples: list[Sample] = []
    labels: list[Any] = []
    n_bytes = 0
    for sample, label in items:
        if n_items is not None and len(samples) >= n_items:
            break
        samples.append(sample)
        labels.append(label)
        n_bytes += sum(array.nbytes for array in sample.values())
        if n_bytes > _MAX_BYTES:
            raise DataError(f"data: the first {len(samples)} items take {n_bytes >> 30} GiB; take fewer of them: n_items")
    if not samples:
        raise DataError("data: yields nothing")
    arrays: dict[str, Array] = {}
    found = _store_labels(labels, arrays)
    # By its own name an array is found without being told; but a file takes no name for two, and numpy none of its own.
    is_free = {name: re.fullmatch(r"[\w.:-]+", name) and name not in {*arrays, "file"} for name in samples[0]}
    names = {name: name if is_free[name] else f"input{place}" for place, name in enumerate(samples[0])}
    for name, key in names.items():
        shapes = {sample[name].shape for sample in samples}
        if len(shapes) > 1:
            told = " and ".join("x".join(map(str, shape)) for shape in sorted(shapes)[:2])
            raise DataError(
                f"data: items differ in shape (input {name!r}: {told}), and are kept as one array. Pad them to one shape, or "
                "give a Python function: data='file.py:function'"
            )
        rows = np.stack([sample[name] for sample in samples])
        arrays[key] = rows[:, 0] if rows.ndim > 1 and rows.shape[1] == 1 else rows
    return Stored(arrays, names, found)


def _store_labels(labels: Sequence[Any], arrays: dict[str, Array]) -> str | list[str] | None:
    """Put labels into the arrays; return what they are called."""
    if all(label is None for label in labels):
        return None
    if any(label is None for label in labels):
        raise DataError("data: some items have a label, others have none")
    if not isinstance(labels[0], Mapping):
        arrays["labels"] = _column(labels)
        return "labels"
    if "boxes" in labels[0]:
        raise DataError("data: boxes are kept in a COCO JSON beside a folder of images; see data.annotations")
    for key in labels[0]:
        arrays[str(key)] = _column([label[key] for label in labels])
    return [str(key) for key in labels[0]]


def _column(labels: Sequence[Any]) -> Array:
    found = [np.asarray(label) for label in labels]
    if len({array.shape for array in found}) == 1:
        column = np.stack(found)
    elif all(array.ndim == 1 and array.dtype.kind in "iu" for array in found):
        column = np.full((len(found), max(map(len, found))), _PADDING, dtype=np.int64)
        for row, array in zip(column, found, strict=True):
            row[: len(array)] = array
    else:
        raise DataError("data: labels differ in shape")
    if column.dtype.kind not in "iufbU":
        raise DataError(
            f"data: labels of type {column.dtype} ({str(labels[0])[:60]!r}) are neither numbers nor texts: give label_fn"
        )
    return column


def is_shuffled(data: Any) -> bool:
    """Return whether an object says that it yields its items in another order each time."""
    return "Random" in type(getattr(data, "sampler", None)).__name__ or getattr(data, "shuffle", None) is True
