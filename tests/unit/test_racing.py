"""Racing: how often good candidates are stopped, how soon bad ones are, and what always holds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovquant.racing import ERROR, Constraint, Stop, blocks, judge

Values = dict[str, np.ndarray]
Race = tuple[Values, list[Constraint]]
N_POPULATIONS = 2000
N_ITEMS = 240


def scores(rng: np.random.Generator, n_items: int, n_wrong: int, n_lost: int, n_won: int) -> tuple[np.ndarray, np.ndarray]:
    """Return shuffled scores of 0 and 1 of a reference with so many wrong answers, and of a candidate."""
    reference, candidate = np.ones((2, n_items))
    reference[:n_wrong] = candidate[:n_wrong] = 0
    candidate[:n_won] = 1
    candidate[n_wrong : n_wrong + n_lost] = 0
    order = rng.permutation(n_items)
    return reference[order], candidate[order]


def drop_of(reference: np.ndarray, candidate: np.ndarray, limit: float) -> Race:
    return {"score": candidate}, [Constraint(name="score", kind="drop", limit=limit, other=reference, direction="maximize")]


def against(rival: np.ndarray, candidate: np.ndarray, ratio: float = 1.0) -> Race:
    """Return a race of a candidate scaled to that many times the rival's mean."""
    candidate = candidate * (ratio * rival.mean() / candidate.mean())
    return {"divergence": candidate}, [Constraint(name="divergence", kind="rival", limit=float(rival.mean()), other=rival)]


def lognormal_pair(
    rng: np.random.Generator, sigma: float, correlation: float, n_items: int = N_ITEMS, sigma_rival: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    common, own = rng.standard_normal((2, n_items))
    mixed = correlation * common + np.sqrt(1 - correlation**2) * own
    return np.exp((sigma if sigma_rival is None else sigma_rival) * common), np.exp(sigma * mixed)


def accuracy(discordance: float, n_below: int = 0, n_wrong: int = 60) -> Callable[[np.random.Generator], Race]:
    """A drop of so many items less than a limit of 3 in 240, with that share of answers that differ."""

    def race(rng: np.random.Generator) -> Race:
        net = 3 - n_below
        n_won = max(0, round((discordance * N_ITEMS - net) / 2))
        return drop_of(*scores(rng, N_ITEMS, n_wrong, n_won + net, n_won), limit=3 / N_ITEMS)

    return race


def real_scores(noise: float) -> Callable[[np.random.Generator], Race]:
    """Scores in 0..1, the drop exactly at its limit."""

    def race(rng: np.random.Generator) -> Race:
        reference = rng.beta(8, 2, N_ITEMS)
        candidate = np.clip(reference + noise * rng.standard_normal(N_ITEMS), 0, 1)
        return drop_of(reference, candidate, float(reference.mean() - candidate.mean()))

    return race


def unbounded_scores(rng: np.random.Generator) -> Race:
    reference, own = rng.standard_normal((2, N_ITEMS))
    candidate = 0.8 * reference + 0.6 * own
    return drop_of(reference, candidate, float(reference.mean() - candidate.mean()))


def divergence(sigma: float, share: float = 1.0, below: float = 1.0) -> Callable[[np.random.Generator], Race]:
    """Log-normal values of which the rest are zero, the mean at its limit, or that much of it."""

    def race(rng: np.random.Generator) -> Race:
        values = rng.lognormal(sigma=sigma, size=N_ITEMS) * (rng.permutation(N_ITEMS) < share * N_ITEMS)
        return {"divergence": values}, [Constraint(name="divergence", kind="divergence", limit=float(values.mean()) / below)]

    return race


def paired(sigma: float, correlation: float, sigma_rival: float | None = None) -> Callable[[np.random.Generator], Race]:
    return lambda rng: against(*lognormal_pair(rng, sigma, correlation, sigma_rival=sigma_rival))


def mostly_zero_pair(rng: np.random.Generator) -> Race:
    rival, candidate = lognormal_pair(rng, 1.5, 0.5)
    hit = rng.random(N_ITEMS) < 0.1
    return against(rival * hit + 1e-6, candidate * np.where(rng.random(N_ITEMS) < 0.2, rng.permutation(hit), hit) + 1e-6)


def all_at_once(rng: np.random.Generator) -> Race:
    values, limits = accuracy(0.1)(rng)
    rival, candidate = lognormal_pair(rng, 1.0, 0.5)
    more_values, more_limits = against(rival, candidate)
    limit = float(more_values["divergence"].mean())
    return values | more_values, [*limits, *more_limits, Constraint(name="divergence", kind="divergence", limit=limit)]


def is_stopped(race: Race) -> bool:
    """Look for a stop at the last look only, which it outlasts (tested below) unless a drop was left unjudged meanwhile."""
    values, constraints = race
    looks = blocks(N_ITEMS)[:-1]
    may_be_unjudged = any(limit.kind == "drop" and values[limit.name].max() > limit.other.max() for limit in constraints)
    return any(judge(N_ITEMS, upto(values, look), constraints) for look in (looks if may_be_unjudged else looks[-1:]))


def upto(values: Values, n_seen: int) -> Values:
    return {name: column[:n_seen] for name, column in values.items()}


def first_stop(race: Race, n_items: int) -> tuple[int, Stop | None]:
    values, constraints = race
    for look in blocks(n_items):
        stop = judge(n_items, upto(values, look), constraints)
        if stop is not None:
            return look, stop
    return n_items, None


GOOD = {
    "1 in 80 answers differs": accuracy(0.0125),
    "5 % of answers differ": accuracy(0.05),
    "15 % of answers differ": accuracy(0.15),
    "30 % of answers differ": accuracy(0.3),
    "5 % of answers differ, accurate reference": accuracy(0.05, n_wrong=10),
    "15 % of answers differ, one item below the limit": accuracy(0.15, n_below=1),
    "scores close to the reference's": real_scores(0.02),
    "scores far from the reference's": real_scores(0.3),
    "scores without bounds": unbounded_scores,
    "log-normal 0.5": divergence(0.5),
    "log-normal 1": divergence(1.0),
    "log-normal 2": divergence(2.0),
    "log-normal 1, 2 % below the limit": divergence(1.0, below=0.98),
    "mostly zero": divergence(2.0, share=0.05),
    "same mean as a rival that is alike": paired(1.0, 0.9),
    "same mean as a rival that is alike, heavy tails": paired(2.0, 0.9),
    "same mean as a rival that is unlike": paired(2.0, 0.0),
    "same mean as a rival with a lighter tail": paired(2.0, 0.5, sigma_rival=0.5),
    "same mean as a rival with a heavier tail": paired(0.5, 0.5, sigma_rival=2.0),
    "same mean as a rival, mostly zero": mostly_zero_pair,
    "three constraints at once": all_at_once,
}


@pytest.mark.parametrize("kind", GOOD)
def test_good_candidates_are_rarely_stopped(kind):
    rng = np.random.default_rng(1)
    n_stopped = sum(is_stopped(GOOD[kind](rng)) for _ in range(N_POPULATIONS))
    assert n_stopped <= ERROR * N_POPULATIONS


def test_lower_bound_holds_over_all_looks_at_once():
    rng = np.random.default_rng(2)
    n_items, n_races, n_above = 300, 150, 0
    for _ in range(n_races):
        values = rng.lognormal(sigma=1.0, size=n_items)
        constraint = Constraint(name="d", kind="divergence", limit=0.1 * values.mean())
        stops = [judge(n_items, {"d": values[:look]}, [constraint]) for look in blocks(n_items)]
        n_above += any(stop.bound > values.mean() for stop in stops if stop)
    assert n_above <= ERROR * n_races


def accuracy_stops(n_wrong: int, n_lost: int, n_won: int, n_races: int = 120) -> np.ndarray:
    """Return when 900 items, a limit of one point, and a rival that cannot be told apart stop a candidate."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(n_races):
        values, constraints = drop_of(*scores(rng, 900, n_wrong, n_lost, n_won), limit=0.01)
        more_values, more_constraints = against(*lognormal_pair(rng, 1.0, 0.5, n_items=900))
        found.append(first_stop((values | more_values, constraints + more_constraints), 900)[0])
    return np.array(found)


@pytest.mark.parametrize(
    ("n_wrong", "n_lost", "n_won", "share"),
    [(27, 180, 0, 0.97), (27, 198, 18, 0.95), (90, 180, 0, 0.95), (90, 198, 18, 0.85), (225, 198, 18, 0.8)],
)
def test_a_drop_of_20_points_stops_at_the_first_look_or_the_next(n_wrong, n_lost, n_won, share):
    stops = accuracy_stops(n_wrong, n_lost, n_won)
    assert np.mean(stops == 64) >= share
    assert np.mean(stops <= 96) >= 0.95


@pytest.mark.parametrize(("n_wrong", "n_lost", "n_won"), [(27, 45, 0), (90, 50, 5), (225, 59, 14)])
def test_a_drop_of_5_points_stops_after_some_hundred_items(n_wrong, n_lost, n_won):
    stops = accuracy_stops(n_wrong, n_lost, n_won)
    assert np.median(stops) <= 324
    assert np.mean(stops < 900) >= 0.9


@pytest.mark.parametrize(("sigma", "correlation", "look"), [(0.5, 0.5, 64), (1.0, 0.0, 64), (1.5, 0.5, 96), (2.0, 0.9, 216)])
def test_three_times_the_rivals_divergence_stops_early(sigma, correlation, look):
    rng = np.random.default_rng(4)
    stops = [first_stop(against(*lognormal_pair(rng, sigma, correlation, n_items=900), ratio=3.0), 900)[0] for _ in range(200)]
    assert np.mean(np.array(stops) <= look) >= 0.95


def test_pairing_sees_a_small_difference_sooner():
    rng = np.random.default_rng(5)
    with_items, without = [], []
    for _ in range(100):
        values, constraints = against(*lognormal_pair(rng, 1.5, 0.9, n_items=900), ratio=1.5)
        with_items.append(first_stop((values, constraints), 900)[0])
        alone = [Constraint(name="divergence", kind="rival", limit=constraints[0].limit)]
        without.append(first_stop((values, alone), 900)[0])
    assert np.mean(with_items) < 0.8 * np.mean(without)


def test_stop_says_what_was_found():
    rng = np.random.default_rng(6)
    values, constraints = drop_of(*scores(rng, 900, 27, 198, 18), limit=0.01)
    stop = judge(900, upto(values, 64), constraints)
    assert (stop.reason, stop.name, stop.limit, stop.n_seen) == ("limit", "score", 0.01, 64)
    assert 0.01 <= stop.bound <= 0.2

    race = against(*lognormal_pair(rng, 1.0, 0.5, n_items=900), ratio=3.0)
    stop = judge(900, upto(race[0], 64), race[1])
    assert (stop.reason, stop.name) == ("dominated", "divergence")
    assert race[1][0].limit <= stop.bound <= race[0]["divergence"].mean()


def test_stop_names_the_constraint_with_the_most_evidence():
    ones = np.ones(200)
    values = {"a": ones, "b": ones}
    mild, harsh = (Constraint(name=name, kind="divergence", limit=limit) for name, limit in (("a", 0.9), ("b", 0.01)))
    assert judge(200, upto(values, 64), [mild, harsh]).name == "b"
    assert judge(200, upto(values, 64), [harsh, mild]).name == "b"


def test_metrics_to_be_minimized_drop_when_they_rise():
    rng = np.random.default_rng(7)
    reference = rng.random(300)
    constraint = Constraint(name="error", kind="drop", limit=0.01, other=reference)
    assert judge(300, {"error": reference[:64] + 0.5}, [constraint]).reason == "limit"
    assert judge(300, {"error": (reference * 0.5)[:200]}, [constraint]) is None


def test_costs_that_already_exceed_what_all_items_may_cost_are_certain():
    values = np.zeros(200)
    values[70] = 1.0
    constraint = Constraint(name="d", kind="divergence", limit=0.0049)
    assert judge(200, {"d": values[:70]}, [constraint]) is None
    stop = judge(200, {"d": values[:71]}, [constraint])
    assert stop.bound == pytest.approx(1 / 200, rel=1e-3)


def test_a_limit_of_zero_is_broken_by_the_first_cost():
    constraint = Constraint(name="score", kind="drop", limit=0.0, other=np.ones(200), direction="maximize")
    candidate = np.ones(200)
    assert judge(200, {"score": candidate[:64]}, [constraint]) is None
    candidate[3] = 0.0
    assert judge(200, {"score": candidate[:64]}, [constraint]) is not None


def test_values_better_than_the_references_best_leave_a_drop_unjudged():
    reference, candidate = np.zeros(200), np.full(200, -1.0)
    constraint = Constraint(name="score", kind="drop", limit=0.0, other=reference, direction="maximize")
    assert judge(200, {"score": candidate[:64]}, [constraint]) is not None
    candidate[10] = 1.0
    assert judge(200, {"score": candidate[:64]}, [constraint]) is None


VALUES = st.lists(st.floats(0, 1e3) | st.sampled_from([0.0, 1.0]), min_size=2, max_size=60)
PAIRS = st.lists(st.tuples(st.floats(0, 1e3), st.floats(0, 1e3)), min_size=2, max_size=60)


@given(VALUES, st.floats(0, 1e3))
def test_nothing_stops_once_all_items_are_seen(costs, limit):
    constraint = Constraint(name="d", kind="divergence", limit=limit)
    assert judge(len(costs), {"d": np.array(costs)}, [constraint]) is None
    assert judge(len(costs), {"d": np.zeros(0)}, [constraint]) is None


@given(PAIRS, st.floats(0, 100), st.floats(0, 100), st.data())
def test_a_tighter_limit_stops_whatever_a_wider_one_stops(pairs, limit, slack, data):
    other, costs = np.array(pairs).T
    n_seen = data.draw(st.integers(1, len(costs) - 1))
    tight, wide = (Constraint(name="d", kind="drop", limit=value, other=other) for value in (limit, limit + slack))
    stopped = judge(len(costs), {"d": costs[:n_seen]}, [wide])
    assert stopped is None or judge(len(costs), {"d": costs[:n_seen]}, [tight]) is not None


@given(PAIRS, st.data())
def test_a_stop_and_its_bound_outlast_later_items(pairs, data):
    other, costs = np.array(pairs).T
    n_seen = data.draw(st.integers(1, len(costs) - 1))
    constraint = Constraint(name="d", kind="rival", limit=float(other.mean()), other=other)
    sooner, later = (judge(len(costs), {"d": costs[:count]}, [constraint]) for count in (n_seen, len(costs) - 1))
    assert sooner is None or later.bound >= sooner.bound * (1 - 1e-6) >= constraint.limit * (1 - 1e-6)


def test_the_bound_never_falls():
    values = np.where(np.arange(900) < 40, 1.0, 0.0)
    constraint = Constraint(name="d", kind="divergence", limit=0.045)
    bounds = [judge(900, {"d": values[:look]}, [constraint]).bound for look in blocks(900)[:-1]]
    assert bounds == pytest.approx(sorted(bounds), rel=1e-6)


@given(PAIRS)
def test_only_possible_outcomes_are_certain(pairs):
    """The last item may cost nothing, and then the limit is met; no product of bets reaches 1e300 within 60 items."""
    other, costs = np.array(pairs).T
    costs[-1] = 0
    constraint = Constraint(name="d", kind="rival", limit=float(costs.mean()), other=other)
    assert judge(len(costs), {"d": costs[:-1]}, [constraint], error=1e-300) is None


@given(st.integers(1, 100_000))
def test_looks_grow_and_end_with_all_items(n_items):
    looks = blocks(n_items)
    assert looks[-1] == n_items
    assert list(looks) == sorted(set(looks))
    assert len(looks) <= 20
    assert all(64 <= look <= 0.8 * n_items for look in looks[:-1])
    assert n_items >= 100 or looks == (n_items,)


def test_looks_at_some_counts():
    assert blocks(99) == (99,)
    assert blocks(100) == (64, 100)
    assert blocks(900) == (64, 96, 144, 216, 324, 486, 900)
    with pytest.raises(ValueError, match="no items"):
        blocks(0)


def test_constraints_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="a drop needs the reference's values"):
        Constraint(name="accuracy", kind="drop", limit=0.01)
    with pytest.raises(ValueError, match="always minimized"):
        Constraint(name="divergence", kind="rival", limit=0.01, direction="maximize")


def test_values_that_do_not_fit_are_refused():
    constraint = Constraint(name="d", kind="rival", limit=1.0, other=np.ones(10))
    with pytest.raises(ValueError, match="do not fit 10 items"):
        judge(10, {"d": np.ones(11)}, [constraint])
    with pytest.raises(ValueError, match="do not fit 12 items"):
        judge(12, {"d": np.ones(5)}, [constraint])
    with pytest.raises(ValueError, match="finite"):
        judge(10, {"d": np.array([1.0, np.nan])}, [constraint])
    with pytest.raises(ValueError, match="different numbers of items"):
        judge(10, {"d": np.ones(5), "e": np.ones(4)}, [constraint, Constraint(name="e", kind="divergence", limit=1.0)])


def test_nothing_watched_stops_nothing():
    assert judge(200, {"d": np.ones(64)}, []) is None
