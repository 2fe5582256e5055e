"""Which 8-bit sums saturate on a CPU without VNNI: its instruction simulated on a quantized model's weights and activations.

Without VNNI, oneDNN multiplies with ``vpmaddubsw`` (Intel SDM, PMADDUBSW): activations in u8 times weights in i8, of two
neighbouring input channels at a time, and the sum of the two products is kept in 16 bits. 255 * 127 * 2 does not fit; what does
not fit becomes 32767 or -32768. ``overflow_fix`` has NNCF take half the range of weights, 255 * 64 * 2, which always fits.
Depthwise convolutions add nothing up in pairs.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ovquant import runtime
from ovquant.inference import CompiledModel
from ovquant.operations import Operation
from ovquant.places import places
from ovquant.protocols import Array, Sample
from ovquant.switches import HANDING_ON

if TYPE_CHECKING:
    import openvino as ov

MOST_ITEMS = 16
_LOWEST, _HIGHEST = -(1 << 15), (1 << 15) - 1
_LEVELS = 256
_PAIRS_AT_ONCE = 1 << 22
_PAIRS_PER_LAYER = 1 << 22  # less than half a second
_SEED = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Saturation:
    """What saturates in one layer, all else being exact.

    Attributes:
        place: of the layer, see `ovquant.places`.
        name: of the layer.
        is_possible: whether any activations in range could make a pair of its weights saturate.
        share: of its output values that hold at least one saturated pair, on the samples.
        error: root mean square of what saturation takes off its output values, over that of the values themselves.
        n_values: output values that were computed, chosen at random.
    """

    place: str
    name: str
    is_possible: bool
    share: float
    error: float
    n_values: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """A convolution or MatMul with weights in 8 bits.

    Attributes:
        node: in the model.
        weights: i8, shape [outputs, inputs, *kernel]; of a MatMul [outputs, inputs].
        scales: of the outputs' weights, shape [outputs].
        low, high: range of its input, in 256 levels.
    """

    node: Any
    weights: NDArray[np.int32]
    scales: NDArray[np.float64]
    low: float
    high: float

    @property
    def is_possible(self) -> bool:
        """Whether a pair of weights is large enough for some activations."""
        pairs = _paired(self.weights, 1)
        tops, bottoms = np.maximum(pairs, 0).sum(axis=2), np.minimum(pairs, 0).sum(axis=2)
        return bool(255 * tops.max(initial=0) > _HIGHEST or 255 * bottoms.min(initial=0) < _LOWEST)

    def levels(self, values: Array) -> NDArray[np.int32]:
        """Return activations as u8."""
        steps = (values.astype(np.float64) - self.low) * ((_LEVELS - 1) / (self.high - self.low))
        return np.clip(np.round(steps), 0, _LEVELS - 1).astype(np.int32)

    @property
    def zero(self) -> float:
        """The level that stands for zero."""
        return -self.low * (_LEVELS - 1) / (self.high - self.low)


def saturations(quantized: ov.Model, operations: Sequence[Operation], samples: Sequence[Sample]) -> tuple[Saturation, ...]:
    """Return what saturates in each convolution and MatMul with 8-bit weights, the largest error first.

    Activations are those of the same model without quantizers, on any device; groups of channels and transposed convolutions
    are not simulated, nor are products of two activations.

    Args:
        quantized: by NNCF.
        operations: of the float model, for places.
        samples: to run on, the first 16 of them.

    Raises:
        ModelError: the model cannot be run.
    """
    layers = _layers(quantized)
    known = places(tuple(operations))
    sums = [_Sums() for _ in layers]
    risky = [(layer, taken) for layer, taken in zip(layers, sums, strict=True) if layer.is_possible]
    if risky:
        model, ports = _activations(quantized, [layer for layer, _ in risky])
        compiled = CompiledModel(model, "CPU", {"PERFORMANCE_HINT": "THROUGHPUT"}, "f32")
        chosen = samples[:MOST_ITEMS]
        rng = np.random.default_rng(_SEED)
        for outputs in compiled.infer_many(chosen):
            values = list(outputs.values())
            for (layer, taken), port in zip(risky, ports, strict=True):
                _add(taken, layer, layer.levels(values[port]), _PAIRS_PER_LAYER // len(chosen), rng)
    found = [
        _told(layer, known.place_of(layer.node.get_friendly_name()), taken) for layer, taken in zip(layers, sums, strict=True)
    ]
    return tuple(sorted(found, key=lambda one: (-one.error, -one.is_possible)))


@dataclasses.dataclass(slots=True)
class _Sums:
    """Sums over output values."""

    n_values: int = 0
    n_saturated: int = 0
    squared_error: float = 0.0
    squared: float = 0.0


def _told(layer: _Layer, place: str | None, taken: _Sums) -> Saturation:
    name = str(layer.node.get_friendly_name())
    return Saturation(
        place=place or name,
        name=name,
        is_possible=layer.is_possible,
        share=taken.n_saturated / max(taken.n_values, 1),
        error=(taken.squared_error / taken.squared) ** 0.5 if taken.squared else 0.0,
        n_values=taken.n_values,
    )


def _layers(quantized: ov.Model) -> list[_Layer]:
    """Return the layers with weights in 8 bits and an input in 256 levels."""
    found = []
    for node in quantized.get_ordered_ops():
        if node.get_type_name() not in {"Convolution", "MatMul"}:
            continue
        stored = _weights(node)
        quantizer = _quantizer(node.input_value(0).get_node())
        if stored is None or quantizer is None or int(quantizer.get_attributes()["levels"]) != _LEVELS:
            continue
        bounds = [value.get_node() for value in quantizer.input_values()[1:3]]
        if any(bound.get_type_name() != "Constant" or np.size(bound.get_data()) != 1 for bound in bounds):
            continue
        low, high = (float(np.reshape(bound.get_data(), -1)[0]) for bound in bounds)
        if high > low:
            found.append(_Layer(node=node, weights=stored[0], scales=stored[1], low=low, high=high))
    return found


def _weights(node: Any) -> tuple[NDArray[np.int32], NDArray[np.float64]] | None:
    """Return i8 weights [outputs, inputs, ...] and the scale of each output; None for others."""
    multiply = node.input_value(1).get_node()
    if multiply.get_type_name() != "Multiply":
        return None
    converted, scale = (value.get_node() for value in multiply.input_values())
    stored = converted.input_value(0).get_node() if converted.get_type_name() == "Convert" else converted
    if {stored.get_type_name(), scale.get_type_name()} != {"Constant"} or stored.get_element_type().get_type_name() != "i8":
        return None
    weights = np.asarray(stored.get_data()).astype(np.int32)
    if node.get_type_name() == "MatMul":
        if weights.ndim != 2:
            return None
        weights = weights if node.get_attributes()["transpose_b"] else weights.T
    scales = np.asarray(scale.get_data(), dtype=np.float64).reshape(-1)
    return (weights, np.broadcast_to(scales, len(weights))) if scales.size in {1, len(weights)} else None


def _quantizer(node: Any) -> Any:
    """Return the FakeQuantize that an input comes from, through operations that hand it on; None if there is none."""
    while node.get_type_name() in HANDING_ON:
        node = node.input_value(0).get_node()
    return node if node.get_type_name() == "FakeQuantize" else None


def _activations(quantized: ov.Model, layers: Sequence[_Layer]) -> tuple[ov.Model, list[int]]:
    """Return the model without quantizers of activations, whose outputs are what layers take, and each layer's output."""
    package = runtime.openvino()
    model = quantized.clone()
    nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
    for node in nodes.values():
        if node.get_type_name() == "FakeQuantize":
            for target in node.output(0).get_target_inputs():
                target.replace_source_output(node.input_value(0))
    taken: dict[tuple[str, int], Any] = {}
    keys = []
    for layer in layers:
        value = nodes[layer.node.get_friendly_name()].input_value(0)
        keys.append((value.get_node().get_friendly_name(), value.get_index()))
        taken[keys[-1]] = value
    results = [package.opset13.result(value) for value in taken.values()]
    return package.Model(results, model.get_parameters(), "activations"), [list(taken).index(key) for key in keys]


def _paired(values: NDArray[np.int32], axis: int) -> NDArray[np.int32]:
    """Return an axis of n channels as two: [(n + 1) // 2, 2]; an odd last one is paired with zero."""
    padding = [(0, values.shape[axis] % 2 if index == axis else 0) for index in range(values.ndim)]
    even = np.pad(values, padding)
    return even.reshape(*even.shape[:axis], -1, 2, *even.shape[axis + 1 :])


def _add(taken: _Sums, layer: _Layer, levels: NDArray[np.int32], n_pairs: int, rng: np.random.Generator) -> None:
    """Simulate some of a layer's output values on one item.

    Args:
        taken: where to add them up.
        layer: with weights [outputs, inputs, *kernel].
        levels: its input as u8: [N, inputs, *sides] of a convolution, [..., inputs] of a MatMul (or transposed).
        n_pairs: to compute at most.
        rng: chooses positions.
    """
    n_each = layer.weights.size // 2 + 1  # pairs of all outputs at one position
    weights = layer.weights.reshape(*layer.weights.shape[:2], -1)
    rows, is_inside = _rows(layer, levels, max(1, n_pairs // n_each), rng)
    n_at_once = max(1, _PAIRS_AT_ONCE // n_each)
    for start in range(0, len(rows), n_at_once):
        part, inside = rows[start : start + n_at_once], is_inside[start : start + n_at_once]
        exact = np.zeros((len(part), len(weights)))
        lost = np.zeros_like(exact)
        is_hit = np.zeros(exact.shape, dtype=bool)
        for offset in range(weights.shape[2]):
            here = weights[:, :, offset]
            products = _paired(part[:, :, offset], 1)[:, None] * _paired(here, 1)[None]
            pairs = products.sum(axis=3)
            over = pairs - np.clip(pairs, _LOWEST, _HIGHEST)
            lost += over.sum(axis=2)
            is_hit |= over.any(axis=2)
            exact += pairs.sum(axis=2) - layer.zero * inside[:, offset, None] * here.sum(axis=1)
        taken.n_values += is_hit.size
        taken.n_saturated += int(is_hit.sum())
        taken.squared_error += float(((lost * layer.scales) ** 2).sum())
        taken.squared += float(((exact * layer.scales) ** 2).sum())


def _rows(
    layer: _Layer, levels: NDArray[np.int32], n_most: int, rng: np.random.Generator
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Return what is multiplied with the weights at some positions, [positions, inputs, kernel], and what is not padding.

    Padding is zero as oneDNN has it: products with it are left out, whatever level stands for zero.
    """
    if layer.node.get_type_name() == "MatMul":
        if layer.node.get_attributes()["transpose_a"]:
            levels = np.swapaxes(levels, -1, -2)
        rows = levels.reshape(-1, levels.shape[-1])
        rows = rows[rng.permutation(len(rows))[:n_most]]
        return rows[:, :, None], np.ones((len(rows), 1), dtype=bool)
    kernel, sides = layer.weights.shape[2:], levels.shape[2:]
    strides, dilations, before, n_out = _windows(layer.node, kernel, sides)
    chosen = rng.permutation(int(np.prod(n_out)))[: max(1, n_most // len(levels))]
    corners = np.stack(np.unravel_index(chosen, n_out), axis=1) * strides - before
    taken, inside = [], []
    for offset in itertools.product(*map(range, kernel)):
        index = corners + np.array(offset) * dilations
        is_inside = ((index >= 0) & (index < np.array(sides))).all(axis=1)
        index = np.clip(index, 0, np.array(sides) - 1)
        values = levels[(slice(None), slice(None), *index.T)]  # [N, inputs, positions]
        values = np.moveaxis(values, 1, 2).reshape(-1, levels.shape[1])
        inside.append(np.tile(is_inside, len(levels)))
        taken.append(values * inside[-1][:, None])
    return np.stack(taken, axis=2), np.stack(inside, axis=1)


def _windows(
    node: Any, kernel: Sequence[int], sides: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], tuple[int, ...]]:
    """Return strides, dilations, padding before, and the number of positions, of a convolution along each side."""
    attributes = node.get_attributes()
    strides, dilations = (np.array(list(attributes[name]), dtype=np.int64) for name in ("strides", "dilations"))
    before, after = (np.array(list(attributes[name]), dtype=np.int64) for name in ("pads_begin", "pads_end"))
    reach = (np.array(kernel) - 1) * dilations + 1
    padding = str(attributes["auto_pad"])
    if padding in {"same_upper", "same_lower"}:
        total = np.maximum((-(-np.array(sides) // strides) - 1) * strides + reach - np.array(sides), 0)
        before = total // 2 if padding == "same_upper" else total - total // 2
        after = total - before
    elif padding == "valid":
        before = after = np.zeros_like(strides)
    n_out = (np.array(sides) + before + after - reach) // strides + 1
    return strides, dilations, before, tuple(int(n) for n in n_out)
