"""How far a candidate's outputs are from the reference's.

For outputs that are distributions this is the relative entropy (Kullback-Leibler divergence) of the reference from the
candidate, in nats. For others it is the squared error over the mean square of the reference: the inverse of the signal to
quantization noise ratio.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ovquant.job import OutputKind
from ovquant.protocols import Array, Outputs

# Probabilities below are raised to this before logarithms, so that a candidate's exact zero costs much but not infinity.
_TINY = 1e-12
_SUM_TOLERANCE = 1e-2


def guess_kind(arrays: Sequence[Array], is_classified: bool) -> OutputKind:
    """Return what an output of the reference is taken for.

    ``probabilities`` if all values are in 0..1 and sum to 1 along the class axis; else ``logits`` if the output has one score
    per class (rank 2, [1, C], C >= 2) and a classification metric reads it or its scores are no unit vectors; else ``values``.

    Args:
        arrays: one per item, batch axis 1.
        is_classified: a classification metric reads this output.
    """
    first = arrays[0]
    if first.ndim < 2 or first.shape[class_axis(first.ndim)] < 2:
        return "values"
    sums = [array.sum(axis=class_axis(array.ndim)) for array in arrays]
    is_share = all(array.min() >= -1e-6 and array.max() <= 1 + 1e-3 for array in arrays)
    if is_share and all(np.allclose(total, 1, atol=_SUM_TOLERANCE) for total in sums):
        return "probabilities"
    if is_classified:
        return "logits"
    is_unit = all(np.allclose(np.linalg.norm(array, axis=-1), 1, atol=_SUM_TOLERANCE) for array in arrays)
    return "logits" if first.ndim == 2 and first.shape[0] == 1 and not is_unit else "values"


def class_axis(rank: int) -> int:
    """Return the axis of classes: 1 in [N, C, H, W] and [N, C, D, H, W], the last one otherwise."""
    return 1 if rank >= 4 else rank - 1


def per_item(
    reference: Outputs, candidate: Outputs, kinds: Mapping[str, OutputKind], powers: Mapping[str, float] | None = None
) -> NDArray[np.float64]:
    """Return the divergence of each item, shape [N], averaged over outputs.

    Args:
        reference: output name -> one array per item.
        candidate: likewise, of the same shapes.
        kinds: output name -> how it is read.
        powers: see `powers_of`; None takes them from the items given here.

    Raises:
        ValueError: the numbers of items differ.
    """
    scales = powers_of(reference, kinds) if powers is None else powers
    columns = []
    for name, kind in kinds.items():
        stacks = _stacked(reference[name], candidate[name])
        if kind == "values":
            columns.append(np.concatenate([_squared_error(*pair) for pair in stacks]) / scales[name])
        else:
            columns.append(np.concatenate([_relative_entropy(*pair, kind) for pair in stacks]))
    return np.asarray(np.mean(columns, axis=0), dtype=np.float64)


def _stacked(reference: Sequence[Array], candidate: Sequence[Array]) -> list[tuple[Array, Array]]:
    """Return both as arrays of shape [n, ...], as few as their shapes allow."""
    if len(reference) != len(candidate):
        raise ValueError(f"{len(reference)} items of the reference and {len(candidate)} of the candidate")
    if len({array.shape for array in (*reference, *candidate)}) == 1:
        return [(np.stack(reference), np.stack(candidate))]
    return [(theirs[np.newaxis], mine[np.newaxis]) for theirs, mine in zip(reference, candidate, strict=True)]


def _squared_error(reference: Array, candidate: Array) -> NDArray[np.float64]:
    """Return the mean squared difference of each item, shape [n]."""
    difference = np.subtract(reference, candidate, dtype=np.float64).reshape(len(reference), -1)
    return np.asarray(np.mean(np.square(difference), axis=1))


def powers_of(reference: Outputs, kinds: Mapping[str, OutputKind]) -> dict[str, float]:
    """Return the mean square of each output that is read as values, which errors are divided by."""
    return {
        name: max(float(np.mean([np.mean(np.square(array, dtype=np.float64)) for array in reference[name]])), _TINY)
        for name, kind in kinds.items()
        if kind == "values"
    }


def _relative_entropy(reference: Array, candidate: Array, kind: OutputKind) -> NDArray[np.float64]:
    """Return KL(reference || candidate) = sum p (ln p - ln q) in nats of each item, averaged over positions, shape [n]."""
    axis = class_axis(reference.ndim - 1) + 1
    log_p, log_q = (_log_probabilities(array, kind, axis) for array in (reference, candidate))
    entropies = np.sum(np.exp(log_p) * (log_p - log_q), axis=axis)
    return np.asarray(np.mean(entropies.reshape(len(reference), -1), axis=1))


def _log_probabilities(array: Array, kind: OutputKind, axis: int) -> NDArray[np.float64]:
    values = np.asarray(array, dtype=np.float64)
    if kind == "logits":
        return np.asarray(special.log_softmax(values, axis=axis))
    clipped = np.clip(values, _TINY, None)
    return np.asarray(np.log(clipped / clipped.sum(axis=axis, keepdims=True)))
