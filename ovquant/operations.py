"""The operations of a model as plain data, in topological order."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

QUANTIZABLE_TYPES = frozenset(
    {
        "Convolution",
        "GroupConvolution",
        "ConvolutionBackpropData",
        "GroupConvolutionBackpropData",
        "MatMul",
        "LSTMSequence",
        "GRUSequence",
        "LSTMCell",
        "GRUCell",
        "RNNCell",
        "RNNSequence",
        "ScaledDotProductAttention",
    }
)
_NO_OPERATION = frozenset({"Constant", "Parameter", "Result"})
_OF_SHAPES = frozenset({"ShapeOf", "Range"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation of a model, in topological order.

    Attributes:
        name: friendly name, unique in the model.
        type: OpenVINO operation type.
        inputs: names of the operations that feed it, by input port.
        group_channels: (groups, channels per group in, channels per group out) of a group convolution, else None.
        weights_shape: of what a convolution or MatMul has as its second input; empty if unknown.
    """

    name: str
    type: str
    inputs: tuple[str, ...]
    group_channels: tuple[int, int, int] | None = None
    weights_shape: tuple[int, ...] = ()

    @property
    def is_selectable(self) -> bool:
        """False for constants, parameters and results, which no selector selects."""
        return self.type not in _NO_OPERATION


def of_data(operations: Sequence[Operation]) -> list[Operation]:
    """Return the inputs and the operations that compute something of them; not what computes constants and shapes."""
    return _fed(operations, _OF_SHAPES)


def computed(operations: Sequence[Operation]) -> list[Operation]:
    """Return the inputs and all that depends on them or on their shapes: what is not constant."""
    return _fed(operations, frozenset())


def _fed(operations: Sequence[Operation], stops: frozenset[str]) -> list[Operation]:
    found: dict[str, Operation] = {}
    for operation in operations:
        is_fed = operation.type not in stops and any(name in found for name in operation.inputs)
        if operation.type in {"Parameter", "ReadValue"} or (is_fed and operation.is_selectable):
            found[operation.name] = operation
    return list(found.values())
