from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovquant import pareto
from ovquant.surrogate import features, learn

SIZES = (2, 3, 2, 2, 2)
EVERY = list(itertools.product(*(range(size) for size in SIZES)))
SEEDS = st.integers(0, 2**32 - 1)


def measured(genome: tuple[int, ...]) -> tuple[float, float]:
    """A trade-off in three genes; the second gene only does harm."""
    divergence = 0.02 * 0.5 ** (genome[0] + genome[2] + genome[3]) * 10.0 ** genome[1]
    return divergence, 0.5 + 0.1 * (genome[0] + genome[2] + genome[3])


def split(n_tried: int, seed: int) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Return what was tried and what was not."""
    order = [EVERY[index] for index in np.random.default_rng(seed).permutation(len(EVERY))]
    return order[:n_tried], order[n_tried:]


def chosen(n_tried: int, seed: int, chance: int = 0, n_draws: int = 16) -> tuple[int, ...]:
    tried, left = split(n_tried, seed)
    surrogate = learn(tried, np.array([measured(genome) for genome in tried]), np.zeros(n_tried), SIZES)
    return left[surrogate.most_promising(left, np.random.default_rng(chance), n_draws)]


def test_features_tell_values_and_pairs_apart() -> None:
    found = features(EVERY, SIZES)
    assert found.shape == (len(EVERY), 6 + 14)  # of 15 pairs one is of two values of the same gene
    assert len(np.unique(found, axis=0)) == len(EVERY)
    assert not found[EVERY.index((0, 0, 0, 0, 0))].any()


def test_many_genes_have_no_pairs() -> None:
    assert features([(0,) * 33, (1,) * 33], (2,) * 33).shape == (2, 33)


def test_a_gene_that_only_does_harm_is_left_alone() -> None:
    choices = [chosen(20, seed, seed, n_draws=1) for seed in range(40)]
    by_chance = sum(genome[1] == 0 for genome in EVERY) / len(EVERY)
    assert np.mean([genome[1] == 0 for genome in choices]) > by_chance + 0.4


@pytest.mark.parametrize("n_tried", [10, 20])
def test_few_would_add_more_than_what_is_chosen(n_tried: int) -> None:
    shares, by_chance = [], []
    for seed in range(40):
        tried, left = split(n_tried, seed)
        objectives = np.array([measured(genome) for genome in tried])
        worst = np.quantile(objectives, 0.75, axis=0)
        gains = pareto.gains(np.array([measured(genome) for genome in left]), objectives, worst)
        shares.append(np.mean(gains > gains[left.index(chosen(n_tried, seed))] + 1e-12))
        by_chance.append(np.mean([np.mean(gains > gain + 1e-12) for gain in gains]))
    assert np.mean(shares) < np.mean(by_chance) / 2


def test_one_draw_leaves_more_to_chance_than_many() -> None:
    def share_of_the_most_frequent(n_draws: int) -> float:
        choices = [Counter(chosen(20, seed, chance, n_draws) for chance in range(20)) for seed in range(20)]
        return float(np.mean([counted.most_common(1)[0][1] / 20 for counted in choices]))

    assert share_of_the_most_frequent(1) < 0.7
    assert share_of_the_most_frequent(16) > 0.8


@pytest.mark.parametrize(
    "violation", [pytest.param((0.0, 1.0), id="likely to be infeasible"), pytest.param((0.2, 0.9), id="nothing is feasible")]
)
def test_what_violates_more_is_avoided(violation: tuple[float, float]) -> None:
    rng = np.random.default_rng(0)
    tried = [EVERY[index] for index in rng.permutation(len(EVERY))[:24]]
    left = [genome for genome in EVERY if genome not in tried]
    objectives = np.array([measured(genome) for genome in tried])
    violations = np.array([violation[genome[4]] for genome in tried])
    surrogate = learn(tried, objectives, violations, SIZES)
    picks = [left[surrogate.most_promising(left, np.random.default_rng(s), 16)] for s in range(40)]
    assert np.mean([genome[4] == 0 for genome in picks]) > 0.8


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 30))
def test_a_choice_depends_on_nothing_but_what_is_given(seed: int, n_tried: int) -> None:
    assert chosen(n_tried, seed, seed) == chosen(n_tried, seed, seed)


def of_one(genome: tuple[int, ...]) -> float:
    """One objective that all genes add to; the least has every gene at its last value."""
    return 3.0 - genome[0] - 0.5 * genome[1] - genome[2] - genome[3] - genome[4]


@pytest.mark.parametrize("shift", [0.0, -10.0], ids=["of both signs", "negative"])
def test_with_one_objective_the_least_is_chosen(shift: float) -> None:
    tried, left = split(24, 0)
    best = min(left, key=of_one)
    values = np.array([[of_one(genome) + shift] for genome in tried])
    surrogate = learn(tried, values, np.zeros(24), SIZES)
    assert of_one(best) < min(map(of_one, tried))
    assert all(left[surrogate.most_promising(left, np.random.default_rng(s), 16)] == best for s in range(10))


def test_equal_values_of_one_objective_leave_a_choice() -> None:
    surrogate = learn(EVERY[:4], np.zeros((4, 1)), np.zeros(4), SIZES)
    assert 0 <= surrogate.most_promising(EVERY[4:], np.random.default_rng(0), 2) < len(EVERY) - 4


@pytest.mark.parametrize("next_to_none", [1e-8, 1e-14, -1e-17])
def test_a_nearly_exact_model_does_not_outweigh_all_others(next_to_none: float) -> None:
    shares = []
    for seed in range(20):
        tried, left = split(20, seed)
        objectives = np.array([measured(genome) for genome in tried])
        objectives[0] = next_to_none, 0.95  # as with everything left in float
        surrogate = learn(tried, objectives, np.zeros(20), SIZES)
        pick = surrogate.most_promising(left, np.random.default_rng(seed), 16)
        gains = pareto.gains(np.array([measured(genome) for genome in left]), objectives, surrogate.worst)
        shares.append(np.mean(gains > gains[pick] + 1e-12))
    assert np.mean(shares) < 0.015  # 0.04 by chance
