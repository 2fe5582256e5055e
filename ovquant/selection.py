"""Which of the evaluated trials to recommend. Pure functions on records."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np

from ovquant import pareto
from ovquant.objectives import Rules
from ovquant.records import Failure, Latency, Trial

Pick: TypeAlias = Literal["fastest", "accurate", "knee"]
N_FINALISTS = 6
# What is as fast in truth may have been timed this much slower than the fastest, as short timings are off by some per cent.
_REACHES = (0.0, 0.05, 0.1, 0.2)
_RESOLUTION = 0.03  # what is at most this much slower counts as equally fast, what diverges by this much more as equally close


def eligible(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that may win: strategies of the search space, which holds what the target allows."""
    return [trial for trial in trials if trial.code is not None]


def feasible(trials: Sequence[Trial]) -> list[Trial]:
    """Return the quantized trials that meet every constraint."""
    return [trial for trial in trials if trial.strategy is not None and trial.is_feasible]


def latency_of(trial: Trial) -> Latency:
    """Return the latency measured during the search.

    Raises:
        ValueError: the trial failed or was not timed.
    """
    latency = trial.evaluation.latency
    if latency is None:
        raise ValueError(f"trial {trial.number} was not timed")
    return latency


def best(trials: Sequence[Trial], rules: Rules) -> Trial | None:
    """Return the feasible trial that the rules prefer: highest fitness, or in pareto mode the fastest."""
    candidates = feasible(trials)
    if not candidates:
        return None
    if rules.is_pareto:
        return fastest(candidates, [latency_of(trial) for trial in candidates])
    return max(candidates, key=lambda trial: (trial.fitness or 0.0, -trial.number))


def contenders(held: Sequence[Trial], trial: Trial, rules: Rules) -> list[Trial]:
    """Return which of some trials and a later one may still be preferred: by `best`, or as somebody's `ovquant.tasks.best_rival`.

    In pareto mode no trial is preferred to an earlier one that is neither slower nor diverges more, whatever follows, nor to a
    later one that is faster and diverges less: this holds for ties and what counts as equally fast, too.

    Args:
        held: what this returned for the trials before.
        trial: any.
        rules: mode.
    """
    if not feasible([trial]):
        return list(held)
    if not rules.is_pareto:
        return [found for found in [best([*held, trial], rules)] if found is not None]
    ratio, loss = _point(trial)
    others = {other.number: _point(other) for other in held}
    if any(r <= ratio and d <= loss for r, d in others.values()):
        return list(held)
    return [*(other for other in held if not (ratio < others[other.number][0] and loss < others[other.number][1])), trial]


def _point(trial: Trial) -> tuple[float, float]:
    return latency_of(trial).ratio.value, trial.evaluation.divergence.value


def fastest(trials: Sequence[Trial], latencies: Sequence[Latency]) -> Trial:
    """Return the trial of lowest divergence among the fastest one and those at most 3 % slower.

    That much counts as equal however narrow the intervals: bursts of a few seconds do not show how a machine drifts over minutes.
    Nothing else does however wide they are: a wide one says that the machine was busy just then, and would let a slower model
    win by a little less divergence. So would a divergence that is hardly lower: of those that diverge by at most 3 % more than
    the lowest one, the fastest is returned.

    Args:
        trials: feasible ones, at least one.
        latencies: one per trial.
    """
    pairs = sorted(zip(trials, latencies, strict=True), key=lambda pair: pair[0].number)
    return pairs[preferred([one.ratio.value for _, one in pairs], [one.evaluation.divergence.value for one, _ in pairs])][0]


def preferred(latencies: Sequence[float], divergences: Sequence[float]) -> int:
    """Return the position of the model that `fastest` stands for; of equal ones the first.

    Args:
        latencies: one per model, in any unit; at least one.
        divergences: one per model.
    """
    limit = min(latencies) * (1 + _RESOLUTION)
    near = [place for place, latency in enumerate(latencies) if latency <= limit]
    closest = min(near, key=lambda place: divergences[place])
    most = divergences[closest] * (1 + _RESOLUTION)  # less than that itself where rounding left it below zero
    alike = [place for place in near if place == closest or divergences[place] <= most]
    return min(alike, key=lambda place: (latencies[place], divergences[place]))


def order(trials: Sequence[Trial], latencies: Sequence[Latency], rules: Rules) -> list[Trial]:
    """Return trials from most to least preferred.

    Args:
        trials: feasible ones.
        latencies: one per trial, the ones that count now.
        rules: mode.
    """
    left = list(zip(trials, latencies, strict=True))
    if not rules.is_pareto:

        def fitness(pair: tuple[Trial, Latency]) -> float:
            return rules.fitness(dataclasses.replace(pair[0].evaluation, latency=pair[1])) or 0.0

        return [trial for trial, _ in sorted(left, key=lambda pair: (-fitness(pair), pair[0].number))]
    ordered = []
    while left:
        chosen = fastest([trial for trial, _ in left], [latency for _, latency in left])
        ordered.append(chosen)
        left = [pair for pair in left if pair[0].number != chosen.number]
    return ordered


def finalists(trials: Sequence[Trial], rules: Rules) -> list[Trial]:
    """Return at most six feasible trials and NNCF's default, most preferred first; equal models count once.

    In pareto mode these are the most preferred one, the fastest, and those of least divergence among what was timed as at most
    5, 10 and 20 % slower than that, and of all: once they are timed together, one that diverges less may turn out to be as
    fast. In the other modes they are the fittest and the one of least divergence, and so where places are left: where limits
    are tight, the fittest are the first to break them. NNCF's default is timed with them in any case.
    """
    candidates: dict[tuple[str, str], Trial] = {}
    for trial in feasible(trials):
        precision = trial.strategy.inference_precision if trial.strategy else ""
        candidates.setdefault((trial.evaluation.graph_digest, precision), trial)
    ordered = order(list(candidates.values()), [latency_of(trial) for trial in candidates.values()], rules)
    if not ordered:
        return []
    chosen = [ordered[0], _closest(ordered)]
    if rules.is_pareto:
        ratios = [latency_of(trial).ratio.value for trial in ordered]
        for reach in _REACHES:
            chosen.append(_closest([t for t, ratio in zip(ordered, ratios, strict=True) if ratio <= min(ratios) * (1 + reach)]))
    numbers = list(dict.fromkeys(trial.number for trial in [*chosen, *ordered]))[:N_FINALISTS]
    return [trial for trial in ordered if trial.number in numbers or trial.role == "default"]


def _closest(trials: Sequence[Trial]) -> Trial:
    """Return the trial of least divergence."""
    return min(trials, key=lambda trial: (trial.evaluation.divergence.value, trial.number))


def nearest_miss(trials: Sequence[Trial]) -> Trial | None:
    """Return the quantized trial with the smallest violation, or None if all failed."""
    evaluated = [trial for trial in trials if trial.strategy is not None and not isinstance(trial.outcome, Failure)]
    return min(evaluated, key=lambda trial: (trial.violation or 0.0, trial.number), default=None)


def pick(trials: Sequence[Trial], how: Pick) -> Trial | None:
    """Return the feasible trial that is fastest, of lowest divergence, or at the knee of the front of both."""
    candidates = feasible(eligible(trials))
    if not candidates:
        return None
    if how == "fastest":
        return fastest(candidates, [latency_of(trial) for trial in candidates])
    if how == "accurate":
        return min(candidates, key=lambda t: (t.evaluation.divergence.value, latency_of(t).ratio.value))
    points = np.array([[t.evaluation.divergence.value, latency_of(t).ratio.value] for t in candidates])
    members = pareto.front(points, np.zeros(len(points)))
    return candidates[int(members[pareto.knee(points[members])])]
