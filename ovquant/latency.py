"""Paired latency: models take turns in bursts, and the interval comes from the variation between the turns."""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ovquant.environment import MachineState, disturbances, machine_state
from ovquant.protocols import Clock
from ovquant.records import Interval, Latency
from ovquant.targets import LEAST_SPREAD_VISITS, LEAST_VISITS, MeasurementPlan

Runner = Callable[[], None]
_MIN_BURST = 3
_MIN_STRETCH = 4  # visits; even, so that each stretch holds as many visits in either order of the models
_MAX_STRETCHES = 8
_CONFIDENCE = 0.95
UNKNOWN = "reason unknown (shared or virtual machine?)"


class SystemClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        """Return seconds."""
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        """Let so many seconds pass."""
        time.sleep(seconds)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """What was measured of models that took turns; the first one is the baseline.

    Attributes:
        plan: what was asked for.
        samples_s: model -> one tuple per visit with the seconds of each counted inference.
        visited_s: when each visit began, in seconds since the first.
        states: of the machine, after each visit.
    """

    plan: MeasurementPlan
    samples_s: Mapping[str, tuple[tuple[float, ...], ...]]
    visited_s: tuple[float, ...]
    states: tuple[MachineState, ...]

    @property
    def baseline(self) -> str:
        """Name of the first model."""
        return next(iter(self.samples_s))

    def medians_s(self, name: str) -> NDArray[np.float64]:
        """Return the median inference of each visit to a model, shape [visits], in seconds."""
        return np.array([statistics.median(visit) for visit in self.samples_s[name]])

    def ratio(self, name: str) -> Interval:
        """Return a model's latency over the baseline's; the baseline's own is exactly 1."""
        return ratio_interval(self.medians_s(name) / self.medians_s(self.baseline), is_spread=self.plan.spread > 0)


def measure(
    runners: Mapping[str, Runner],
    plan: MeasurementPlan,
    clock: Clock,
    look: Callable[[], MachineState] = machine_state,
) -> Turns:
    """Run the models in turns.

    Every visit runs one burst of each model, in an order that alternates between visits; the first inferences of a burst
    warm the caches and are not counted. Slow models get shorter bursts, then fewer visits, to stay within the plan's seconds
    per model; at least 6 visits (12 of a spread plan) of 3 counted inferences are made whatever it takes.

    The visits of a spread plan begin at even distances, and nothing runs in between. Those of any other plan follow one
    another, and end early where the ratio of every model to the baseline is already known within the plan's tolerance.

    Args:
        runners: name -> one inference; the first one is the baseline.
        plan: bursts, visits, time per model and time over which they are spread.
        clock: source of time.
        look: reads the state of the machine.
    """
    pace = {name: _warm_up(run, clock) for name, run in runners.items()}
    n_visits, bursts = _schedule(pace, plan)
    turns = Turns(plan=plan, samples_s=dict.fromkeys(runners, ()), visited_s=(), states=())
    start = clock.now()
    while len(turns.visited_s) < n_visits and not _is_settled(turns):
        visit = len(turns.visited_s)
        names = list(runners) if visit % 2 == 0 else list(runners)[::-1]
        rest = start + visit * plan.spread / (n_visits - 1) - clock.now()
        if rest > 0:
            clock.sleep(rest)
            # After a rest the CPU is slow at first, and the system favours who rested: one burst takes that away.
            _run_burst(runners[names[0]], bursts[names[0]], clock)
        began = clock.now()
        times = {name: _run_burst(runners[name], bursts[name], clock) for name in names}
        turns = Turns(
            plan=plan,
            samples_s={name: (*visits, times[name]) for name, visits in turns.samples_s.items()},
            visited_s=(*turns.visited_s, began - start),
            states=(*turns.states, look()),
        )
    return turns


def _warm_up(run: Runner, clock: Clock) -> float:
    """Run a model until its time settles and return the seconds of one inference."""
    return float(np.median(_run_burst(run, (1, 3), clock)))


def _schedule(pace: Mapping[str, float], plan: MeasurementPlan) -> tuple[int, dict[str, tuple[int, int]]]:
    """Return the number of visits, and (discarded, counted) inferences per burst of each model."""
    bursts: dict[str, tuple[int, int]] = {}
    needed = 0.0
    for name, seconds in pace.items():
        affordable = int(plan.seconds / plan.visits / max(seconds, 1e-9))
        length = max(min(plan.burst, affordable), _MIN_BURST + 1)
        discard = min(plan.discard, max(1, length - _MIN_BURST)) if plan.discard else 0
        bursts[name] = (discard, max(_MIN_BURST, length - discard))
        needed += sum(bursts[name]) * seconds
    allowed = int(plan.seconds * len(pace) / max(needed, 1e-9))
    return max(LEAST_SPREAD_VISITS if plan.spread else LEAST_VISITS, min(plan.visits, allowed)), bursts


def _run_burst(run: Runner, burst: tuple[int, int], clock: Clock) -> tuple[float, ...]:
    """Run (discarded, counted) inferences and return the seconds of those that count."""
    discard, counted = burst
    for _ in range(discard):
        run()
    times = []
    for _ in range(counted):
        start = clock.now()
        run()
        times.append(clock.now() - start)
    return tuple(times)


def _is_settled(turns: Turns) -> bool:
    """Return whether no more visits are needed to know every ratio within the tolerance."""
    if turns.plan.spread or len(turns.visited_s) < LEAST_VISITS:
        return False
    return all(_width(turns.ratio(name)) <= turns.plan.tolerance for name in turns.samples_s if name != turns.baseline)


def _width(interval: Interval) -> float:
    return (interval.high - interval.low) / interval.value


def ratio_interval(ratios: NDArray[np.float64], *, is_spread: bool) -> Interval:
    """Return the median of the visits' ratios with a 95 % interval.

    Args:
        ratios: of the visits, shape [visits], in the order measured.
        is_spread: the visits were spread over time, and the interval is for the machine in the long run, see
            `long_run_interval`; False: for the time that was measured, see `median_interval`.
    """
    return long_run_interval(ratios) if is_spread else median_interval(ratios.tolist())


def median_interval(values: Sequence[float]) -> Interval:
    """Return the median with a 95 % interval from order statistics (sign test; no assumption on the distribution).

    With fewer than 6 values no such interval reaches 95 %; the extremes are returned then.

    Source: David and Nagaraja, Order Statistics (2003), section 7.1.

    Args:
        values: independent observations.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    low = _n_outside(len(ordered))
    return Interval(value=float(np.median(ordered)), low=float(ordered[low]), high=float(ordered[-1 - low]))


@functools.cache
def _n_outside(n_values: int) -> int:
    """Return how many values may be left out at either end of an interval of order statistics."""
    # The interval [k-th smallest, k-th largest] misses the median with probability 2 * P(Binomial(n, 1/2) < k).
    k = int(stats.binom.ppf((1 - _CONFIDENCE) / 2, n_values, 0.5))
    while k > 0 and 2 * stats.binom.cdf(k - 1, n_values, 0.5) > 1 - _CONFIDENCE:
        k -= 1
    return max(k - 1, 0)


def long_run_interval(ratios: NDArray[np.float64]) -> Interval:
    """Return the median ratio, and a 95 % interval for the ratio that the same machine gives in the long run.

    A machine changes its state over tens of seconds and drifts over minutes, so neighbouring visits are alike, and an
    interval for independent visits is too narrow. The visits are therefore cut into m <= 8 stretches of at least 4, and the
    medians of their log ratios are taken for single draws of what the machine does. With s their standard deviation and t
    Student's quantile of m - 1 degrees of freedom, t * s * sqrt(1 + 1/m) is how far one more stretch may lie from the
    centre. The long-run ratio, the middle of many stretches, lies that far out more rarely; this makes up for stretches that
    are themselves alike. The change D that a straight line through the stretches has over the whole measurement is added in
    quadrature, since such a drift began before and goes on after it. So the interval is

        median ratio * exp(+- sqrt(t^2 * s^2 * (1 + 1/m) + D^2))

    States that outlast the measurement and drifts more than about three times as long stay unseen.

    Sources: Schmeiser, Batch size effects in the analysis of simulation output, Operations Research 30 (1982), for few long
    stretches against serial dependence; Meeker, Hahn and Escobar, Statistical Intervals (2017), chapter 4, for the
    prediction interval. There it is centred on the mean; here on the median of all visits, which a few disturbed ones do not
    move. Taking the drift in is our own addition; the tests measure the coverage of the whole.

    Args:
        ratios: of visits at even distances in time, shape [visits], at least 8, positive.
    """
    logs = np.log(ratios)
    n_stretches = min(_MAX_STRETCHES, len(logs) // _MIN_STRETCH)
    medians = [np.median(stretch) for stretch in np.array_split(logs, n_stretches)]
    quantile = float(stats.t.ppf((1 + _CONFIDENCE) / 2, n_stretches - 1))
    another = quantile * float(np.std(medians, ddof=1)) * (1 + 1 / n_stretches) ** 0.5
    drift = n_stretches * float(np.polyfit(np.arange(n_stretches), medians, 1)[0])
    factor = float(np.exp(np.hypot(another, drift)))
    value = float(np.median(ratios))
    return Interval(value=value, low=value / factor, high=value * factor)


def summarize(turns: Turns, name: str, n_threads: int) -> Latency:
    """Return the latency of a model, relative to the baseline's in the same turns.

    Args:
        turns: what was measured.
        name: of the model.
        n_threads: inference threads of the model.
    """
    ratio = turns.ratio(name)
    is_steady = _width(ratio) <= turns.plan.tolerance
    samples = turns.samples_s[name]
    return Latency(
        median_ms=float(np.median(turns.medians_s(name))) * 1e3,
        ratio=ratio,
        n_visits=len(samples),
        n_inferences=sum(map(len, samples)),
        samples_ms=tuple(tuple(round(seconds * 1e3, 5) for seconds in visit) for visit in samples),
        visited_s=tuple(round(seconds, 3) for seconds in turns.visited_s),
        is_spread=turns.plan.spread > 0,
        n_threads=n_threads,
        unstable=None if is_steady else disturbances(turns.states) or UNKNOWN,
    )


def relative_speedup(latency: Latency, other: Latency) -> Interval:
    """Return how many times as fast as `other` a model runs, both measured in the same turns."""
    ratio = ratio_interval(np.array(latency.bursts_ms) / np.array(other.bursts_ms), is_spread=latency.is_spread)
    return Interval(value=1 / ratio.value, low=1 / ratio.high, high=1 / ratio.low)
