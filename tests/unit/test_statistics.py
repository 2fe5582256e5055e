"""What is kept of statistics, how it is turned back, and how it is divided into passes."""

from __future__ import annotations

import collections
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from nncf.common.tensor_statistics import collectors as nncf_parts
from nncf.common.tensor_statistics.collectors import AxesMode, NoopAggregator, RawReducer
from nncf.openvino.statistics import collectors as ov_parts
from nncf.tensor import Tensor
from openvino import opset13 as opset

from ovquant.protocols import Array
from ovquant.quantization import statistics
from ovquant.quantization.store import ArrayStore

Shape = Sequence[int]


def assert_equal(found: Sequence[Array] | None, expected: Sequence[Array]) -> None:
    assert found is not None
    assert [(array.dtype, array.shape) for array in found] == [(array.dtype, array.shape) for array in expected]
    assert [array.tobytes() for array in found] == [array.tobytes() for array in expected]


def stored(entry: Sequence[Array]) -> Sequence[Array]:
    """Return an entry as another process reads it."""
    with tempfile.TemporaryDirectory() as folder:
        ArrayStore(Path(folder)).put({"ab": entry})
        store = ArrayStore(Path(folder))
        found = store.get("ab")
        store.close()
    assert found is not None
    return found


def tensors(arrays: Sequence[Array]) -> list[Tensor]:
    return [Tensor(array) for array in arrays]


# One array per sample


def per_sample(min_size: int = 1) -> st.SearchStrategy[list[Array]]:
    """Return lists of arrays, of one shape or of several."""
    shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=3)
    dtypes = st.sampled_from(["float32", "float64", "int64"])

    def arrays(dtype: str, shape: st.SearchStrategy[tuple[int, ...]]) -> st.SearchStrategy[list[Array]]:
        return st.lists(hnp.arrays(dtype, shape), min_size=min_size, max_size=6)

    one = st.tuples(dtypes, shapes).flatmap(lambda drawn: arrays(drawn[0], st.just(drawn[1])))
    return one | dtypes.flatmap(lambda dtype: arrays(dtype, shapes))


@given(per_sample(), st.data())
def test_first_samples_come_back_bit_for_bit(arrays, data):
    entry = stored(statistics._recorded(tensors(arrays), len(arrays)))
    n_samples = data.draw(st.integers(1, len(arrays)))
    assert_equal(statistics._first(entry, n_samples), arrays[:n_samples])


@given(per_sample(), st.integers(1, 5))
def test_more_samples_than_were_recorded_are_not_known(arrays, n_more):
    entry = statistics._recorded(tensors(arrays), len(arrays))
    assert statistics._first(entry, len(arrays) + n_more) is None


@given(per_sample(), st.integers(1, 5))
def test_where_samples_gave_nothing_only_all_of_them_are_known(arrays, n_without):
    n_recorded = len(arrays) + n_without
    entry = stored(statistics._recorded(tensors(arrays), n_recorded))
    assert_equal(statistics._first(entry, n_recorded), arrays)
    assert [statistics._first(entry, n_samples) for n_samples in range(1, n_recorded)] == [None] * (n_recorded - 1)


@pytest.mark.parametrize("nothing", [None, []], ids=repr)
def test_samples_that_all_gave_nothing_are_known_as_such(nothing):
    entry = stored(statistics._recorded(nothing, 3))
    assert statistics._first(entry, 3) == []
    assert statistics._first(entry, 2) is None
    assert statistics._first(entry, 4) is None


def test_arrays_of_one_shape_are_kept_as_one():
    assert len(statistics._recorded(tensors([np.zeros(3)] * 50), 50)) == 2


# Aggregated values

AGGREGATED: dict[str, Any] = {
    "nothing": None,
    "tensor": Tensor(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "number": Tensor(np.array(2.5, np.float32)),
    "names": {"min_values": Tensor(np.zeros((1, 3), np.float32)), "max_values": Tensor(np.ones(4))},
    "list": [Tensor(np.zeros((1, 2, 8), np.float32)), Tensor(np.ones((1, 5, 8), np.float32))],
    "deque": collections.deque([Tensor(np.arange(3)), Tensor(np.array(7))]),
    "list of one": [Tensor(np.zeros(2))],
    "empty list": [],
    "empty tensor": Tensor(np.zeros((0, 3))),
}


@pytest.mark.parametrize("name", AGGREGATED)
def test_aggregated_value_comes_back(name):
    value = AGGREGATED[name]
    found = statistics._decoded(stored(statistics._encoded(value)))
    if value is None:
        assert found is None
    elif isinstance(value, Tensor):
        assert isinstance(found, Tensor)
        assert_equal([found.data], [value.data])
    elif isinstance(value, dict):
        assert list(found) == list(value)
        assert_equal([tensor.data for tensor in found.values()], [tensor.data for tensor in value.values()])
    else:
        assert isinstance(found, list)
        assert all(isinstance(tensor, Tensor) for tensor in found)
        assert_equal([tensor.data for tensor in found], [tensor.data for tensor in value])


def test_too_few_samples_are_never_aggregated():
    with pytest.raises(LookupError):
        statistics._aggregate(NoopAggregator(3), None)


def test_aggregator_begins_anew_for_every_list_of_samples():
    aggregator = nncf_parts.MaxAggregator(num_samples=4)
    high = statistics._aggregate(aggregator, [np.full(2, 9.0), np.full(2, 3.0)])
    low = statistics._aggregate(aggregator, [np.full(2, 1.0), np.full(2, 2.0)])
    assert (high.data.tolist(), low.data.tolist()) == ([9.0, 9.0], [2.0, 2.0])


# Branches

KEPT, REDUCED = AxesMode.KEEP, AxesMode.REDUCTION
REDUCERS: dict[str, Callable[[bool], Any]] = {
    "minimum": lambda inplace: ov_parts.OVMinReducer(None, REDUCED, inplace),
    "maximum per channel": lambda inplace: ov_parts.OVMaxReducer((0, 2), REDUCED, inplace),
    "maximum, channel kept": lambda inplace: ov_parts.OVAbsMaxReducer((1,), KEPT, inplace),
    "maximum over the last axis": lambda inplace: ov_parts.OVMaxReducer((-1,), REDUCED, inplace),
    "mean per channel": lambda inplace: ov_parts.OVMeanPerChanelReducer(1, inplace),
    "mean over the batch": ov_parts.OVBatchMeanReducer,
    "shape": ov_parts.OVShapeReducer,
    "quantile": lambda inplace: ov_parts.OVQuantileReducer((0, 2), REDUCED, (0.25,)),
    "whole": lambda inplace: RawReducer(),
}


def branch(
    key: str = "key",
    *,
    reducer: Any = None,
    shape: Sequence[int] | ov.PartialShape = (1, 4, 8),
    n_samples: int = 5,
    is_aggregated: bool | None = None,
    tensor: str = "tensor",
    port: int = 0,
    aggregator: Any = None,
) -> statistics._Branch:
    """Return a branch on a tensor; whole tensors are aggregated unless told otherwise."""
    reducer = reducer or REDUCERS["minimum"](True)
    return statistics._Branch(
        key=key,
        result_key=f"result of {key}",
        tensor=tensor,
        point=None,
        source=(opset.parameter(shape, np.float32), 0),
        reducer=reducer,
        port=port,
        aggregator=aggregator or NoopAggregator(n_samples),
        n_samples=n_samples,
        is_aggregated=isinstance(reducer, RawReducer) if is_aggregated is None else is_aggregated,
    )


@pytest.mark.parametrize("name", REDUCERS)
@pytest.mark.parametrize("sides", [(1, 4, 8), (2, 3, 5), (1, 6, 1)], ids=str)
def test_estimated_number_of_elements_is_what_a_reducer_gives(name, sides):
    reducer = REDUCERS[name](False)
    given = reducer([Tensor(np.ones(sides, np.float32))])[0]
    assert statistics._n_reduced(reducer, sides) == np.asarray(given.data).size


@pytest.mark.parametrize("axes", [None, ()], ids=str)
def test_number_without_axes_stays_one_number(axes):
    assert statistics._n_reduced(ov_parts.OVMinReducer(axes, REDUCED, True), ()) == 1


SIZES = {
    "minimum within the model": (branch(reducer=REDUCERS["minimum"](True)), (5 * 4, 0)),
    "channels within the model": (branch(reducer=REDUCERS["maximum per channel"](True)), (5 * 4 * 4, 0)),
    "quantile": (branch(reducer=REDUCERS["quantile"](False)), (5 * 4 * 4, 4 * 8 * 4)),
    "list of whole tensors": (branch(reducer=RawReducer()), (5 * 4 * 8 * 4, 4 * 8 * 4)),
    "histogram": (branch(reducer=RawReducer(), aggregator=nncf_parts.HistogramAggregator(num_samples=5)), (0, 4 * 8 * 4)),
    "unknown batch": (branch(reducer=RawReducer(), shape=ov.PartialShape([-1, 4, 8])), (5 * 4 * 8 * 4, 4 * 8 * 4)),
    "number": (branch(reducer=RawReducer(), shape=()), (5 * 4, 4)),
    "number, reduced": (branch(reducer=REDUCERS["minimum"](True), shape=()), (5 * 4, 0)),
}


@pytest.mark.parametrize("name", SIZES)
def test_bytes_of_a_branch_and_of_what_is_passed_on(name):
    described, sizes = SIZES[name]
    assert statistics._size_bytes(described) == sizes


@pytest.mark.parametrize("shape", [ov.PartialShape([1, -1, 8]), ov.PartialShape.dynamic()], ids=str)
def test_unknown_shapes_are_taken_for_large(shape):
    known = sum(statistics._size_bytes(branch(reducer=REDUCERS["maximum per channel"](True), shape=(1, 4, 8))))
    assert sum(statistics._size_bytes(branch(reducer=REDUCERS["maximum per channel"](True), shape=shape))) > known


# Passes


@st.composite
def branches(draw: st.DrawFn) -> list[statistics._Branch]:
    found = []
    for index in range(draw(st.integers(1, 12))):
        name = draw(st.sampled_from(["minimum", "maximum per channel", "quantile", "whole"]))
        reducer = REDUCERS[name](draw(st.booleans()))
        size, tensor = draw(st.integers(1, 9)), draw(st.sampled_from("abc"))
        found.append(branch(str(index), reducer=reducer, shape=(1, 2, size), tensor=tensor, n_samples=draw(st.integers(1, 4))))
    return found


def size_of(members: Sequence[statistics._Branch]) -> int:
    """Return the bytes of a pass: what its branches keep, and each tensor that is passed on, once."""
    passed_on: dict[str, int] = {}
    for member in members:
        if not member.reducer.inplace:
            passed_on.setdefault(member.tensor, statistics._size_bytes(member)[1])
    return sum(statistics._size_bytes(member)[0] for member in members) + sum(passed_on.values())


@given(branches(), st.integers(1, 2000))
def test_every_branch_is_in_one_pass_within_memory(members, memory_bytes):
    passes = list(statistics._passes(members, memory_bytes))
    assert sorted(member.key for one in passes for member in one) == sorted(member.key for member in members)
    for one in passes:
        assert len(one) == 1 or size_of(one) <= memory_bytes


@given(branches())
def test_with_enough_memory_there_is_a_pass_within_the_model_and_one_for_each_number_of_samples(members):
    passes = list(statistics._passes(members, 1 << 40))
    inside = [member.key for member in members if member.reducer.inplace]
    counts = {member.n_samples for member in members if not member.reducer.inplace}
    assert len(passes) == bool(inside) + len(counts)
    assert [[member.key for member in one] for one in passes if one[0].reducer.inplace] == ([inside] if inside else [])
    for one in passes:
        assert len({member.reducer.inplace for member in one}) == 1
        assert one[0].reducer.inplace or len({member.n_samples for member in one}) == 1


def test_nothing_to_collect_takes_no_pass():
    assert list(statistics._passes([], 1000)) == []


def test_branch_above_the_limit_has_a_pass_of_its_own():
    small_one, large = (
        branch("small", shape=(1, 1)),
        branch("large", reducer=REDUCERS["maximum per channel"](True), n_samples=500),
    )
    limit = size_of([small_one]) * 3
    assert size_of([large]) > limit
    passes = list(statistics._passes([small_one, large, small_one], limit))
    assert [[member.key for member in one] for one in passes] == [["small"], ["large"], ["small"]]


def test_tensor_that_is_passed_on_counts_once_in_a_pass():
    histogram = nncf_parts.HistogramAggregator(num_samples=5)
    same = [branch(str(index), reducer=RawReducer(), aggregator=histogram) for index in range(6)]
    apart = [branch(str(index), reducer=RawReducer(), aggregator=histogram, tensor=str(index)) for index in range(6)]
    limit = size_of(same[:1])
    assert len(list(statistics._passes(same, limit))) == 1
    assert len(list(statistics._passes(apart, limit))) == 6


# Quantiles of one tensor


def quantiles(*shares: float, axes: Sequence[int] | None = (0, 2)) -> Any:
    return ov_parts.OVQuantileReducer(axes, REDUCED, shares)


def absolute(*shares: float) -> Any:
    return ov_parts.OVAbsQuantileReducer((0, 2), REDUCED, shares)


def reducers_of(members: Sequence[statistics._Branch]) -> list[Any]:
    return [reducer for _, reducer, _ in statistics._joined(members)]


def test_quantiles_of_one_tensor_are_taken_by_one_reducer():
    members = [branch("low", reducer=quantiles(0.01)), branch("high", reducer=quantiles(0.99))]
    first, second = reducers_of(members)
    assert first == second
    assert hash(first) == hash(second)
    assert sorted(first._quantile) == [0.01, 0.99]


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=3), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_joint_quantiles_equal_separate_ones_bit_for_bit(shares, seed):
    members = [
        branch(f"{index} {port}", reducer=quantiles(*chosen), port=port)
        for index, chosen in enumerate(shares)
        for port in range(len(chosen))
    ]
    values = np.random.default_rng(seed).normal(size=(1, 3, 7)).astype(np.float32)
    joined = statistics._joined(members)
    assert [found.key for found, _, _ in joined] == [member.key for member in members]
    for member, reducer, port in joined:
        mine, theirs = reducer([Tensor(values)])[port], member.reducer([Tensor(values)])[member.port]
        assert_equal([mine.data], [theirs.data])


@given(
    hnp.arrays(np.float32, (2, 3, 5), elements=st.floats(-1e6, 1e6, width=32)), st.lists(st.floats(0, 1), min_size=2, max_size=4)
)
def test_joint_quantiles_of_whole_tensors_equal_separate_ones_bit_for_bit(values, shares):
    members = [branch(str(share), reducer=quantiles(share, axes=None)) for share in shares]
    for _ in range(2):  # the first time may be another way than the next
        for member, reducer, port in statistics._joined(members):
            mine, theirs = reducer([Tensor(values)])[port], member.reducer([Tensor(values)])[member.port]
            assert_equal([np.asarray(mine.data)], [np.asarray(theirs.data)])


APART = {
    "of other tensors": [branch("a", reducer=quantiles(0.1)), branch("b", reducer=quantiles(0.9), tensor="other")],
    "of other numbers of samples": [branch("a", reducer=quantiles(0.1)), branch("b", reducer=quantiles(0.9), n_samples=3)],
    "over other axes": [branch("a", reducer=quantiles(0.1)), branch("b", reducer=quantiles(0.9, axes=(0,)))],
    "of absolute values": [branch("a", reducer=quantiles(0.1)), branch("b", reducer=absolute(0.9))],
}


@pytest.mark.parametrize("name", APART)
def test_other_quantiles_are_taken_apart(name):
    found = reducers_of(APART[name])
    assert [list(reducer._quantile) for reducer in found] == [[0.1], [0.9]]


def test_reducers_without_quantiles_stay_as_they_are():
    members = [branch("min"), branch("raw", reducer=RawReducer(), port=0), branch("low", reducer=quantiles(0.1))]
    (_, first, _), (_, second, _), _ = statistics._joined(members)
    assert first is members[0].reducer
    assert second is members[1].reducer


# Digests


def aggregator(**changes: Any) -> Any:
    return nncf_parts.MeanNoOutliersAggregator(**{"num_samples": 5, "quantile": 0.01, **changes})


def test_description_is_what_a_part_was_made_with():
    assert statistics._description(aggregator()) == statistics._description(aggregator())
    assert statistics._description(aggregator(quantile=0.02)) != statistics._description(aggregator())
    assert statistics._description(aggregator(aggregation_axes=(0, 1))) != statistics._description(aggregator())
    assert statistics._description(quantiles(0.1)) != statistics._description(absolute(0.1))
    assert statistics._description(REDUCERS["minimum"](True)) != statistics._description(REDUCERS["minimum"](False))


def test_description_leaves_out_how_many_samples_count():
    """They are a part of keys by themselves, where they matter."""
    assert statistics._description(aggregator(num_samples=9)) == statistics._description(aggregator())


@pytest.mark.parametrize(
    "made",
    [aggregator, nncf_parts.MaxAggregator, nncf_parts.HistogramAggregator, lambda: NoopAggregator(5)],
    ids=["mean", "maximum", "histogram", "list"],
)
def test_description_does_not_change_by_collecting(made):
    used = made()
    before = statistics._description(used)
    used.register_reduced_input(Tensor(np.linspace(-1, 2, 12, dtype=np.float32).reshape(3, 4)))
    assert statistics._description(used) == before
    used.aggregate()
    assert statistics._description(used) == before


def sample(left: Array, right: Array) -> dict[str, Array]:
    return {"left": left, "right": right}


ZERO, ONE = np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32)
SAMPLES = [sample(ZERO, ONE), sample(ONE, ONE)]
OTHER_SAMPLES = {
    "in another order": SAMPLES[::-1],
    "under other names": [sample(ONE, ZERO), sample(ONE, ONE)],
    "of another shape": [sample(ZERO.reshape(2, 1), ONE), SAMPLES[1]],
    "of another type": [sample(ZERO.view(np.int32), ONE), SAMPLES[1]],
    "one more": [*SAMPLES, SAMPLES[0]],
    "one less": SAMPLES[:1],
    "a name less": [{"right": ONE}, SAMPLES[1]],
    "a last bit": [sample(ZERO, np.nextafter(ONE, ZERO)), SAMPLES[1]],
    "a sign of zero": [sample(-ZERO, ONE), SAMPLES[1]],
}


@pytest.mark.parametrize("name", OTHER_SAMPLES)
def test_other_samples_have_another_digest(name):
    assert statistics._digest_samples(OTHER_SAMPLES[name]) != statistics._digest_samples(SAMPLES)


def test_equal_samples_have_equal_digests_however_they_lie_in_memory():
    turned = [{"right": one["right"].copy(), "left": np.asfortranarray(one["left"])} for one in SAMPLES]
    assert statistics._digest_samples(turned) == statistics._digest_samples(SAMPLES)


@given(st.lists(per_sample(min_size=0), max_size=3))
def test_digest_tells_lists_of_arrays_apart_from_joined_ones(groups):
    flat = [array for group in groups for array in group]
    found = statistics.digest_of("content", *flat)
    assert found == statistics.digest_of("content", *(array.copy() for array in flat))
    assert found != statistics.digest_of("other", *flat)
    if flat:
        assert found != statistics.digest_of("content", *flat[:-1])
        assert math.prod(flat[0].shape) == 0 or found != statistics.digest_of(
            "content", flat[0].view(f"V{flat[0].itemsize}"), *flat[1:]
        )
