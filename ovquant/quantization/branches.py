"""Branches of NNCF's collectors: a reducer and an aggregator at a tensor; how large they are, how passes are made of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ovquant.quantization.internals import internals
from ovquant.quantization.stages import digest_of

# State that an aggregator gathers, as opposed to what it was made with.
_STATE = frozenset({"_container", "_collected_samples", "_num_samples", "histogram", "min_val", "max_val"})
_FEW = 0.2  # as many branches, against those of a longer pass, cost less there than a pass of their own
_UNKNOWN_DIMENSION = 256  # stands for a dynamic dimension in estimates of memory


@dataclasses.dataclass(slots=True, kw_only=True)
class Branch:
    """One branch of a collector, and what is kept of it.

    Attributes:
        place: digest of what gives the tensor, of the samples and the reducer.
        key: of what is kept.
        result_key: of the aggregated value.
        tensor: digest of what gives it.
        point: NNCF's target point; several name the same tensor.
        source: operation and output port that give the tensor.
        n_samples: that count, at most as many as there are.
        is_aggregated: the aggregator's result is kept, not what the reducer gave.
    """

    place: str
    key: str
    result_key: str
    tensor: str
    point: Any
    source: tuple[Any, int]
    reducer: Any
    port: int
    aggregator: Any
    n_samples: int
    is_aggregated: bool

    @property
    def is_whole(self) -> bool:
        """Whether the reducer is given the whole tensor, which the model has to hand out for it."""
        return not self.reducer.inplace and self.source[0].get_type_name() != "Constant"

    @property
    def is_once(self) -> bool:
        """Whether only the first of all samples counts: for constants, and for shapes."""
        return self.source[0].get_type_name() == "Constant" or getattr(self.aggregator, "_return_first", False)

    @property
    def varies(self) -> bool:
        """Whether what is kept may depend, in its last bits, on what else the model hands out."""
        return self.is_whole or (self.reducer.inplace and not self.is_once)

    def seen_as(self, seen: Mapping[str, str]) -> Branch:
        """Return the same branch with keys of its own for what was seen at its place on the first samples."""
        if self.place not in seen:
            return self
        result_key = digest_of((self.result_key, seen[self.place]))
        key = result_key if self.is_aggregated else digest_of((self.key, seen[self.place]))
        return dataclasses.replace(self, key=key, result_key=result_key)

    def n_recorded(self, n_samples: int) -> int:
        """Return of how many samples of a pass the reducer's arrays are kept.

        All of them, though fewer may count: NNCF leaves out samples without elements, and only by their number is it seen
        that some were. Constants, and the first shape, are there once.
        """
        return 1 if self.is_once and self.n_samples == 1 else n_samples


def description(part: Any, leave_out: str = "") -> tuple[Any, ...]:
    """Return what a reducer or an aggregator was made with."""
    made_with = {name: value for name, value in vars(part).items() if name not in _STATE and name != leave_out}
    return (type(part).__name__, sorted((name, repr(value)) for name, value in made_with.items()))


def divided(branches: Sequence[Branch], memory_bytes: int) -> Iterator[list[Branch]]:
    """Divide branches into passes over the samples.

    Reducers that are given the whole tensor work on every sample of a pass, whether it counts or not, so those for fewer
    samples go into a shorter pass of their own, unless they are few. What is reduced within the model goes with the longest
    of them, if that is long enough, or by itself.
    """
    reduced = [branch for branch in branches if branch.reducer.inplace]
    n_longest = max((branch.n_samples for branch in branches if branch.is_whole), default=0)
    if any(branch.n_samples > n_longest for branch in reduced):
        yield from _portions(reduced, memory_bytes)
        reduced = []
    groups: dict[int, list[Branch]] = {}
    for branch in branches:
        if not branch.reducer.inplace:
            groups.setdefault(branch.n_samples, []).append(branch)
    for n_samples in sorted(groups):
        larger = min((other for other in groups if other > n_samples), default=None)
        if larger is not None and len(groups[n_samples]) <= _FEW * len(groups[larger]):
            groups[larger] += groups.pop(n_samples)
    for n_samples, members in sorted(groups.items()):
        yield from _portions([*members, *(reduced if n_samples == n_longest else ())], memory_bytes)


def _portions(branches: Sequence[Branch], memory_bytes: int) -> Iterator[list[Branch]]:
    """Divide branches into passes that each stay within the limit; a branch above it has a pass of its own."""
    portion: list[Branch] = []
    whole: set[str] = set()
    total = 0
    for branch in branches:
        kept, passed_on = _size_bytes(branch)
        size = kept + (0 if branch.tensor in whole else passed_on)
        if portion and total + size > memory_bytes:
            yield portion
            portion, whole, total = [], set(), 0
            size = kept + passed_on
        portion.append(branch)
        total += size
        if passed_on:
            whole.add(branch.tensor)
    if portion:
        yield portion


def _size_bytes(branch: Branch) -> tuple[int, int]:
    """Estimate the bytes that a branch holds by the end of a pass, and those of the tensor where it is passed on whole."""
    node, port = branch.source
    shape = node.output(port).get_partial_shape()
    if shape.rank.is_dynamic:
        return _UNKNOWN_DIMENSION * 4, 0
    # Samples have a batch of 1.
    unknown = [1, *[_UNKNOWN_DIMENSION] * len(shape)][: len(shape)]
    sides = [known.get_length() if known.is_static else guess for known, guess in zip(shape, unknown, strict=True)]
    passed_on = 0 if branch.reducer.inplace else math.prod(sides) * 4
    n_kept = branch.n_samples
    if branch.is_aggregated:
        n_kept = branch.n_samples if isinstance(branch.aggregator, internals().NoopAggregator) else 0
    return _n_reduced(branch.reducer, sides) * 4 * n_kept, passed_on


def _n_reduced(reducer: Any, sides: Sequence[int]) -> int:
    """Return how many elements a reducer makes of a tensor with these sides."""
    made_with, name = vars(reducer), type(reducer).__name__
    if name == "RawReducer":
        return math.prod(sides)
    if "_channel_axis" in made_with:
        return sides[made_with["_channel_axis"]] if sides else 1
    if name.endswith("BatchMeanReducer"):
        return math.prod(sides[1:])
    if name.endswith("ShapeReducer"):
        return len(sides)
    axes = made_with["_axes"]
    if axes is None or not sides:
        return 1
    chosen = {axis % len(sides) for axis in axes}
    is_kept = made_with["_axes_mode"].name == "KEEP"
    return math.prod(side for axis, side in enumerate(sides) if (axis in chosen) == is_kept)
