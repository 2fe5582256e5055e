"""Paired latency, on a clock that the tests script."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from fakes.clock import FakeModel, ScriptedClock
from hypothesis import given
from hypothesis import strategies as st

from ovquant.environment import MachineState
from ovquant.latency import long_run_interval, median_interval, relative_speedup, summarize
from ovquant.records import Latency
from ovquant.targets import MeasurementPlan
from ovquant.turns import Turns, measure

MS = 2.0**-10  # a power of two, so that sums and ratios of times are exact
NEVER = 1e-9  # a tolerance that no jitter meets: all visits are made
PLAN = MeasurementPlan(visits=12, burst=25, discard=5, seconds=4.0, tolerance=NEVER)
SPREAD = MeasurementPlan(visits=24, burst=10, discard=2, seconds=4.0, spread=120.0, tolerance=0.1)
Cost = float | Callable[[float], float]


def jittered(seconds: float, *, seed: int = 0, sd: float = 0.02) -> Callable[[float], float]:
    """Return a cost with a stationary jitter of its own, so that no interval has the width zero."""
    rng = np.random.default_rng([seed, round(seconds / MS)])
    return lambda now: seconds * math.exp(sd * rng.standard_normal())


class Bench:
    """Fake models on one clock; the first one is the baseline."""

    def __init__(self, plan: MeasurementPlan = PLAN, *, cold_seconds: float = 0.0, **costs: Cost) -> None:
        self.clock, self.journal, self.plan = ScriptedClock(), [], plan
        self.models = {name: FakeModel(self.clock, self.journal, name, seconds, cold_seconds) for name, seconds in costs.items()}

    def measure(self, look: Callable[[], MachineState] = MachineState) -> Turns:
        return measure(self.models, self.plan, self.clock, look)

    def latency(self, look: Callable[[], MachineState] = MachineState) -> Latency:
        """Return the latency of the model ``candidate`` over that of the first one."""
        return summarize(self.measure(look), "candidate", 1)

    def bursts(self) -> list[tuple[str, int]]:
        """Return (model, inferences) of each stretch in which one model ran, without the warm-up."""
        n_warm_up = 4 * len(self.models)
        return [(name, len(list(run))) for name, run in itertools.groupby(self.journal[n_warm_up:])]


def turns(plan: MeasurementPlan = PLAN, **medians_s: tuple[float, ...]) -> Turns:
    """Return turns by hand: three equal inferences in each visit."""
    n_visits = {len(medians) for medians in medians_s.values()}.pop()
    return Turns(
        plan=plan,
        samples_s={name: tuple((median,) * 3 for median in medians) for name, medians in medians_s.items()},
        visited_s=tuple(np.linspace(0, plan.spread or 1, n_visits)),
        states=(),
    )


# Turns


def test_order_alternates_between_visits():
    bench = Bench(a=jittered(MS), b=jittered(2 * MS), c=jittered(4 * MS))
    bench.measure()
    names = [name for name, _ in bench.bursts()]
    # The last model of a visit is the first of the next one, so that their bursts run on.
    assert names == ["a", "b", "c", "b"] * 6 + ["a"]


def test_every_visit_runs_one_burst_of_each_model():
    bench = Bench(a=jittered(MS), b=jittered(2 * MS))
    found = bench.measure()
    assert [len(found.samples_s[name]) for name in "ab"] == [12, 12]
    assert [bench.journal.count(name) for name in "ab"] == [4 + 12 * 25] * 2


def test_first_inferences_of_a_burst_are_not_counted():
    found = Bench(a=jittered(MS), b=jittered(2 * MS)).measure()
    assert {len(visit) for name in "ab" for visit in found.samples_s[name]} == {25 - 5}


@pytest.mark.parametrize("candidate_ms", [1, 10, 40])
def test_cold_first_inference_after_a_switch_does_not_count(candidate_ms):
    latency = Bench(cold_seconds=64 * MS, baseline=8 * MS, candidate=candidate_ms * MS).latency()
    assert latency.ratio.low == latency.ratio.value == latency.ratio.high == candidate_ms / 8


def test_slow_first_inference_of_all_does_not_shorten_the_bursts():
    def compiling_first(now: float) -> float:
        return 1.0 if now == 0 else MS

    found = Bench(a=compiling_first, b=jittered(MS)).measure()
    assert sum(map(len, found.samples_s["a"])) == 12 * 20


def test_plan_without_discards_counts_every_inference():
    bench = Bench(MeasurementPlan(visits=6, burst=10, discard=0), a=MS, b=MS)
    assert [len(visit) for visit in bench.measure().samples_s["a"]] == [10] * 6


def test_visits_are_dated_from_the_first_one():
    found = Bench(a=jittered(MS), b=jittered(MS, seed=1)).measure()
    assert found.visited_s[0] == 0
    assert np.diff(found.visited_s) == pytest.approx([50 * MS] * 11, rel=0.1)


# End of a measurement


def test_measurement_ends_after_six_visits_where_the_ratios_are_known():
    found = Bench(MeasurementPlan(visits=12, tolerance=0.03), a=MS, b=jittered(2 * MS, sd=0.001)).measure()
    assert len(found.visited_s) == 6


def test_measurement_goes_on_while_one_ratio_is_not_known():
    plan = MeasurementPlan(visits=12, tolerance=0.03)
    found = Bench(plan, a=MS, b=MS, c=lambda now: MS * (1 + 0.5 * np.sin(40 * now))).measure()
    assert len(found.visited_s) == 12


@pytest.mark.parametrize("milliseconds", [1, 8, 20, 50])
def test_measurement_stays_near_the_time_limit_per_model(milliseconds):
    bench = Bench(baseline=jittered(milliseconds * MS), candidate=jittered(2 * milliseconds * MS))
    bench.measure()
    warm_up_s = 4 * 3 * milliseconds * MS
    assert bench.clock.now() <= 2 * PLAN.seconds * 1.05 + warm_up_s


def test_slow_model_gets_shorter_bursts_than_a_fast_one():
    found = Bench(baseline=jittered(MS), candidate=jittered(40 * MS)).measure()
    assert [len(visit) for visit in found.samples_s["baseline"]] == [20] * 12
    assert all(3 <= len(visit) < 20 for visit in found.samples_s["candidate"])


def test_models_too_slow_for_short_bursts_get_fewer_visits():
    found = Bench(baseline=jittered(100 * MS), candidate=jittered(120 * MS)).measure()
    assert 6 <= len(found.samples_s["candidate"]) < 12
    assert len(found.samples_s["candidate"]) == len(found.samples_s["baseline"])


@pytest.mark.parametrize("seconds", [1.0, 64.0])
@pytest.mark.parametrize(("plan", "least"), [(PLAN, 6), (SPREAD, 12)])
def test_the_least_visits_of_three_counted_inferences_are_made_however_slow_a_model_is(seconds, plan, least):
    found = Bench(plan, baseline=jittered(seconds), candidate=jittered(seconds * 2)).measure()
    assert [len(visit) for visit in found.samples_s["candidate"]] == [3] * least


@given(st.floats(1e-6, 10), st.floats(1e-6, 10), st.integers(6, 30), st.integers(4, 60), st.integers(0, 20))
def test_any_plan_gives_as_many_bursts_of_each_model_and_three_counted_inferences_in_each(fast, slow, visits, burst, discard):
    plan = MeasurementPlan(visits=visits, burst=burst, discard=min(discard, burst - 1), seconds=1.0)
    found = Bench(plan, a=fast, b=slow).measure()
    n_visits = {len(found.samples_s[name]) for name in "ab"} | {len(found.visited_s), len(found.states)}
    assert len(n_visits) == 1
    assert 6 <= n_visits.pop() <= visits
    assert all(len(visit) >= 3 for name in "ab" for visit in found.samples_s[name])


# Visits that are spread over time


def test_spread_visits_begin_at_even_distances_and_span_the_time_asked_for():
    found = Bench(SPREAD, a=MS, b=2 * MS).measure()
    assert len(found.visited_s) == 24
    assert found.visited_s[-1] >= 120
    assert np.diff(found.visited_s) == pytest.approx([120 / 23] * 23, abs=0.02)


def test_every_rest_ends_with_one_burst_that_does_not_count():
    bench = Bench(SPREAD, a=MS, b=2 * MS)
    found = bench.measure()
    # The first model of a visit wakes the machine up, in 23 of 24 visits; 4 inferences warmed up.
    assert [bench.journal.count(name) for name in "ab"] == [4 + (24 + 11) * 10, 4 + (24 + 12) * 10]
    assert sum(map(len, found.samples_s["a"])) == 24 * 8


def test_a_rest_ends_with_five_milliseconds_of_a_fast_model():
    bench = Bench(SPREAD, a=MS / 4, b=MS / 4)
    bench.measure()
    assert [bench.journal.count(name) for name in "ab"] == [4 + 24 * 10 + 11 * 21, 4 + 24 * 10 + 12 * 21]


def test_an_inference_that_is_slow_after_a_rest_does_not_count():
    class Tired(ScriptedClock):
        last_sleep = -1.0

        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            self.last_sleep = self.now()

    bench = Bench(SPREAD, baseline=MS)
    bench.clock = Tired()
    slow_at_first = [lambda now: MS * (1 + 3 * (now - bench.clock.last_sleep < 8 * MS)) for _ in range(2)]
    bench.models = {
        name: FakeModel(bench.clock, bench.journal, name, cost)
        for name, cost in zip(["baseline", "candidate"], slow_at_first, strict=True)
    }
    assert {time for visits in bench.measure().samples_s.values() for visit in visits for time in visit} == {MS}


def test_spread_visits_of_slow_models_follow_one_another_once_they_are_late():
    bench = Bench(SPREAD.model_copy(update={"spread": 3.0}), a=20 * MS, b=40 * MS)
    found = bench.measure()
    assert found.visited_s[-1] > 3
    assert len(found.visited_s) == 24
    assert len(bench.bursts()) == 24 + 1


def test_spread_measurement_is_carried_to_its_end_however_steady_it_is():
    assert len(Bench(SPREAD, baseline=MS, candidate=MS).measure().visited_s) == 24


# Ratios


def test_ratio_of_the_baseline_to_itself_is_exactly_one():
    found = Bench(baseline=jittered(MS, sd=0.3), candidate=MS).measure()
    latency = summarize(found, "baseline", 1)
    assert (latency.ratio.low, latency.ratio.value, latency.ratio.high, latency.unstable) == (1, 1, 1, None)


@pytest.mark.parametrize("plan", [PLAN, SPREAD])
@pytest.mark.parametrize("factor", [0.25, 0.75, 1, 3])
def test_ratio_of_models_of_constant_speed_is_exact(factor, plan):
    latency = Bench(plan, baseline=4 * MS, candidate=4 * factor * MS).latency()
    assert latency.ratio.value == factor
    assert (latency.ratio.low, latency.ratio.high) == (pytest.approx(factor, rel=1e-12), pytest.approx(factor, rel=1e-12))
    assert latency.median_ms == 4 * factor * MS * 1000


def test_gradual_drift_common_to_both_models_cancels():
    def drift(now: float) -> float:
        return 1 + now / 2

    latency = Bench(baseline=lambda now: 2 * MS * drift(now), candidate=lambda now: MS * drift(now)).latency()
    assert max(latency.bursts_ms) > 1.3 * min(latency.bursts_ms)
    assert latency.ratio.value == pytest.approx(0.5, rel=0.005)
    assert latency.ratio.low <= 0.5 <= latency.ratio.high


def test_machine_that_slows_down_at_once_leaves_the_ratio():
    plan = PLAN.model_copy(update={"tolerance": 0.03})
    slow = Bench(plan, baseline=lambda now: MS * (1 + (now > 0.2)), candidate=lambda now: 2 * MS * (1 + (now > 0.2)))
    latency = slow.latency()
    assert max(latency.bursts_ms) == pytest.approx(2 * min(latency.bursts_ms), rel=1e-4)
    assert latency.ratio.value == 2


def test_outliers_within_bursts_do_not_move_the_ratio():
    turn = itertools.count()
    latency = Bench(baseline=MS, candidate=lambda now: MS * (200 if next(turn) % 8 == 7 else 2)).latency()
    assert (latency.ratio.low, latency.ratio.value, latency.ratio.high) == (2, 2, 2)


def test_whole_bursts_that_were_disturbed_do_not_move_the_ratio():
    found = turns(baseline=(MS,) * 12, candidate=(2 * MS,) * 10 + (50 * MS,) * 2)
    latency = summarize(found, "candidate", 1)
    assert (latency.ratio.low, latency.ratio.value, latency.ratio.high) == (2, 2, 2)
    assert latency.median_ms == 2 * MS * 1000


def test_latency_tells_what_it_was_taken_from():
    found = Bench(baseline=MS, candidate=jittered(2 * MS)).measure()
    latency = summarize(found, "candidate", 3)
    assert (latency.n_visits, latency.n_inferences, latency.n_threads, latency.is_spread) == (12, 240, 3, False)
    assert np.array(latency.samples_ms) == pytest.approx(np.array(found.samples_s["candidate"]) * 1000, abs=1e-5)
    assert latency.visited_s == pytest.approx(found.visited_s, abs=1e-3)
    assert latency.bursts_ms == pytest.approx(np.median(latency.samples_ms, axis=1))


def test_latency_of_a_spread_plan_says_so():
    latency = Bench(SPREAD, baseline=MS, candidate=2 * MS).latency()
    assert latency.is_spread
    assert latency.visited_s[-1] >= 120


def test_speedup_is_the_inverse_of_the_ratio():
    found = turns(baseline=(1.0,) * 7, candidate=(0.25, 0.5, 0.5, 0.5, 0.5, 0.5, 2.0))
    speedup = summarize(found, "candidate", 1).speedup
    assert (speedup.low, speedup.value, speedup.high) == (0.5, 2, 4)


def test_relative_speedup_compares_two_candidates_visit_by_visit():
    drift = np.array([1, 2, 3, 4, 5, 6])
    found = turns(baseline=(4.0,) * 6, one=tuple(2.0 * drift), other=tuple(3.0 * drift))
    speedup = relative_speedup(summarize(found, "one", 1), summarize(found, "other", 1))
    assert (speedup.low, speedup.value, speedup.high) == pytest.approx((1.5, 1.5, 1.5))


@pytest.mark.parametrize("plan", [PLAN, SPREAD])
def test_relative_speedup_over_the_baseline_is_the_speedup(plan):
    found = Bench(plan, baseline=jittered(MS), candidate=jittered(2 * MS)).measure()
    mine, theirs = summarize(found, "candidate", 1), summarize(found, "baseline", 1)
    relative = relative_speedup(mine, theirs)
    assert relative.low < relative.value < relative.high
    for end in ("low", "value", "high"):
        assert getattr(relative, end) == pytest.approx(getattr(mine.speedup, end), rel=1e-4)


# Steadiness


def test_ratio_within_the_tolerance_is_steady():
    assert Bench(SPREAD, baseline=MS, candidate=jittered(MS)).latency().unstable is None


@pytest.mark.parametrize("plan", [PLAN, SPREAD])
def test_ratio_beyond_the_tolerance_is_unstable_for_no_reason_that_is_known(plan):
    latency = Bench(plan, baseline=MS, candidate=jittered(MS, sd=0.5)).latency()
    assert latency.unstable == "reason unknown (shared or virtual machine?)"


def test_what_can_be_read_of_the_machine_is_the_reason():
    looks = itertools.count()

    def look() -> MachineState:
        seconds = next(looks)
        return MachineState(cpu_seconds=2.0 * seconds, others_seconds=0.5 * seconds)

    latency = Bench(SPREAD, baseline=MS, candidate=jittered(MS, sd=0.5)).latency(look)
    assert latency.unstable == "other processes took 25 % of the CPU time"


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


# Interval for the long run


def test_long_run_interval_follows_its_formula():
    logs = np.repeat([0.0, 0.02, -0.01, 0.03, 0.01, 0.04], 4)
    found = long_run_interval(2 * np.exp(logs))
    medians = logs[::4]
    slope = (medians @ (np.arange(6) - 2.5)) / 17.5  # least squares: 17.5 is the sum of squares of -2.5 .. 2.5
    half = math.hypot(2.570582 * medians.std(ddof=1) * math.sqrt(7 / 6), 6 * slope)  # 97.5 % of t with 5 degrees of freedom
    value = 2 * math.exp(0.015)
    assert (found.low, found.value, found.high) == pytest.approx(
        (value * math.exp(-half), value, value * math.exp(half)), rel=1e-4
    )


@given(st.lists(st.floats(0.1, 10), min_size=8, max_size=60))
def test_long_run_interval_of_inverse_ratios_is_the_inverse(ratios):
    found, inverse = long_run_interval(np.array(ratios)), long_run_interval(1 / np.array(ratios))
    assert 0 < found.low <= found.value <= found.high
    if len(ratios) % 2:  # of an even number the median is a mean
        assert (1 / inverse.high, 1 / inverse.value, 1 / inverse.low) == pytest.approx((found.low, found.value, found.high))


# Coverage: a thousand measurements each, on synthetic noise. The candidate takes twice the baseline's time in the long run.

RUNS = 1000
Script = Callable[[float], float]
Noise = Callable[[np.random.Generator, float], tuple[Script, Script]]


def steady(now: float) -> float:
    return 0.0


def in_turns(rng: np.random.Generator, until: float, seconds: tuple[float, float], levels: Callable[[int], np.ndarray]) -> Script:
    """Return a function of time with one level after the other; they last so long on average, exponentially distributed."""
    n_levels = 60 + int(2.4 * until / sum(seconds))
    ends = rng.exponential(np.resize(seconds, n_levels)).cumsum() - rng.uniform(0, sum(seconds))
    chosen, at = levels(n_levels).tolist(), ends.tolist()
    return lambda now: chosen[bisect.bisect(at, now)]


def jitter(rng: np.random.Generator, span: float) -> tuple[Script, Script]:
    """Nothing but the jitter of each inference."""
    return steady, steady


def common_drift(rng: np.random.Generator, span: float) -> tuple[Script, Script]:
    """Both models become slower by 30 % over the measurement."""
    return lambda now: 0.3 * now / span, steady


def ratio_drift(rng: np.random.Generator, span: float) -> tuple[Script, Script]:
    """The ratio drifts by 12 % in a time three times as long as the measurement, which lies anywhere in it."""
    begin = rng.uniform(0, 2)
    return steady, lambda now: 0.12 * ((begin + now / span) / 3 - 0.5)


def load(rng: np.random.Generator, span: float) -> tuple[Script, Script]:
    """Other processes run a fifth of the time, for a 24th of the measurement each, and hit one model more than the other."""

    def levels(n_levels: int) -> np.ndarray:
        return np.where(np.arange(n_levels) % 2, 0.15 * rng.standard_normal(n_levels), 0.0)

    return lambda now: 0.4, in_turns(rng, 1.2 * span, (span / 6, span / 24), levels)


def two_states(rng: np.random.Generator, span: float) -> tuple[Script, Script]:
    """The ratio differs by 8 % between two states of the machine, which last a sixth of the measurement."""
    sign = rng.choice([-1, 1])
    return steady, in_turns(rng, 1.2 * span, (span / 6, span / 6), lambda n: 0.04 * sign * (-1.0) ** np.arange(n))


def outliers(rng: np.random.Generator, span: float) -> tuple[Script, Script]:
    """One visit in four or five is off by a heavy-tailed amount."""

    def levels(n_levels: int) -> np.ndarray:
        return np.where(np.arange(n_levels) % 2, np.clip(0.3 * rng.standard_t(1.5, n_levels), -2, 2), 0.0)

    return steady, in_turns(rng, 1.2 * span, (60 * MS, 4 * MS), levels)


def coverage_of(noise: Noise, plan: MeasurementPlan) -> float:
    """Return the share of measurements whose interval holds the ratio."""
    rng = np.random.default_rng(0)
    span = plan.spread or plan.visits * plan.burst * 3 * MS

    def is_held() -> bool:
        common, ratio = noise(rng, span)
        jitters = iter(rng.normal(0, 0.02, 4 * plan.visits * plan.burst).tolist())
        bench = Bench(
            plan,
            baseline=lambda now: MS * math.exp(common(now) + next(jitters)),
            candidate=lambda now: 2 * MS * math.exp(common(now) + ratio(now) + next(jitters)),
        )
        found = bench.latency().ratio
        return found.low <= 2 <= found.high

    return sum(is_held() for _ in range(RUNS)) / RUNS


@pytest.mark.parametrize("noise", [jitter, common_drift, ratio_drift, load, two_states, outliers])
@pytest.mark.parametrize("n_visits", [12, 24, 96])
def test_interval_of_spread_visits_covers_the_ratio_in_the_long_run(noise, n_visits):
    plan = MeasurementPlan(visits=n_visits, burst=4, discard=1, spread=120.0, seconds=4.0)
    assert coverage_of(noise, plan) >= 0.93


@pytest.mark.parametrize("noise", [jitter, common_drift, load, outliers])
def test_interval_of_visits_in_a_row_covers_the_ratio_at_that_time(noise):
    plan = MeasurementPlan(visits=12, burst=4, discard=1, tolerance=0.03)
    assert coverage_of(noise, plan) >= 0.93


def test_interval_of_visits_in_a_row_is_not_for_the_long_run():
    plan = MeasurementPlan(visits=12, burst=4, discard=1, tolerance=0.03)
    assert coverage_of(two_states, plan) < 0.9
