from __future__ import annotations

import pytest
from fakes.records import baseline, evaluation, failed, latency, metric, scored, trial
from hypothesis import given
from hypothesis import strategies as st

from ovquant.job import MetricSpec, Objective
from ovquant.objectives import Rules
from ovquant.records import Trial
from ovquant.selection import N_FINALISTS, best, contenders, fastest, feasible, finalists, latency_of, nearest_miss, order, pick
from ovquant.strategy import Strategy
from ovquant.tasks import best_rival, rival_of

PARETO = Rules(objective=Objective(), metrics=(), metric_directions=(), max_divergence=None)
DIVERGENCE = Rules(objective=Objective(fitness="divergence"), metrics=(), metric_directions=(), max_divergence=None)
ACCURACY = Rules(
    objective=Objective(fitness="accuracy", latency_weight=0),
    metrics=(MetricSpec(name="accuracy", max_drop=None),),
    metric_directions=("minimize",),
    max_divergence=None,
)
MEASURED = st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 2), st.floats(0, 0.3), st.integers(0, 4)), max_size=8)


def numbers(trials: list[Trial]) -> list[int]:
    return [found.number for found in trials]


def latencies(trials: list[Trial]):
    return [latency_of(found) for found in trials]


def trials_of(measured: list[tuple[float, float, float, int]], rules: Rules) -> list[Trial]:
    return [
        scored(number, evaluation(divergence=divergence, ratio=ratio, half_width=width, graph=f"graph {graph}"), rules)
        for number, (divergence, ratio, width, graph) in enumerate(measured, start=1)
    ]


def test_feasible_are_quantized_trials_that_keep_every_limit() -> None:
    trials = [baseline(), trial(1), trial(2, violation=0.1), failed(3), trial(4)]
    assert numbers(feasible(trials)) == [1, 4]


def test_the_latency_of_a_trial_that_was_not_timed_is_an_error() -> None:
    with pytest.raises(ValueError, match="trial 3 was not timed"):
        latency_of(trial(3, evaluation(ratio=None)))


def test_the_latency_of_a_trial_that_failed_is_an_error() -> None:
    with pytest.raises(ValueError, match="trial 3 failed: no such layer"):
        latency_of(failed(3))


def test_a_trial_that_is_slower_by_more_than_three_percent_does_not_win_however_wide_the_intervals() -> None:
    trials = [
        trial(1, divergence=0.3, ratio=0.400, half_width=0.200),
        trial(2, divergence=0.1, ratio=0.411, half_width=0.001),
        trial(3, divergence=0.0, ratio=0.414, half_width=0.200),
    ]
    assert fastest(trials, latencies(trials)).number == 2


def test_of_equal_trials_the_earlier_one_wins() -> None:
    trials = [trial(2, ratio=0.5), trial(1, ratio=0.5)]
    assert fastest(trials, latencies(trials)).number == 1


def test_fastest_goes_by_the_latencies_that_it_is_given() -> None:
    trials = [trial(1, ratio=0.4), trial(2, ratio=0.6)]
    assert fastest(trials, [latency(0.8), latency(0.7)]).number == 2


@pytest.mark.parametrize("rules", [PARETO, DIVERGENCE])
def test_there_is_no_best_without_a_feasible_trial(rules: Rules) -> None:
    assert best([baseline(), trial(1, violation=1.0, fitness=1.0), failed(2)], rules) is None


def test_the_best_in_pareto_mode_is_the_fastest_that_is_feasible() -> None:
    found = best([baseline(), trial(1, ratio=0.6), trial(2, ratio=0.4), trial(3, ratio=0.2, violation=0.1), failed(4)], PARETO)
    assert found is not None
    assert found.number == 2


def test_the_best_in_fitness_mode_has_the_highest_fitness_and_came_first() -> None:
    trials = [trial(1, fitness=-0.5), trial(2, fitness=-0.2), trial(3, fitness=-0.2), trial(4, fitness=0.9, violation=1.0)]
    found = best(trials, DIVERGENCE)
    assert found is not None
    assert found.number == 2


def test_the_best_by_a_minimized_metric_has_its_lowest_value() -> None:
    trials = [scored(number, evaluation(metrics=[metric(value)]), ACCURACY) for number, value in ((1, 3.0), (2, 1.0), (3, 2.0))]
    found = best(trials, ACCURACY)
    assert found is not None
    assert found.number == 2


@pytest.mark.parametrize("rules", [PARETO, DIVERGENCE])
@given(measured=MEASURED)
def test_order_is_a_permutation_that_starts_with_the_best(rules: Rules, measured: list[tuple[float, float, float, int]]) -> None:
    trials = trials_of(measured, rules)
    ordered = order(trials, latencies(trials), rules)
    assert sorted(numbers(ordered)) == numbers(trials)
    assert numbers(ordered[:1]) == [found.number for found in [best(trials, rules)] if found is not None]


@given(MEASURED)
def test_order_by_fitness_never_rises(measured: list[tuple[float, float, float, int]]) -> None:
    trials = trials_of(measured, DIVERGENCE)
    fitness = [found.fitness for found in order(trials, latencies(trials), DIVERGENCE)]
    assert fitness == sorted(fitness, reverse=True)


def test_order_in_pareto_mode_is_by_latency_and_then_by_divergence() -> None:
    trials = [
        trial(1, divergence=0.3, ratio=0.400, half_width=0.02),
        trial(2, divergence=0.1, ratio=0.411, half_width=0.02),
        trial(3, divergence=0.0, ratio=0.800, half_width=0.02),
        trial(4, divergence=0.2, ratio=0.405, half_width=0.02),
    ]
    assert numbers(order(trials, latencies(trials), PARETO)) == [2, 4, 1, 3]


@pytest.mark.parametrize("rules", [PARETO, DIVERGENCE])
def test_order_goes_by_the_latencies_that_count_now(rules: Rules) -> None:
    trials = [scored(number, evaluation(ratio=ratio), rules) for number, ratio in ((1, 0.4), (2, 0.6))]
    assert numbers(order(trials, [latency(0.4), latency(0.6)], rules)) == [1, 2]
    assert numbers(order(trials, [latency(0.9), latency(0.3)], rules)) == [2, 1]


@pytest.mark.parametrize("rules", [PARETO, DIVERGENCE])
@given(measured=MEASURED)
def test_finalists_are_the_most_preferred_of_distinct_models(
    rules: Rules, measured: list[tuple[float, float, float, int]]
) -> None:
    trials = trials_of(measured, rules)
    found = finalists(trials, rules)
    graphs = [final.evaluation.graph_digest for final in found]
    assert len(set(graphs)) == len(graphs) == min(N_FINALISTS, len({final.evaluation.graph_digest for final in trials}))


def test_finalists_are_the_closest_ones_by_how_much_slower_they_may_have_been_timed() -> None:
    trials = [
        trial(1, ratio=0.500, divergence=0.50),
        trial(2, ratio=0.510, divergence=0.40),
        trial(3, ratio=0.512, divergence=0.45),
        trial(4, ratio=0.540, divergence=0.30),
        trial(5, ratio=0.541, divergence=0.35),
        trial(6, ratio=0.590, divergence=0.20),
        trial(7, ratio=0.900, divergence=0.10),
    ]
    assert numbers(finalists(trials, PARETO)) == [2, 3, 1, 4, 6, 7]


def test_each_reason_to_be_a_finalist_has_a_place() -> None:
    trials = [
        trial(1, ratio=0.500, divergence=0.50),  # the fastest
        trial(2, ratio=0.510, divergence=0.40),  # preferred: hardly slower
        trial(3, ratio=0.520, divergence=0.35),  # within 5 %
        trial(4, ratio=0.540, divergence=0.30),  # within 10 %
        trial(5, ratio=0.590, divergence=0.20),  # within 20 %
        trial(6, ratio=0.900, divergence=0.10),  # of least divergence
        trial(7, ratio=0.501, divergence=0.45),
    ]
    assert numbers(finalists(trials, PARETO)) == [2, 1, 3, 4, 5, 6]


def test_the_default_is_a_finalist_beside_the_others() -> None:
    trials = [trial(number, ratio=0.5 + number / 20, role="default" if number == 9 else "candidate") for number in range(10)]
    assert numbers(finalists(trials, PARETO)) == [0, 1, 2, 3, 4, 5, 9]
    assert numbers(finalists([*trials[:9], trial(9, role="default", violation=1.0)], PARETO)) == [0, 1, 2, 3, 4, 5]


def test_finalists_are_feasible_and_in_order() -> None:
    trials = [
        baseline(),
        trial(1, ratio=0.5),
        trial(2, ratio=0.1, violation=1.0),
        failed(3),
        trial(4, ratio=0.7),
        trial(5, ratio=0.3),
        trial(6, ratio=0.6),
        trial(7, ratio=0.8),
        trial(8, ratio=0.9),
        trial(9, ratio=0.99, divergence=0.001),
    ]
    assert numbers(finalists(trials, PARETO)) == [5, 1, 6, 4, 7, 9]


def test_the_same_graph_at_two_precisions_is_two_finalists() -> None:
    trials = [
        trial(1, evaluation(ratio=0.5, graph="same"), strategy=Strategy(inference_precision="f32")),
        trial(2, evaluation(ratio=0.3, graph="same"), strategy=Strategy(inference_precision="bf16")),
        trial(3, evaluation(ratio=0.3, graph="same"), strategy=Strategy(inference_precision="bf16", subset_size=30)),
    ]
    assert numbers(finalists(trials, PARETO)) == [2, 1]


def test_without_feasible_trials_there_are_no_finalists() -> None:
    assert finalists([baseline(), trial(1, violation=0.5), failed(2)], PARETO) == []


def test_the_nearest_miss_has_the_smallest_violation_and_came_first() -> None:
    trials = [baseline(), trial(1, violation=0.5), failed(2), trial(3, violation=0.2), trial(4, violation=0.2)]
    found = nearest_miss(trials)
    assert found is not None
    assert found.number == 3


def test_there_is_no_nearest_miss_if_all_failed() -> None:
    assert nearest_miss([baseline(), failed(1), failed(2)]) is None


FRONT = [
    baseline(),
    trial(1, divergence=0.00, ratio=0.9, half_width=0.01),
    trial(2, divergence=0.02, ratio=0.5, half_width=0.01),
    trial(3, divergence=0.30, ratio=0.4, half_width=0.01),
    trial(4, divergence=0.01, ratio=0.95, half_width=0.01),
    trial(5, divergence=0.00, ratio=0.1, half_width=0.01, violation=0.5),
    failed(6),
]


@pytest.mark.parametrize(("how", "number"), [("fastest", 3), ("accurate", 1), ("knee", 2)])
def test_picks_from_a_front(how, number: int) -> None:
    found = pick(FRONT, how)
    assert found is not None
    assert found.number == number


def test_the_accurate_pick_of_equal_divergence_is_the_faster() -> None:
    found = pick([trial(1, divergence=0.1, ratio=0.9), trial(2, divergence=0.1, ratio=0.5)], "accurate")
    assert found is not None
    assert found.number == 2


@pytest.mark.parametrize("how", ["fastest", "accurate", "knee"])
def test_there_is_nothing_to_pick_without_a_feasible_trial(how) -> None:
    assert pick([baseline(), trial(1, violation=1.0), failed(2)], how) is None


@pytest.mark.parametrize("how", ["fastest", "accurate", "knee"])
def test_a_single_feasible_trial_is_every_pick(how) -> None:
    found = pick([baseline(), trial(1)], how)
    assert found is not None
    assert found.number == 1


def test_latencies_within_three_percent_are_tied_however_narrow_the_intervals():
    near = [trial(1, divergence=0.2, ratio=0.500, half_width=0.0001), trial(2, divergence=0.1, ratio=0.514, half_width=0.0001)]
    far = [near[0], trial(2, divergence=0.1, ratio=0.516, half_width=0.0001)]
    for trials, expected in ((near, 2), (far, 1)):
        assert fastest(trials, [latency_of(t) for t in trials]).number == expected


def test_a_divergence_lower_by_less_than_three_percent_does_not_make_up_for_latency() -> None:
    of = [(0.2, 0.500), (0.103, 0.505), (0.1, 0.514)]
    alike = [trial(number, divergence=divergence, ratio=ratio) for number, (divergence, ratio) in enumerate(of, 1)]
    assert fastest(alike, latencies(alike)).number == 2
    apart = [*alike[:1], trial(2, divergence=0.1031, ratio=0.505), alike[2]]
    assert fastest(apart, latencies(apart)).number == 3


def test_a_divergence_that_rounding_left_below_zero_is_the_lowest() -> None:
    trials = [trial(1, divergence=-1e-17, ratio=0.505), trial(2, divergence=0.1, ratio=0.5)]
    assert fastest(trials, latencies(trials)).number == 1


# Few values, so that many are equal.
ALIKE = st.lists(
    st.tuples(
        st.sampled_from([-1e-17, 0.0, 0.1, 0.102, 0.2, 0.3]),
        st.sampled_from([0.4, 0.41, 0.42, 0.5, 0.6]),
        st.sampled_from([0.0, 0.01, 0.2]),
        st.sampled_from([0.0, 0.0, 1.0]),
    ),
    max_size=20,
)


@pytest.mark.parametrize("rules", [PARETO, DIVERGENCE])
@given(measured=ALIKE)
def test_contenders_alone_have_the_best_and_every_best_rival_at_any_time(rules, measured) -> None:
    every: list[Trial] = []
    held: list[Trial] = []
    for number, (divergence, ratio, width, violation) in enumerate(measured, start=1):
        outcome = evaluation(divergence=divergence, ratio=ratio, half_width=width)
        fitness = rules.fitness(outcome)
        every.append(trial(number, outcome, violation=violation, fitness=fitness, strategy=Strategy(subset_size=number)))
        held = contenders(held, every[-1], rules)
        assert best(held, rules) == best(every, rules)
        for speed in (0.3, 0.4, 0.415, 0.5, 0.7):
            assert best_rival(rivals_of(held, rules), latency(speed)) == best_rival(rivals_of(every, rules), latency(speed))


def rivals_of(trials: list[Trial], rules: Rules):
    found = [rival_of(one.strategy, one.evaluation, rules) for one in feasible(trials) if one.strategy is not None]
    return [one for one in found if one is not None]


def test_a_trial_that_is_neither_faster_nor_closer_than_another_is_no_contender() -> None:
    held: list[Trial] = []
    for one in (
        trial(1, divergence=0.2, ratio=0.5),
        trial(2, divergence=0.3, ratio=0.5),  # as fast as the first, and diverges more
        trial(3, divergence=0.1, ratio=0.4),  # better than the first
        trial(4, divergence=0.0, ratio=0.9),
        failed(5),
    ):
        held = contenders(held, one, PARETO)
    assert numbers(held) == [3, 4]
