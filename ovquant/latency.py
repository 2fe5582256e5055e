"""Paired latency: models take turns in bursts, and the interval comes from the variation between the turns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ovquant.environment import disturbances
from ovquant.records import Interval, Latency
from ovquant.turns import Turns, median_bounds

_MIN_STRETCH = 4  # visits; even, so that each stretch holds as many visits in either order of the models
_MAX_STRETCHES = 8
_CONFIDENCE = 0.95
UNKNOWN = "reason unknown (shared or virtual machine?)"


def ratio_interval(ratios: NDArray[np.float64], *, is_spread: bool) -> Interval:
    """Return the median of the visits' ratios with a 95 % interval.

    Args:
        ratios: of the visits, shape [visits], in the order measured.
        is_spread: the visits were spread over time, and the interval is for the machine in the long run, see
            `long_run_interval`; False: for the time that was measured, see `median_interval`.
    """
    return long_run_interval(ratios) if is_spread else median_interval(ratios.tolist())


def median_interval(values: Sequence[float]) -> Interval:
    """Return the median with a 95 % interval from order statistics, see `ovquant.turns.median_bounds`."""
    value, low, high = median_bounds(values)
    return Interval(value=value, low=low, high=high)


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
    ratio = ratio_interval(turns.ratios(name), is_spread=turns.plan.spread > 0)
    is_steady = (ratio.high - ratio.low) / ratio.value <= turns.plan.tolerance
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
