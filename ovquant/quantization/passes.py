"""One pass over the calibration samples: a model that hands out what branches need, run on one sample after the other."""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ovquant import runtime
from ovquant.inference import outputs_of_each
from ovquant.protocols import Sample
from ovquant.quantization import plain
from ovquant.quantization.branches import Branch, description
from ovquant.quantization.internals import internals
from ovquant.quantization.quantiles import has_negative_zeros, quantiles
from ovquant.quantization.stages import Stage, digest_of

_N_THREADS = 2  # that reduce the outputs of a sample; numpy lets others work meanwhile
N_SEEN = 4  # samples on which it is seen whether a tensor comes out the same in another pass


def run(stage: Stage, branches: Sequence[Branch], held: Sequence[Branch], samples: Sequence[Sample]) -> list[tuple[Any, str]]:
    """Return of each branch what its aggregator makes of the samples, and a digest of what it was given for the first ones.

    Args:
        stage: of the branches.
        branches: what is collected. Where the reducer's arrays are kept, these are the aggregator's result.
        held: branches of which only the tensors are looked at, so that all others come out as in a plain call.
        samples: at least `N_SEEN`, or all there are.
    """
    points = _Points()
    collectors = []
    for branch, reducer, port in joined(branches):
        # A copy: what one pass gave may not serve, and the next one begins anew.
        kept = internals().NoopAggregator(branch.n_recorded(len(samples)))
        recorder = copy.deepcopy(branch.aggregator) if branch.is_aggregated else kept
        collectors.append(points.add(branch, reducer, recorder, port))
    points.look_at([*branches, *held])
    points.collect(stage, samples)
    values = [collector.get_statistics()["values"] for collector in collectors]
    return [(value, points.digest(branch, value)) for branch, value in zip(branches, values, strict=True)]


def see(stage: Stage, branches: Sequence[Branch], samples: Sequence[Sample]) -> list[str]:
    """Return the same digests as `run`, of all branches of a plain call.

    Args:
        stage: of the branches.
        branches: each place once.
        samples: `N_SEEN`, or all there are.
    """
    points = _Points()
    reduced = {
        branch.place: points.add(branch, branch.reducer, internals().NoopAggregator(len(samples)), branch.port)
        for branch in branches
        if branch.reducer.inplace
    }
    points.look_at(branches)
    points.collect(stage, samples)
    values = {place: collector.get_statistics()["values"] for place, collector in reduced.items()}
    return [points.digest(branch, values.get(branch.place)) for branch in branches]


class _Points:
    """The collectors of one pass."""

    def __init__(self) -> None:
        self._container = internals().StatisticPointsContainer()
        self._n_collectors = 0
        self._inside: set[tuple[str, str]] = set()
        self._outside: dict[str, dict[int, Any]] = {}

    def add(self, branch: Branch, reducer: Any, aggregator: Any, port: int = 0) -> Any:
        """Return a new collector at the tensor of a branch."""
        is_kept = isinstance(aggregator, internals().NoopAggregator)
        if branch.is_whole:
            watching = self._outside.setdefault(branch.tensor, {})
            reducer = watching.setdefault(hash(reducer), _watching(reducer))
            reducer.is_kept = reducer.is_kept or is_kept
        else:
            self._inside.add((branch.tensor, repr(description(reducer))))
            if not reducer.inplace:
                reducer = _watching(reducer)
                reducer.is_kept = is_kept
        collector = internals().TensorCollector()
        collector.register_statistic_branch("values", reducer, aggregator, port)
        point = internals().StatisticPoint(branch.point, collector, f"branch {self._n_collectors}")
        self._container.add_statistic_point(point)
        self._n_collectors += 1
        return collector

    def look_at(self, branches: Sequence[Branch]) -> None:
        """Hand out each tensor as often as a plain call with all these branches does: once for each reducer."""
        wanted: dict[str, set[str]] = {}
        for branch in branches:
            made_with = repr(description(branch.reducer))
            if branch.reducer.inplace and (branch.tensor, made_with) not in self._inside:
                self.add(branch, branch.reducer, internals().NoopAggregator(1))
            elif branch.is_whole:
                reducers = wanted.setdefault(branch.tensor, set())
                reducers.add(made_with)
                if len(self._outside.get(branch.tensor, ())) < len(reducers):
                    self.add(branch, _other_type()(len(reducers)), internals().NoopAggregator(0))

    def collect(self, stage: Stage, samples: Sequence[Sample]) -> None:
        """Run the stage's model on samples."""
        aggregator = _aggregator_type()(plain.dataset(samples))
        aggregator.register_statistic_points(self._container)
        aggregator.stat_subset_size = len(samples)  # digests are of as many, though fewer may count
        aggregator.collect_statistics(stage.model, stage.graph)

    def digest(self, branch: Branch, values: Any) -> str:
        """Return the digest of the whole tensors, or of the arrays that the reducer gave, for the first samples."""
        if not branch.varies:
            return ""
        if branch.is_whole:
            watching = self._outside[branch.tensor].values()
            return digest_of(next((reducer.digests for reducer in watching if reducer.digests), []))
        return digest_of("", *(np.asarray(value.data) for value in itertools.islice(values or (), N_SEEN)))


def _watching(reducer: Any) -> Any:
    """Return the same reducer, which keeps digests of the first tensors that it is given."""
    found = copy.copy(reducer)
    found.__class__ = _watching_type(reducer.__class__)
    found.digests = []
    found.is_kept = False
    return found


@functools.cache
def _watching_type(kind: Any) -> Any:
    class Watching(kind):  # type: ignore[misc]
        digests: list[str]
        is_kept: bool  # by an aggregator that lists what it is given

        def _reduce_out_of_place(self, x: Any) -> Any:
            if len(self.digests) < N_SEEN:
                self.digests.append(digest_of("", np.asarray(x[0].data)))
            found = super()._reduce_out_of_place(x)
            # The next inference but one writes to what it was given.
            return [internals().Tensor(np.array(found[0].data))] if self.is_kept and found is x else found

    Watching.__name__ += kind.__name__  # by which NNCF tells reducers apart
    return Watching


@functools.cache
def _other_type() -> Any:
    """Return a reducer that is only there to look at a tensor, beside others."""

    class Other(internals().RawReducer):  # type: ignore[misc]
        def __init__(self, number: int) -> None:
            super().__init__()
            self._number = number

        def __hash__(self) -> int:
            return hash(("other", self._number))

        def __eq__(self, other: object) -> bool:
            return hash(self) == hash(other)

    return Other


@functools.cache
def _aggregator_type() -> Any:
    """Return NNCF's aggregator of statistics, which reduces the outputs of one sample while the next one is run."""
    parts = internals()

    class Overlapped(parts.OVStatisticsAggregator):  # type: ignore[misc, name-defined]
        def collect_statistics(self, model: Any, graph: Any) -> None:
            if runtime.has_state(model):
                super().collect_statistics(model, graph)
                return
            self._name_to_node_mapping = {node.get_friendly_name(): node for node in model.get_ops()}
            points = self._get_merged_statistic_points(self.statistic_points, model, graph)
            layout = self._get_transformation_layout_extra_outputs(points)
            transformed = parts.ModelTransformerFactory.create(model).transform(layout)
            whole = {parts.get_result_node_name(name, port) for name, port in self._handed_out(points)}
            shares = _shared_out(points)
            with ThreadPoolExecutor(len(shares), thread_name_prefix="ovquant-statistics") as pool:
                for outputs in outputs_of_each(transformed, self.dataset.get_inference_data()):
                    own = {name: array if name in whole else array.copy() for name, array in outputs.items()}
                    register = functools.partial(self._register_statistics, self._process_outputs(own))
                    list(pool.map(register, shares))  # sample by sample: every collector is fed in the plain order

        def _handed_out(self, points: Any) -> Iterator[tuple[str, int]]:
            """Yield the operations and ports of whole tensors, of which nobody keeps the array, see `_watching_type`."""
            for _, point, collector in points.get_tensor_collectors():
                if any(not reducer.inplace for reducer in collector.reducers):
                    yield self._translate_to_post_layer_operation(point)[:2]

    return Overlapped


def _shared_out(points: Any) -> list[Any]:
    """Return the points of a container in as many ones as threads work on them."""
    shares = [internals().StatisticPointsContainer() for _ in range(_N_THREADS)]
    listed = [point for members in points.data.values() for point in members]
    for index, point in enumerate(listed):
        shares[index % _N_THREADS].add_statistic_point(point)
    return shares


@functools.cache
def _joint_type(kind: Any) -> Any:
    """Return NNCF's reducer to quantiles of a kind, made to stand for several, and to find those of whole tensors faster."""

    class Joint(kind):  # type: ignore[misc]
        _members: Sequence[Any] = ()
        _is_averaged = False
        _settled: dict[int, Any]
        _is_equal: bool | None = None

        def _reduce_out_of_place(self, x: Any) -> Any:
            values = x[0].data
            if kind is not internals().OVQuantileReducer or values.dtype != np.float32 or self._is_equal is False:
                return self._one_by_one(x)
            found = self._faster(values)
            zeros = [index for index, value in enumerate(found) if ((value == 0) & ~self._settled.get(index, False)).any()]
            if zeros and has_negative_zeros(values):
                return self._one_by_one(x)
            if self._is_equal is None:  # another numpy may interpolate in another way
                expected = self._one_by_one(x)
                self._is_equal = all(
                    np.array_equal(mine, theirs.data) and (mine.dtype, mine.shape) == (theirs.data.dtype, theirs.shape)
                    for mine, theirs in zip(found, expected, strict=True)
                )
                return expected
            return [internals().Tensor(value) for value in found]

        def _faster(self, values: Any) -> list[Any]:
            reduced = internals().determine_reduction_axes(values.ndim, self._axes, self._axes_mode)
            reduced = sorted(axis % values.ndim for axis in reduced)
            shape = [1 if axis in reduced else side for axis, side in enumerate(values.shape)]
            n_kept = values.ndim - len(reduced)
            rows = np.moveaxis(values, reduced, range(n_kept, values.ndim)).reshape(math.prod(shape), -1)
            return [value.reshape(shape) for value in quantiles(rows, list(self._quantile))]

        def _one_by_one(self, x: Any) -> list[Any]:
            """Let numpy say which sign a zero has; a mean with a positive zero in it hears of no other any more."""
            found = [value for member in self._members for value in member._reduce_out_of_place(x)]
            for index, value in enumerate(found if self._is_averaged else ()):
                is_positive = (value.data == 0) & ~np.signbit(value.data)
                self._settled[index] = self._settled.get(index, False) | is_positive
            return found

    Joint.__name__ += kind.__name__  # by which NNCF tells reducers apart
    return Joint


def joined(branches: Sequence[Branch]) -> list[tuple[Branch, Any, int]]:
    """Return each branch with the reducer and output port to use: quantiles of one tensor are taken together."""
    groups: dict[Any, list[Branch]] = {}
    for branch in branches:
        if "_quantile" in vars(branch.reducer) and not branch.is_aggregated:
            others = description(branch.reducer, leave_out="_quantile")
            groups.setdefault((branch.tensor, branch.n_samples, repr(others)), []).append(branch)
    joint: dict[str, tuple[Any, int]] = {}
    for members in groups.values():
        first = members[0].reducer
        shares = [share for branch in members for share in branch.reducer._quantile]
        reducer = _joint_type(first.__class__)(axes=first._axes, axes_mode=first._axes_mode, quantile=shares)
        reducer._members = [branch.reducer for branch in members]
        reducer._is_averaged = all(type(branch.aggregator) is internals().MeanAggregator for branch in members)
        reducer._settled = {}
        port = 0
        for branch in members:
            joint[branch.key] = (reducer, port + branch.port)
            port += len(branch.reducer._quantile)
    return [(branch, *joint.get(branch.key, (branch.reducer, branch.port))) for branch in branches]
