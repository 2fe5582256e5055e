"""What a branch of a collector is, how large it is, and how branches are divided into passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov
import pytest
from fakes.branches import REDUCED, REDUCERS, absolute, branch, quantiles
from hypothesis import given
from hypothesis import strategies as st
from nncf.common.tensor_statistics import collectors as nncf_parts
from nncf.common.tensor_statistics.collectors import NoopAggregator, RawReducer
from nncf.openvino.statistics import collectors as ov_parts
from nncf.tensor import Tensor

from ovquant.quantization import branches


@pytest.mark.parametrize("name", REDUCERS)
@pytest.mark.parametrize("sides", [(1, 4, 8), (2, 3, 5), (1, 6, 1)], ids=str)
def test_estimated_number_of_elements_is_what_a_reducer_gives(name, sides):
    reducer = REDUCERS[name](False)
    given = reducer([Tensor(np.ones(sides, np.float32))])[0]
    assert branches._n_reduced(reducer, sides) == np.asarray(given.data).size


@pytest.mark.parametrize("axes", [None, ()], ids=str)
def test_number_without_axes_stays_one_number(axes):
    assert branches._n_reduced(ov_parts.OVMinReducer(axes, REDUCED, True), ()) == 1


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
    assert branches._size_bytes(described) == sizes


@pytest.mark.parametrize("shape", [ov.PartialShape([1, -1, 8]), ov.PartialShape.dynamic()], ids=str)
def test_unknown_shapes_are_taken_for_large(shape):
    known = sum(branches._size_bytes(branch(reducer=REDUCERS["maximum per channel"](True), shape=(1, 4, 8))))
    assert sum(branches._size_bytes(branch(reducer=REDUCERS["maximum per channel"](True), shape=shape))) > known


# Passes


@st.composite
def drawn(draw: st.DrawFn) -> list[branches.Branch]:
    found = []
    for index in range(draw(st.integers(1, 12))):
        name = draw(st.sampled_from(["minimum", "maximum per channel", "quantile", "whole"]))
        reducer = REDUCERS[name](draw(st.booleans()))
        size, tensor = draw(st.integers(1, 9)), draw(st.sampled_from("abc"))
        found.append(branch(str(index), reducer=reducer, shape=(1, 2, size), tensor=tensor, n_samples=draw(st.integers(1, 4))))
    return found


def size_of(members: Sequence[branches.Branch]) -> int:
    """Return the bytes of a pass: what its branches keep, and each tensor that is passed on, once."""
    passed_on: dict[str, int] = {}
    for member in members:
        if not member.reducer.inplace:
            passed_on.setdefault(member.tensor, branches._size_bytes(member)[1])
    return sum(branches._size_bytes(member)[0] for member in members) + sum(passed_on.values())


@given(drawn(), st.integers(1, 2000))
def test_every_branch_is_in_one_pass_within_memory(members, memory_bytes):
    found = list(branches.divided(members, memory_bytes))
    assert sorted(member.key for one in found for member in one) == sorted(member.key for member in members)
    for one in found:
        assert len(one) == 1 or size_of(one) <= memory_bytes


@given(drawn())
def test_with_enough_memory_there_is_one_pass_for_each_number_of_samples_that_whole_tensors_need(members):
    found = list(branches.divided(members, 1 << 40))
    inside = {member.key for member in members if member.reducer.inplace}
    n_inside = max((member.n_samples for member in members if member.reducer.inplace), default=0)
    counts = {member.n_samples for member in members if not member.reducer.inplace}
    assert len(found) == len(counts) + (n_inside > max(counts, default=0))
    for one in found:
        assert len({member.n_samples for member in one if not member.reducer.inplace}) <= 1
        # What is reduced within the model is in one pass.
        assert not inside & {member.key for member in one} or inside <= {member.key for member in one}


def test_nothing_to_collect_takes_no_pass():
    assert list(branches.divided([], 1000)) == []


def test_branch_above_the_limit_has_a_pass_of_its_own():
    small_one, large = (
        branch("small", shape=(1, 1)),
        branch("large", reducer=REDUCERS["maximum per channel"](True), n_samples=500),
    )
    limit = size_of([small_one]) * 3
    assert size_of([large]) > limit
    found = list(branches.divided([small_one, large, small_one], limit))
    assert [[member.key for member in one] for one in found] == [["small"], ["large"], ["small"]]


def test_tensor_that_is_passed_on_counts_once_in_a_pass():
    histogram = nncf_parts.HistogramAggregator(num_samples=5)
    same = [branch(str(index), reducer=RawReducer(), aggregator=histogram) for index in range(6)]
    apart = [branch(str(index), reducer=RawReducer(), aggregator=histogram, tensor=str(index)) for index in range(6)]
    limit = size_of(same[:1])
    assert len(list(branches.divided(same, limit))) == 1
    assert len(list(branches.divided(apart, limit))) == 6


# Descriptions


def aggregator(**changes: Any) -> Any:
    return nncf_parts.MeanNoOutliersAggregator(**{"num_samples": 5, "quantile": 0.01, **changes})


def test_description_is_what_a_part_was_made_with():
    assert branches.description(aggregator()) == branches.description(aggregator())
    assert branches.description(aggregator(quantile=0.02)) != branches.description(aggregator())
    assert branches.description(aggregator(aggregation_axes=(0, 1))) != branches.description(aggregator())
    assert branches.description(quantiles(0.1)) != branches.description(absolute(0.1))
    assert branches.description(REDUCERS["minimum"](True)) != branches.description(REDUCERS["minimum"](False))


def test_description_leaves_out_how_many_samples_count():
    """They are a part of keys by themselves, where they matter."""
    assert branches.description(aggregator(num_samples=9)) == branches.description(aggregator())


@pytest.mark.parametrize(
    "made",
    [aggregator, nncf_parts.MaxAggregator, nncf_parts.HistogramAggregator, lambda: NoopAggregator(5)],
    ids=["mean", "maximum", "histogram", "list"],
)
def test_description_does_not_change_by_collecting(made):
    used = made()
    before = branches.description(used)
    used.register_reduced_input(Tensor(np.linspace(-1, 2, 12, dtype=np.float32).reshape(3, 4)))
    assert branches.description(used) == before
    used.aggregate()
    assert branches.description(used) == before
