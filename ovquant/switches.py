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
# Operations that hand on what they are given; what they are given quantized is so for the layers that follow.
_HANDING_ON = frozenset(
    {"MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Concat", "Split", "VariadicSplit", "Slice", "StridedSlice"}
    | {"Gather", "Pad", "Broadcast", "Tile", "ReduceMax", "Relu", "ShuffleChannels", "DepthToSpace", "SpaceToDepth"}
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

    A layer that is switched off has its inputs and weights in float, whatever its neighbours do; biases are the float model's.

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
    nodes = quantized.get_ordered_ops()
    found = []
    for node in nodes:
        if node.get_type_name() in {"FakeQuantize", "Result"}:
            continue
        name = node.get_friendly_name()
        for port, value in enumerate(node.input_values()):
            source = value.get_node()
            is_ranged = source.get_type_name() == "FakeQuantize" and _has_constant_ranges(source)
            weights = None if is_ranged else _dequantized(source)
            if is_ranged and _folded(source.input_value(0).get_node()) is not None:
                continue  # weights that NNCF left behind a FakeQuantize
            if is_ranged or weights is not None:
                owners = tuple(dict.fromkeys(_owners(node))) or (name,)
                found.append(_Edge(name=name, port=port, quantizer=source, weights=weights, owners=owners))
    return found


def _owners(node: Any) -> list[str]:
    """Return the layers that an operation works for: itself, or those that it hands its input on to."""
    if node.get_type_name() not in _HANDING_ON:
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


def _dequantized(node: Any) -> Array | None:
    """Return the float values of weights that are stored in 8 bits, None for anything else."""
    front, is_low = [node], False
    while front and not is_low:
        one = front.pop()
        is_low = one.get_type_name() == "Constant" and one.get_element_type().get_type_name() in {"i8", "u8"}
        front += [value.get_node() for value in one.input_values()]
    values = _folded(node) if is_low else None
    return values if values is not None and values.dtype.kind == "f" else None


def _folded(node: Any) -> Array | None:
    """Return the value of an operation on constants, None if it has another kind of source or is another operation."""
    kind = node.get_type_name()
    if kind == "Constant":
        return np.asarray(node.get_data())
    if kind not in _FOLDED:
        return None
    inputs = [_folded(value.get_node()) for value in node.input_values()]
    values = [array for array in inputs if array is not None]
    return np.asarray(_FOLDED[kind](node, *values)) if len(values) == len(inputs) else None
