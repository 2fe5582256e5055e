"""Roles that operations have in a model, whatever they are called: the first convolution, a normalization. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ovquant.operations import Operation
from ovquant.selectors import ScopeRole

_NORMALIZATION_TYPES = frozenset({"MVN", "NormalizeL2", "LRN", "BatchNormInference", "GroupNormalization", "RMS"})
_ELEMENTWISE = frozenset(
    {"Add", "Subtract", "Multiply", "Divide", "Power", "Sqrt", "SquaredDifference", "Maximum", "Minimum", "Clamp", "Relu"}
)
_CENTRING = frozenset({"Subtract", "SquaredDifference", "Power"})
_SCALING = frozenset({"Multiply", "Divide", "Power"})
_SHAPE_CHANGES = frozenset({"Reshape", "Broadcast", "Squeeze", "Unsqueeze", "Convert"})
_REDUCTIONS = frozenset({"ReduceMean", "ReduceSum", "ReduceL2"})


def _first(operations: Sequence[Operation], is_counted: Callable[[Operation], bool]) -> set[str]:
    """Return the counted operations that no other counted one precedes on any path from an input."""
    is_behind: dict[str, bool] = {}
    counted: set[str] = set()
    first: set[str] = set()
    for operation in operations:
        before = any(is_behind.get(name, False) or name in counted for name in operation.inputs)
        is_behind[operation.name] = before
        if is_counted(operation):
            counted.add(operation.name)
            if not before:
                first.add(operation.name)
    return first


def _first_convolutions(operations: Sequence[Operation]) -> set[str]:
    """Convolutions that no other convolution or MatMul precedes on any path from an input."""
    weighted = {"Convolution", "GroupConvolution", "MatMul"}
    matmuls = {operation.name for operation in operations if operation.type == "MatMul"}
    return _first(operations, lambda operation: operation.type in weighted) - matmuls


def _last_matmuls(operations: Sequence[Operation]) -> set[str]:
    """MatMuls that no other MatMul or convolution follows."""
    weighted = {"Convolution", "GroupConvolution", "MatMul"}
    followed: set[str] = set()
    last: set[str] = set()
    for operation in reversed(operations):
        is_followed = operation.name in followed
        if operation.type == "MatMul" and not is_followed:
            last.add(operation.name)
        if is_followed or operation.type in weighted:
            followed.update(operation.inputs)
    return last


def _is_depthwise(operation: Operation) -> bool:
    return operation.group_channels is not None and operation.group_channels[1] == 1


def _depthwise(operations: Sequence[Operation]) -> set[str]:
    """Group convolutions with one input channel per group."""
    return {operation.name for operation in operations if _is_depthwise(operation)}


def _first_depthwise(operations: Sequence[Operation]) -> set[str]:
    """Depthwise convolutions that no other one precedes; their channels often differ most in range."""
    return _first(operations, _is_depthwise)


def _normalizations(operations: Sequence[Operation]) -> set[str]:
    """Normalization operations, and LayerNorm, RMSNorm and the like where an exporter wrote them out.

    Of those, each square root (Sqrt or Power) of something that was reduced is taken with the statistics behind it and the
    steps ahead of it up to the one that applies the scale to the data.
    """
    by_name = {operation.name: operation for operation in operations}
    users: dict[str, list[Operation]] = {}
    for operation in operations:
        for name in operation.inputs:
            users.setdefault(name, []).append(operation)
    found = {operation.name for operation in operations if operation.type in _NORMALIZATION_TYPES}
    for root in operations:
        if root.type in {"Sqrt", "Power"}:
            behind = _statistics_behind(root, by_name)
            ahead = _scaling_ahead(root, by_name, users) if behind else set()
            if ahead:
                found |= behind | {root.name} | ahead
    return found


def _statistics_behind(root: Operation, by_name: dict[str, Operation]) -> set[str]:
    """Walk back from a square root: any elementwise step up to a reduction, squares and differences beyond it.

    Returns:
        Nothing if the root is of data that were not reduced, such as the square of a difference.
    """
    reached: set[tuple[str, bool]] = set()
    front = [(name, False) for name in root.inputs]
    while front:
        name, is_reduced = front.pop()
        operation = by_name[name]
        is_square = operation.type == "Multiply" and len(set(operation.inputs)) == 1
        if operation.type in _REDUCTIONS:
            is_reduced = True
        elif operation.type == "Constant":
            continue
        elif operation.type not in (_CENTRING if is_reduced else _ELEMENTWISE) | _SHAPE_CHANGES and not is_square:
            if not is_reduced:
                return set()
            continue
        if (name, is_reduced) not in reached:
            reached.add((name, is_reduced))
            is_data_first = operation.type in _REDUCTIONS | _SHAPE_CHANGES  # axes and shapes come behind
            sources = operation.inputs[:1] if is_data_first else operation.inputs
            front.extend((source, is_reduced) for source in sources)
    return {name for name, _ in reached} if any(by_name[name].type in _REDUCTIONS for name, _ in reached) else set()


def _scaling_ahead(root: Operation, by_name: dict[str, Operation], users: dict[str, list[Operation]]) -> set[str]:
    """Walk on from a square root to the Multiply or Divide that joins it with data, and the centring of that data.

    Returns:
        Nothing if it never meets data: then it scales nothing.
    """
    reached: set[str] = set()
    is_joined = False
    front = [(root.name, user) for user in users.get(root.name, [])]
    while front:
        source, operation = front.pop()
        if operation.type not in _SCALING | _SHAPE_CHANGES or operation.name in reached:
            continue
        reached.add(operation.name)
        data = [by_name[name] for name in operation.inputs if name != source and by_name[name].type != "Constant"]
        if data and operation.type in _SCALING:
            is_joined = True
            reached.update(other.name for other in data if other.type == "Subtract")
        else:
            front.extend((operation.name, user) for user in users.get(operation.name, []))
    return reached if is_joined else set()


ROLES: dict[ScopeRole, Callable[[Sequence[Operation]], set[str]]] = {
    "first_convolution": _first_convolutions,
    "last_matmul": _last_matmuls,
    "depthwise": _depthwise,
    "first_depthwise": _first_depthwise,
    "normalization": _normalizations,
}
