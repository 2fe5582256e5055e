"""95 % confidence intervals for means and for paired differences over items."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ovquant.records import Interval

_CONFIDENCE = 0.95
_Z = float(stats.norm.ppf(0.5 + _CONFIDENCE / 2))
_LEAST_SHARE = 0.8
_SYMMETRIC = 1e-6  # below that the cubic tells nothing but rounding


def paired_drop(reference: NDArray[np.float64], candidate: NDArray[np.float64]) -> Interval | None:
    """Return mean(reference - candidate) with its interval, paired per item.

    Scores of 0 and 1 get the interval of Agresti and Min (Statistics in Medicine 24, 2005, section 3): Wald's with half an
    observation added to each cell, which stays honest where few or no answers differ. Others get that of `mean`.

    Args:
        reference: scores, shape [N].
        candidate: scores of the same items, shape [N].

    Returns:
        None where there is no interval, as for `bootstrap`.
    """
    differences = reference - candidate
    is_binary = bool(np.isin(reference, (0, 1)).all() and np.isin(candidate, (0, 1)).all())
    if not is_binary:
        interval = mean(differences)
        return interval if interval.high > interval.low else None
    lost = float(np.sum(differences > 0)) + 0.5
    won = float(np.sum(differences < 0)) + 0.5
    n_items = len(differences) + 2.0
    centre = (lost - won) / n_items
    half = _Z * np.sqrt((lost + won) - (lost - won) ** 2 / n_items) / n_items
    value = float(differences.mean())
    return Interval(value=value, low=min(value, float(centre - half)), high=max(value, float(centre + half)))


def exact_p(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    """Return how likely a difference at least as large would be if neither model were right more often (two-sided).

    The exact test of McNemar: of the items on which just one of the two is right, each is right on half of them by chance.

    Args:
        first: scores, shape [N].
        second: scores of the same items, shape [N].

    Returns:
        None unless all scores are 0 or 1.
    """
    if not (np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all()):
        return None
    won, lost = int(np.sum(first > second)), int(np.sum(first < second))
    return float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0


def mean(values: NDArray[np.float64]) -> Interval:
    """Return the mean with an interval that allows for skewness, without which a few large values are seen too rarely.

    Student's t of the mean, made symmetric by the monotone cubic of Hall (Journal of the Royal Statistical Society B 54, 1992,
    p. 221) before it is compared with the quantiles. Of log-normal values (sigma 1) the upper end is below the truth in 6 % of
    samples of 20 and in 3 % of 448; that of a bootstrap percentile interval in 14 and 6 %.

    Args:
        values: one per item, shape [N].
    """
    value, n_items = float(values.mean()), len(values)
    deviation = float(values.std())
    if n_items == 1 or deviation == 0:
        return Interval(value=value, low=value, high=value)
    skewness = float(np.mean(((values - value) / deviation) ** 3))
    error = deviation / (n_items - 1) ** 0.5
    quantile = float(stats.t.ppf((1 + _CONFIDENCE) / 2, n_items - 1))
    high, low = (value - error * _untransformed(t, skewness / n_items**0.5) for t in (-quantile, quantile))
    return Interval(value=value, low=min(value, low), high=max(value, high))


def _untransformed(t: float, skewness: float) -> float:
    """Return the Student's t that Hall's cubic makes a given one of.

    Args:
        t: symmetric one.
        skewness: of the values, over the root of their number.
    """
    if abs(skewness) < _SYMMETRIC:
        return t
    return 3 / skewness * (float(np.cbrt(1 + skewness * (t - skewness / 6))) - 1)


def bootstrap(statistic: Callable[[NDArray[np.int64]], float], n_items: int, n_resamples: int) -> Interval | None:
    """Return a statistic over all items with its bootstrap percentile interval.

    Args:
        statistic: of item indices, shape [N]; resamples for which it raises ValueError are left out.
        n_items: N.
        n_resamples: how often to draw.

    Returns:
        None where the resamples tell nothing: all are equal (the bootstrap cannot see what no item shows), or more than a
        fifth was left out.
    """
    rng = np.random.default_rng(n_items)
    drawn = []
    for _ in range(n_resamples):
        try:
            drawn.append(statistic(rng.integers(n_items, size=n_items)))
        except ValueError:
            continue
    if len(drawn) < _LEAST_SHARE * n_resamples or np.ptp(drawn) == 0:
        return None
    value, tail = statistic(np.arange(n_items)), 50 * (1 - _CONFIDENCE)
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return Interval(value=value, low=min(value, float(low)), high=max(value, float(high)))
