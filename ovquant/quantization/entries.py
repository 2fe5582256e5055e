"""What is kept of a statistic: entries of plain arrays, and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ovquant.protocols import Array
from ovquant.quantization.internals import internals
from ovquant.quantization.quantiles import has_negative_zeros

_OBJECT_BYTES = 1000  # of a value's Python objects, and of what keeps it under a key


def recorded(values: Any, n_samples: int) -> list[Array]:
    """Return one array per sample as an entry: header (samples, arrays, whether they are stacked), then the arrays."""
    arrays = [np.asarray(value.data) for value in values or ()]
    is_stacked = len(arrays) > 0 and all(array.shape == arrays[0].shape for array in arrays)
    header = np.array([n_samples, len(arrays), is_stacked], dtype=np.int64)
    return [header, np.stack(arrays)] if is_stacked else [header, *arrays]


def serves(header: Iterable[int], n_samples: int) -> bool:
    """Return whether an entry with that header holds as many samples, of which none gave nothing that are left out."""
    n_recorded, n_arrays, _ = (int(number) for number in header)
    return n_samples == n_recorded or (n_samples < n_recorded and n_arrays == n_recorded)


def first(entry: Sequence[Array], n_samples: int) -> list[Array] | None:
    """Return the arrays of the first samples; None if the entry holds fewer, or if some samples gave none."""
    if not serves(entry[0], n_samples):
        return None
    _, n_arrays, is_stacked = (int(number) for number in entry[0])
    arrays = [entry[1][index, ...] for index in range(n_arrays)] if is_stacked else list(entry[1:])
    return arrays[:n_samples]


def aggregate(aggregator: Any, arrays: Sequence[Array] | None) -> Any:
    """Return what an aggregator makes of the arrays, one a sample.

    Raises:
        LookupError: there are none, as the store has too few samples.
    """
    if arrays is None:
        raise LookupError("a statistic of too few samples is in the store")
    aggregator.reset()
    for array in _folded(aggregator, arrays):
        aggregator.register_reduced_input(internals().Tensor(array))
    return aggregator.aggregate()


def _folded(aggregator: Any, arrays: Sequence[Array]) -> Sequence[Array]:
    """Return the smallest or largest of all samples as the only one, where that is what the aggregator finds one by one."""
    kinds = {internals().MinAggregator: np.minimum, internals().MaxAggregator: np.maximum}
    fold = kinds.get(type(aggregator))
    is_alike = len({array.shape for array in arrays}) == 1 and all(array.dtype == np.float32 for array in arrays)
    if fold is None or 0 not in aggregator._aggregation_axes or not is_alike:
        return arrays
    stacked = np.stack(arrays)
    found = fold.reduce(stacked, axis=0)
    # Which of zeros of both signs is the smaller one depends on the order.
    return arrays if (found == 0).any() and has_negative_zeros(stacked) else [np.asarray(found)]


def encoded(value: Any) -> list[Array]:
    """Return an aggregated value as an entry: names (none for a single tensor), then arrays."""
    if value is None:
        return [np.array(["nothing"])]
    if isinstance(value, dict):
        return [np.array(["names", *value]), *(np.asarray(tensor.data) for tensor in value.values())]
    if isinstance(value, internals().Tensor):
        return [np.array(["tensor"]), np.asarray(value.data)]
    return [np.array(["list"]), *(np.asarray(tensor.data) for tensor in value)]


def size_bytes(value: Any) -> int:
    """Return what an aggregated value takes in memory."""
    return _OBJECT_BYTES + sum(array.nbytes for array in encoded(value)[1:])


def decoded(entry: Sequence[Array]) -> Any:
    """Return the value of which `encoded` made an entry."""
    kind, *names = (str(text) for text in entry[0])
    tensors = [internals().Tensor(array) for array in entry[1:]]
    if kind == "nothing":
        return None
    if kind == "names":
        return dict(zip(names, tensors, strict=True))
    return tensors[0] if kind == "tensor" else tensors
