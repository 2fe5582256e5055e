"""Paired latency, on a clock that the tests script."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from fakes.clock import FakeModel, ScriptedClock
from hypothesis import given
from hypothesis import strategies as st

from ovquant.latency import Bursts, measure, median_interval, relative_speedup, summarize
from ovquant.records import Latency
from ovquant.targets import MeasurementPlan

MS = 2.0**-10  # a power of two, so that sums and ratios of times are exact
PLAN = MeasurementPlan(visits=12, burst=25, discard=5, seconds=4.0)
Cost = float | Callable[[float], float]


class Bench:
    """Fake models on one clock."""

    def __init__(self, plan: MeasurementPlan = PLAN, *, cold_seconds: float = 0.0, **costs: Cost) -> None:
        self.clock, self.journal, self.plan = ScriptedClock(), [], plan
        self.models = {name: FakeModel(self.clock, self.journal, name, seconds, cold_seconds) for name, seconds in costs.items()}

    def measure(self) -> dict[str, Bursts]:
        return measure(self.models, self.plan, self.clock)

    def ratio(self) -> Latency:
        """Return the latency of the model ``candidate`` over that of ``baseline``."""
        bursts = self.measure()
        return summarize(bursts["candidate"], bursts["baseline"], 1)

    def turns(self) -> list[tuple[str, int]]:
        """Return (model, inferences) of each stretch in which one model ran, without the warm-up."""
        n_warm_up = 4 * len(self.models)
        return [(name, len(list(run))) for name, run in itertools.groupby(self.journal[n_warm_up:])]


# Turns


def test_order_alternates_between_visits():
    bench = Bench(a=MS, b=2 * MS, c=4 * MS)
    bench.measure()
    names = [name for name, _ in bench.turns()]
    # The last model of a visit is the first of the next one, so that their bursts run on.
    assert names == ["a", "b", "c", "b"] * 6 + ["a"]


def test_every_visit_runs_one_burst_of_each_model():
    bench = Bench(a=MS, b=2 * MS)
    bursts = bench.measure()
    assert [len(bursts[name].medians_s) for name in "ab"] == [12, 12]
    assert [bench.journal.count(name) for name in "ab"] == [4 + 12 * 25] * 2


def test_first_inferences_of_a_burst_are_not_counted():
    bursts = Bench(a=MS, b=2 * MS).measure()
    assert bursts["a"].n_inferences == bursts["b"].n_inferences == 12 * (25 - 5)


@pytest.mark.parametrize("candidate_ms", [1, 10, 40])
def test_cold_first_inference_after_a_switch_does_not_count(candidate_ms):
    bench = Bench(cold_seconds=64 * MS, baseline=8 * MS, candidate=candidate_ms * MS)
    latency = bench.ratio()
    assert latency.ratio.low == latency.ratio.value == latency.ratio.high == candidate_ms / 8


def test_slow_first_inference_of_all_does_not_shorten_the_bursts():
    def compiling_first(now: float) -> float:
        return 1.0 if now == 0 else MS

    assert Bench(a=compiling_first).measure()["a"].n_inferences == 12 * 20


def test_plan_without_discards_counts_every_inference():
    bench = Bench(MeasurementPlan(visits=6, burst=10, discard=0), a=MS, b=MS)
    assert bench.measure()["a"].n_inferences == 6 * 10


# Time limit


@pytest.mark.parametrize("milliseconds", [1, 8, 20, 50])
def test_measurement_stays_near_the_time_limit_per_model(milliseconds):
    bench = Bench(baseline=milliseconds * MS, candidate=2 * milliseconds * MS)
    bench.measure()
    warm_up_s = 4 * 3 * milliseconds * MS
    assert bench.clock.now() <= 2 * PLAN.seconds * 1.05 + warm_up_s


def test_slow_model_gets_shorter_bursts_than_a_fast_one():
    bursts = Bench(baseline=MS, candidate=40 * MS).measure()
    assert bursts["baseline"].n_inferences == 12 * 20
    assert 12 * 3 <= bursts["candidate"].n_inferences < 12 * 20


def test_models_too_slow_for_short_bursts_get_fewer_visits():
    bursts = Bench(baseline=100 * MS, candidate=120 * MS).measure()
    assert 6 <= len(bursts["candidate"].medians_s) < 12
    assert len(bursts["candidate"].medians_s) == len(bursts["baseline"].medians_s)


@pytest.mark.parametrize("seconds", [1.0, 64.0])
def test_six_visits_of_three_counted_inferences_are_made_however_slow_a_model_is(seconds):
    bursts = Bench(baseline=seconds, candidate=seconds * 2).measure()
    assert len(bursts["candidate"].medians_s) == 6
    assert bursts["candidate"].n_inferences == 6 * 3


@given(st.floats(1e-6, 10), st.floats(1e-6, 10), st.integers(6, 30), st.integers(4, 60), st.integers(0, 20))
def test_any_plan_gives_as_many_bursts_of_each_model_and_three_counted_inferences_in_each(fast, slow, visits, burst, discard):
    plan = MeasurementPlan(visits=visits, burst=burst, discard=min(discard, burst - 1), seconds=1.0)
    bursts = Bench(plan, a=fast, b=slow).measure()
    n_visits = {len(each.medians_s) for each in bursts.values()}
    assert len(n_visits) == 1
    assert 6 <= n_visits.pop() <= visits
    assert all(each.n_inferences >= 3 * len(each.medians_s) for each in bursts.values())


# Ratios


def test_ratio_of_the_baseline_to_itself_is_exactly_one():
    rng = np.random.default_rng(0)
    bursts = Bench(baseline=lambda now: MS * (1 + rng.random())).measure()["baseline"]
    latency = summarize(bursts, bursts, 1)
    assert (latency.ratio.low, latency.ratio.value, latency.ratio.high) == (1, 1, 1)


@pytest.mark.parametrize("factor", [0.25, 0.75, 1, 3])
def test_ratio_of_models_of_constant_speed_is_exact(factor):
    latency = Bench(baseline=4 * MS, candidate=4 * factor * MS).ratio()
    assert (latency.ratio.low, latency.ratio.value, latency.ratio.high) == (factor, factor, factor)
    assert latency.median_ms == 4 * factor * MS * 1000


def test_gradual_drift_common_to_both_models_cancels():
    def drift(now: float) -> float:
        return 1 + now / 2

    bench = Bench(baseline=lambda now: 2 * MS * drift(now), candidate=lambda now: MS * drift(now))
    latency = bench.ratio()
    assert max(latency.bursts_ms) > 1.3 * min(latency.bursts_ms)
    assert latency.ratio.value == pytest.approx(0.5, rel=0.005)
    assert latency.ratio.low <= 0.5 <= latency.ratio.high


def test_machine_that_slows_down_at_once_leaves_the_ratio():
    bench = Bench(baseline=lambda now: MS * (1 + (now > 0.4)), candidate=lambda now: 2 * MS * (1 + (now > 0.4)))
    latency = bench.ratio()
    assert max(latency.bursts_ms) == 2 * min(latency.bursts_ms)
    assert latency.ratio.value == 2


def test_outliers_within_bursts_do_not_move_the_ratio():
    turn = itertools.count()
    latency = Bench(baseline=MS, candidate=lambda now: MS * (200 if next(turn) % 8 == 7 else 2)).ratio()
    assert (latency.ratio.low, latency.ratio.value, latency.ratio.high) == (2, 2, 2)


def test_whole_bursts_that_were_disturbed_do_not_move_the_ratio():
    baseline = Bursts(medians_s=(MS,) * 12, n_inferences=240)
    candidate = Bursts(medians_s=(2 * MS,) * 10 + (50 * MS,) * 2, n_inferences=240)
    latency = summarize(candidate, baseline, 1)
    assert (latency.ratio.low, latency.ratio.value, latency.ratio.high) == (2, 2, 2)
    assert latency.median_ms == 2 * MS * 1000


def test_latency_tells_what_it_was_taken_from():
    bursts = Bench(baseline=MS, candidate=2 * MS).measure()
    latency = summarize(bursts["candidate"], bursts["baseline"], 3)
    assert (latency.n_visits, latency.n_inferences, latency.n_threads) == (12, 240, 3)
    assert latency.bursts_ms == (2 * MS * 1000,) * 12


def test_speedup_is_the_inverse_of_the_ratio():
    baseline = Bursts(medians_s=(1.0,) * 7, n_inferences=21)
    candidate = Bursts(medians_s=(0.25, 0.5, 0.5, 0.5, 0.5, 0.5, 2.0), n_inferences=21)
    speedup = summarize(candidate, baseline, 1).speedup
    assert (speedup.low, speedup.value, speedup.high) == (0.5, 2, 4)


def test_relative_speedup_compares_two_candidates_visit_by_visit():
    baseline = Bursts(medians_s=(4 * MS,) * 6, n_inferences=18)
    drift = np.array([1, 2, 3, 4, 5, 6]) * MS
    one = summarize(Bursts(medians_s=tuple(2 * drift), n_inferences=18), baseline, 1)
    other = summarize(Bursts(medians_s=tuple(3 * drift), n_inferences=18), baseline, 1)
    found = relative_speedup(one, other)
    assert (found.low, found.value, found.high) == pytest.approx((1.5, 1.5, 1.5))


# Interval of a median


def test_interval_of_twelve_values_is_the_third_smallest_to_the_third_largest():
    found = median_interval([12, 3, 7, 1, 9, 5, 11, 2, 8, 4, 10, 6])
    assert (found.low, found.value, found.high) == (3, 6.5, 10)


def coverage(n_missed_each_side: int, n_values: int) -> float:
    """Return the probability that the interval without so many values on each side holds the median (binomial sum)."""
    missed = sum(math.comb(n_values, i) for i in range(n_missed_each_side + 1))
    return 1 - 2 * missed / 2**n_values


@pytest.mark.parametrize("n_values", range(6, 41))
def test_interval_of_a_median_covers_95_percent_and_is_no_wider_than_it_must_be(n_values):
    found = median_interval(range(1, n_values + 1))
    rank = int(found.low)
    assert found.high == n_values + 1 - rank
    assert coverage(rank - 1, n_values) >= 0.95
    assert coverage(rank, n_values) < 0.95


@pytest.mark.parametrize("n_values", range(1, 6))
def test_interval_of_too_few_values_is_their_whole_range(n_values):
    found = median_interval(range(1, n_values + 1))
    assert (found.low, found.high) == (1, n_values)


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=60))
def test_interval_of_a_median_holds_it(values):
    found = median_interval(values)
    assert found.value == np.median(values)
    assert min(values) <= found.low <= found.value <= found.high <= max(values)
