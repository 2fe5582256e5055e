"""Racing: when some of the validation items are enough to see that all of them will not change the verdict.

A candidate is validated in blocks over a shuffled order of the N items. After each block `judge` tells whether the mean over
all N items will almost surely break a limit, or will be worse than that of a candidate that is no slower.

The items are a finite population drawn without replacement, and what is tested is its mean. The test is by betting
(Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86, 2024, on sampling without
replacement; for costs without an upper bound Kaplan's martingales in Stark, "Sets of half-average nulls generate risk-limiting
audits", 2020). Let costs y_1, y_2 ... be at least 0 and their mean over all N items at most m. Then item i costs at most
m_i = (N m - y_1 - ... - y_(i-1)) / (N - i + 1) on average, given those before it, and the capital

    K_n = product over i <= n of (1 + f (y_i / m_i - 1)),    0 < f < 1 fixed,

starts at 1, is never negative, and does not grow on average. So it ever reaches 1 / e with probability e at most (Ville 1939):
at whatever items, and however often, one looks. The closer n is to N, the faster it grows where the mean is above m. Weighted
means of such capitals keep that property, which pays for several bets f, several ways of pairing and several constraints at
once. Nothing is assumed of the costs but that they are not negative: rare large ones, still unseen, could only raise the mean.

Pairing is with values r of another model that are known on all N items (the reference for drops, the rival for divergence).
The cost is then y = x + c - min(r, c): at least 0 as x is, with a mean that differs from that of x by a known number, and less
scattered where x and r go together. The cap c keeps rare large r from making every bet small; any c is valid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

# Chance that a good candidate is stopped, over all looks and constraints.
ERROR = 0.05
_FEWEST_ITEMS = 100
_FIRST_LOOK = 64
_LOOK_GROWTH = 1.5
# A look with fewer than this share of the items still ahead would save too little.
_LEAST_AHEAD = 0.2
# Bets f, a factor 3 apart: the best one between two of them earns at most a third more than its neighbours. Large ones, which
# decide within few items, get more of the capital: there is most to be saved.
_BETS = np.array([0.05, 0.15, 0.45, 0.9])
_WEIGHTS = np.sqrt(_BETS) / np.sqrt(_BETS).sum()
# Beside bets without pairing. Caps c are such that min(r, c) keeps these shares of the sum of r; for r of 0 and 1 they are c.
_KEPT_SHARES = (0.5, 0.9)
_ROUNDING = 1e-9
_TINY = 1e-200
_N_HALVINGS = 25


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Constraint:
    """What a candidate has to meet on all N items.

    Attributes:
        name: key of the per-item values that it is about.
        kind: ``drop`` limits how much worse than the reference the mean may be; ``divergence`` limits the mean itself; ``rival``
            does so with the mean of a fully measured feasible candidate that is certainly not slower.
        limit: in the unit of the values.
        other: values of another model on all items, shape [N], in the order in which the candidate sees them: of the reference
            for a drop, of the rival for ``rival``, where they sharpen the test and may be left out; likewise for ``divergence``.
        direction: of the values of a drop; others are always minimized.
    """

    name: str
    kind: Literal["drop", "divergence", "rival"]
    limit: float
    other: Floats | None = None
    direction: Literal["minimize", "maximize"] = "minimize"

    def __post_init__(self) -> None:
        """Check what belongs together.

        Raises:
            ValueError: a drop without the reference's values, or a divergence to be maximized.
        """
        if self.kind == "drop" and self.other is None:
            raise ValueError(f"{self.name}: a drop needs the reference's values")
        if self.kind != "drop" and self.direction != "minimize":
            raise ValueError(f"{self.name}: a {self.kind} is always minimized")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Why a candidate need not be validated to the end.

    Attributes:
        reason: ``limit`` for a broken limit, ``dominated`` for a rival that is better and no slower.
        name: of the values.
        bound: lower 95 % confidence bound of the drop, or of the mean divergence, over all N items; at least `limit`.
        limit: that it exceeds.
        n_seen: items that were enough.
    """

    reason: Literal["limit", "dominated"]
    name: str
    bound: float
    limit: float
    n_seen: int


def blocks(n_items: int) -> tuple[int, ...]:
    """Return after how many items to look; the last entry is all of them, when nothing is left to be stopped.

    Raises:
        ValueError: there are no items.
    """
    if n_items < 1:
        raise ValueError("there are no items to race on")
    looks = []
    look = float(_FIRST_LOOK)
    while n_items >= _FEWEST_ITEMS and look <= (1 - _LEAST_AHEAD) * n_items:
        looks.append(round(look))
        look *= _LOOK_GROWTH
    return (*looks, n_items)


def judge(n_items: int, values: Mapping[str, Floats], constraints: Sequence[Constraint], error: float = ERROR) -> Stop | None:
    """Return why a candidate can be stopped after the items seen so far, or None.

    A candidate that meets all constraints on all N items is stopped at any of its looks with probability `error` at most, over
    the random order of the items. That order must be the same for all models and chosen before any is looked at.

    Of a drop it is assumed that no item's value is better than the best of the reference's N values (1 for accuracy), but for a
    ninth of the distance from there to the reference's mean. Values that turn out better still leave the drop unjudged.

    Args:
        n_items: N, all validation items.
        values: per-item values of the candidate so far by name, shape [n] each, in the common order.
        constraints: all that are watched; the same ones at every look.
        error: of all looks and constraints together.

    Returns:
        The constraint with the most evidence against it; always None for n = N and n = 0.

    Raises:
        ValueError: values are not finite, or shapes do not fit.
    """
    if not constraints:
        return None
    seen = [_checked(values[constraint.name], constraint, n_items) for constraint in constraints]
    n_seen = len(seen[0])
    if any(len(column) != n_seen for column in seen):
        raise ValueError(f"constraints have seen different numbers of items: {[len(column) for column in seen]}")
    if n_seen in {0, n_items}:
        return None
    games = [_Game.of(constraint, column, n_items) for constraint, column in zip(constraints, seen, strict=True)]
    capitals = np.stack([game.capital(constraint.limit) for game, constraint in zip(games, constraints, strict=True)])
    # The capital is shared out among the constraints, so that the guarantee holds for all of them together.
    shared = capitals.mean(axis=0)
    peak = int(np.argmax(shared))
    if shared[peak] < 1 / error:
        return None
    broken = int(np.argmax(capitals[:, peak]))
    constraint = constraints[broken]
    return Stop(
        reason="dominated" if constraint.kind == "rival" else "limit",
        name=constraint.name,
        bound=games[broken].lower_bound(constraint.limit, error),
        limit=constraint.limit,
        n_seen=n_seen,
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Game:
    """What is bet on for one constraint.

    Attributes:
        costs: y, one row per way of pairing, shape [P, n].
        offsets: mean of the costs over all N items minus what is limited, shape [P].
        n_items: N.
        is_fair: False where costs turned out below what was taken for the least.
    """

    costs: Floats
    offsets: Floats
    n_items: int
    is_fair: bool

    @classmethod
    def of(cls, constraint: Constraint, values: Floats, n_items: int) -> _Game:
        """Turn the values seen into costs."""
        sign = -1.0 if constraint.direction == "maximize" else 1.0
        others = np.zeros(0) if constraint.other is None else sign * np.asarray(constraint.other, dtype=np.float64)
        least = float(others.min()) if constraint.kind == "drop" else 0.0
        costs, others = sign * values - least, np.maximum(others - least, 0.0)
        offset = float(others.mean()) if constraint.kind == "drop" else 0.0
        rows, offsets = [costs], [offset]
        for cap in _caps(others):
            capped = np.minimum(others, cap)
            rows.append(costs + cap - capped[: len(costs)])
            offsets.append(offset + cap - float(capped.mean()))
        # Down to here the largest bet loses no more than all of its capital.
        floor = -(1 / _BETS.max() - 1) * offset - _ROUNDING
        is_fair = bool(costs.min() >= floor)
        return cls(costs=np.stack(rows), offsets=np.asarray(offsets), n_items=n_items, is_fair=is_fair)

    def capital(self, limit: float) -> Floats:
        """Return the capital after each item, shape [n], if what is limited is taken to be `limit`; infinite is certainty."""
        n_seen = self.costs.shape[1]
        if not self.is_fair:
            return np.zeros(n_seen)
        # A mean that equals the limit but for rounding meets it.
        sums = (self.offsets + limit)[:, None] * self.n_items * (1 + _ROUNDING)
        left = sums - np.cumsum(self.costs, axis=1)
        before = np.concatenate([sums, left[:, :-1]], axis=1)
        means = np.maximum(before, _TINY) / (self.n_items - np.arange(n_seen))
        factors = np.maximum(1 + _BETS[:, None, None] * (self.costs / means - 1), _TINY)
        with np.errstate(over="ignore", under="ignore"):
            capitals = np.cumprod(factors, axis=2)
            # More was spent than all items may cost.
            capitals[:, left < 0] = np.inf
            return np.asarray(np.tensordot(_WEIGHTS, capitals, axes=1).mean(axis=0))

    def lower_bound(self, limit: float, error: float) -> float:
        """Return the largest limit that is refuted at `error`, not less than one that is known to be.

        The capital falls as the limit rises, so that halving finds it.
        """
        low = limit
        step = max(abs(limit), float(self.costs.mean()), _TINY)
        while self._refutes(low + step, error):
            low, step = low + step, 2 * step
        for _ in range(_N_HALVINGS):
            step /= 2
            low = low + step if self._refutes(low + step, error) else low
        return low

    def _refutes(self, limit: float, error: float) -> bool:
        return bool(self.capital(limit).max() >= 1 / error)


def _caps(others: Floats) -> list[float]:
    """Return the caps c > 0 at which the sum of min(r, c) is a given share of the sum of r; none where all r are 0.

    Args:
        others: r >= 0, shape [N].
    """
    if not others.any():
        return []
    ordered = np.sort(others)
    # The sum of min(r, c) is linear in c between neighbours of the ordered values.
    kept = np.cumsum(ordered) + ordered * np.arange(len(ordered) - 1, -1, -1)
    return [float(np.interp(share * kept[-1], [0.0, *kept], [0.0, *ordered])) for share in _KEPT_SHARES]


def _checked(values: Floats, constraint: Constraint, n_items: int) -> Floats:
    """Return a constraint's values.

    Raises:
        ValueError: they are not finite, or shapes do not fit.
    """
    column = np.asarray(values, dtype=np.float64)
    other = np.zeros(n_items) if constraint.other is None else np.asarray(constraint.other, dtype=np.float64)
    if column.ndim != 1 or len(column) > n_items or other.shape != (n_items,):
        raise ValueError(f"{constraint.name}: shapes {column.shape} and {other.shape} do not fit {n_items} items")
    if not (np.isfinite(column).all() and np.isfinite(other).all()):
        raise ValueError(f"{constraint.name}: values must be finite")
    return column
