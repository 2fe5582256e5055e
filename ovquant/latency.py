"""Paired latency: models take turns in bursts, and the interval comes from the variation between the turns."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import stats

from ovquant.protocols import Clock
from ovquant.records import Interval, Latency
from ovquant.targets import MeasurementPlan

Runner = Callable[[], None]
_MIN_BURST = 3
_MIN_VISITS = 6
_CONFIDENCE = 0.95


class SystemClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        """Return seconds."""
        return time.perf_counter()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bursts:
    """What was measured of one model: the median of each visit, and how many inferences that took."""

    medians_s: tuple[float, ...]
    n_inferences: int


def measure(runners: Mapping[str, Runner], plan: MeasurementPlan, clock: Clock) -> dict[str, Bursts]:
    """Run the models in turns and return the bursts of each.

    Every visit runs one burst of each model, in an order that alternates between visits; the first inferences of a burst
    warm the caches and are not counted. Slow models get shorter bursts, then fewer visits, to stay within the time limit;
    at least 6 visits of 3 counted inferences are made whatever it takes.

    Args:
        runners: name -> one inference.
        plan: bursts, visits and time limit per model.
        clock: source of time.
    """
    pace = {name: _warm_up(run, clock) for name, run in runners.items()}
    n_visits, bursts = _schedule(pace, plan)
    medians: dict[str, list[float]] = {name: [] for name in runners}
    n_counted = dict.fromkeys(runners, 0)
    for visit in range(n_visits):
        names = list(runners) if visit % 2 == 0 else list(runners)[::-1]
        for name in names:
            discard, counted = bursts[name]
            for _ in range(discard):
                runners[name]()
            times = _time_burst(runners[name], counted, clock)
            medians[name].append(float(np.median(times)))
            n_counted[name] += counted
    return {name: Bursts(medians_s=tuple(medians[name]), n_inferences=n_counted[name]) for name in runners}


def _warm_up(run: Runner, clock: Clock) -> float:
    """Run a model until its time settles and return the seconds of one inference."""
    run()
    return float(np.median(_time_burst(run, 3, clock)))


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
    return max(_MIN_VISITS, min(plan.visits, allowed)), bursts


def _time_burst(run: Runner, n_inferences: int, clock: Clock) -> list[float]:
    times = []
    for _ in range(n_inferences):
        start = clock.now()
        run()
        times.append(clock.now() - start)
    return times


def median_interval(values: Sequence[float]) -> Interval:
    """Return the median with a 95 % interval from order statistics (sign test; no assumption on the distribution).

    With fewer than 6 values no such interval reaches 95 %; the extremes are returned then.

    Source: David and Nagaraja, Order Statistics (2003), section 7.1.

    Args:
        values: independent observations.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n_values = len(ordered)
    # The interval [k-th smallest, k-th largest] misses the median with probability 2 * P(Binomial(n, 1/2) < k).
    k = int(stats.binom.ppf((1 - _CONFIDENCE) / 2, n_values, 0.5))
    while k > 0 and 2 * stats.binom.cdf(k - 1, n_values, 0.5) > 1 - _CONFIDENCE:
        k -= 1
    low = max(k - 1, 0)
    return Interval(value=float(np.median(ordered)), low=float(ordered[low]), high=float(ordered[n_values - 1 - low]))


def summarize(bursts: Bursts, baseline: Bursts, n_threads: int) -> Latency:
    """Return the latency of a model relative to the baseline measured in the same visits.

    Args:
        bursts: of the model.
        baseline: of the baseline; the model's own bursts give a ratio of exactly 1.
        n_threads: inference threads of the model.
    """
    ratios = np.array(bursts.medians_s) / np.array(baseline.medians_s)
    return Latency(
        median_ms=float(np.median(bursts.medians_s)) * 1e3,
        ratio=median_interval(ratios.tolist()),
        n_visits=len(ratios),
        n_inferences=bursts.n_inferences,
        bursts_ms=tuple(round(seconds * 1e3, 6) for seconds in bursts.medians_s),
        n_threads=n_threads,
    )


def relative_speedup(latency: Latency, other: Latency) -> Interval:
    """Return how many times as fast as `other` a model runs, both measured in the same visits."""
    ratio = median_interval([mine / theirs for mine, theirs in zip(latency.bursts_ms, other.bursts_ms, strict=True)])
    return Interval(value=1 / ratio.value, low=1 / ratio.high, high=1 / ratio.low)
