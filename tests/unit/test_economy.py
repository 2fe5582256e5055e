"""What a search saved, counted from records."""

from __future__ import annotations

import dataclasses

from fakes.records import baseline, evaluation, failed, trial

from ovquant.economy import economy
from ovquant.records import Evaluation, Raced
from ovquant.strategy import Strategy


def raced(reason: str, n_seen: int, n_items: int = 400) -> Evaluation:
    stop = Raced(reason=reason, name="accuracy", bound=0.2, limit=0.01, n_items=n_items)
    return dataclasses.replace(evaluation(), n_items=n_seen, raced=stop)


def whole(**changes: object) -> Evaluation:
    return dataclasses.replace(evaluation(), n_items=400, **changes)


def test_items_that_were_not_run_are_saved():
    trials = [trial(1, outcome=whole()), trial(2, outcome=raced("limit", 100)), trial(3, outcome=whole(same_as="abc"))]
    found = economy(trials)
    assert (found.items_run, found.items_all) == (500, 1200)
    assert found.items_saved == 1 - 500 / 1200
    assert (found.n_models, found.n_stopped, found.n_same) == (3, 1, 1)


def test_the_float_model_and_failures_do_not_count():
    found = economy([baseline(), failed(1)])
    assert found.n_models == 0
    assert found.items_saved == 0


def test_structures_are_counted_once():
    found = economy([trial(n, outcome=whole(structure=key)) for n, key in enumerate(["a", "b", "a", None], start=1)])
    assert found.n_structures == 2


def test_screened_bias_corrections_are_worth_the_median_of_those_that_were_run():
    accurate = Strategy(fast_bias_correction=False)
    run = [trial(n, strategy=accurate, outcome=whole(seconds={"quantize": s})) for n, s in enumerate([10.0, 30.0, 20.0], 1)]
    screened = [trial(n, strategy=accurate, outcome=raced("screened", 64)) for n in (4, 5)]
    found = economy([*run, *screened])
    assert (found.n_screened, found.n_stopped, found.screened_s) == (2, 0, 40.0)
    assert "2 accurate bias corrections screened out, about 40 s saved" in found.words()


def test_without_one_that_was_run_nothing_is_claimed():
    found = economy([trial(1, strategy=Strategy(fast_bias_correction=False), outcome=raced("screened", 64))])
    assert found.screened_s is None
    assert "saved" not in found.words().partition("screened out")[2]
