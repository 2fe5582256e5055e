"""What decides a compiled model's latency, as a digest: models with the same key need be timed only once.

Latency hangs on the kernels that run, hardly on the numbers that they run on. But numbers can choose the kernel: a range
above zero takes a convolution out of 8 bits. So the key holds three things, and each covers what another one hides:

- The runtime graph, which the device's plugin made of the model: what really runs, in which precision and layout.
  It does not tell strides, activations, zero points or what exactly was fused.
- The model that was compiled, with all its attributes, but of its weights, biases and ranges only the *class*: what a
  plugin may choose a kernel by, such as whether there is a zero point.
- The compile properties as they are in force.

Where a class cannot tell, as near a plugin's own thresholds, the numbers themselves go into the key: a key too many costs
one measurement, a key too few gives a wrong latency.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import openvino as ov

_RULES = 1  # part of every key: to be raised when what goes into keys changes, so that stored ones are not matched any more

# Of a runtime node: how long it took, which of several possible orders it stands in, and names.
_RUNTIME_ACCIDENTS = frozenset({"execOrder", "execTimeMcs", "originalLayersNames"})
# Of a compiled model: names, places of files, and what only concerns how it was loaded.
_PROPERTY_ACCIDENTS = frozenset(
    {
        "CACHE_DIR",
        "CACHE_MODE",
        "LOADED_FROM_CACHE",
        "LOG_LEVEL",
        "MODEL_PTR",
        "NETWORK_NAME",
        "SUPPORTED_PROPERTIES",
        "WEIGHTS_PATH",
    }
)
_SPARSITY = "CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE"  # below 1, how many weights are zero chooses kernels
_GENERATED_NAME = re.compile(r"([A-Za-z][A-Za-z0-9]*)(?:_\d+)+")

_FLOAT_TYPES = frozenset({"f64", "f32", "f16", "bf16"})
_LOW_BIT_TYPES = frozenset({"i8", "u8", "i4", "u4", "u2", "nf4", "f8e4m3", "f8e5m2", "f4e2m1"})
_WEIGHTED_TYPES = frozenset(
    {
        "Convolution",
        "ConvolutionBackpropData",
        "GRUCell",
        "GRUSequence",
        "GroupConvolution",
        "GroupConvolutionBackpropData",
        "LSTMCell",
        "LSTMSequence",
        "MatMul",
        "RNNCell",
        "RNNSequence",
    }
)
# Operations in which the size of a single number chooses no kernel, only its sign or its being 0 or 1.
_LINEAR_TYPES = _WEIGHTED_TYPES | {"Add", "Subtract", "Multiply", "Divide"}
# Operations that hand on what they get, in its range.
_RANGE_KEEPING_TYPES = frozenset(
    {
        "AvgPool",
        "BatchToSpace",
        "Broadcast",
        "Clamp",
        "Concat",
        "Convert",
        "DepthToSpace",
        "Gather",
        "Interpolate",
        "MaxPool",
        "Pad",
        "ReduceMax",
        "ReduceMin",
        "Relu",
        "Reshape",
        "ShuffleChannels",
        "Slice",
        "SpaceToBatch",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "StridedSlice",
        "Tile",
        "Transpose",
        "Unsqueeze",
        "VariadicSplit",
    }
)
_MAX_LOOKED_AT = 1 << 16  # elements; larger constants are weights, never uniform, and looking at them would take long

# Thresholds of OpenVINO (LayerTransformation::getPrecisionDetails of its low precision transformations, and
# updateOptimizedFormula of the CPU plugin) are 1e-6 for a bound to be zero, 0.13 steps for a zero point to be in the middle,
# 0.003 steps for a shift to be left out, and 5e-5 steps for the shifts of channels to be one, which rounding of float32 can
# reach where zero points are large. Ranges on the safe side of all of them have a class.
_SMALLEST_BOUND = 1e-5
_SAME_ZERO_POINT = 1e-3  # steps; rounding of float32 gives 1e-5
_OTHER_ZERO_POINT = 0.75  # steps; zero points are rounded, and this one not to 0 or to the middle
_LARGEST_ZERO_POINT = 0.75  # of all levels, where channels have the same
_FROM_HALF = 0.02  # steps, for what is rounded

_Port: TypeAlias = tuple[int, int]  # index of a node in its graph, index of its output


def structure_key(
    model: ov.Model,
    compiled: ov.CompiledModel,
    *,
    device: str,
    properties: Mapping[str, Any] = MappingProxyType({}),
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> str:
    """Return a digest that two compiled models share only if they run the same kernels, so that one latency holds for both.

    It is the same in another process, for a model saved and read again, and whatever operations are called. Changed
    weights, biases and ranges leave it as it is unless they can change a kernel. Order of inputs, outputs and operations
    does not matter.

    Where the device's plugin has no runtime graph to show, or has not chosen kernels yet, every constant goes in bit for
    bit, so that only equal models share such a key.

    Args:
        model: what was compiled.
        compiled: made of `model`. With dynamic shapes it must have run one inference on the sample that is timed, as
            kernels are chosen by shape; of several inferences, the key is that of the last.
        device: what it was compiled for. It must tell apart all that share a store of latencies: where several machines
            do, this is to hold the device's full name as well.
        properties: compile properties that were asked for. Those which `compiled` can tell are read from it instead,
            so that a default and the same value in words are the same.
        input_shapes: input name -> shape of the timed sample. Needed with dynamic shapes where there is no runtime
            graph. Elsewhere the shapes are in the graph; they count all the same, so give them always or never.

    Returns:
        SHA-256, 64 hexadecimal digits.

    Raises:
        ValueError: `input_shapes` is needed and missing.
    """
    graph, running = _Graph.of(model.get_ordered_ops()), _running(compiled)
    if running is None and input_shapes is None and any(port.get_partial_shape().is_dynamic for port in model.inputs):
        raise ValueError("dynamic shapes, and the device shows no kernels for them: the key needs the input shapes")
    in_force = _properties(compiled, properties)
    is_exact = running is None or not _has_readable_ranges(graph) or in_force.get(_SPARSITY, "1.0") != "1.0"
    source = _digests(_source_contents(graph, is_exact=is_exact), graph.sources)
    key = hashlib.sha256(repr((_RULES, device, is_exact)).encode())
    key.update(repr(sorted(in_force.items())).encode())
    key.update(repr({name: [int(dim) for dim in shape] for name, shape in sorted((input_shapes or {}).items())}).encode())
    key.update(b"".join(sorted(source)))
    if running is not None:
        names = [node.get_friendly_name() for node in graph.nodes]
        origins = dict(zip(names, zip(graph.kinds, source, strict=True), strict=True))
        key.update(b"".join(sorted(_digests(_running_contents(running, origins), running.sources))))
    return key.hexdigest()


# Graphs of any kind


@dataclasses.dataclass(frozen=True, slots=True)
class _Graph:
    """Nodes in topological order, what type each has, and where its inputs come from."""

    nodes: list[Any]
    kinds: list[str]
    sources: list[tuple[_Port, ...]]

    @classmethod
    def of(cls, nodes: Iterable[Any]) -> _Graph:
        """Return the graph of OpenVINO's nodes."""
        nodes = list(nodes)
        # By the unique name: friendly names need not be unique.
        position = {node.get_name(): index for index, node in enumerate(nodes)}
        sources = [
            tuple((position[value.get_node().get_name()], value.get_index()) for value in node.input_values()) for node in nodes
        ]
        return cls(nodes, [node.get_type_name() for node in nodes], sources)

    def users(self) -> list[list[_Port]]:
        """Return for each node which nodes use its outputs, and as which of their inputs."""
        users: list[list[_Port]] = [[] for _ in self.nodes]
        for index, sources in enumerate(self.sources):
            for port, (source, _) in enumerate(sources):
                users[source].append((index, port))
        return users


def _digests(contents: Iterable[str], sources: Sequence[tuple[_Port, ...]]) -> list[bytes]:
    """Return a digest for each node of itself, all that it depends on and all that depends on it.

    Equal graphs have equal collections of digests, in whatever order their nodes come. The way back from the consumers
    makes it count which of two equal nodes feeds what. The time is linear in the nodes and connections.

    Args:
        contents: what counts about each node itself, in topological order.
        sources: where the inputs of each come from.
    """
    behind: list[bytes] = []
    for content, ports in zip(contents, sources, strict=True):
        digest = hashlib.sha256(hashlib.sha256(content.encode()).digest())
        for index, output in ports:
            digest.update(b"%b%d;" % (behind[index], output))
        behind.append(digest.digest())
    consumers: list[list[bytes]] = [[] for _ in behind]
    both = [b""] * len(behind)
    for index in range(len(behind) - 1, -1, -1):
        both[index] = hashlib.sha256(behind[index] + b"".join(sorted(consumers[index]))).digest()
        for port, (source, output) in enumerate(sources[index]):
            consumers[source].append(b"%b%d>%d;" % (both[index], output, port))
    return both


def _outputs(node: Any) -> list[str]:
    return [f"{output.get_element_type().get_type_name()}{output.get_partial_shape()}" for output in node.outputs()]


# What runs


def _running(compiled: ov.CompiledModel) -> _Graph | None:
    """Return the runtime graph; None where there is none, or where kernels wait for shapes to be known."""
    try:
        nodes = compiled.get_runtime_model().get_ordered_ops()
    except RuntimeError:
        return None
    if any(output.get_partial_shape().is_dynamic for node in nodes for output in node.outputs()):
        return None
    return _Graph.of(nodes)


def _running_contents(graph: _Graph, origins: Mapping[str, tuple[str, bytes]]) -> Iterator[str]:
    """Yield what counts of each node of the runtime graph, and what operations of the model were made into it.

    Args:
        graph: the runtime graph.
        origins: name of an operation of the model -> type, digest.
    """
    for node, kind in zip(graph.nodes, graph.kinds, strict=True):
        info = node.get_rt_info()
        told = sorted((key, str(value.value)) for key, value in info.items() if key not in _RUNTIME_ACCIDENTS)
        names = str(info["originalLayersNames"].value) if "originalLayersNames" in info else ""
        yield repr((kind, _outputs(node), told, sorted(_origin(name, origins) for name in names.split(",") if name)))


def _origin(name: str, origins: Mapping[str, tuple[str, bytes]]) -> str:
    """Return what operation was made into a runtime node, without its name."""
    generated = _GENERATED_NAME.fullmatch(name)
    kind, digest = origins.get(name, (generated[1] if generated else "", b""))
    # Compiling makes operations too, named by type and number. The number may happen to be one that the model uses.
    is_sure = kind != "Constant" and not (generated and generated[1] == kind)
    return digest.hex() if is_sure else kind


def _properties(compiled: ov.CompiledModel, asked: Mapping[str, Any]) -> dict[str, str]:
    """Return the compile properties in force; those asked for where the device does not tell."""
    try:
        names = set(compiled.get_property("SUPPORTED_PROPERTIES"))
    except RuntimeError:
        names = set()
    found = {name: _in_words(value) for name, value in asked.items() if name not in _PROPERTY_ACCIDENTS}
    for name in names - _PROPERTY_ACCIDENTS:
        try:
            found[name] = _in_words(compiled.get_property(name))
        except (RuntimeError, TypeError):  # listed, yet not to be read, or of a type unknown to Python
            found.setdefault(name, "unknown")
    return found


def _in_words(value: Any) -> str:
    """Return a property's value as text that is the same in each process: sets have no order."""
    if isinstance(value, set | frozenset):
        return repr(sorted(map(_in_words, value)))
    if isinstance(value, Mapping):
        return repr(sorted((str(key), _in_words(item)) for key, item in value.items()))
    return str(value)


# What was compiled


def _source_contents(graph: _Graph, *, is_exact: bool) -> Iterator[str]:
    """Yield what counts of each operation of a model: its attributes; of a constant its class, or all bits if `is_exact`."""
    quantizers = {} if is_exact else _quantizer_classes(graph)
    users = graph.users()
    for index, (node, kind) in enumerate(zip(graph.nodes, graph.kinds, strict=True)):
        parts: list[Any] = [kind, _outputs(node)]
        if kind == "Constant":
            parts.append(_exactly(node) if is_exact else _constant_class(graph, index, users))
        else:
            # The name of a variable ties the operations that read and write it; it is a name nevertheless.
            parts.append({key: str(value) for key, value in sorted(node.get_attributes().items()) if key != "variable_id"})
            parts.append(quantizers.get(index))
            parts.extend(_body_class(node, body, is_exact=is_exact) for body in _bodies(node, kind))
        yield repr(parts)


def _bodies(node: Any, kind: str) -> list[Any]:
    """Return the graphs inside If, Loop and TensorIterator."""
    if kind == "If":
        return [node.get_then_body(), node.get_else_body()]
    return [node.get_function()] if kind in {"Loop", "TensorIterator"} else []


def _body_class(node: Any, body: ov.Model, *, is_exact: bool) -> tuple[Any, ...]:
    graph = _Graph.of(body.get_ordered_ops())
    digests = _digests(_source_contents(graph, is_exact=is_exact or not _has_readable_ranges(graph)), graph.sources)
    return (sorted(digest.hex() for digest in digests), len(node.inputs()), len(node.outputs()))


def _constant_class(graph: _Graph, index: int, users: Sequence[Sequence[_Port]]) -> str:
    """Return what about a constant can choose a kernel.

    Integers are shapes, axes and indices: each one matters. Floats and 8-bit numbers are weights, biases, scales and zero
    points, of which plugins see whether they do nothing (0, 1) and whether they are the same for all channels.
    """
    used_by = {(graph.kinds[user], port) for user, port in users[index]}
    if all(kind == "FakeQuantize" and port > 0 for kind, port in used_by):
        return "range"  # classed with its FakeQuantize
    node = graph.nodes[index]
    element = node.get_element_type().get_type_name()
    size = math.prod(node.get_output_shape(0))
    is_converted = all(kind == "Convert" for kind, _ in used_by)
    is_number = element in _FLOAT_TYPES or (element in _LOW_BIT_TYPES and is_converted)
    if is_converted:
        used_by = {(graph.kinds[user], port) for converted, _ in users[index] for user, port in users[converted]}
    if not is_number or (size == 1 and not {kind for kind, _ in used_by} <= _LINEAR_TYPES):
        return _exactly(node)
    if size > _MAX_LOOKED_AT:
        return "large"
    values = np.asarray(node.get_data()).ravel()
    if size > 1 and bool((values != values[0]).any()):
        return "varied"
    if size == 0 or values[0] in (0, 1):
        return f"all {values[:1].tolist()}"
    return "uniform" if values[0] > 0 else "uniform, negative"


def _exactly(node: Any) -> str:
    if node.get_element_type().get_type_name() == "string":
        return repr(node.get_value_strings())
    return hashlib.sha256(np.ascontiguousarray(node.get_data()).tobytes()).hexdigest()


# Ranges


@dataclasses.dataclass(frozen=True, slots=True)
class _Quantizer:
    """A FakeQuantize: its levels, and input low, input high, output low, output high as float64 arrays."""

    levels: int
    bounds: tuple[NDArray[np.float64], ...]

    def is_uniform(self) -> list[bool]:
        """Return for each bound whether it is the same for all channels; a plugin takes such bounds as one number."""
        return [bool((bound == bound.flat[0]).all()) for bound in self.bounds]

    def keeps_range(self) -> bool:
        """Return True if what comes out has the range of what goes in."""
        return np.array_equal(self.bounds[0], self.bounds[2]) and np.array_equal(self.bounds[1], self.bounds[3])

    def exactly(self) -> str:
        """Return all bounds as text."""
        return repr([bound.tolist() for bound in self.bounds])

    def step(self) -> str:
        """Return the difference of neighbouring levels that come out, to 5 digits, by channel if it differs."""
        step = ((self.bounds[3] - self.bounds[2]) / (self.levels - 1)).ravel()
        return " ".join(f"{value:.5g}" for value in (step[:1] if (step == step[0]).all() else step))


def _has_readable_ranges(graph: _Graph) -> bool:
    """Return False if some FakeQuantize computes its ranges, so that their class cannot be read off constants."""
    quantizers = (index for index, kind in enumerate(graph.kinds) if kind == "FakeQuantize")
    return all(graph.kinds[source] == "Constant" for index in quantizers for source, _ in graph.sources[index][1:])


def _quantizer_classes(graph: _Graph) -> dict[int, tuple[Any, ...]]:
    """Return by node index what about the ranges of each FakeQuantize can choose a kernel, in it or beside it."""
    found = {
        index: _Quantizer(
            int(graph.nodes[index].get_attributes()["levels"]),
            tuple(np.asarray(graph.nodes[source].get_data(), dtype=np.float64) for source, _ in graph.sources[index][1:]),
        )
        for index, kind in enumerate(graph.kinds)
        if kind == "FakeQuantize"
    }
    unions = _union_classes(graph, found)
    doubtful = _doubtful(graph, found)
    return {
        index: (_own_class(one), unions.get(index), one.exactly() if index in doubtful else "") for index, one in found.items()
    }


def _own_class(quantizer: _Quantizer) -> tuple[Any, ...]:
    """Return what decides on zero point and signedness of a quantized tensor, and on the steps fused for it."""
    input_low, input_high, low, high = quantizer.bounds
    before = _range_class(input_low, input_high, quantizer.levels)
    if quantizer.keeps_range():
        return (quantizer.is_uniform(), before)
    is_unit = bool(((high - low) == quantizer.levels - 1).all())
    return (quantizer.is_uniform(), before, _range_class(low, high, quantizer.levels), is_unit, bool((low == 0).all()))


def _range_class(low: NDArray[np.float64], high: NDArray[np.float64], levels: int) -> list[str]:
    """Return the kinds of range that occur among the channels, from where zero lies.

    ``unsigned`` ranges start at zero. ``symmetric`` ones have it in the middle, where NNCF and OpenVINO put it for signed
    numbers: half the levels below and one less above, or as many for an odd number of levels. Neither needs a zero point.
    ``asymmetric`` ones do. All others may go either way and stand for themselves.

    Args:
        low: bounds by channel, any shape.
        high: shape to be broadcast with that of `low`.
        levels: of the quantization.
    """
    low, high = (bound.ravel() for bound in np.broadcast_arrays(low, high))
    is_sound = np.isfinite(low) & np.isfinite(high) & (low < high)
    with np.errstate(all="ignore"):
        zero_point = -low / (high - low) * (levels - 1)
        spread = float(np.ptp(zero_point))
    is_one, is_by_channel = spread <= _SAME_ZERO_POINT, spread >= _OTHER_ZERO_POINT
    largest = levels - 1 - _OTHER_ZERO_POINT if is_by_channel else _LARGEST_ZERO_POINT * levels
    from_middle = np.abs(zero_point - levels // 2)
    is_wide = is_sound & (np.abs(low) >= _SMALLEST_BOUND) & (high >= _SMALLEST_BOUND)
    kinds = np.full(low.shape, "", dtype="<U16")
    is_inside = (zero_point >= _OTHER_ZERO_POINT) & (zero_point <= largest)
    kinds[is_wide & is_inside & (from_middle >= _OTHER_ZERO_POINT)] = "asymmetric"
    kinds[is_wide & (from_middle <= _SAME_ZERO_POINT)] = "symmetric"
    kinds[is_sound & (low == 0) & (high >= _SMALLEST_BOUND)] = "unsigned"
    is_unclear = (kinds == "") | (not is_one and not is_by_channel)
    unclear = [f"{a!r} to {b!r}" for a, b in zip(low[is_unclear].tolist(), high[is_unclear].tolist(), strict=True)]
    found = set(kinds.tolist()) - {""}
    if "asymmetric" in found:  # one channel that needs a zero point makes all have one
        found = {"asymmetric by channel" if is_by_channel else "asymmetric"}
    return sorted(found | set(unclear))


class _Sets:
    """Disjoint sets of node indices; each starts in a set of its own."""

    def __init__(self, n_nodes: int) -> None:
        self._leader = list(range(n_nodes))

    def find(self, index: int) -> int:
        """Return the index that stands for the whole set."""
        while self._leader[index] != index:
            self._leader[index] = self._leader[self._leader[index]]
            index = self._leader[index]
        return index

    def join(self, index: int, other: int) -> None:
        """Make one set of two."""
        self._leader[self.find(index)] = self.find(other)


def _doubtful(graph: _Graph, found: Mapping[int, _Quantizer]) -> set[int]:
    """Return the FakeQuantize operations of which one is fed with the step of another, or which meet and have one step.

    Plugins multiply by the ratio of two steps, unless it is 1 in float32, which for equal steps is a matter of rounding.
    Being fused, the runtime graph does not show it. Steps count where no weights lie in between, as those have scales too.
    """
    regions = _regions(graph, found)
    steps = {index: quantizer.step() for index, quantizer in found.items()}
    feeding: dict[tuple[int, str], set[int]] = {}
    for index, step in steps.items():
        feeding.setdefault((regions.find(index), step), set()).add(index)
    doubtful: set[int] = set()
    for index, step in steps.items():
        # It may be among those that feed its region, where another way leads past it.
        others = feeding.get((regions.find(graph.sources[index][0][0]), step), set()) - {index}
        if others:
            doubtful |= others | {index}
    carried = _carried(graph, found)
    for index, kind in enumerate(graph.kinds):
        if kind not in _WEIGHTED_TYPES | _RANGE_KEEPING_TYPES and index not in found:
            met = {carried[source] for source, _ in graph.sources[index] if source in carried}
            if len({steps[one] for one in met}) < len(met):
                doubtful |= met
    return doubtful


def _regions(graph: _Graph, found: Mapping[int, _Quantizer]) -> _Sets:
    """Return sets of operations between whose results nothing is quantized or weighted."""
    regions = _Sets(len(graph.kinds))
    for index, kind in enumerate(graph.kinds):
        if kind not in _WEIGHTED_TYPES and index not in found:
            for source, _ in graph.sources[index]:
                if graph.kinds[source] != "Constant":
                    regions.join(index, source)
    return regions


def _carried(graph: _Graph, found: Mapping[int, _Quantizer]) -> dict[int, int]:
    """Return for each operation whose result is quantized as it is the FakeQuantize that did it; of several, one."""
    carried: dict[int, int] = {}
    for index, kind in enumerate(graph.kinds):
        if index in found:
            carried[index] = index
        elif kind in _RANGE_KEEPING_TYPES:
            met = [carried[source] for source, _ in graph.sources[index] if source in carried]
            if met:
                carried[index] = met[0]
    return carried


def _union_classes(graph: _Graph, found: Mapping[int, _Quantizer]) -> dict[int, Any]:
    """Return the part that each FakeQuantize has in the common range of those that meet in a Concat.

    OpenVINO gives all of them one range, the union. Those whose own range is smaller are clipped in a step more, which is
    fused, so that the runtime graph does not show it. NNCF makes ranges equal where a Concat follows, but not all of them
    where a Concat follows a Concat. Those with equal ranges are left out.
    """
    groups = _Sets(len(graph.kinds))
    carried = _carried(graph, found)
    for index in carried.keys() - found.keys():
        for source, _ in graph.sources[index]:
            if source in carried:
                groups.join(carried[index], carried[source])
    members: dict[int, list[int]] = {}
    for index in found:
        members.setdefault(groups.find(index), []).append(index)
    classes: dict[int, Any] = {}
    for group in members.values():
        if len({found[index].exactly() for index in group}) > 1:
            classes.update(zip(group, _parts_of_union([found[index] for index in group]), strict=True))
    return classes


def _parts_of_union(group: Sequence[_Quantizer]) -> list[Any]:
    """Return for each FakeQuantize what becomes of it when all get one range; see `_union_classes`."""
    levels = group[0].levels
    if not all(one.levels == levels and all(one.is_uniform()) and one.keeps_range() for one in group):
        return [one.exactly() for one in group]
    lows, highs = (np.array([one.bounds[side].flat[0] for one in group]) for side in (0, 1))
    low, high = lows.min(), highs.max()
    union = _range_class(low, high, levels)
    with np.errstate(all="ignore"):
        ends = np.array([lows - low, highs - low]) / (high - low) * (levels - 1)
        first, last = np.rint(ends)
        zero_point = first - lows / (highs - lows) * (last - first)
    parts: list[Any] = []
    for index, one in enumerate(group):
        # Numbers of either sign have their zero at one of these.
        shifts = np.abs(zero_point[index] - np.array([0, levels // 2]))
        is_clear = (np.abs(np.abs(ends[:, index] - np.rint(ends[:, index])) - 0.5) > _FROM_HALF).all()
        is_zero = shifts <= _SAME_ZERO_POINT
        is_clear = is_clear and (is_zero | (shifts > _FROM_HALF)).all() and last[index] - first[index] >= 4
        is_full = bool(first[index] == 0 and last[index] == levels - 1)
        parts.append((union, is_full, is_zero.tolist()) if is_clear else one.exactly())
    return parts
