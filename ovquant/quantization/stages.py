"""The models that statistics are taken of, and which of their tensors are the same whatever else is looked at."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ovquant import runtime
from ovquant.protocols import Array
from ovquant.quantization.internals import internals

if TYPE_CHECKING:
    import openvino as ov

LookedAt: TypeAlias = frozenset[tuple[str, bool]]  # operations by name; True: they are handed the whole tensor
_WEIGHTED = frozenset({"Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul"})
# Sums over many values, which are part of a larger operation only where arithmetic follows.
_REDUCTIONS = frozenset({"ReduceMean", "ReduceSum", "AvgPool"})
_ARITHMETIC = frozenset({"Add", "Subtract", "Multiply", "Divide", "Power", "SquaredDifference", "Sqrt", "Exp"})
# Element by element, so that they are part of the operation before, with what follows them.
_ELEMENTWISE = frozenset(
    {"Relu", "Clamp", "Add", "Subtract", "Sigmoid", "Tanh", "Elu", "Gelu", "PRelu", "Swish", "HSwish", "HSigmoid"}
    | {"HardSigmoid", "Mish", "SoftPlus", "Abs", "Sqrt", "Exp"}
)
# Operations that hand values on as they are, or clip or choose among them.
_SAFE = frozenset(
    {"Parameter", "Constant", "Result", "MaxPool", "Concat", "Reshape", "Transpose", "Squeeze", "Unsqueeze"}
    | {"Split", "VariadicSplit", "Slice", "StridedSlice", "Gather", "ShapeOf", "Broadcast", "Pad", "Tile", "ReadValue"}
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A model that statistics are taken of: the float model, or what SmoothQuant made of it.

    Attributes:
        model: names of operations are unique in it.
        graph: NNCF's graph of it.
        digests: of what each operation's outputs depend on, by name.
        nodes: operations by name.
        identity: equal for stages in which all names and digests are equal.
        sensitive: operations of which it matters to others whether their output is looked at, see `_sensitive`.
    """

    model: ov.Model
    graph: Any
    digests: Mapping[str, str]
    nodes: Mapping[str, Any]
    identity: str
    sensitive: frozenset[str]

    @classmethod
    def of(cls, model: ov.Model) -> Stage:
        """Return the stage of a model."""
        digests = runtime.operation_digests(model)
        nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
        return cls(
            model=model,
            graph=internals().build_graph(model),
            digests=digests,
            nodes=nodes,
            identity=digest_of(sorted(digests.items())),
            sensitive=_sensitive(nodes),
        )

    def looked_at(self, container: Any) -> LookedAt:
        """Return the sensitive operations that a container's collectors look at."""
        found = set()
        for _, point, collector in container.get_tensor_collectors():
            name = source_of(self, point.target_point)[0].get_friendly_name()
            if name in self.sensitive:
                found |= {(name, not reducer.inplace) for reducer in collector.reducers}
        return frozenset(found)

    def digests_with(self, looked_at: LookedAt) -> Mapping[str, str]:
        """Return the digests where these sensitive operations are looked at: other ones for them and what depends on them."""
        if not looked_at:
            return self.digests
        found: dict[str, str] = {}
        for name, node in self.nodes.items():
            sources = [value.get_node().get_friendly_name() for value in node.input_values()]
            changed = [found[source] for source in sources if found[source] != self.digests[source]]
            ways = [is_whole for is_whole in (False, True) if (name, is_whole) in looked_at]
            found[name] = digest_of((self.digests[name], ways, changed)) if ways or changed else self.digests[name]
        return found


def _sensitive(nodes: Mapping[str, Any]) -> frozenset[str]:
    """Return the operations of which it matters, for rounding, whether their output is looked at.

    OpenVINO fuses operations, but not across a tensor that something else reads as well. A convolution with its bias, a
    residual sum, an activation that clips: these round the same, fused or not. A scale that is folded into weights, one that
    is multiplied and added to in one step behind an activation, or a normalization that becomes one operation, does not. So
    everything counts as sensitive but what is known not to be.
    """
    scaled = _scaled(nodes)
    found = set()
    for name, node in nodes.items():
        kind, inputs = node.get_type_name(), _kinds_of_inputs(node)
        is_bias = kind == "Add" and "Constant" in inputs and bool(_WEIGHTED & set(inputs))
        if kind in _WEIGHTED or kind in {"Relu", "Clamp"} or is_bias:
            is_safe = name not in scaled
        elif kind in _REDUCTIONS:
            is_safe = not {user.get_type_name() for user in _users_of(node)} & _ARITHMETIC
        else:
            is_sum = kind == "Add" and not {"Constant", "Convert"} & set(inputs) and name not in scaled
            is_safe = kind in _SAFE or is_sum
        if not is_safe:
            found.add(name)
    return frozenset(found)


def _scaled(nodes: Mapping[str, Any]) -> frozenset[str]:
    """Return the operations that a constant scale follows, at once or after others that are fused with them."""
    found: set[str] = set()
    for name, node in reversed(dict(nodes).items()):  # users come after what they use
        for user in _users_of(node):
            kind = user.get_type_name()
            is_scale = kind in {"Multiply", "Divide"} and "Constant" in _kinds_of_inputs(user)
            if is_scale or (kind in _ELEMENTWISE and user.get_friendly_name() in found):
                found.add(name)
    return frozenset(found)


def _kinds_of_inputs(node: Any) -> list[str]:
    return [value.get_node().get_type_name() for value in node.input_values()]


def _users_of(node: Any) -> list[Any]:
    return [user.get_node() for output in node.outputs() for user in output.get_target_inputs()]


def source_of(stage: Stage, point: Any) -> tuple[Any, int]:
    """Return the operation and output port of the tensor that a target point names."""
    node = stage.nodes[point.target_node_name]
    if point.type.name == "POST_LAYER_OPERATION":
        return node, point.port_id
    value = node.input_value(point.port_id)
    return stage.nodes[value.get_node().get_friendly_name()], value.get_index()


def digest_of(content: Any, *arrays: Array) -> str:
    """Return the SHA-256 of plain values, and of arrays bit for bit."""
    digest = hashlib.sha256(repr(content).encode())
    for array in arrays:
        digest.update(repr((array.dtype.str, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
