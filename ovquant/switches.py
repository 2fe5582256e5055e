"""One model in which the quantization of each layer is switched on and off by an input, so that it is compiled only once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ovquant import runtime
from ovquant.errors import ModelError
from ovquant.protocols import Array

if TYPE_CHECKING:
    import openvino as ov

SWITCHES = "ovquant_switches"
# Operations that hand on what they are given; what they are given quantized is so for the layers that follow. As NNCF has them
# (nncf.openvino.graph.metatypes.groups.QUANTIZE_AGNOSTIC_OPERATIONS).
HANDING_ON = frozenset(
    {"MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Concat", "Split", "VariadicSplit", "Slice", "StridedSlice"}
    | {"Gather", "GatherND", "GatherElements", "Pad", "Broadcast", "Tile", "ReduceMax", "Relu", "ShuffleChannels", "ConvertLike"}
    | {"DepthToSpace", "SpaceToDepth", "SpaceToBatch", "BatchToSpace", "Minimum", "Maximum", "ScatterUpdate"}
    | {"ScatterNDUpdate", "ScatterElementsUpdate", "Interpolate"}
)
# What weights in 8 bits are made float again by.
_FOLDED: Mapping[str, Callable[..., Any]] = {
    "Convert": lambda node, values: values.astype(node.get_element_type().to_dtype()),
    "Subtract": lambda node, values, zero: values - zero,
    "Multiply": lambda node, values, scale: values * scale,
    "Reshape": lambda node, values, shape: values.reshape(shape),
    "Transpose": lambda node, values, order: values.transpose(order),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Switched:
    """A float model with switches.

    Attributes:
        model: takes one input more than the float model, `SWITCHES`, bool of shape [len(layers)]: the layers that are quantized.
        layers: names of the operations that have a switch, in topological order.
    """

    model: ov.Model
    layers: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Edge:
    """An input that is quantized: of activations by a FakeQuantize, of weights by other values."""

    name: str
    port: int
    quantizer: Any
    weights: Array | None
    owners: tuple[str, ...]


def switched(model: ov.Model, quantized: ov.Model) -> Switched:
    """Return the float model with the ranges and weights of a quantized one, each layer's to be switched on and off.

    A layer that is switched off has its inputs and weights in float, whatever its neighbours do. But what several layers take
    from behind one pooling, concatenation or the like is in float only when all of them are off. Biases are the float model's.

    Args:
        model: float model; left as it is. Names of operations are unique.
        quantized: by NNCF, with operations named as in `model`.

    Raises:
        ModelError: nothing of the quantized model is found in the float one.
    """
    float_model = model.clone()
    nodes = {node.get_friendly_name(): node for node in float_model.get_ordered_ops()}
    edges = [edge for edge in _edges(quantized) if edge.name in nodes]
    owning = {name for edge in edges for name in edge.owners}
    layers = tuple(name for name in nodes if name in owning)
    if not layers:
        raise ModelError("the quantized model has no layer of the float one that could be switched")
    opset = runtime.openvino().opset13
    given = opset.parameter([len(layers)], np.bool_, SWITCHES)
    given.output(0).set_names({SWITCHES})
    parts = opset.split(given, np.int64(0), len(layers))
    switch = {name: parts.output(index) for index, name in enumerate(layers)}
    quantizers: dict[tuple[str, str], Any] = {}
    for edge in edges:
        is_on = switch[edge.owners[0]]
        for owner in edge.owners[1:]:
            is_on = opset.logical_or(is_on, switch[owner]).output(0)
        target = nodes[edge.name].input(edge.port)
        source = target.get_source_output()
        if edge.weights is not None:
            changed = opset.constant(edge.weights).output(0)
        else:
            key = (edge.quantizer.get_name(), f"{source.get_node().get_name()}:{source.get_index()}")
            if key not in quantizers:
                bounds = [opset.constant(value.get_node().get_data()) for value in edge.quantizer.input_values()[1:]]
                levels = int(edge.quantizer.get_attributes()["levels"])
                quantizers[key] = opset.fake_quantize(source, *bounds, levels).output(0)
            changed = quantizers[key]
        target.replace_source_output(opset.select(is_on, changed, source).output(0))
    float_model.add_parameters([given])
    float_model.validate_nodes_and_infer_types()
    return Switched(model=float_model, layers=layers)


def _edges(quantized: ov.Model) -> list[_Edge]:
    """Return the inputs that are quantized, each with the layers that it is quantized for."""
    folding = _Folding()
    found = []
    for node in quantized.get_ordered_ops():
        if node.get_type_name() in {"FakeQuantize", "Result"}:
            continue
        name = node.get_friendly_name()
        for port, value in enumerate(node.input_values()):
            source = value.get_node()
            is_ranged = source.get_type_name() == "FakeQuantize" and _has_constant_ranges(source)
            weights = None if is_ranged else folding.dequantized(source)
            if is_ranged and folding.value(source.input_value(0).get_node()) is not None:
                continue  # weights that NNCF left behind a FakeQuantize: they stay in float
            if is_ranged or weights is not None:
                owners = tuple(dict.fromkeys(_owners(node))) or (name,)
                found.append(_Edge(name=name, port=port, quantizer=source, weights=weights, owners=owners))
    return found


def _owners(node: Any) -> list[str]:
    """Return the layers that an operation works for: itself, or those that it hands its input on to."""
    if node.get_type_name() not in HANDING_ON:
        return [node.get_friendly_name()]
    found: list[str] = []
    for output in node.outputs():
        for target in output.get_target_inputs():
            user = target.get_node()
            if user.get_type_name() not in {"FakeQuantize", "Result", "ShapeOf"}:
                found += _owners(user)
    return found


def _has_constant_ranges(quantizer: Any) -> bool:
    return all(value.get_node().get_type_name() == "Constant" for value in quantizer.input_values()[1:])


class _Folding:
    """Values of operations on constants, each found once."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[Array, bool] | None] = {}

    def value(self, node: Any) -> Array | None:
        """Return the value of an operation, None if it is not of constants, or is not one that weights go through."""
        found = self._folded(node)
        return None if found is None else found[0]

    def dequantized(self, node: Any) -> Array | None:
        """Return the float values of weights that are stored in 8 bits, None for anything else."""
        found = self._folded(node)
        return found[0] if found is not None and found[1] and found[0].dtype.kind == "f" else None

    def _folded(self, node: Any) -> tuple[Array, bool] | None:
        """Return the value, and whether it comes from 8 bits."""
        name = node.get_name()
        if name not in self._found:
            self._found[name] = self._fold(node)
        return self._found[name]

    def _fold(self, node: Any) -> tuple[Array, bool] | None:
        kind = node.get_type_name()
        if kind == "Constant":
            return np.asarray(node.get_data()), node.get_element_type().get_type_name() in {"i8", "u8"}
        if kind not in _FOLDED:
            return None
        inputs = [self._folded(value.get_node()) for value in node.input_values()]
        held = [one for one in inputs if one is not None]
        if len(held) < len(inputs):
            return None
        return np.asarray(_FOLDED[kind](node, *(value for value, _ in held))), any(is_low for _, is_low in held)
