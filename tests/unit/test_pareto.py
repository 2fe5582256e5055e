from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovquant.pareto import Array, crowding, dominates, front, gains, hypervolume, knee, rank, sort_keys

COORDINATE = st.integers(0, 5).map(float)  # few values, so that ties are common
VIOLATION = st.sampled_from([0.0, 0.0, 0.5, 1.0])
MEMBER = st.tuples(COORDINATE, COORDINATE, VIOLATION)
MEMBERS = st.lists(MEMBER, min_size=1, max_size=12)
POINTS = st.lists(st.tuples(COORDINATE, COORDINATE), min_size=1, max_size=12)
Member = tuple[float, float, float]


def arrays(members: list[Member]) -> tuple[Array, Array]:
    table = np.array(members, dtype=np.float64)
    return table[:, :2], table[:, 2]


def beats(first: Member, second: Member) -> bool:
    return dominates(np.array(first[:2]), np.array(second[:2]), first[2], second[2])


def beats_by_definition(first: Member, second: Member) -> bool:
    """Deb et al. 2002, definition 1, word by word."""
    if first[2] == 0 and second[2] > 0:
        return True
    if first[2] > 0 and second[2] > 0:
        return first[2] < second[2]
    if second[2] == 0 < first[2]:
        return False
    no_worse = first[0] <= second[0] and first[1] <= second[1]
    return no_worse and (first[0] < second[0] or first[1] < second[1])


@given(MEMBER, MEMBER)
def test_domination_is_the_published_definition(first: Member, second: Member) -> None:
    assert beats(first, second) == beats_by_definition(first, second)


@given(MEMBER)
def test_nothing_dominates_itself(member: Member) -> None:
    assert not beats(member, member)


@given(MEMBER, MEMBER)
def test_domination_goes_one_way(first: Member, second: Member) -> None:
    assert not (beats(first, second) and beats(second, first))


@given(MEMBERS)
def test_domination_is_transitive(members: list[Member]) -> None:
    for first, second, third in itertools.product(members[:7], repeat=3):
        if beats(first, second) and beats(second, third):
            assert beats(first, third)


@given(MEMBERS)
def test_rank_is_the_longest_chain_of_members_that_dominate_each_other(members: list[Member]) -> None:
    def depth(member: Member) -> int:
        return max((depth(other) + 1 for other in set(members) if beats_by_definition(other, member)), default=0)

    assert rank(*arrays(members)).tolist() == [depth(member) for member in members]


@given(MEMBERS)
def test_feasible_members_rank_before_infeasible_ones(members: list[Member]) -> None:
    objectives, violations = arrays(members)
    ranks = rank(objectives, violations)
    feasible = violations == 0
    if feasible.any() and not feasible.all():
        assert ranks[feasible].max() < ranks[~feasible].min()


@given(MEMBERS)
def test_infeasible_members_rank_by_violation(members: list[Member]) -> None:
    objectives, violations = arrays(members)
    ranks = rank(objectives, violations)
    for i, j in itertools.product(np.flatnonzero(violations > 0), repeat=2):
        assert (ranks[i] < ranks[j]) == (violations[i] < violations[j])


def test_rank_of_nothing_is_nothing() -> None:
    assert rank(np.empty((0, 2)), np.empty(0)).shape == (0,)


@given(MEMBERS)
def test_the_front_is_what_no_feasible_member_dominates(members: list[Member]) -> None:
    found = set(front(*arrays(members)).tolist())
    feasible = [i for i, member in enumerate(members) if member[2] == 0]
    expected = {i for i in feasible if not any(beats_by_definition(members[j], members[i]) for j in feasible)}
    assert found == expected
    assert bool(found) == bool(feasible)


@given(MEMBERS)
def test_the_front_is_ordered_by_the_first_objective(members: list[Member]) -> None:
    objectives, violations = arrays(members)
    first = objectives[front(objectives, violations), 0]
    assert (np.diff(first) >= 0).all()


def test_without_feasible_members_the_front_is_empty() -> None:
    assert front(np.zeros((3, 2)), np.ones(3)).size == 0


@given(POINTS)
def test_the_ends_of_each_objective_have_infinite_crowding_distance(points: list[tuple[float, float]]) -> None:
    objectives = np.array(points)
    distances = crowding(objectives)
    assert distances.shape == (len(points),)
    for column in objectives.T:
        assert np.isinf(distances[column == column.min()]).any()
        assert np.isinf(distances[column == column.max()]).any()


def test_crowding_distance_sums_the_gaps_between_neighbours_as_shares_of_the_span() -> None:
    objectives = np.array([[0.0, 10.0], [4.0, 0.0], [1.0, 4.0], [2.0, 2.0]])
    np.testing.assert_allclose(crowding(objectives), [np.inf, np.inf, 2 / 4 + 8 / 10, 3 / 4 + 4 / 10])


def test_an_objective_that_is_equal_everywhere_adds_nothing_between_the_ends() -> None:
    distances = crowding(np.array([[0.0, 7.0], [1.0, 7.0], [4.0, 7.0]]))
    np.testing.assert_allclose(distances, [np.inf, 1.0, np.inf])


@given(MEMBERS)
def test_sort_keys_go_by_rank_first(members: list[Member]) -> None:
    objectives, violations = arrays(members)
    keys = sort_keys(objectives, violations)
    assert [key[0] for key in keys] == rank(objectives, violations).tolist()


def test_sort_keys_prefer_the_lonely_within_a_front() -> None:
    objectives = np.array([[0.0, 4.0], [1.0, 3.0], [1.5, 2.5], [4.0, 0.0], [4.0, 4.0]])
    keys = sort_keys(objectives, np.zeros(5))
    order = sorted(range(5), key=keys.__getitem__)
    assert set(order[:2]) == {0, 3}
    assert order[2:] == [2, 1, 4]


def test_sort_keys_of_nothing_are_none() -> None:
    assert sort_keys(np.empty((0, 2)), np.empty(0)) == []


@given(POINTS)
def test_hypervolume_is_the_number_of_unit_cells_that_are_dominated(points: list[tuple[float, float]]) -> None:
    side = 4  # some points lie beyond the reference
    cells = itertools.product(range(side), repeat=2)
    n_dominated = sum(any(x <= column and y <= row for x, y in points) for column, row in cells)
    assert hypervolume(np.array(points), np.array([side, side], dtype=float)) == n_dominated


@given(POINTS, st.tuples(st.floats(-1, 6), st.floats(-1, 6)))
def test_hypervolume_never_shrinks_when_a_point_is_added(points: list[tuple[float, float]], more: tuple[float, float]) -> None:
    reference = np.array([5.0, 5.0])
    before, after = hypervolume(np.array(points), reference), hypervolume(np.array([*points, more]), reference)
    assert after >= before - 1e-9


@given(POINTS)
def test_hypervolume_does_not_depend_on_order_and_repetition(points: list[tuple[float, float]]) -> None:
    reference = np.array([5.0, 5.0])
    again = np.array([*reversed(points), *points])
    assert hypervolume(again, reference) == pytest.approx(hypervolume(np.array(points), reference))


@given(st.lists(st.tuples(COORDINATE, COORDINATE), max_size=12), POINTS)
def test_gains_are_what_each_point_alone_adds_to_the_hypervolume(found: list[tuple[float, float]], more: list[Any]) -> None:
    reference, held = np.array([4.0, 4.0]), np.array(found).reshape(-1, 2)
    expected = [hypervolume(np.vstack([held, point]), reference) - hypervolume(held, reference) for point in np.array(more)]
    assert gains(np.array(more), held, reference).tolist() == expected


def test_hypervolume_of_one_point_is_its_rectangle() -> None:
    assert hypervolume(np.array([[0.5, 0.25]]), np.array([1.0, 1.0])) == 0.5 * 0.75


@pytest.mark.parametrize("points", [np.empty((0, 2)), np.array([[2.0, 0.0]]), np.array([[1.0, 0.0]])])
def test_points_that_do_not_dominate_the_reference_have_no_hypervolume(points: Array) -> None:
    assert hypervolume(points, np.array([1.0, 1.0])) == 0


def test_the_knee_of_a_known_front_is_its_corner() -> None:
    assert knee(np.array([[0.0, 1.0], [0.1, 0.5], [0.2, 0.1], [0.6, 0.05], [1.0, 0.0]])) == 2


def test_the_knee_does_not_depend_on_units() -> None:
    points = np.array([[0.0, 1.0], [0.1, 0.5], [0.2, 0.1], [0.6, 0.05], [1.0, 0.0]])
    assert knee(points * [1e-6, 1e6] + [3.0, -7.0]) == 2


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=8), st.lists(st.floats(0.01, 1), min_size=2, max_size=8))
def test_the_knee_is_farthest_from_the_line_between_the_ends(right: list[float], down: list[float]) -> None:
    n_steps = min(len(right), len(down))
    xs = np.concatenate([[0], np.cumsum(right[:n_steps])])
    ys = np.concatenate([np.cumsum(down[:n_steps])[::-1], [0]])
    points = np.column_stack([xs, ys])
    scaled = points / points.max(axis=0)
    below_line = (1 - scaled.sum(axis=1)) / np.sqrt(2)  # the line from (0, 1) to (1, 0)
    assert below_line[knee(points)] == pytest.approx(below_line.max())


@pytest.mark.parametrize("points", [np.array([[3.0, 4.0]]), np.array([[3.0, 4.0], [3.0, 4.0]])])
def test_a_front_of_one_place_has_its_knee_there(points: Array) -> None:
    assert points[knee(points)].tolist() == [3.0, 4.0]
