"""Sequences of symbols: exact match and character error rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from ovquant.errors import DataError
from ovquant.metrics.summarized import Decode, decoded
from ovquant.protocols import Array, Outputs

Symbols = str | tuple[int, ...]


class Reader:
    """From the outputs of an item, or its label, to a sequence of symbols: a string, or class numbers."""

    def __init__(
        self, metric: str, output: str, decode: Decode | Literal["ctc", "argmax"], special: int | None, alphabet: str | None
    ) -> None:
        """Keep how outputs are read.

        Args:
            metric: name, for messages.
            output: that is read, unless a function reads them all.
            decode: ``ctc``: the best class of each step, repetitions and blanks left out (Graves et al. 2006, best path
                decoding); ``argmax``: the best class of each step up to the first end; or a function of an item's outputs.
            special: the class of blank or end, which is no symbol.
            alphabet: what the other classes stand for, in their order.
        """
        self._metric, self._output, self._decode = metric, output, decode
        self._special, self._alphabet = special, alphabet

    def answer(self, outputs: Outputs, index: int) -> Symbols:
        """Return what the model says of an item."""
        if callable(self._decode):
            return self._checked(decoded(self._decode, outputs, index, self._metric), "decode gave")
        steps = self._steps(np.asarray(outputs[self._output][index]))
        if self._decode == "ctc":
            steps = steps[np.diff(steps, prepend=-1) != 0]
            return self._symbols(steps[steps != self._special])
        return self._symbols(self._until_end(steps))

    def truth(self, label: Any) -> Symbols:
        """Return a label; negative class numbers are padding."""
        found = self._checked(label, "labels must be strings or rows of class numbers, found")
        if isinstance(found, str):
            if self._alphabet is None and not callable(self._decode):
                raise DataError(
                    f"metric {self._metric!r}: labels are strings ({found!r}); say what the classes stand for: alphabet"
                )
            return found
        classes = np.asarray(found, dtype=np.int64)
        return self._symbols(self._until_end(classes[classes >= 0]))

    def _steps(self, array: Array) -> NDArray[np.int64]:
        """Return the class of each step, shape [T]."""
        if array.dtype.kind in "iu" and self._decode == "argmax":
            return array.reshape(-1).astype(np.int64)
        if array.ndim == 3 and 1 in array.shape[:2]:
            scores = np.squeeze(array, axis=0 if array.shape[0] == 1 else 1)
            n_symbols = scores.shape[1] - (self._special is not None)
            if self._alphabet is not None and n_symbols != len(self._alphabet):
                raise DataError(
                    f"metric {self._metric!r}: alphabet has {len(self._alphabet)} symbols, and output {self._output!r} "
                    f"{scores.shape[1]} classes, {n_symbols} of which are symbols"
                )
            if self._special is not None and self._special >= scores.shape[1]:
                raise DataError(
                    f"metric {self._metric!r}: no class {self._special}; output {self._output!r} has {scores.shape[1]}"
                )
            return np.asarray(scores.argmax(axis=1), dtype=np.int64)
        raise DataError(
            f"metric {self._metric!r}: output {self._output!r} has shape {'x'.join(map(str, array.shape))}; accepted: scores "
            "1xTxC or Tx1xC of C classes in T steps. Give decode: file.py:function that returns a string or class numbers"
        )

    def _until_end(self, classes: NDArray[np.int64]) -> NDArray[np.int64]:
        is_ended = self._decode == "argmax" and self._special is not None
        n_before = np.flatnonzero(classes == self._special) if is_ended else np.zeros(0, dtype=np.int64)
        return classes[: int(n_before[0])] if n_before.size else classes

    def _symbols(self, classes: NDArray[np.int64]) -> Symbols:
        if self._alphabet is None:
            return tuple(classes.tolist())
        places = classes - (0 if self._special is None else (classes > self._special).astype(np.int64))
        if len(places) and not 0 <= places.min() <= places.max() < len(self._alphabet):
            raise DataError(f"metric {self._metric!r}: class {int(classes.max())} has no symbol in alphabet")
        return "".join(self._alphabet[place] for place in places)

    def _checked(self, value: Any, told: str) -> Symbols:
        if isinstance(value, str):
            return str(value)
        array = np.asarray(value)
        if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
            hint = "; name the column of a table 'text' to have it read as text" if isinstance(value, int | float) else ""
            raise DataError(f"metric {self._metric!r}: {told} {str(value)[:60]!r} ({array.dtype}, shape {array.shape}){hint}")
        return tuple(array.astype(np.int64).tolist())


class ExactMatch:
    """Share of items whose whole sequence is right."""

    direction: Literal["maximize", "minimize"] = "maximize"
    truth: Literal["labels", "reference"] = "labels"
    column: str | None = None

    def __init__(self, name: str, reader: Reader) -> None:
        """Keep how sequences are read."""
        self.name, self._reader = name, reader

    def per_item(self, outputs: Outputs, labels: Sequence[Any]) -> NDArray[np.float64]:
        """Return a score per item, shape [N]."""
        pairs = ((self._reader.truth(label), self._reader.answer(outputs, index)) for index, label in enumerate(labels))
        return np.array([self._score(*pair) for pair in pairs], dtype=np.float64)

    def value(self, outputs: Outputs, labels: Sequence[Any]) -> float:
        """Return the mean over items."""
        return float(self.per_item(outputs, labels).mean())

    def _score(self, truth: Symbols, answer: Symbols) -> float:
        return float(truth == answer)


class CharacterErrorRate(ExactMatch):
    """Edits (insertions, deletions, substitutions) that lead from the answer to the label, over the label's length.

    It is the mean of the items' rates, so that it has a score per item. The rate of all characters together weighs long labels
    more. An empty label counts as one of length 1.
    """

    direction: Literal["maximize", "minimize"] = "minimize"

    def _score(self, truth: Symbols, answer: Symbols) -> float:
        if type(truth) is not type(answer):
            raise DataError(f"metric {self.name!r}: compares {truth!r} with {answer!r}; labels and answers must be of one kind")
        return Levenshtein.distance(truth, answer) / max(len(truth), 1)
