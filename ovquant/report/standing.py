"""Where each trial stands among the others, and how far a search had come with each of them. Pure functions on records."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np

from ovquant import pareto
from ovquant.records import Failure, Trial
from ovquant.selection import eligible, feasible, latency_of

Standing: TypeAlias = Literal["baseline", "front", "feasible", "infeasible", "stopped", "failed"]
WORDS: dict[Standing, str] = {
    "baseline": "float model",
    "front": "on the Pareto front",
    "feasible": "feasible",
    "infeasible": "breaks a limit",
    "stopped": "stopped early",
    "failed": "failed",
}
_MARGIN = 0.05  # of the span of each objective, between the worst feasible trial and the corner that areas are measured from
_LEAST = 1e-12


def standings(trials: Sequence[Trial]) -> dict[int, Standing]:
    """Return number -> standing. The front is that of all feasible trials on divergence and latency."""
    found: dict[int, Standing] = {}
    candidates = [trial for trial in feasible(eligible(trials)) if _is_known(trial)]
    members = pareto.front(_objectives(candidates), np.zeros(len(candidates)))
    best = {candidates[index].number for index in members}
    for trial in trials:
        if isinstance(trial.outcome, Failure):
            found[trial.number] = "failed"
        elif trial.strategy is None:
            found[trial.number] = "baseline"
        elif trial.number in best:
            found[trial.number] = "front"
        elif trial.is_feasible:
            found[trial.number] = "feasible"
        else:
            found[trial.number] = "infeasible" if trial.outcome.raced is None else "stopped"
    return found


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """How far a search had come with a trial.

    Attributes:
        trial: its number.
        generation: None outside of the population.
        progress: hypervolume as a share of the last one, or the best fitness so far; None before anything was feasible.
    """

    trial: int
    generation: int | None
    progress: float | None


def steps(trials: Sequence[Trial], *, is_pareto: bool) -> list[Step]:
    """Return a step per strategy that was tried, in order.

    The hypervolume (`ovquant.pareto.hypervolume`) is that of the feasible trials so far on log10 of the divergence and
    the latency ratio, from a corner just beyond the worst of all feasible trials.

    Args:
        trials: of a study.
        is_pareto: False for searches with a single fitness, whose best value is told instead.
    """
    candidates = eligible(trials)
    good = feasible(candidates)
    values: dict[int, float | None]
    values = _hypervolumes([trial for trial in good if _is_known(trial)]) if is_pareto else {t.number: t.fitness for t in good}
    found: list[Step] = []
    best: float | None = None
    for trial in candidates:
        value = values.get(trial.number)
        if value is not None:
            best = value if best is None else max(best, value)
        found.append(Step(trial=trial.number, generation=trial.generation, progress=best))
    return found


def _hypervolumes(trials: Sequence[Trial]) -> dict[int, float | None]:
    """Return number -> share of the last hypervolume that was reached with that trial."""
    if not trials:
        return {}
    points = _objectives(trials)
    points[:, 0] = np.log10(np.maximum(points[:, 0], _LEAST))
    low, high = points.min(axis=0), points.max(axis=0)
    corner = high + np.maximum(_MARGIN * (high - low), 1e-9)
    areas = [pareto.hypervolume(points[: index + 1], corner) for index in range(len(points))]
    return {trial.number: area / areas[-1] for trial, area in zip(trials, areas, strict=True)}


def _is_known(trial: Trial) -> bool:
    return trial.evaluation.latency is not None and math.isfinite(trial.evaluation.divergence.value)


def _objectives(trials: Sequence[Trial]) -> pareto.Array:
    """Return divergence and latency ratio of each trial, shape [N, 2]."""
    pairs = [(trial.evaluation.divergence.value, latency_of(trial).ratio.value) for trial in trials]
    return np.array(pairs, dtype=np.float64).reshape(-1, 2)
