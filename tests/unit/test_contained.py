"""What takes a worker down is found, told as the candidate's failure, and the next candidates are none the worse.

Faults are real: code of the user's that crashes, hangs, eats memory or raises in the worker, once, when a file says so.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import psutil
import pytest
from fakes import faults

from ovquant import contained
from ovquant.console import _DOING
from ovquant.contained import ContainedExecutor, Limits, _LostError
from ovquant.errors import DataError, OutputError, OvquantError
from ovquant.job import DataSpec, MetricSpec
from ovquant.records import Evaluation, Failure, FloatModel
from ovquant.strategy import Strategy
from ovquant.targets import Measurement, MeasurementPlan, Target
from ovquant.tasks import BenchSpec, Task
from ovquant.worker import Name

SHORT = MeasurementPlan(visits=6, burst=4, discard=1, seconds=0.05)
FIRST, SECOND, THIRD = (Strategy(subset_size=size) for size in (10, 9, 8))


@pytest.fixture
def order(tmp_path: Path) -> Path:
    """Return the file that a fault is ordered by."""
    return tmp_path / faults.ORDER


@pytest.fixture
def bench(conv_case: tuple[Path, Path], tmp_path: Path, order: Path) -> BenchSpec:
    source = faults.install(tmp_path, conv_case[1])
    (tmp_path / "work").mkdir(exist_ok=True)  # a worker may have been started before
    return BenchSpec(
        model=str(conv_case[0]),
        target=Target(version=1, name="t", device="CPU", measurement=Measurement(ranking=SHORT, verdict=SHORT)),
        device="CPU",
        data=DataSpec(path=f"{source}:data"),
        seed=0,
        metrics=(MetricSpec(name=f"{source}:score"),),
        output_kinds={},
        model_dir=str(tmp_path / "work"),
    )


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[ContainedExecutor]:
    limits = Limits(memory_bytes=1 << 30, first_s=120.0, least_s=120.0)
    running = ContainedExecutor(tmp_path / "work", limits=limits)
    yield running
    running.close()


MESSAGES = {
    "segfault": "SIGSEGV",
    "abort": "SIGABRT",
    "kill": "SIGKILL, as the system does when memory runs out",
    "exit": "exit code 3",
    "hang": "validate did not end within 3 s",
    "memory": "more than the limit of 1024 MB",
}


@pytest.mark.parametrize("fault", faults.FAULTS)
def test_a_fault_is_its_candidates_alone(
    executor: ContainedExecutor, bench: BenchSpec, order: Path, tmp_path: Path, fault: str
) -> None:
    opened = executor.open(bench)
    assert executor.submit([Task(bench=bench, subject=FloatModel(inference_precision="f32"))])[0].kind == "evaluation"
    order.write_text(fault)
    if fault == "hang":
        executor._limits = dataclasses.replace(executor._limits, least_s=3.0, factor=1.0)
    executor.announce(bench, [Task(bench=bench, subject=subject) for subject in (FIRST, SECOND)])
    outcomes = executor.submit([Task(bench=bench, subject=subject) for subject in (FIRST, SECOND)])
    assert (tmp_path / faults.DONE).read_text() == f"{fault}\n"
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    expected = faults.FAULTS[fault]
    assert [(failure.stage, failure.error) for failure in failures] == ([] if expected is None else [expected])
    assert all(MESSAGES.get(fault, "") in failure.message for failure in failures)
    healthy = executor.submit([Task(bench=bench, subject=THIRD)])[0]
    assert isinstance(healthy, Evaluation)
    assert executor.open(bench) == opened


def test_where_two_may_be_guilty_each_is_run_by_itself(executor: ContainedExecutor, bench: BenchSpec, order: Path) -> None:
    executor.open(bench)
    many = [Strategy(subset_size=size, activations_range_estimator="MEAN_QUANTILE") for size in range(2, 8)]
    executor.announce(bench, [Task(bench=bench, subject=subject) for subject in many])
    order.write_text("segfault")
    outcomes = executor.submit([Task(bench=bench, subject=subject) for subject in many])
    assert sum(isinstance(outcome, Failure) for outcome in outcomes) <= 1
    assert all(isinstance(outcome, Evaluation) or outcome.error == "Crash" for outcome in outcomes)


def test_what_was_settled_before_a_crash_is_not_lost(
    executor: ContainedExecutor, bench: BenchSpec, order: Path, tmp_path: Path
) -> None:
    module, first = tmp_path / "faulty.py", "    global n_scored\n"
    counted = f"    with (HERE / 'calls').open('a') as stream:\n        stream.write('x')\n{first}"
    module.write_text(module.read_text().replace(first, counted))
    executor.open(bench)
    (tmp_path / "calls").unlink()
    # The third call is of the third candidate: the first two have been settled by then.
    third = "    if len((HERE / 'calls').read_text()) == 3:\n"
    module.write_text(module.read_text().replace('    if fault == "segfault":\n', third))
    executor._replace(
        _LostError(Failure(stage="start", error="Crash", message="a new worker reads the metric again"), frozenset())
    )
    outcomes = executor.submit([Task(bench=bench, subject=subject) for subject in (FIRST, SECOND, THIRD)])
    kinds = [outcome.kind for outcome in outcomes]
    assert kinds.count("failure") == 1
    assert len((tmp_path / "calls").read_text()) <= 5  # reference, three candidates, reference of the worker that came after


def test_the_peak_memory_of_each_stage_is_told(executor: ContainedExecutor, bench: BenchSpec) -> None:
    executor.open(bench)
    outcome = executor.submit([Task(bench=bench, subject=FIRST)])[0]
    assert isinstance(outcome, Evaluation)
    assert {"quantize", "compile", "latency", "validate"} <= set(outcome.peak_bytes)
    assert all(50 << 20 < used < 1 << 30 for used in outcome.peak_bytes.values())


def test_a_worker_that_replaces_another_one_knows_what_was_measured(
    executor: ContainedExecutor, bench: BenchSpec, order: Path
) -> None:
    executor.open(bench)
    first = executor.submit([Task(bench=bench, subject=FIRST)])[0]
    order.write_text("abort")
    executor.submit([Task(bench=bench, subject=SECOND)])
    again = executor.submit([Task(bench=bench, subject=FIRST)])[0]
    assert isinstance(first, Evaluation)
    assert isinstance(again, Evaluation)
    assert again.latency == first.latency
    assert again.outputs_digest == first.outputs_digest
    assert "validate" not in again.seconds  # equal models are not run twice


def test_a_worker_that_grows_is_renewed(
    executor: ContainedExecutor, bench: BenchSpec, order: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contained, "_N_GROWING", 1)
    executor.open(bench)
    first, second, third = (Task(bench=bench, subject=subject) for subject in (FIRST, SECOND, THIRD))
    executor.announce(bench, [first])
    measured = executor.submit([first])[0]
    grown = executor._process
    executor.announce(bench, [second])
    order.write_text("leak")
    assert isinstance(executor.submit([second])[0], Evaluation)
    assert grown.is_running()
    executor.announce(bench, [first])
    assert not grown.is_running()
    again = executor.submit([first])[0]
    assert isinstance(measured, Evaluation)
    assert isinstance(again, Evaluation)
    assert again.latency == measured.latency
    executor.announce(bench, [third])
    executor.submit([third])
    assert executor._n_workers == 2  # the new one has not grown


def test_what_others_left_in_memory_is_not_a_candidates_fault(bench: BenchSpec, order: Path, tmp_path: Path) -> None:
    running = ContainedExecutor(tmp_path / "work", limits=Limits(memory_bytes=1 << 40))
    try:
        running.open(bench)
        order.write_text("leak")
        tasks = [Task(bench=bench, subject=subject) for subject in (FIRST, SECOND)]
        assert isinstance(running.submit(tasks[:1])[0], Evaluation)
        running._limits = Limits(memory_bytes=running._measure() - (100 << 20))  # above it by what was leaked
        assert isinstance(running.submit(tasks[1:])[0], Evaluation)
        assert running._n_workers == 2
    finally:
        running.close()


def test_errors_of_the_users_keep_their_kind(executor: ContainedExecutor, bench: BenchSpec, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        executor.open(BenchSpec(**{name: getattr(bench, name) for name in bench.__slots__} | {"data": DataSpec(path="no.npz")}))


def test_a_worker_that_crashes_at_the_start_is_an_error(executor: ContainedExecutor, bench: BenchSpec, tmp_path: Path) -> None:
    (tmp_path / "faulty.py").write_text("import os\nos.abort()\n")
    with pytest.raises(OvquantError, match="SIGABRT"):
        executor.open(bench)


def test_on_a_full_disk_a_failure_ends_the_search(
    executor: ContainedExecutor, bench: BenchSpec, order: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor.open(bench)
    order.write_text("raise")
    monkeypatch.setattr(psutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(OutputError, match="no space left for candidates \\(0 MB free"):
        executor.submit([Task(bench=bench, subject=FIRST)])


def test_what_a_worker_prints_does_not_reach_the_terminal(
    executor: ContainedExecutor, bench: BenchSpec, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    module, first = tmp_path / "faulty.py", "    global n_scored\n"
    module.write_text(module.read_text().replace(first, f"    print('noise')\n    os.write(2, b'loud')\n{first}"))
    executor.open(bench)
    assert capfd.readouterr() == ("", "")
    assert "noise" in (tmp_path / "work" / "worker-1.log").read_text()
    assert "loud" in (tmp_path / "work" / "worker-1.log").read_text()


def test_closing_ends_the_worker(bench: BenchSpec, tmp_path: Path) -> None:
    executor = ContainedExecutor(tmp_path / "work")
    executor.open(bench)
    worker = executor._process
    executor.close()
    deadline = time.monotonic() + 10
    while worker.is_running() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not worker.is_running()
    assert os.getpid() != worker.pid


@pytest.mark.parametrize(("longest_s", "expected"), [(None, 100.0), (0.5, 10.0), (3.0, 12.0)])
def test_a_stage_may_take_longer_than_the_longest_one_seen(longest_s: float | None, expected: float) -> None:
    assert Limits(memory_bytes=1, first_s=100.0, factor=4.0, least_s=10.0).seconds(longest_s) == expected


def test_what_is_under_way_is_told(bench: BenchSpec, tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    running = ContainedExecutor(tmp_path / "work", tell=lambda stage, seconds: told.append((stage, seconds)))
    try:
        running.open(bench)
        running.submit([Task(bench=bench, subject=FIRST)])
    finally:
        running.close()
    stages = {stage for stage, _ in told}
    assert stages  # a quantization takes longer than from one look to the next
    assert stages <= set(_DOING)
    assert set(get_args(Name)) <= set(_DOING)
    assert all(0 <= seconds < 120 for _, seconds in told)
