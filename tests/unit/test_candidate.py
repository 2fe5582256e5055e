"""What is remembered of models that were measured."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fakes.records import evaluation, latency

from ovquant.candidate import Memory
from ovquant.records import Raced
from ovquant.strategy import Strategy

KEY, OTHER = ("graph", "f32", "validation", True, False), ("another", "f32", "validation", True, False)
TIMED = dataclasses.replace(evaluation(ratio=0.5), structure="a", seconds={"quantize": 1.0})


def test_an_equal_model_has_the_outcome_of_the_first_and_its_own_seconds(tmp_path: Path):
    memory = Memory(tmp_path)
    assert not memory.knows(KEY, is_raced=True)
    assert memory.again(KEY, "first", {}, is_raced=True) is None
    memory.learn(KEY, "first", TIMED)
    memory.learn(KEY, "second", evaluation(divergence=9.0))  # the first one of a model is kept
    assert memory.knows(KEY, is_raced=False)
    assert memory.again(KEY, "second", {"quantize": 2.0}, is_raced=True) == dataclasses.replace(
        TIMED, seconds={"quantize": 2.0}, same_as="first"
    )
    assert memory.again(KEY, "first", TIMED.seconds, is_raced=True) == TIMED


def test_equal_kernels_have_one_latency():
    memory = Memory()
    memory.learn(KEY, "first", TIMED)
    memory.learn(OTHER, "other", dataclasses.replace(TIMED, latency=latency(0.6)))
    found = memory.again(OTHER, "other", {}, is_raced=True)
    assert found is not None
    assert found.latency == TIMED.latency


def test_what_was_not_timed_and_what_has_no_structure_stays_so():
    memory = Memory()
    for key, outcome in ((KEY, evaluation(ratio=None)), (OTHER, evaluation(ratio=0.7))):
        memory.learn(key, "first", outcome)
        assert memory.again(key, "first", {}, is_raced=True) == outcome


def test_what_is_recalled_is_known_but_for_what_was_not_run():
    memory = Memory()
    screened = Raced(reason="screened", name="accuracy", bound=0.5, limit=0.1, n_items=100)
    strategy = Strategy(inference_precision="f32")
    known = [dataclasses.replace(TIMED, graph_digest="graph"), dataclasses.replace(TIMED, graph_digest="another", raced=screened)]
    memory.recall([(strategy, outcome) for outcome in known])
    assert memory.knows(KEY, is_raced=False)
    assert not memory.knows(OTHER, is_raced=True)
    assert memory.latencies == {"a": TIMED.latency}
    found = memory.again(KEY, strategy.digest, known[0].seconds, is_raced=True)
    assert found == known[0]


def test_what_a_race_stopped_is_no_answer_for_what_must_be_run_on_all_items():
    memory = Memory()
    stopped = dataclasses.replace(TIMED, raced=Raced(reason="limit", name="accuracy", bound=0.2, limit=0.1, n_items=100))
    memory.learn(KEY, "first", stopped)
    assert memory.knows(KEY, is_raced=True)
    assert memory.again(KEY, "first", TIMED.seconds, is_raced=True) == stopped
    assert not memory.knows(KEY, is_raced=False)
    assert memory.again(KEY, "default", {}, is_raced=False) is None
    memory.learn(KEY, "default", TIMED)
    assert memory.again(KEY, "default", TIMED.seconds, is_raced=False) == TIMED
    assert memory.again(KEY, "default", TIMED.seconds, is_raced=True) == TIMED
