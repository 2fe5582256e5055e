"""The quantizers of a model in classes: what about the ranges of a FakeQuantize a device's plugin may choose kernels by."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

WEIGHTED_TYPES = frozenset(
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
# Thresholds of OpenVINO (LayerTransformation::getPrecisionDetails of its low precision transformations, and
# updateOptimizedFormula of the CPU plugin) are 1e-6 for a bound to be zero, 0.13 steps for a zero point to be in the middle,
# 0.003 steps for a shift to be left out, and 5e-5 steps for the shifts of channels to be one, which rounding of float32 can
# reach where zero points are large. Ranges on the safe side of all of them have a class.
_SMALLEST_BOUND = 1e-5
_SAME_ZERO_POINT = 1e-3  # steps; rounding of float32 gives 1e-5
_OTHER_ZERO_POINT = 0.75  # steps; zero points are rounded, and this one not to 0 or to the middle
_LARGEST_ZERO_POINT = 0.75  # of all levels, where channels have the same
_FROM_HALF = 0.02  # steps, for what is rounded

Port: TypeAlias = tuple[int, int]  # index of a node in its graph, index of its output


@dataclasses.dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in topological order, what type each has, and where its inputs come from."""

    nodes: list[Any]
    kinds: list[str]
    sources: list[tuple[Port, ...]]

    @classmethod
    def of(cls, nodes: Iterable[Any]) -> Graph:
        """Return the graph of OpenVINO's nodes."""
        nodes = list(nodes)
        # By the unique name: friendly names need not be unique.
        position = {node.get_name(): index for index, node in enumerate(nodes)}
        sources = [
            tuple((position[value.get_node().get_name()], value.get_index()) for value in node.input_values()) for node in nodes
        ]
        return cls(nodes, [node.get_type_name() for node in nodes], sources)

    def users(self) -> list[list[Port]]:
        """Return for each node which nodes use its outputs, and as which of their inputs."""
        users: list[list[Port]] = [[] for _ in self.nodes]
        for index, sources in enumerate(self.sources):
            for port, (source, _) in enumerate(sources):
                users[source].append((index, port))
        return users


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
        """Return a digest of all bounds."""
        digest = hashlib.sha256()
        for bound in self.bounds:
            digest.update(repr(bound.shape).encode())
            digest.update(np.ascontiguousarray(bound).tobytes())
        return digest.hexdigest()

    def step(self) -> str:
        """Return the difference of neighbouring levels that come out, to 5 digits, by channel if it differs."""
        step = ((self.bounds[3] - self.bounds[2]) / (self.levels - 1)).ravel()
        return " ".join(f"{value:.5g}" for value in (step[:1] if (step == step[0]).all() else step))


def has_readable_ranges(graph: Graph) -> bool:
    """Return False if some FakeQuantize computes its ranges, so that their class cannot be read off constants."""
    quantizers = (index for index, kind in enumerate(graph.kinds) if kind == "FakeQuantize")
    return all(graph.kinds[source] == "Constant" for index in quantizers for source, _ in graph.sources[index][1:])


def quantizer_classes(graph: Graph) -> dict[int, tuple[Any, ...]]:
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


class DisjointSets:
    """Disjoint sets of indices, such as those of nodes."""

    def __init__(self, n_nodes: int) -> None:
        """Begin with a set of its own for each."""
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


def _doubtful(graph: Graph, found: Mapping[int, _Quantizer]) -> set[int]:
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
        if kind not in WEIGHTED_TYPES | _RANGE_KEEPING_TYPES and index not in found:
            met = {carried[source] for source, _ in graph.sources[index] if source in carried}
            if len({steps[one] for one in met}) < len(met):
                doubtful |= met
    return doubtful


def _regions(graph: Graph, found: Mapping[int, _Quantizer]) -> DisjointSets:
    """Return sets of operations between whose results nothing is quantized or weighted."""
    regions = DisjointSets(len(graph.kinds))
    for index, kind in enumerate(graph.kinds):
        if kind not in WEIGHTED_TYPES and index not in found:
            for source, _ in graph.sources[index]:
                if graph.kinds[source] != "Constant":
                    regions.join(index, source)
    return regions


def _carried(graph: Graph, found: Mapping[int, _Quantizer]) -> dict[int, int]:
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


def _union_classes(graph: Graph, found: Mapping[int, _Quantizer]) -> dict[int, Any]:
    """Return the part that each FakeQuantize has in the common range of those that meet in a Concat.

    OpenVINO gives all of them one range, the union. Those whose own range is smaller are clipped in a step more, which is
    fused, so that the runtime graph does not show it. NNCF makes ranges equal where a Concat follows, but not all of them
    where a Concat follows a Concat. Those with equal ranges are left out.
    """
    groups = DisjointSets(len(graph.kinds))
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
        if len(group) > 1 and len({found[index].exactly() for index in group}) > 1:
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
