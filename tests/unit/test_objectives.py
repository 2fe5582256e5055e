from __future__ import annotations

from typing import Any

import pytest
from fakes.records import evaluation, metric
from hypothesis import given
from hypothesis import strategies as st

from ovquant.job import Drop, Fitness, MetricSpec, Objective
from ovquant.objectives import Direction, Rules


def rules(
    fitness: Fitness = "pareto",
    *,
    drops: tuple[Drop | None, ...] = (),
    directions: tuple[Direction, ...] | None = None,
    max_divergence: float | None = None,
    **weights: Any,
) -> Rules:
    return Rules(
        objective=Objective(fitness=fitness, **weights),
        metrics=tuple(MetricSpec(name=f"metric {index}", max_drop=drop) for index, drop in enumerate(drops)),
        metric_directions=directions or ("maximize",) * len(drops),
        max_divergence=max_divergence,
    )


ONE_POINT = Drop(amount=0.01)
ONE_PERCENT = Drop(amount=0.01, is_relative=True)
SCORED = evaluation(divergence=0.2, metrics=[metric(0.8)], ratio=0.5)


def test_pareto_mode_has_divergence_and_latency_ratio_to_minimize() -> None:
    mode = rules(drops=(None,))
    assert mode.values(SCORED) == (0.2, 0.5)
    assert mode.directions == ("minimize", "minimize")
    assert mode.minimized(mode.values(SCORED)) == (0.2, 0.5)
    assert mode.fitness(SCORED) is None


@pytest.mark.parametrize(
    ("fitness", "direction", "weights", "expected"),
    [
        ("accuracy", "maximize", {}, 0.8 - 0.1 * 0.5),
        ("accuracy", "minimize", {}, -0.8 - 0.1 * 0.5),
        ("divergence", "maximize", {}, -0.2 - 0.1 * 0.5),
        ("divergence", "minimize", {}, -0.2 - 0.1 * 0.5),
        ("weighted", "maximize", {}, 0.8 - 0.2 - 0.1 * 0.5),
        ("weighted", "minimize", {"accuracy_weight": 2, "divergence_weight": 3}, -2 * 0.8 - 3 * 0.2 - 0.1 * 0.5),
        ("accuracy", "maximize", {"latency_weight": 0}, 0.8),
        ("accuracy", "maximize", {"latency_weight": 2}, 0.8 - 2 * 0.5),
        ("accuracy", "maximize", {"accuracy_weight": 5}, 0.8 - 0.1 * 0.5),
        ("divergence", "maximize", {"divergence_weight": 5}, -0.2 - 0.1 * 0.5),
    ],
)
def test_fitness_is_quality_less_weighted_latency(
    fitness: Fitness, direction: Direction, weights: dict[str, float], expected: float
) -> None:
    mode = rules(fitness, drops=(None,), directions=(direction,), **weights)
    assert mode.fitness(SCORED) == pytest.approx(expected)
    assert mode.values(SCORED) == (mode.fitness(SCORED),)
    assert mode.directions == ("maximize",)
    assert mode.minimized(mode.values(SCORED)) == (pytest.approx(-expected),)


def test_fitness_takes_the_first_metric() -> None:
    scored = evaluation(metrics=[metric(0.8), metric(0.1)], ratio=1.0)
    assert rules("accuracy", drops=(None, None), latency_weight=0).fitness(scored) == 0.8


@pytest.mark.parametrize("fitness", ["pareto", "accuracy", "divergence", "weighted"])
def test_an_untimed_model_has_no_values(fitness: Fitness) -> None:
    with pytest.raises(ValueError, match="latency was not measured"):
        rules(fitness, drops=(None,)).values(evaluation(metrics=[metric(0.8)], ratio=None))


@pytest.mark.parametrize(("direction", "reference"), [("maximize", 0.85), ("minimize", 0.75)])
def test_the_reference_is_where_the_drop_starts(direction: Direction, reference: float) -> None:
    mode = rules(drops=(ONE_PERCENT,), directions=(direction,))
    result = metric(0.8, drop=0.05)
    assert mode.reference(0, result) == pytest.approx(reference)
    assert mode.limit(0, result) == pytest.approx(0.01 * reference)


def test_an_absolute_limit_is_in_the_unit_of_the_metric() -> None:
    assert rules(drops=(ONE_POINT,)).limit(0, metric(80.0, drop=5.0)) == 0.01


def test_a_metric_that_is_only_reported_has_no_limit() -> None:
    mode = rules(drops=(None,))
    assert mode.limit(0, metric(0.1, drop=0.9)) is None
    assert mode.violation(evaluation(metrics=[metric(0.1, drop=0.9)])) == 0


@pytest.mark.parametrize(
    ("drop", "direction", "value", "dropped", "violation"),
    [
        (ONE_POINT, "maximize", 0.8, 0.01, 0.0),
        (ONE_POINT, "maximize", 0.8, -0.3, 0.0),
        (ONE_POINT, "maximize", 0.7, 0.03, 2.0),
        (ONE_PERCENT, "maximize", 0.78, 0.02, 0.012 / 0.008),
        (ONE_PERCENT, "minimize", 0.82, 0.02, 0.012 / 0.008),
        (ONE_PERCENT, "maximize", -4.2, 0.2, (0.2 - 0.04) / 0.04),
        (Drop(amount=0), "maximize", 0.5, 0.5, 50.0),
    ],
)
def test_a_violation_is_the_excess_as_a_multiple_of_the_limit(
    drop: Drop, direction: Direction, value: float, dropped: float, violation: float
) -> None:
    mode = rules(drops=(drop,), directions=(direction,))
    assert mode.violation(evaluation(metrics=[metric(value, dropped)])) == pytest.approx(violation)


def test_a_limit_of_zero_on_a_reference_of_zero_gives_a_finite_violation() -> None:
    assert 0 < rules(drops=(Drop(amount=0),)).violation(evaluation(metrics=[metric(-0.5, drop=0.5)])) < float("inf")


def test_violations_of_all_constraints_add_up() -> None:
    mode = rules(drops=(ONE_POINT, None, Drop(amount=0.1)), max_divergence=0.1)
    scored = evaluation(divergence=0.4, metrics=[metric(0.7, 0.03), metric(0.5, 0.9), metric(0.4, 0.15)])
    assert mode.violation(scored) == pytest.approx(2 + 0.5 + 3)


def test_without_constraints_everything_is_feasible() -> None:
    assert rules().violation(evaluation(divergence=1e9)) == 0


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(-0.5, 0.5), st.floats(0, 0.3), st.booleans()), max_size=3),
    st.floats(0, 2),
    st.none() | st.floats(0, 1),
)
def test_the_violation_is_zero_exactly_if_every_limit_is_kept(
    found: list[tuple[float, float, float, bool]], divergence: float, max_divergence: float | None
) -> None:
    mode = rules(drops=tuple(Drop(amount=a, is_relative=r) for _, _, a, r in found), max_divergence=max_divergence)
    results = [metric(value, drop) for value, drop, _, _ in found]
    allowed = [amount * abs(value + drop) if is_relative else amount for value, drop, amount, is_relative in found]
    is_kept = all(result.drop.value <= limit for result, limit in zip(results, allowed, strict=True))
    is_near = max_divergence is None or divergence <= max_divergence
    violation = mode.violation(evaluation(divergence=divergence, metrics=results))
    assert violation >= 0
    assert (violation == 0) == (is_kept and is_near)


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_larger_drop_is_never_a_smaller_violation(first: float, second: float) -> None:
    mode = rules(drops=(ONE_POINT,))
    small, large = (mode.violation(evaluation(metrics=[metric(1 - drop, drop)])) for drop in sorted([first, second]))
    assert small <= large
