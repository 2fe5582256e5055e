"""Quantiles along rows, equal to those of `numpy.quantile` bit for bit and several times as fast where they are near an end."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SMALLEST_BLOCK = 4  # values; below, all values are as quickly searched
_NEGATIVE_ZERO = np.uint32(0x80000000)


def has_negative_zeros(values: NDArray[np.float32]) -> bool:
    """Return whether the order of equal values shows: which of zeros of both signs comes first is numpy's own affair."""
    return bool((np.ascontiguousarray(values).view(np.uint32) == _NEGATIVE_ZERO).any())


def quantiles(values: NDArray[np.float32], at: Sequence[float]) -> NDArray[np.float64]:
    """Return quantiles of each row, linearly interpolated as ``numpy.quantile(values.astype(float64), at, axis=1)`` does it.

    They are equal bit for bit, except that a zero may have the other sign where there are zeros of both.

    Args:
        values: shape [rows, n], n at least 1.
        at: in 0..1.

    Returns:
        Shape [len(at), rows].
    """
    if not np.isfinite(values.min()) or not np.isfinite(values.max()):
        return np.asarray(np.quantile(values.astype(np.float64), at, axis=1))
    n_values = values.shape[1]
    places = [_places(n_values, float(share)) for share in at]
    from_start = [above for _, above, _ in places if 2 * above < n_values]
    from_end = [below for below, above, _ in places if 2 * above >= n_values]
    start, end = _ordered(values, from_start, is_start=True), _ordered(values, from_end, is_start=False)
    found = []
    for below, above, weight in places:
        # Places count from the end that the values were taken from.
        ordered, offset = (start, 0) if 2 * above < n_values else (end, end.shape[1] - n_values)
        first, second = (ordered[:, place + offset].astype(np.float64) for place in (below, above))
        found.append(_interpolated(first, second, weight))
    return np.array(found)


@functools.lru_cache(1024)
def _places(n_values: int, share: float) -> tuple[int, int, np.float64]:
    """Return the two places in the sorted array between which a quantile lies, and the weight of the second."""
    place = (n_values - 1) * np.float64(share)
    below = int(np.floor(place))
    return below, min(below + 1, n_values - 1), place - below


def _interpolated(first: Any, second: Any, weight: np.float64) -> Any:
    """Interpolate in the one or the other of numpy's two ways, so that rounding is the same."""
    step = second - first
    return first + step * weight if weight < 0.5 else second - step * (1 - weight)


def _ordered(values: NDArray[np.float32], places: Sequence[int], *, is_start: bool) -> NDArray[np.float32]:
    """Return of each row enough values from one end, with those at some places, and next to them towards it, in order.

    Args:
        values: shape [rows, n].
        places: in the sorted row, all in its half at that end or beyond it.
        is_start: the end is that of the smallest values.

    Returns:
        Shape [rows, m], m at most n; the last m places of the row if not `is_start`.
    """
    if not places:
        return values[:, :0]
    n_values = values.shape[1]
    n_kept = max(places) + 1 if is_start else n_values - min(places)
    kept = _candidates(values, n_kept, is_start=is_start)
    shift = 0 if is_start else kept.shape[1] - n_values
    step = -1 if is_start else 1
    wanted = {place + shift + further for place in places for further in (0, step)}
    return np.partition(kept, sorted(place for place in wanted if 0 <= place < kept.shape[1]), axis=1)


def _candidates(values: NDArray[np.float32], n_kept: int, *, is_start: bool) -> NDArray[np.float32]:
    """Return of each row some values among which are its `n_kept` smallest or largest ones.

    The row is divided into blocks; those with the `n_kept` smallest minima hold its `n_kept` smallest values: were one
    elsewhere, each of these blocks would have one that is no larger.
    """
    n_rows, n_values = values.shape
    side = int((n_values / n_kept) ** 0.5)  # where minima and values to search are equally many
    if side < _SMALLEST_BLOCK:
        return values
    n_blocks = n_values // side
    blocks = values[:, : side * n_blocks].reshape(n_rows, side, n_blocks)
    extremes = blocks.min(axis=1) if is_start else -blocks.max(axis=1)
    chosen = np.argpartition(extremes, n_kept - 1, axis=1)[:, :n_kept]
    held = np.take_along_axis(blocks, chosen[:, None, :], axis=2).reshape(n_rows, -1)
    return np.concatenate([held, values[:, side * n_blocks :]], axis=1)
