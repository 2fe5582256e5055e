"""Embeddings: cosine to the reference's, and rank correlation of the similarities of pairs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ovquant.errors import DataError
from ovquant.metrics.summarized import Decode, Summarized, decoded
from ovquant.protocols import Array, Outputs


def cosine(first: Array, second: Array) -> NDArray[np.float64]:
    """Return the cosine of the angle between vectors along the last axis; 0 where one of them is zero, 1 where both are."""
    first, second = (np.asarray(array, dtype=np.float64) for array in (first, second))
    lengths = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    both_zero = ~first.any(axis=-1) & ~second.any(axis=-1)
    products = np.sum(first * second, axis=-1)
    quotients = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return np.asarray(np.where(both_zero, 1.0, quotients))


class CosineToReference:
    """Mean cosine between an output and the reference's; needs no labels."""

    direction: Literal["maximize", "minimize"] = "maximize"
    truth: Literal["labels", "reference"] = "reference"
    column: str | None = None

    def __init__(self, name: str, output: str) -> None:
        """Keep the output."""
        self.name, self._output = name, output

    def per_item(self, outputs: Outputs, labels: Sequence[Any]) -> NDArray[np.float64]:
        """Return the cosine of each item, shape [N], averaged over its vectors (along the last axis).

        Args:
            outputs: of the model.
            labels: the reference's outputs of each item.
        """
        pairs = ((array, labels[index][self._output]) for index, array in enumerate(outputs[self._output]))
        return np.array([cosine(np.atleast_1d(mine), np.atleast_1d(theirs)).mean() for mine, theirs in pairs])

    def value(self, outputs: Outputs, labels: Sequence[Any]) -> float:
        """Return the mean over items."""
        return float(self.per_item(outputs, labels).mean())


class PairSpearman(Summarized):
    """Spearman's rank correlation between the similarities of pairs and their labels, as for semantic textual similarity.

    An item is a pair: a batch of two, whose similarity is the cosine of the two embeddings; or one input to a model that
    gives the similarity itself.
    """

    def __init__(self, name: str, output: str, decode: Decode | None) -> None:
        """Keep output or function."""
        self.name, self._output, self._decode = name, output, decode

    def summaries(self, outputs: Outputs, labels: Sequence[Any]) -> list[tuple[float, float]]:
        """Return similarity and label of each item."""
        truth = np.asarray(labels)
        if truth.dtype.kind not in "iufb" or truth.ndim != 1 or not np.isfinite(truth).all():
            raise DataError(f"metric {self.name!r}: labels must be finite numbers, one for each pair; found {labels[0]!r} ...")
        return [(self._similarity(outputs, index), float(label)) for index, label in enumerate(truth)]

    def value_of(self, summaries: Sequence[tuple[float, float]]) -> float:
        """Return the correlation, -1..1."""
        similarities, labels = np.asarray(summaries).T
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.ConstantInputWarning)
            value = float(stats.spearmanr(similarities, labels).statistic) if len(labels) > 1 else float("nan")
        if not np.isfinite(value):
            raise DataError(f"metric {self.name!r}: there is no correlation, as all similarities or all labels are equal")
        return value

    def _similarity(self, outputs: Outputs, index: int) -> float:
        if self._decode is not None:
            array, source = np.asarray(decoded(self._decode, outputs, index, self.name), dtype=np.float64), "decode gave"
        else:
            array, source = np.asarray(outputs[self._output][index]), f"output {self._output!r} has"
        if array.size == 1:
            return float(array.reshape(-1)[0])
        if array.ndim == 2 and array.shape[0] == 2:
            return float(cosine(array[0], array[1]))
        raise DataError(
            f"metric {self.name!r}: {source} shape {'x'.join(map(str, array.shape))} on an item; accepted: one similarity, or "
            "2xD, the embeddings of a pair. Store items of the .npz as pairs [N, 2, ...] for a model with a dynamic batch, "
            "or give decode: file.py:function that returns one of these (token embeddings are pooled there)"
        )
