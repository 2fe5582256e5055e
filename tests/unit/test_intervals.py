"""Confidence intervals: formulas, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovquant.metrics import intervals
from ovquant.metrics.intervals import bootstrap, exact_p, paired_drop
from ovquant.records import Interval

SCORES = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=80)


def paired(n_lost: int, n_won: int, n_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scores of 0 and 1 of a reference and a candidate which lost and won that many items."""
    reference, candidate = np.ones(n_items), np.ones(n_items)
    candidate[:n_lost] = 0
    reference[n_lost : n_lost + n_won] = 0
    return reference, candidate


def test_interval_of_scores_of_0_and_1_is_agresti_and_mins():
    found = paired_drop(*paired(n_lost=8, n_won=3, n_items=100))
    # N* = 102, b* = 8.5, c* = 3.5: centre 5 / 102, half width 1.959964 * sqrt(12 - 25 / 102) / 102.
    assert found.value == pytest.approx(0.05)
    assert found.low == pytest.approx(0.049020 - 0.065880, abs=1e-5)
    assert found.high == pytest.approx(0.049020 + 0.065880, abs=1e-5)


@pytest.mark.parametrize(("n_lost", "n_won", "expected"), [(0, 0, 1.0), (5, 0, 2 / 2**5), (1, 2, 1.0), (1, 7, 2 * 9 / 2**8)])
def test_the_exact_test_counts_the_discordant_items(n_lost: int, n_won: int, expected: float):
    assert exact_p(*paired(n_lost, n_won, 40)) == pytest.approx(expected)


def test_the_exact_test_is_of_scores_of_0_and_1_only():
    assert exact_p(np.array([0.5, 1.0]), np.array([1.0, 0.0])) is None


@given(SCORES)
def test_paired_interval_holds_the_estimate(pairs):
    reference, candidate = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    found = paired_drop(reference, candidate)
    assert found.value == pytest.approx((reference - candidate).mean())
    assert found.low <= found.value <= found.high


@given(SCORES)
def test_exchange_of_reference_and_candidate_mirrors_the_interval(pairs):
    reference, candidate = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    there, back = paired_drop(reference, candidate), paired_drop(candidate, reference)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


@given(st.integers(1, 1000))
def test_paired_interval_has_width_where_no_answer_differs(n_items):
    found = paired_drop(*paired(0, 0, n_items))
    assert found.low < 0 < found.high


def test_paired_interval_shrinks_with_more_items():
    few, many = paired_drop(*paired(2, 1, 50)), paired_drop(*paired(20, 10, 500))
    assert many.high - many.low < (few.high - few.low) / 2


def test_paired_interval_is_honest_where_few_answers_differ():
    rng = np.random.default_rng(0)
    p_lost, p_won, n_items, n_draws = 0.02, 0.01, 200, 2000
    n_held = 0
    for n_lost, n_won, _ in rng.multinomial(n_items, [p_lost, p_won, 1 - p_lost - p_won], size=n_draws):
        found = paired_drop(*paired(n_lost, n_won, n_items))
        n_held += found.low <= p_lost - p_won <= found.high
    assert 0.93 <= n_held / n_draws <= 0.995


def test_scores_other_than_0_and_1_get_the_interval_of_their_mean_difference():
    rng = np.random.default_rng(0)
    reference, candidate = rng.random((2, 50))
    assert paired_drop(reference, candidate) == intervals.mean(reference - candidate)


def test_interval_of_a_mean_holds_the_truth_roughly_as_often_as_it_says():
    rng = np.random.default_rng(0)
    n_draws, n_held = 150, 0
    for values in rng.exponential(size=(n_draws, 60)):
        found = intervals.mean(values)
        n_held += found.low <= 1 <= found.high
    assert 0.86 <= n_held / n_draws <= 0.99


@pytest.mark.parametrize(("n_items", "most"), [(20, 0.09), (100, 0.055), (400, 0.04)])
def test_the_upper_end_of_skewed_values_is_rarely_below_the_truth(n_items: int, most: float):
    drawn = np.random.default_rng(0).lognormal(0, 1, size=(1000, n_items))
    highs = np.array([intervals.mean(values).high for values in drawn])
    assert np.mean(highs < np.exp(0.5)) <= most


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=60))
def test_interval_of_a_mean_holds_it_and_is_mirrored_with_the_values(items: list[float]):
    values = np.array(items)
    found, mirrored = intervals.mean(values), intervals.mean(-values)
    assert found.low <= found.value <= found.high
    assert (found.low, found.high) == pytest.approx((-mirrored.high, -mirrored.low), rel=1e-6, abs=1e-6)


def test_two_items_tell_next_to_nothing_of_their_mean():
    found = intervals.mean(np.array([0.3, 0.4]))
    assert found.low < -0.2
    assert found.high > 0.9


def test_equal_items_have_an_interval_without_width():
    assert intervals.mean(np.full(5, 0.25)) == Interval(value=0.25, low=0.25, high=0.25)


def test_interval_of_a_mean_is_as_wide_as_the_normal_one_for_normal_values():
    values = np.random.default_rng(0).normal(size=400)
    found = intervals.mean(values)
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_interval_of_a_mean_is_the_same_each_time():
    values = np.random.default_rng(0).normal(size=30)
    assert intervals.mean(values) == intervals.mean(values)


def test_bootstrap_of_a_mean_agrees_with_the_interval_of_a_mean():
    values = np.random.default_rng(0).normal(size=100)
    found, expected = bootstrap(lambda picks: float(values[picks].mean()), 100, 500), intervals.mean(values)
    assert found.value == pytest.approx(expected.value)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.05)


def test_bootstrap_leaves_out_resamples_that_raise_value_error():
    values, told = np.arange(20.0), []

    def mean_below_eleven(picks: np.ndarray) -> float:
        mean = float(values[picks].mean())
        if mean >= 11:
            raise ValueError("made to fail")
        told.append(mean)
        return mean

    found = bootstrap(mean_below_eleven, 20, 300)
    resampled = told[:-1]  # the last one is of all items
    assert 240 <= len(resampled) < 300
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(resampled, [2.5, 97.5])))
    assert found.value == 9.5


def test_bootstrap_that_loses_more_than_a_fifth_of_the_resamples_gives_no_interval():
    values = np.arange(20.0)

    def mean_below_average(picks: np.ndarray) -> float:
        if values[picks].mean() > 9.5:
            raise ValueError("made to fail")
        return float(values[picks].mean())

    assert bootstrap(mean_below_average, 20, 300) is None


def test_bootstrap_of_what_never_varies_gives_no_interval():
    assert bootstrap(lambda picks: 0.25, 20, 50) is None


def test_paired_scores_that_never_differ_give_no_interval_unless_they_are_0_and_1():
    scores = np.linspace(0.1, 0.9, 30)
    assert paired_drop(scores, scores) is None


def test_bootstrap_passes_on_what_is_no_value_error():
    def broken(picks: np.ndarray) -> float:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        bootstrap(broken, 5, 10)
