"""What a search keeps in mind of its trials."""

from __future__ import annotations

import dataclasses

from fakes.records import baseline, evaluation, failed, trial

from ovquant.job import Objective, StopAt
from ovquant.objectives import Rules
from ovquant.records import Trial
from ovquant.tally import N_ALIKE, Tally

RULES = Rules(objective=Objective(), metrics=(), metric_directions=(), max_divergence=None)


def tally_of(*trials: Trial, stop_at: StopAt | None = None) -> Tally:
    tally = Tally(stop_at)
    for one in trials:
        tally.add(one, RULES)
    return tally


def of_generation(number: int, generation: int | None, divergence: float) -> Trial:
    return dataclasses.replace(trial(number, evaluation(divergence=divergence, ratio=0.5 - number / 100)), generation=generation)


def test_what_is_counted():
    tally = tally_of()
    assert (tally.n_candidates, tally.n_failures, tally.has_baseline, tally.has_default) == (0, 0, False, False)
    tally = tally_of(baseline(), trial(1, role="default"), failed(2), trial(3, violation=1.0))
    assert (tally.n_candidates, tally.n_failures, tally.has_baseline, tally.has_default) == (3, 1, True, True)


def test_members_of_a_generation_are_no_rivals_of_each_other():
    tally = tally_of(of_generation(1, 0, 0.3), of_generation(2, 0, 0.2), of_generation(3, 1, 0.1), of_generation(4, 1, 0.05))
    assert [one.number for one in tally.before(1)] == [2]
    assert [one.number for one in tally.before(2)] == [4]
    best = tally.best(RULES)
    assert best is not None
    assert best.number == 4


def test_before_the_first_generation_there_are_no_rivals():
    assert tally_of(baseline()).before(0) == ()
    assert tally_of(baseline(), of_generation(1, 0, 0.3)).before(0) == ()


def test_only_what_the_target_allows_may_win_or_meet_the_target():
    outside = dataclasses.replace(trial(1, evaluation(ratio=0.1), role="default"), code=None, generation=None)
    tally = tally_of(baseline(), outside, stop_at=StopAt(min_speedup=2))
    assert tally.best(RULES) is None
    assert not tally.is_met
    tally.add(trial(2, evaluation(ratio=0.6)), RULES)
    assert not tally.is_met
    tally.add(trial(3, evaluation(ratio=0.4)), RULES)
    assert tally.is_met
    tally.add(trial(4, evaluation(ratio=0.6)), RULES)
    assert tally.is_met


def test_failures_in_a_row_are_those_of_this_run():
    failures = [failed(number) for number in range(1, N_ALIKE + 1)]
    assert tally_of(*failures[:-1]).repeated_failure is None
    tally = tally_of(*failures)
    assert tally.repeated_failure == failures[-1].outcome
    tally.forget_failures()
    assert tally.repeated_failure is None
    assert tally_of(*failures, trial(20)).repeated_failure is None
