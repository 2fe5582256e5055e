"""From measurements to numbers that are compared: objective values, constraint violations, fitness."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from ovquant.job import MetricSpec, Objective
from ovquant.records import Evaluation, MetricResult

Direction = Literal["minimize", "maximize"]
# A limit of zero would make every violation infinite; this share of the reference is the least that violations are scaled by.
_LEAST_SCALE = 0.01
_LEAST_VIOLATION = 1e-9


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a job asks for.

    Attributes:
        objective: fitness and weights.
        metrics: in the order of the job.
        metric_directions: likewise.
        max_divergence: limit in the divergence's unit; None is no limit.
    """

    objective: Objective
    metrics: tuple[MetricSpec, ...]
    metric_directions: tuple[Direction, ...]
    max_divergence: float | None

    @property
    def is_pareto(self) -> bool:
        """True for the two-objective mode."""
        return self.objective.fitness == "pareto"

    @property
    def directions(self) -> tuple[Direction, ...]:
        """Direction of each objective value."""
        return ("minimize", "minimize") if self.is_pareto else ("maximize",)

    def values(self, evaluation: Evaluation) -> tuple[float, ...]:
        """Return the raw objective values: (divergence, latency / baseline latency), or (fitness,)."""
        if self.is_pareto:
            return (evaluation.divergence.value, _latency_ratio(evaluation))
        return (self._fitness(evaluation),)

    def fitness(self, evaluation: Evaluation) -> float | None:
        """Return quality - latency_weight * (latency / baseline latency); None in pareto mode."""
        return None if self.is_pareto else self._fitness(evaluation)

    def minimized(self, values: Sequence[float]) -> tuple[float, ...]:
        """Return objective values with signs such that less is better; the only place where signs flip."""
        return tuple(v if direction == "minimize" else -v for v, direction in zip(values, self.directions, strict=True))

    def limit(self, index: int, result: MetricResult) -> float | None:
        """Return the largest allowed drop of a metric, in its own unit."""
        max_drop = self.metrics[index].max_drop
        return None if max_drop is None else max_drop.limit(self.reference(index, result))

    def reference(self, index: int, result: MetricResult) -> float:
        """Return the reference's value, from a model's value and drop."""
        sign = 1.0 if self.metric_directions[index] == "maximize" else -1.0
        return result.value + sign * result.drop.value

    def violation(self, evaluation: Evaluation) -> float:
        """Return the sum of how far each constraint is exceeded, as a multiple of its limit; 0 is feasible.

        Point estimates count; intervals are looked at once the search is over. A candidate that was stopped early is never
        feasible: at least the bound by which it was stopped counts.
        """
        total = 0.0
        for index, result in enumerate(evaluation.metrics):
            limit = self.limit(index, result)
            if limit is not None:
                scale = max(limit, _LEAST_SCALE * abs(self.reference(index, result)), 1e-9)
                total += max(0.0, result.drop.value - limit) / scale
        if self.max_divergence is not None:
            excess = evaluation.divergence.value - self.max_divergence
            total += max(0.0, excess) / max(self.max_divergence, 1e-9)
        if evaluation.raced is not None:
            excess = evaluation.raced.bound - evaluation.raced.limit
            total = max(total, excess / max(abs(evaluation.raced.limit), _LEAST_SCALE), _LEAST_VIOLATION)
        return total

    def _fitness(self, evaluation: Evaluation) -> float:
        goal = self.objective
        quality = 0.0
        if goal.fitness in {"accuracy", "weighted"}:
            sign = 1.0 if self.metric_directions[0] == "maximize" else -1.0
            quality += sign * evaluation.metrics[0].value * (goal.accuracy_weight if goal.fitness == "weighted" else 1.0)
        if goal.fitness in {"divergence", "weighted"}:
            quality -= evaluation.divergence.value * (goal.divergence_weight if goal.fitness == "weighted" else 1.0)
        return quality - goal.latency_weight * _latency_ratio(evaluation)


def _latency_ratio(evaluation: Evaluation) -> float:
    if evaluation.latency is None:
        raise ValueError("latency was not measured")
    return evaluation.latency.ratio.value
