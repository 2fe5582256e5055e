"""Pareto logic as functions on arrays. All objectives are minimized; a violation of 0 is feasible."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def dominates(first: Array, second: Array, first_violation: float = 0.0, second_violation: float = 0.0) -> bool:
    """Return True if `first` constrained-dominates `second` (Deb et al. 2002, definition 1).

    Args:
        first: objectives, shape [M].
        second: likewise.
        first_violation: total constraint violation of `first`, 0 if feasible.
        second_violation: likewise.
    """
    if first_violation != second_violation:
        return first_violation < second_violation
    if first_violation > 0:
        return False
    return bool(np.all(first <= second) and np.any(first < second))


def rank(objectives: Array, violations: Array) -> NDArray[np.int64]:
    """Return the index of the constrained non-dominated front that each row is on, from 0, shape [N].

    Args:
        objectives: shape [N, M], finite.
        violations: shape [N], 0 if feasible.
    """
    n_rows = len(objectives)
    beats = np.zeros((n_rows, n_rows), dtype=bool)
    for i in range(n_rows):
        for j in range(n_rows):
            beats[i, j] = i != j and dominates(objectives[i], objectives[j], violations[i], violations[j])
    ranks = np.full(n_rows, -1, dtype=np.int64)
    current = 0
    while (ranks < 0).any():
        open_rows = ranks < 0
        front = open_rows & ~beats[open_rows].any(axis=0)
        ranks[front] = current
        current += 1
    return ranks


def crowding(objectives: Array) -> Array:
    """Return the crowding distance within one front, shape [N]; infinite at the ends (Deb et al. 2002, section III-B).

    Args:
        objectives: shape [N, M].
    """
    n_rows, n_objectives = objectives.shape
    distances = np.zeros(n_rows)
    for column in range(n_objectives):
        order = np.argsort(objectives[:, column], kind="stable")
        values = objectives[order, column]
        span = values[-1] - values[0]
        distances[order[[0, -1]]] = np.inf
        if span > 0 and n_rows > 2:
            distances[order[1:-1]] += (values[2:] - values[:-2]) / span
    return distances


def sort_keys(objectives: Array, violations: Array) -> list[tuple[float, float]]:
    """Return one key per row, smaller is better: front index, then negative crowding distance within the front.

    Args:
        objectives: shape [N, M].
        violations: shape [N].
    """
    ranks = rank(objectives, violations)
    spread = np.zeros(len(objectives))
    for front in range(int(ranks.max(initial=-1)) + 1):
        members = ranks == front
        spread[members] = crowding(objectives[members])
    return [(float(r), -float(s)) for r, s in zip(ranks, spread, strict=True)]


def front(objectives: Array, violations: Array) -> NDArray[np.int64]:
    """Return the positions of the feasible non-dominated rows, ordered by the first objective.

    Args:
        objectives: shape [N, 2].
        violations: shape [N], 0 if feasible.
    """
    feasible = np.flatnonzero(violations <= 0)
    if not len(feasible):
        return feasible
    ordered = feasible[np.lexsort((objectives[feasible, 1], objectives[feasible, 0]))]
    first, second = objectives[ordered].T
    group = np.searchsorted(first, first)  # where those of the same first objective begin, with the best of them
    before = np.r_[np.inf, np.minimum.accumulate(second)][group]  # the best second one of all that are better in the first
    return np.asarray(ordered[(second < before) & (second == second[group])], dtype=np.int64)


def knee(objectives: Array) -> int:
    """Return the row farthest from the line between the ends of a two-objective front, each objective scaled to 0..1.

    Args:
        objectives: non-dominated rows, shape [N, 2], N >= 1.
    """
    low, high = objectives.min(axis=0), objectives.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    scaled = (objectives - low) / span
    return int(np.argmin(scaled.sum(axis=1)))


def gains(points: Array, objectives: Array, reference: Array) -> Array:
    """Return by how much the `hypervolume` of some rows would grow with each point alone, shape [P].

    Left of each member of their front is a strip in which the one before it is the lowest: what a point adds is cut into those.

    Args:
        points: shape [P, 2].
        objectives: shape [N, 2].
        reference: shape [2]; what is beyond it counts nothing.
    """
    inside = objectives[(objectives < reference).all(axis=1)]
    steps = inside[front(inside, np.zeros(len(inside)))]
    left, right = np.r_[-np.inf, steps[:, 0]], np.r_[steps[:, 0], reference[0]]
    ceiling = np.r_[reference[1], steps[:, 1]]
    widths = np.clip(right - np.maximum(left, points[:, :1]), 0.0, None)
    heights = np.clip(ceiling - points[:, 1:], 0.0, None)
    added: Array = (widths * heights).sum(axis=1)
    return added


def hypervolume(objectives: Array, reference: Array) -> float:
    """Return the area that a set of points dominates up to `reference`, two objectives.

    Args:
        objectives: shape [N, 2].
        reference: shape [2]; points beyond it count nothing.
    """
    inside = objectives[(objectives < reference).all(axis=1)]
    area, ceiling = 0.0, float(reference[1])
    for x, y in inside[np.lexsort((inside[:, 1], inside[:, 0]))]:
        if y < ceiling:
            area += (float(reference[0]) - float(x)) * (ceiling - float(y))
            ceiling = float(y)
    return area
