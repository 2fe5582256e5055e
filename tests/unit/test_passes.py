"""Quantiles of one tensor in a pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from fakes.branches import absolute, assert_equal, branch, quantiles
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from nncf.common.tensor_statistics import collectors as nncf_parts
from nncf.common.tensor_statistics.collectors import AxesMode, RawReducer
from nncf.openvino.statistics import collectors as ov_parts
from nncf.tensor import Tensor

from ovquant.protocols import Array
from ovquant.quantization import branches, passes
from ovquant.quantization import quantiles as tails


def reducers_of(members: Sequence[branches.Branch]) -> list[Any]:
    return [reducer for _, reducer, _ in passes.joined(members)]


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
    joined = passes.joined(members)
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
        for member, reducer, port in passes.joined(members):
            mine, theirs = reducer([Tensor(values)])[port], member.reducer([Tensor(values)])[member.port]
            assert_equal([np.asarray(mine.data)], [np.asarray(theirs.data)])


DRAWN: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "heavy tails": lambda rng, n: rng.standard_cauchy(size=n) ** 3,
    "mostly zero": lambda rng, n: np.maximum(rng.normal(loc=-1, size=n), 0),
    "few values": lambda rng, n: rng.integers(0, 4, size=n) / 3,
    "one value": lambda rng, n: np.full(n, 0.1),
    "sorted": lambda rng, n: np.sort(rng.normal(size=n)),
    "rare and large": lambda rng, n: np.where(rng.random(n) < 2e-4, 1e6, rng.normal(size=n)),
    "both zeros": lambda rng, n: rng.choice([-0.0, 0.0, 1.0], size=n),
    "not finite": lambda rng, n: rng.choice([np.inf, -np.inf, 1.0, 2.0], size=n),
}


@pytest.mark.filterwarnings("ignore:invalid value")
@given(
    st.sampled_from(sorted(DRAWN)),
    st.just(1) | st.integers(2, 6),
    st.integers(1, 40) | st.integers(500, 3000) | st.integers(10_000, 30_000),
    st.lists(
        st.sampled_from([0, 1e-4, 1e-3, 0.01, 0.1, 0.3, 0.5, 0.7, 0.99, 0.9999, 1]) | st.floats(0, 1), min_size=1, max_size=4
    ),
    st.integers(0, 2**32 - 1),
)
def test_quantiles_equal_those_of_numpy_but_for_the_sign_of_zeros(name, n_rows, n_values, shares, seed):
    rng = np.random.default_rng(seed)
    values = np.stack([DRAWN[name](rng, n_values) for _ in range(n_rows)]).astype(np.float32)
    with np.errstate(invalid="ignore"):
        found, expected = tails.quantiles(values, shares), np.quantile(values.astype(np.float64), shares, axis=1)
    # Zeros of both signs are left to numpy itself by the caller.
    assert_equal([found + 0.0], [expected + 0.0])


AXES = {"all": (0, 1, 2, 3), "per channel": (0, 2, 3), "last": (-1,), "batch and rows": (0, 2)}


@pytest.mark.parametrize("axes", AXES.values(), ids=list(AXES))
@pytest.mark.parametrize("mode", ["REDUCTION", "KEEP"])
def test_joint_quantiles_along_axes_equal_separate_ones_bit_for_bit(axes, mode):
    rng = np.random.default_rng(0)
    reducers = [ov_parts.OVQuantileReducer(axes, AxesMode[mode], (share,)) for share in (0.01, 0.99)]
    members = [branch(str(index), reducer=reducer, shape=(2, 3, 4, 5)) for index, reducer in enumerate(reducers)]
    joined = passes.joined(members)
    for step in range(4):
        values = np.maximum(rng.normal(size=(2, 3, 4, 5)), -0.0 if step % 2 else -9.0).astype(np.float32)
        for member, reducer, port in joined:
            mine, theirs = reducer([Tensor(values)])[port], member.reducer([Tensor(values)])[member.port]
            assert_equal([np.asarray(mine.data)], [np.asarray(theirs.data)])


def test_mean_that_has_a_positive_zero_in_it_hears_of_no_sign_any_more(monkeypatch):
    """Which zero is the quantile is numpy's affair, as long as it can show in the mean of all samples."""
    asked = []
    numpy_way = ov_parts.OVQuantileReducer._reduce_out_of_place
    monkeypatch.setattr(
        ov_parts.OVQuantileReducer, "_reduce_out_of_place", lambda self, x: [asked.append(x), numpy_way(self, x)][1]
    )
    zeros = Tensor(np.array([-0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0], np.float32))

    def n_asked(aggregator: Any) -> list[int]:
        members = [branch(str(share), reducer=quantiles(share, axes=None), aggregator=aggregator) for share in (0.3, 0.6)]
        (_, reducer, _), _ = passes.joined(members)
        counts = []
        for _ in range(4):
            asked.clear()
            reducer([zeros])
            counts.append(len(asked))
        return counts

    assert n_asked(nncf_parts.MeanAggregator(aggregation_axes=(0,), num_samples=9)) == [2, 2, 0, 0]
    assert n_asked(nncf_parts.MedianAggregator(aggregation_axes=(0,), num_samples=9)) == [2, 2, 2, 2]


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
    (_, first, _), (_, second, _), _ = passes.joined(members)
    assert first is members[0].reducer
    assert second is members[1].reducer
