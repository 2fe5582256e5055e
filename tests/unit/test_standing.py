"""Where trials stand, and how far a search came."""

from __future__ import annotations

import dataclasses

import pytest
from fakes import records

from ovquant.records import Raced
from ovquant.report.standing import standings, steps

RACED = Raced(reason="limit", name="accuracy", bound=0.2, limit=0.1, n_items=100)


def test_every_trial_has_its_standing() -> None:
    stopped = dataclasses.replace(records.evaluation(), raced=RACED)
    trials = [
        records.baseline(),
        records.trial(1, divergence=0.1, ratio=0.5),
        records.trial(2, divergence=0.05, ratio=0.7),
        records.trial(3, divergence=0.2, ratio=0.6),
        records.trial(4, divergence=0.001, ratio=0.1, violation=1.0),
        records.trial(5, stopped, violation=1.0),
        records.failed(6),
    ]
    assert list(standings(trials).values()) == ["baseline", "front", "front", "feasible", "infeasible", "stopped", "failed"]


def test_nothing_feasible_and_no_trials() -> None:
    assert standings([records.trial(1, violation=1.0)]) == {1: "infeasible"}
    assert standings([]) == {}
    assert [step.progress for step in steps([records.trial(1, violation=1.0)], is_pareto=True)] == [None]


def test_progress_is_the_share_of_the_last_hypervolume() -> None:
    trials = [
        records.trial(1, divergence=0.1, ratio=1.0),
        records.trial(2, divergence=0.1, ratio=2.0),
        records.trial(3, violation=1.0),
        records.trial(4, divergence=0.01, ratio=1.0),
    ]
    found = [step.progress for step in steps(trials, is_pareto=True)]
    # Corner at 5 % of the span beyond: log10 -0.95, ratio 2.05. Areas: 0.05 * 1.05, the same, 1.05 * 1.05.
    assert found == pytest.approx([0.05 / 1.05, 0.05 / 1.05, 0.05 / 1.05, 1.0])


def test_with_a_single_fitness_progress_is_the_best_so_far() -> None:
    trials = [records.trial(number, fitness=fitness) for number, fitness in ((1, 0.2), (2, 0.1), (3, 0.4))]
    assert [step.progress for step in steps(trials, is_pareto=False)] == [0.2, 0.2, 0.4]
