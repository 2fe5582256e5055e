"""Every executor answers with outcomes, whatever a candidate does."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.executor import TableExecutor

from ovquant.cluster import ClusterExecutor
from ovquant.contained import ContainedExecutor
from ovquant.executor import InProcessExecutor
from ovquant.job import DataSpec, MetricSpec
from ovquant.protocols import Executor
from ovquant.records import Comparison, Evaluation, Failure, FloatModel, outcome_from_json, outcome_to_json
from ovquant.selectors import ScopeSelector
from ovquant.strategy import Strategy
from ovquant.targets import Measurement, MeasurementPlan, Target
from ovquant.tasks import BenchSpec, ComparisonTask, Task

SHORT = MeasurementPlan(visits=6, burst=4, discard=1, seconds=0.05)
GOOD = Strategy(subset_size=10)
BAD = Strategy(subset_size=10, ignored_scope=ScopeSelector(patterns=(".*",)))


@pytest.fixture(scope="module")
def bench(conv_case: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> BenchSpec:
    return BenchSpec(
        model=str(conv_case[0]),
        target=Target(version=1, name="t", device="CPU", measurement=Measurement(ranking=SHORT, verdict=SHORT)),
        device="CPU",
        data=DataSpec(path=str(conv_case[1])),
        seed=0,
        metrics=(MetricSpec(name="accuracy"),),
        output_kinds={},
        model_dir=str(tmp_path_factory.mktemp("models")),
    )


@pytest.fixture(scope="module")
def clustered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Executor]:
    """One for all tests: it takes seconds to begin."""
    clusters = pytest.importorskip("clusters")
    with clusters.cluster(tmp_path_factory.mktemp("cluster"), 1, {"ovquant-target-t": 1}) as running:
        executor = ClusterExecutor(running.scheduler_address, "t", "CPU")
        yield executor
        executor.close()


@pytest.fixture(params=["in process", "contained", "cluster", "table"])
def executor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Executor]:
    if request.param == "cluster":
        yield request.getfixturevalue("clustered")
        return
    made = {
        "in process": InProcessExecutor,
        "contained": lambda: ContainedExecutor(tmp_path),
        "table": lambda: TableExecutor(failing=frozenset({BAD.digest})),
    }
    running = made[request.param]()
    yield running
    running.close()


def test_a_model_that_can_be_measured_gives_an_evaluation(executor: Executor, bench: BenchSpec) -> None:
    outcome = executor.submit([Task(bench=bench, subject=GOOD)])[0]
    assert isinstance(outcome, Evaluation)
    assert outcome.latency is not None
    assert [result.name for result in outcome.metrics] == ["accuracy"]


def test_latency_is_left_out_where_it_is_not_asked_for(executor: Executor, bench: BenchSpec) -> None:
    outcome = executor.submit([Task(bench=bench, subject=GOOD, is_timed=False, split="holdout")])[0]
    assert isinstance(outcome, Evaluation)
    assert (outcome.latency, outcome.split) == (None, "holdout")


def test_a_failing_candidate_gives_a_failure(executor: Executor, bench: BenchSpec) -> None:
    outcome = executor.submit([Task(bench=bench, subject=BAD)])[0]
    assert isinstance(outcome, Failure)
    assert (outcome.stage, bool(outcome.message)) == ("quantize", True)


def test_outcomes_travel_as_pickle_and_as_json(executor: Executor, bench: BenchSpec) -> None:
    for subject in (GOOD, BAD):
        outcome = executor.submit([Task(bench=bench, subject=subject)])[0]
        assert pickle.loads(pickle.dumps(outcome)) == outcome
        assert outcome_from_json(outcome_to_json(outcome)) == outcome


def test_a_comparison_has_a_latency_per_subject_and_the_first_is_the_baseline(executor: Executor, bench: BenchSpec) -> None:
    comparison = executor.compare(ComparisonTask(bench=bench, subjects=(FloatModel(inference_precision="f32"), GOOD)))
    assert isinstance(comparison, Comparison)
    assert [latency.ratio.value == 1 for latency in comparison.latencies] == [True, False]


def test_a_profile_has_the_kernels_of_each_model_or_is_not_told(executor: Executor, bench: BenchSpec) -> None:
    found = executor.profile(bench, (FloatModel(inference_precision="f32"), GOOD))
    if isinstance(executor, TableExecutor):
        assert found is None
        return
    assert found is not None
    floats, quantized = found
    assert not any(kernel.is_integer for kernel in floats.kernels)
    assert any(kernel.is_integer for kernel in quantized.kernels)
