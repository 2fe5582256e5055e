"""Statistics of activations and weights: which ones a pipeline step needs, collected in shared passes, kept in a store.

NNCF attaches *collectors* to tensors. A collector has branches; in each a *reducer* makes one small array of the tensor for
every sample (minimum, mean per channel ...), and an *aggregator* turns those of the first n samples into a range or a mean.
What reducers give is kept, sample by sample: it serves every subset size and every aggregator. Only where the reducer
passes the whole tensor on (histograms) is the aggregator's result kept instead.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from ovquant.protocols import Array, Sample
from ovquant.quantization import plain
from ovquant.quantization.internals import internals
from ovquant.quantization.quantiles import quantiles
from ovquant.quantization.stages import Stage, digest_of, source_of
from ovquant.quantization.store import ArrayStore

# State that an aggregator gathers, as opposed to what it was made with.
_STATE = frozenset({"_container", "_collected_samples", "_num_samples", "histogram", "min_val", "max_val"})
_UNKNOWN_DIMENSION = 256  # stands for a dynamic dimension in estimates of memory


@dataclasses.dataclass(slots=True, kw_only=True)
class _Branch:
    """One branch of a collector, and what is kept of it.

    Attributes:
        key: of what is kept.
        result_key: of the aggregated value.
        tensor: digest of what gives it.
        point: NNCF's target point; several name the same tensor.
        source: operation and output port that give the tensor.
        n_samples: that count, at most as many as there are.
        is_aggregated: the aggregator's result is kept, not what the reducer gave.
    """

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

    def n_recorded(self, n_samples: int) -> int:
        """Return of how many samples of a pass the reducer's arrays are kept.

        All of them, though fewer may count: NNCF leaves out samples without elements, and only by their number is it seen
        that some were. Constants, and the first shape, are there once.
        """
        is_once = self.source[0].get_type_name() == "Constant" or getattr(self.aggregator, "_return_first", False)
        return 1 if is_once and self.n_samples == 1 else n_samples


class Collection:
    """The statistics of one list of calibration samples."""

    def __init__(self, samples: Sequence[Sample], store: ArrayStore, memory_bytes: int) -> None:
        """Keep what is needed.

        Args:
            samples: all of them, in order; a subset of n is the first n.
            store: where statistics are kept.
            memory_bytes: that one pass may take for what it collects.
        """
        self._samples = samples
        self._store = store
        self._memory_bytes = memory_bytes
        self._items = _digest_samples(samples)
        self._results: dict[str, Any] = {}
        self.n_passes = 0

    def fill(self, stage: Stage, container: Any) -> None:
        """Give every collector of a container its statistics; what is missing is collected."""
        self.collect(stage, [container])
        digests = stage.digests_with(stage.looked_at(container))
        for _, point, collector in container.get_tensor_collectors():
            branches = self._branches(stage, digests, point, collector)
            values = {name: self._result(branch) for name, branch in branches.items()}
            collector.set_cache(collector.create_statistics_container(values))

    def collect(self, stage: Stage, containers: Sequence[Any]) -> None:
        """Collect what containers need and the store lacks.

        One pass over the samples serves all containers that look at the same sensitive operations; it is divided if memory
        asks for that.
        """
        groups: dict[frozenset[str], list[Any]] = {}
        for container in containers:
            groups.setdefault(stage.looked_at(container), []).append(container)
        for looked_at, members in groups.items():
            self._collect_group(stage, stage.digests_with(looked_at), members)

    def _collect_group(self, stage: Stage, digests: Mapping[str, str], containers: Sequence[Any]) -> None:
        missing: dict[str, _Branch] = {}
        held: dict[str, _Branch] = {}
        for container in containers:
            for _, point, collector in container.get_tensor_collectors():
                for branch in self._branches(stage, digests, point, collector).values():
                    if branch.source[0].get_friendly_name() in stage.sensitive:
                        held.setdefault(branch.tensor, branch)
                    known = missing.get(branch.key)
                    if (known is None or known.n_samples < branch.n_samples) and not self._is_known(branch):
                        missing[branch.key] = branch
        for branches in _passes(list(missing.values()), self._memory_bytes):
            looked_at = {branch.tensor for branch in branches}
            self._pass(stage, branches, [branch for branch in held.values() if branch.tensor not in looked_at])

    def _branches(self, stage: Stage, digests: Mapping[str, str], point: Any, collector: Any) -> dict[str, _Branch]:
        """Return the branches of a collector by the name that its statistic has for them."""
        node, port = source_of(stage, point.target_point)
        tensor = f"{digests[node.get_friendly_name()]}:{port}"
        is_constant = node.get_type_name() == "Constant"
        reducers = {hash(reducer): reducer for reducer in collector.reducers}
        found = {}
        for name, (reducer_hash, output_port, aggregator_hash) in collector._stat_container_kwargs_map.items():
            reducer = reducers[reducer_hash]
            aggregator = collector.aggregators[(reducer_hash, output_port, aggregator_hash)]
            n_samples = min(aggregator.num_samples or len(self._samples), len(self._samples))
            made_with = _description(aggregator)
            is_aggregated = type(reducer).__name__ == "RawReducer"
            kept = (tensor, "" if is_constant else self._items, _description(reducer), output_port)
            result_key = digest_of((kept, made_with, n_samples))
            found[name] = _Branch(
                key=result_key if is_aggregated else digest_of(kept),
                result_key=result_key,
                tensor=tensor,
                point=point.target_point,
                source=(node, port),
                reducer=reducer,
                port=output_port,
                aggregator=aggregator,
                n_samples=n_samples,
                is_aggregated=is_aggregated,
            )
        return found

    def _is_known(self, branch: _Branch) -> bool:
        if branch.result_key in self._results or self._input_values(branch) is not None:
            return True
        return self._store.has(branch.key) if branch.is_aggregated else self._recorded(branch) is not None

    def _recorded(self, branch: _Branch) -> list[Array] | None:
        """Return what the reducer made of each sample that counts; it may have been collected for fewer and for more."""
        found = (_first(entry, branch.n_samples) for entry in self._store.entries(branch.key))
        return next((arrays for arrays in found if arrays is not None), None)

    def _result(self, branch: _Branch) -> Any:
        """Return what the aggregator makes of a branch's samples."""
        inputs = self._input_values(branch)
        if inputs is not None:
            return inputs
        if branch.result_key not in self._results:
            kept = self._store.get(branch.key) if branch.is_aggregated else self._recorded(branch)
            if kept is None:
                raise LookupError("a statistic has gone from the store")
            self._results[branch.result_key] = _decoded(kept) if branch.is_aggregated else _aggregate(branch.aggregator, kept)
        return self._results[branch.result_key]

    def _input_values(self, branch: _Branch) -> list[Any] | None:
        """Return the samples themselves where a statistic is the list of a model input's values."""
        node, _ = branch.source
        is_list = isinstance(branch.aggregator, internals().NoopAggregator) and branch.is_aggregated
        if not is_list or node.get_type_name() != "Parameter":
            return None
        name, dtype = min(node.output(0).get_names()), node.get_element_type().to_dtype()
        first = self._samples[: branch.n_samples]
        # NNCF leaves out samples without elements; they take the way of all other statistics.
        if any(name not in sample or sample[name].dtype != dtype or sample[name].size == 0 for sample in first):
            return None
        return [internals().Tensor(sample[name]) for sample in first]

    def _pass(self, stage: Stage, branches: Sequence[_Branch], held: Sequence[_Branch]) -> None:
        """Collect branches in one pass, and look at the tensors of held ones, too, so that all come out as in a plain call."""
        parts = internals()
        container = parts.StatisticPointsContainer()
        collectors = []
        for branch in held:
            collector = parts.TensorCollector()
            collector.register_statistic_branch("values", parts.OVMinReducer(inplace=True), parts.NoopAggregator(1))
            container.add_statistic_point(parts.StatisticPoint(branch.point, collector, f"held {branch.tensor}"))
        n_samples = max(branch.n_samples for branch in branches)
        for index, (branch, reducer, port) in enumerate(_joined(branches)):
            collector = parts.TensorCollector()
            recorder = branch.aggregator if branch.is_aggregated else parts.NoopAggregator(branch.n_recorded(n_samples))
            collector.register_statistic_branch("values", reducer, recorder, port)
            container.add_statistic_point(parts.StatisticPoint(branch.point, collector, f"branch {index}"))
            collectors.append(collector)
        aggregator = _aggregator_type()(plain.dataset(self._samples[:n_samples]))
        aggregator.register_statistic_points(container)
        aggregator.collect_statistics(stage.model, stage.graph)
        self.n_passes += 1
        entries = {}
        for branch, collector in zip(branches, collectors, strict=True):
            values = collector.get_statistics()["values"]
            n_recorded = branch.n_recorded(n_samples)
            entries[branch.key] = _encoded(values) if branch.is_aggregated else _recorded(values, n_recorded)
        self._store.put(entries)


@functools.cache
def _aggregator_type() -> Any:
    """Return NNCF's aggregator of statistics, which reduces the outputs of one sample while the next one is run."""
    parts = internals()

    class Overlapped(parts.OVStatisticsAggregator):  # type: ignore[misc, name-defined]
        _under_way: Future[None] | None = None

        def collect_statistics(self, model: Any, graph: Any) -> None:
            super().collect_statistics(model, graph)
            self._settle()

        def _register_statistics(self, outputs: Any, statistic_points: Any) -> None:
            self._settle()  # sample by sample: every collector is fed in the plain order
            self._under_way = _pool().submit(self._register, outputs, statistic_points)

        def _settle(self) -> None:
            if self._under_way is not None:
                self._under_way.result()

        def _register(self, outputs: Any, statistic_points: Any) -> None:
            with plain.quiet():
                super()._register_statistics(outputs, statistic_points)

    return Overlapped


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="ovquant-statistics")


@functools.cache
def _selecting_type() -> Any:
    """Return NNCF's reducer to quantiles, made to find those of whole tensors faster."""

    class Selecting(internals().OVQuantileReducer):  # type: ignore[misc]
        _is_equal: bool | None = None

        def _reduce_out_of_place(self, x: Any) -> Any:
            values = x[0].data
            is_whole = self._axes is None or len({axis % values.ndim for axis in self._axes}) == values.ndim
            if not is_whole or self._axes_mode.name == "KEEP" or values.dtype != np.float32 or self._is_equal is False:
                return super()._reduce_out_of_place(x)
            found = [internals().Tensor(value.reshape((1,) * values.ndim)) for value in quantiles(values, list(self._quantile))]
            if self._is_equal is None:  # another numpy may interpolate in another way
                expected = super()._reduce_out_of_place(x)
                self._is_equal = all(
                    np.array_equal(mine.data, theirs.data) and (mine.data.dtype, mine.shape) == (theirs.data.dtype, theirs.shape)
                    for mine, theirs in zip(found, expected, strict=True)
                )
                return expected
            return found

    return Selecting


def _joined(branches: Sequence[_Branch]) -> list[tuple[_Branch, Any, int]]:
    """Return each branch with the reducer and output port to use: quantiles of one tensor are taken together."""
    groups: dict[Any, list[_Branch]] = {}
    for branch in branches:
        if "_quantile" in vars(branch.reducer) and not branch.is_aggregated:
            others = _description(branch.reducer, leave_out="_quantile")
            groups.setdefault((branch.tensor, branch.n_samples, repr(others)), []).append(branch)
    joint: dict[str, tuple[Any, int]] = {}
    for members in groups.values():
        first = members[0].reducer
        shares = [share for branch in members for share in branch.reducer._quantile]
        kind = _selecting_type() if type(first) is internals().OVQuantileReducer else type(first)
        reducer = kind(axes=first._axes, axes_mode=first._axes_mode, quantile=shares)
        port = 0
        for branch in members:
            joint[branch.key] = (reducer, port + branch.port)
            port += len(branch.reducer._quantile)
    return [(branch, *joint.get(branch.key, (branch.reducer, branch.port))) for branch in branches]


def _description(part: Any, leave_out: str = "") -> tuple[Any, ...]:
    """Return what a reducer or an aggregator was made with."""
    made_with = {name: value for name, value in vars(part).items() if name not in _STATE and name != leave_out}
    return (type(part).__name__, sorted((name, repr(value)) for name, value in made_with.items()))


def _digest_samples(samples: Sequence[Sample]) -> str:
    return digest_of([digest_of(sorted(sample), *(sample[name] for name in sorted(sample))) for sample in samples])


def _recorded(values: Any, n_samples: int) -> list[Array]:
    """Return one array per sample as an entry: header (samples, arrays, whether they are stacked), then the arrays."""
    arrays = [np.asarray(value.data) for value in values or ()]
    is_stacked = len(arrays) > 0 and all(array.shape == arrays[0].shape for array in arrays)
    header = np.array([n_samples, len(arrays), is_stacked], dtype=np.int64)
    return [header, np.stack(arrays)] if is_stacked else [header, *arrays]


def _first(entry: Sequence[Array], n_samples: int) -> list[Array] | None:
    """Return the arrays of the first samples; None if the entry holds fewer, or if some samples gave none."""
    n_recorded, n_arrays, is_stacked = (int(number) for number in entry[0])
    if n_samples > n_recorded or (n_arrays < n_recorded and n_samples != n_recorded):
        return None
    arrays = [entry[1][index, ...] for index in range(n_arrays)] if is_stacked else list(entry[1:])
    return arrays[:n_samples]


def _aggregate(aggregator: Any, arrays: Sequence[Array] | None) -> Any:
    if arrays is None:
        raise LookupError("a statistic of too few samples is in the store")
    aggregator.reset()
    for array in arrays:
        aggregator.register_reduced_input(internals().Tensor(array))
    return aggregator.aggregate()


def _encoded(value: Any) -> list[Array]:
    """Return an aggregated value as an entry: names (none for a single tensor), then arrays."""
    if value is None:
        return [np.array(["nothing"])]
    if isinstance(value, dict):
        return [np.array(["names", *value]), *(np.asarray(tensor.data) for tensor in value.values())]
    if isinstance(value, internals().Tensor):
        return [np.array(["tensor"]), np.asarray(value.data)]
    return [np.array(["list"]), *(np.asarray(tensor.data) for tensor in value)]


def _decoded(entry: Sequence[Array]) -> Any:
    kind, *names = (str(text) for text in entry[0])
    tensors = [internals().Tensor(array) for array in entry[1:]]
    if kind == "nothing":
        return None
    if kind == "names":
        return dict(zip(names, tensors, strict=True))
    return tensors[0] if kind == "tensor" else tensors


def _passes(branches: Sequence[_Branch], memory_bytes: int) -> Iterator[list[_Branch]]:
    """Divide branches into passes over the samples.

    What is reduced within the model goes into one. Reducers that are given the whole tensor work on every sample of a pass,
    whether it counts or not, so those for fewer samples go into a shorter pass of their own.
    """
    yield from _portions([branch for branch in branches if branch.reducer.inplace], memory_bytes)
    for n_samples in sorted({branch.n_samples for branch in branches}):
        members = [b for b in branches if not b.reducer.inplace and b.n_samples == n_samples]
        yield from _portions(members, memory_bytes)


def _portions(branches: Sequence[_Branch], memory_bytes: int) -> Iterator[list[_Branch]]:
    """Divide branches into passes that each stay within the limit; a branch above it has a pass of its own."""
    portion: list[_Branch] = []
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


def _size_bytes(branch: _Branch) -> tuple[int, int]:
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
