"""Throughput on a scripted clock and on a real model; memory of real processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from fakes.clock import ScriptedClock
from openvino import opset13 as ops

from ovquant import runtime
from ovquant.capacity import throughputs
from ovquant.errors import ModelError
from ovquant.footprint import footprint
from ovquant.inference import CompiledModel
from ovquant.protocols import Sample

SAMPLE = {"x": np.ones((1, 512), np.float32)}


class Scripted:
    """Gets through `rate(now)` items per second; as long as its requests run dry, it waits."""

    n_threads = 2

    def __init__(self, clock: ScriptedClock, rate: Callable[[float], float], n_requests: int = 2) -> None:
        self._clock, self._rate, self.n_requests = clock, rate, n_requests

    def crowd(self, sample: Sample) -> Callable[[int], None]:
        assert sample is SAMPLE
        return lambda n: self._clock.advance(n / self._rate(self._clock.now()))


def rates(clock: ScriptedClock, **models: Scripted):
    return throughputs(models, SAMPLE, 2.0, clock)  # type: ignore[arg-type]


def test_items_per_second_are_those_of_the_device():
    clock = ScriptedClock()
    found = rates(clock, slow=Scripted(clock, lambda _: 200.0), fast=Scripted(clock, lambda _: 1000.0, n_requests=4))
    for name, rate, n_requests in (("slow", 200, 2), ("fast", 1000, 4)):
        told = found[name]
        assert told.per_s.value == pytest.approx(rate)
        assert (told.per_s.low, told.per_s.high) == (pytest.approx(rate), pytest.approx(rate))
        assert (told.n_requests, told.unstable) == (n_requests, None)
        assert 20 <= told.n_visits <= 24
        assert told.n_items / told.seconds == pytest.approx(rate, rel=1e-3)
        assert told.seconds < 2.5


def test_a_machine_that_drifts_has_a_wide_interval_that_holds_both_ends():
    clock = ScriptedClock()
    told = rates(clock, one=Scripted(clock, lambda now: 1000.0 - 150 * now))["one"]
    assert told.per_s.low < 850
    assert told.per_s.high > 950
    assert told.unstable is not None


def test_a_slow_model_is_given_fewer_visits_and_no_less_than_twelve():
    clock = ScriptedClock()
    told = rates(clock, one=Scripted(clock, lambda _: 2.0))["one"]
    assert told.n_visits == 12
    assert told.per_s.value == pytest.approx(2.0)


def matmul(n_columns: int) -> ov.Model:
    x = ops.parameter([1, 512], np.float32, name="x")
    x.output(0).set_names({"x"})
    weights = np.random.default_rng(0).normal(size=(512, n_columns)).astype(np.float32)
    return ov.Model([ops.reduce_sum(ops.matmul(x, weights, False, False), [1])], [x])


@pytest.mark.parametrize("n", [1, 2, 7])
def test_all_requests_run_on_the_sample(n: int):
    compiled = CompiledModel(matmul(64), "CPU", {"PERFORMANCE_HINT": "THROUGHPUT"}, "f32")
    expected = next(iter(compiled.infer(SAMPLE).values()))
    compiled.crowd(SAMPLE)(n)
    requests = compiled._timed[:n]
    assert len(compiled._timed) == compiled.n_requests
    for request in requests:
        assert np.array_equal(request.output_tensors[0].data, expected)


def test_memory_grows_with_the_weights(tmp_path: Path):
    found = {}
    for n_columns in (64, 16384):
        path = tmp_path / f"{n_columns}.xml"
        runtime.save_model(matmul(n_columns), path)
        found[n_columns] = footprint(path, "CPU", {}, "f32", SAMPLE)
    small, large = found[64], found[16384]
    assert small is not None
    assert large is not None
    weights = (16384 - 64) * 512 * 4
    assert weights <= large.peak_bytes - small.peak_bytes < 4 * weights
    assert small.held_bytes <= small.peak_bytes


def test_a_model_that_cannot_be_run_there_says_why(tmp_path: Path):
    with pytest.raises(ModelError, match=r"its memory cannot be measured: .*no such model file"):
        footprint(tmp_path / "none.xml", "CPU", {}, None, SAMPLE)
