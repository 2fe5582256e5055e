"""Metrics over all items that are computed from a summary of each item."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ovquant.errors import DataError, first_line
from ovquant.protocols import Array, Outputs

Decode = Callable[[Mapping[str, Array]], Any]


class Summarized(abc.ABC):
    """A `Metric` that is no mean over items, but a function of summaries that are made item by item.

    Resampling then draws from the summaries, which costs little, instead of from outputs.
    """

    name: str
    direction: Literal["maximize", "minimize"] = "maximize"
    truth: Literal["labels", "reference"] = "labels"
    column: str | None = None

    def per_item(self, outputs: Outputs, labels: Sequence[Any]) -> NDArray[np.float64] | None:
        """Return None: there are no scores per item."""
        return None

    def value(self, outputs: Outputs, labels: Sequence[Any]) -> float:
        """Return the metric over all items."""
        return self.value_of(self.summaries(outputs, labels))

    @abc.abstractmethod
    def summaries(self, outputs: Outputs, labels: Sequence[Any]) -> Sequence[Any]:
        """Return what the value needs of each item.

        Raises:
            DataError: outputs and labels do not fit.
        """

    @abc.abstractmethod
    def value_of(self, summaries: Sequence[Any]) -> float:
        """Return the metric over these items.

        Raises:
            DataError: it is not defined on them.
        """


def decoded(decode: Decode, outputs: Outputs, index: int, metric: str) -> Any:
    """Return what a user's function makes of the outputs of one item: output name -> array, batch axis 1.

    Raises:
        DataError: the function raises.
    """
    try:
        return decode({name: column[index] for name, column in outputs.items()})
    except Exception as error:
        raise DataError(f"metric {metric!r}: decode raised {type(error).__name__}: {first_line(error)}") from error
