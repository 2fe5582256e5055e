"""What is kept of statistics, and how it is turned back."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
import pytest
from fakes.branches import assert_equal, per_sample, stored, tensors
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from nncf.common.tensor_statistics import collectors as nncf_parts
from nncf.common.tensor_statistics.collectors import NoopAggregator
from nncf.tensor import Tensor

from ovquant.quantization import entries

# One array per sample


@given(per_sample(), st.data())
def test_first_samples_come_back_bit_for_bit(arrays, data):
    entry = stored(entries.recorded(tensors(arrays), len(arrays)))
    n_samples = data.draw(st.integers(1, len(arrays)))
    assert_equal(entries.first(entry, n_samples), arrays[:n_samples])


@given(per_sample(), st.integers(1, 5))
def test_more_samples_than_were_recorded_are_not_known(arrays, n_more):
    entry = entries.recorded(tensors(arrays), len(arrays))
    assert entries.first(entry, len(arrays) + n_more) is None


@given(per_sample(), st.integers(1, 5))
def test_where_samples_gave_nothing_only_all_of_them_are_known(arrays, n_without):
    n_recorded = len(arrays) + n_without
    entry = stored(entries.recorded(tensors(arrays), n_recorded))
    assert_equal(entries.first(entry, n_recorded), arrays)
    assert [entries.first(entry, n_samples) for n_samples in range(1, n_recorded)] == [None] * (n_recorded - 1)


@pytest.mark.parametrize("nothing", [None, []], ids=repr)
def test_samples_that_all_gave_nothing_are_known_as_such(nothing):
    entry = stored(entries.recorded(nothing, 3))
    assert entries.first(entry, 3) == []
    assert entries.first(entry, 2) is None
    assert entries.first(entry, 4) is None


def test_arrays_of_one_shape_are_kept_as_one():
    assert len(entries.recorded(tensors([np.zeros(3)] * 50), 50)) == 2


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
    found = entries.decoded(stored(entries.encoded(value)))
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
        entries.aggregate(NoopAggregator(3), None)


def test_aggregator_begins_anew_for_every_list_of_samples():
    aggregator = nncf_parts.MaxAggregator(num_samples=4)
    high = entries.aggregate(aggregator, [np.full(2, 9.0), np.full(2, 3.0)])
    low = entries.aggregate(aggregator, [np.full(2, 1.0), np.full(2, 2.0)])
    assert (high.data.tolist(), low.data.tolist()) == ([9.0, 9.0], [2.0, 2.0])


@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(1, 6), st.just(1), st.integers(1, 3), st.integers(1, 3)), elements=st.floats(width=32)
    ),
    st.sampled_from([(0,), (0, 1), (0, 2, 3), (0, 1, 2, 3), (1, 2)]),
    st.sampled_from([nncf_parts.MinAggregator, nncf_parts.MaxAggregator]),
)
def test_smallest_and_largest_of_all_samples_are_those_found_one_by_one(values, axes, kind):
    one_by_one = kind(aggregation_axes=axes, num_samples=len(values))
    with np.errstate(invalid="ignore"):
        for value in values:
            one_by_one.register_reduced_input(Tensor(value))
        found = entries.aggregate(kind(aggregation_axes=axes, num_samples=len(values)), list(values))
    assert_equal([np.asarray(found.data)], [np.asarray(one_by_one.aggregate().data)])
