"""Rivals and screening: which candidates others are measured by, and which are tried in a cheaper way first."""

from __future__ import annotations

import dataclasses

import pytest
from fakes.records import evaluation, latency, metric
from hypothesis import given
from hypothesis import strategies as st

from ovquant.job import Drop, MetricSpec, Objective
from ovquant.objectives import Rules
from ovquant.records import FloatModel, ModelFile, Raced
from ovquant.strategy import Strategy
from ovquant.tasks import Rival, best_rival, rival_of, screening

FAST, ACCURATE = Strategy(subset_size=50, preset="mixed"), Strategy(subset_size=50, preset="mixed", fast_bias_correction=False)


# Screening


def test_accurate_bias_correction_is_screened_by_the_fast_one():
    assert screening(ACCURATE) == FAST


def test_screening_changes_nothing_else():
    other = dataclasses.replace(ACCURATE, model_type="transformer", inference_precision="bf16", target_device="CPU_SPR")
    assert screening(other) == dataclasses.replace(other, fast_bias_correction=True)


SUBJECTS = {
    "fast bias correction": FAST,
    "no bias correction, by which the accurate one has no effect": dataclasses.replace(ACCURATE, disable_bias_correction=True),
    "float model": FloatModel(inference_precision="bf16"),
    "model file": ModelFile(path="model.xml", inference_precision="f32"),
}


@pytest.mark.parametrize("name", SUBJECTS)
def test_other_subjects_are_their_own_screening(name):
    assert screening(SUBJECTS[name]) is SUBJECTS[name]


def test_screening_is_screened_no_further():
    assert screening(screening(ACCURATE)) == screening(ACCURATE)


# The best rival


def rival(divergence: float, ratio: float, digest: str = "rival") -> Rival:
    return Rival(digest=digest, divergence=divergence, ratio=ratio)


def test_untimed_candidate_has_no_rival():
    assert best_rival([rival(0.1, 0.1)], None) is None


def test_candidate_faster_than_all_has_no_rival():
    assert best_rival([rival(0.1, 0.6), rival(0.0, 0.51)], latency(0.5)) is None


def test_there_is_no_rival_without_candidates_before():
    assert best_rival([], latency(0.5)) is None


def test_best_rival_diverges_least_of_those_that_are_no_slower():
    closest, faster, slower = rival(0.1, 0.5), rival(0.2, 0.2), rival(0.01, 0.7)
    assert best_rival([faster, slower, closest], latency(0.6)) is closest


def test_rival_as_fast_as_the_candidate_counts():
    assert best_rival([rival(0.1, 0.5)], latency(0.5)) == rival(0.1, 0.5)


def test_width_of_the_interval_does_not_count():
    assert best_rival([rival(0.1, 0.5)], latency(0.49, half_width=0.3)) is None
    assert best_rival([rival(0.1, 0.5)], latency(0.51, half_width=0.3)) is not None


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0.1, 2)), max_size=8), st.floats(0.1, 2))
def test_best_rival_is_no_slower_and_none_of_the_others_is_better(pairs, ratio):
    rivals = [rival(*pair, digest=str(index)) for index, pair in enumerate(pairs)]
    chosen = best_rival(rivals, latency(ratio))
    quick = [one for one in rivals if one.ratio <= ratio]
    assert (chosen is None) == (not quick)
    if chosen is not None:
        assert chosen in quick
        assert all(chosen.divergence <= one.divergence for one in quick)


# Becoming a rival

PARETO = Rules(
    objective=Objective(),
    metrics=(MetricSpec(name="accuracy", max_drop=Drop(amount=0.01)),),
    metric_directions=("maximize",),
    max_divergence=0.5,
)
GOOD = evaluation(divergence=0.2, metrics=[metric(0.9, drop=0.005)], ratio=0.4)


def test_feasible_candidate_that_was_run_on_all_items_is_a_rival():
    assert rival_of(FAST, GOOD, PARETO) == Rival(digest=FAST.digest, divergence=0.2, ratio=0.4)


def test_rival_is_told_apart_by_its_precision():
    half = dataclasses.replace(FAST, inference_precision="bf16")
    assert rival_of(half, GOOD, PARETO) != rival_of(FAST, GOOD, PARETO)


RACED = Raced(reason="dominated", name="divergence", bound=0.3, limit=0.2, n_items=1000)
NO_RIVALS = {
    "stopped early": dataclasses.replace(GOOD, raced=RACED),
    "on the holdout": dataclasses.replace(GOOD, split="holdout"),
    "untimed": dataclasses.replace(GOOD, latency=None),
    "drops too much": dataclasses.replace(GOOD, metrics=(metric(0.88, drop=0.02),)),
    "diverges too much": evaluation(divergence=0.6, metrics=[metric(0.9)], ratio=0.4),
}


@pytest.mark.parametrize("name", NO_RIVALS)
def test_other_candidates_are_no_rivals(name):
    assert rival_of(FAST, NO_RIVALS[name], PARETO) is None


@pytest.mark.parametrize("fitness", ["accuracy", "divergence", "weighted"])
def test_there_are_no_rivals_where_fitness_is_one_number(fitness):
    rules = dataclasses.replace(PARETO, objective=Objective(fitness=fitness))
    assert rival_of(FAST, GOOD, rules) is None


def test_rival_is_beaten_only_by_one_that_is_faster_or_closer():
    """A candidate's own measurements never make it its own better: at the same latency the rival is itself."""
    mine = rival_of(FAST, GOOD, PARETO)
    assert mine is not None
    assert best_rival([mine], GOOD.latency) == mine
    assert best_rival([mine], latency(0.39)) is None
