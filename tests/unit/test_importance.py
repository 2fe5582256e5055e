"""Which genes mattered."""

from __future__ import annotations

import itertools

import numpy as np
from fakes import records

from ovquant.report.importance import LEAST_TRIALS, importances


def test_the_gene_that_decides_comes_first_and_is_not_doubted() -> None:
    rng = np.random.default_rng(0)
    trials, genes = [], {}
    for number, (first, second, third) in enumerate(itertools.product("abc", "xy", "pqr"), start=1):
        for copy in range(2):
            at = 2 * number + copy
            trials.append(records.trial(at, divergence=10.0 ** "abc".index(first), ratio=float(rng.uniform(0.4, 0.6))))
            genes[at] = {"first": first, "second": second, "third": third, "fixed": "1"}
    divergence, latency = importances(trials, genes)
    assert (divergence.objective, divergence.weights[0].gene, divergence.doubt) == ("divergence", "first", None)
    assert divergence.r2 > 0.9
    assert divergence.weights[0].value > 1 > 0.1 > abs(divergence.weights[1].value)
    assert {weight.gene for weight in divergence.weights} == {"first", "second", "third"}
    assert latency.doubt is not None  # it is chance
    assert "explains" in latency.doubt


def test_few_trials_tell_nothing() -> None:
    trials = [records.trial(number, divergence=number) for number in range(1, LEAST_TRIALS)]
    assert importances(trials, {trial.number: {"gene": str(trial.number % 2)} for trial in trials}) == []


def test_failures_and_trials_outside_of_the_population_do_not_count() -> None:
    trials = [records.baseline(), *(records.trial(n, divergence=n % 3 + 1.0) for n in range(1, 20)), records.failed(20)]
    genes = {number: {"gene": str(number % 3)} for number in [*range(1, 20), 20]}
    (found,) = importances(trials, genes)  # the ratio never varies
    assert (found.objective, found.n_trials) == ("divergence", 19)
