"""Searches on a Dask cluster: as on one machine, whoever is lost meanwhile."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import small
from conftest import Run
from fakes.consoles import Telling
from fakes.latencies import replaying, replaying_meter

from ovquant import commands, crew, evaluation, station
from ovquant.cluster import ClusterExecutor
from ovquant.console import Console
from ovquant.errors import DataError, DeviceError
from ovquant.executor import InProcessExecutor
from ovquant.job import Job
from ovquant.loop import Progress
from ovquant.protocols import Executor
from ovquant.records import Evaluation, Trial
from ovquant.study import read_trials
from ovquant.studyfile import STUDY_FILE

clusters = pytest.importorskip("clusters")
RESOURCE = {"ovquant-target-cpu": 1}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    model, data = small.conv_case(tmp_path, n_items=600)  # enough for candidates to be stopped early
    content: dict[str, Any] = {
        "version": 1,
        "model": str(model),
        "data": str(data),
        "metrics": [{"name": "accuracy", "max_drop": 0.05}],
        "max_divergence": 0.005,
        "max_trials": 12,
        "population": 6,
        "output": str(tmp_path / "out"),
    }
    return Job.model_validate(content)


def search(job: Job, executor: Executor, tell: Callable[[Progress], None] = lambda progress: None, **changes: Any) -> list[Trial]:
    changed = job.model_copy(update=changes)
    commands.search(changed, Telling(tell), executor)
    return read_trials(Path(changed.output) / STUDY_FILE)


def measured(trials: list[Trial]) -> list[Trial]:
    """Return trials without what differs from run to run: times and memory of the stages; digits in names that NNCF counts up."""
    return [
        dataclasses.replace(t, outcome=dataclasses.replace(t.outcome, seconds={}, peak_bytes={}, size_bytes=0))
        if isinstance(t.outcome, Evaluation)
        else t
        for t in trials
    ]


def test_a_search_whose_worker_is_killed_has_the_trials_of_a_single_process(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "package", lambda *arguments, **options: None)
    with clusters.cluster(tmp_path / "dask", 4, RESOURCE) as running:
        executor = ClusterExecutor(running.scheduler_address, "cpu", "CPU", make=replaying)
        killed: list[int] = []

        def kill_one(pids: dict[str, int]) -> None:
            deadline = time.monotonic() + 60
            while not killed and time.monotonic() < deadline:
                with executor._dispatcher.lock:
                    busy = [run.worker for run in executor._dispatcher._runs if run.worker is not None]
                if busy:
                    killed.append(pids[busy[0].address])
                    os.kill(killed[0], signal.SIGKILL)
                time.sleep(0.002)

        def begin(progress: Progress) -> None:
            if progress.n_candidates == 6:  # a generation has ended; the next one is about to be evaluated
                pids = executor._crew._client.run(os.getpid)
                threading.Thread(target=kill_one, args=(pids,), daemon=True).start()

        trials = search(job, executor, begin)
    assert killed
    log = (Path(job.output) / "log.jsonl").read_text()
    assert log.count('"worker lost"') == 1
    monkeypatch.setattr(evaluation, "meter_of", replaying_meter)
    alone = search(job, InProcessExecutor(), output=str(tmp_path / "alone"))
    assert len(trials) == 13
    assert measured(trials) == measured(alone)
    assert any(isinstance(t.outcome, Evaluation) and t.outcome.raced is not None for t in trials)


# What is said where it cannot begin


def refused(run: Run, conv_case: tuple[Path, Path], address: object, *, code: int = 6) -> str:
    model, data = conv_case
    result = run("search", model, "--data", data, "--cluster", address, "--max-trials", 2, "-o", "out", code=code)
    assert not Path("out").exists()
    return str(result.output)


def test_where_no_scheduler_answers_it_says_so(run: Run, conv_case: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "_CONNECT_S", 0.5)
    told = refused(run, conv_case, "tcp://127.0.0.1:9")
    assert "tcp://127.0.0.1:9: no Dask scheduler answers there" in told
    assert "dask scheduler" in told
    assert "scheduler.json: no Dask scheduler answers there" in refused(run, conv_case, "scheduler.json")


def test_without_distributed_it_says_what_to_install(
    run: Run, conv_case: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert "pip install 'ovquant[cluster]'" in refused(run, conv_case, "tcp://127.0.0.1:9", code=2)


def test_an_address_has_a_scheme(run: Run, conv_case: tuple[Path, Path]) -> None:
    assert "tcp://HOST:PORT" in refused(run, conv_case, "scheduler:8786", code=3)


@pytest.fixture(scope="module")
def threads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two workers in this process."""
    with clusters.cluster(tmp_path_factory.mktemp("threads"), 2, RESOURCE, processes=False) as running:
        yield running


def test_without_a_worker_to_measure_on_it_says_how_to_start_one(threads: Any) -> None:
    with pytest.raises(DeviceError, match="none of the 2 workers there has the resource 'ovquant-target-npu'") as told:
        ClusterExecutor(threads.scheduler_address, "npu", "NPU", wait_s=0)
    assert f'dask worker {threads.scheduler_address} --nthreads 1 --resources "ovquant-target-npu=1"' in str(told.value)


def test_workers_with_other_versions_are_refused(threads: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = station.own_versions()
    answers = iter([own, {**own, "nncf": "2.0"}])
    monkeypatch.setattr(station, "own_versions", lambda: next(answers, own))
    with pytest.raises(DeviceError, match=r"has nncf 2\.0, and this machine ovquant .*: install the same versions"):
        ClusterExecutor(threads.scheduler_address, "cpu", "CPU")


def test_workers_that_measure_on_different_devices_are_refused(threads: Any) -> None:
    with contextlib.closing(ClusterExecutor(threads.scheduler_address, "cpu", "CPU")) as executor:
        assert executor.on_targets(os.getpid) == os.getpid()
        with pytest.raises(DeviceError, match="are on different devices"):
            executor.on_targets(_own_address)


def _own_address(dask_worker: Any) -> str:
    return str(dask_worker.address)


def test_a_fault_of_the_data_is_told_with_its_path_here(threads: Any, conv_case: tuple[Path, Path], tmp_path: Path) -> None:
    images = tmp_path / "images"
    (images / "cat").mkdir(parents=True)
    for index in range(9):
        (images / "cat" / f"{index}.png").write_bytes(b"no image")
    job = Job.model_validate({"version": 1, "model": str(conv_case[0]), "data": str(images), "output": str(tmp_path / "out")})
    executor = ClusterExecutor(threads.scheduler_address, "cpu", "CPU", make=replaying)
    with pytest.raises(DataError, match=f"^{images}/cat/"):
        commands.search(job, Console(is_quiet=True), executor)
