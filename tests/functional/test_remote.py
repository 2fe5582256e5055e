"""Searches that measure latency on another machine, over an sshd on the loopback."""

from __future__ import annotations

import json
import shlex
import socket
import sys
import threading
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from fakes.consoles import Telling
from loopback import Loopback
from typer.testing import CliRunner

from ovquant import commands, evaluation, remote
from ovquant.audit import Audit
from ovquant.cli import app
from ovquant.console import Console
from ovquant.errors import DeviceError, OutputError
from ovquant.executor import InProcessExecutor
from ovquant.job import Job, load_job
from ovquant.loop import Progress
from ovquant.metering import Ready
from ovquant.records import Failure, Trial
from ovquant.strategy import InferencePrecision
from ovquant.study import read_fingerprint, read_trials
from ovquant.studyfile import STUDY_FILE
from ovquant.targets import MeasurementPlan
from ovquant.turns import Turns

Case = tuple[Path, Path]


@pytest.fixture
def job(conv_case: Case, tmp_path: Path, loopback: Loopback) -> Job:
    content: dict[str, Any] = {
        "version": 1,
        "model": str(conv_case[0]),
        "data": str(conv_case[1]),
        "metrics": [{"name": "accuracy", "max_drop": 0.2}],
        "max_trials": 6,
        "population": 2,
        "output": str(tmp_path / "out"),
        "measure_on": loopback.url(),
        "remote_python": sys.executable,
    }
    return Job.model_validate(content)


@pytest.fixture
def nothing_left(loopback: Loopback) -> Iterator[None]:
    yield
    assert loopback.left_behind() == []


def search(job: Job, console: Console | None = None) -> tuple[dict[str, Any], list[Trial]]:
    result = commands.search(job, console or Console(is_quiet=True), InProcessExecutor())
    return result, read_trials(Path(job.output) / STUDY_FILE)


# The same values measured


class Replaying:
    """A meter that notes the keys that another one tells, and what it measures; or gives what was measured before instead."""

    def __init__(self, meter: Any, measured: list[tuple[Turns, list[int]]], *, is_noting: bool) -> None:
        self._meter, self._measured, self._is_noting = meter, measured, is_noting
        self.is_here = meter.is_here
        self.keys: list[str] = []
        self._next = iter(list(measured))

    def precision(self, model: Ready) -> InferencePrecision:
        found: InferencePrecision = self._meter.precision(model)
        return found

    def structure(self, model: Ready) -> str:
        self.keys.append(self._meter.structure(model))
        return self.keys[-1]

    def turns(self, models: Sequence[Ready], plan: MeasurementPlan) -> tuple[Turns, list[int]]:
        if not self._is_noting:
            return next(self._next)
        self._measured.append(self._meter.turns(models, plan))
        return self._measured[-1]

    def audits(self, models: Sequence[Ready]) -> tuple[Audit, ...]:
        found: tuple[Audit, ...] = self._meter.audits(models)
        return found

    def close(self) -> None:
        self._meter.close()


@pytest.mark.usefixtures("nothing_left")
def test_a_search_finds_the_same_winner_as_here_for_the_same_values(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meters: list[Replaying] = []
    measured: list[tuple[Turns, list[int]]] = []
    meter_of = evaluation.meter_of

    def wrapped(*arguments: Any) -> Replaying:
        meters.append(Replaying(meter_of(*arguments), measured, is_noting=arguments[0] is not None))
        return meters[-1]

    monkeypatch.setattr(evaluation, "meter_of", wrapped)
    job = job.model_copy(update={"max_trials": 4})
    there, trials_there = search(job)
    local = {"measure_on": None, "remote_python": None, "output": str(tmp_path / "here")}
    here, trials_here = search(job.model_copy(update=local))
    assert len(measured) > 2
    remotely, locally = meters
    assert (remotely.is_here, locally.is_here) == (False, True)
    assert locally.keys == remotely.keys  # the machine is the same one, after all
    assert [(t.code, t.objectives, t.parents) for t in trials_here] == [(t.code, t.objectives, t.parents) for t in trials_there]
    assert [t.outcome.latency for t in trials_here if not isinstance(t.outcome, Failure)] == [
        t.outcome.latency for t in trials_there if not isinstance(t.outcome, Failure)
    ]
    for key in ("winner", "judgement", "sentences"):
        assert here["verdict"][key] == there["verdict"][key]
    best = [Path(output) / "best" for output in (job.output, tmp_path / "here")]
    assert (best[0] / "model.bin").read_bytes() == (best[1] / "model.bin").read_bytes()


# Told everywhere


@pytest.fixture(scope="module")
def finished(conv_case: Case, loopback: Loopback, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[int]]:
    """Return the output of a search by the command line, what it said, and whose connections were cut meanwhile."""
    output = tmp_path_factory.mktemp("finished") / "out"
    cut: list[int] = []
    is_over = threading.Event()

    def cut_three_times() -> None:
        n_settled = 0
        while len(cut) < 3 and not is_over.is_set():
            # With two models there, candidates are being measured; not those that it was cut during before.
            n_now = (output / "log.jsonl").read_text().count('"trial"') if (output / "log.jsonl").exists() else 0
            if n_now > n_settled and any(len(list(folder.glob("*.xml"))) > 1 for folder in loopback.temporary.iterdir()):
                n_settled = n_now
                cut.append(loopback.drop())
            time.sleep(0.005)

    cutter = threading.Thread(target=cut_three_times)
    cutter.start()
    arguments = ["search", conv_case[0], "--data", conv_case[1], "--metric", "accuracy", "--max-drop", "0.2"]
    arguments += ["--max-trials", "8", "-o", output, *loopback.options()]
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    is_over.set()
    cutter.join()
    assert done.exit_code == 0, done.output
    return output, done.output, cut


def test_a_search_completes_though_its_connection_is_cut_during_three_candidates(
    finished: tuple[Path, str, list[int]], loopback: Loopback
) -> None:
    output, _, cut = finished
    assert len(cut) == 3
    assert all(cut)
    trials = read_trials(output / STUDY_FILE)
    assert len(trials) == 9
    assert [t.number for t in trials if isinstance(t.outcome, Failure)] == []
    assert all(t.evaluation.latency is not None and t.evaluation.structure is not None for t in trials)
    assert loopback.left_behind() == []


def test_output_report_and_records_say_which_machine_it_was(
    finished: tuple[Path, str, list[int]], loopback: Loopback, run: Run, tmp_path: Path
) -> None:
    output, told, _ = finished
    address = loopback.url().partition("?")[0]
    assert f"latency is measured on {address}: " in told
    assert f") of {address}, " in " ".join(told.split())  # below the table
    measured_on = json.loads((output / "result.json").read_text())["measured_on"]
    assert measured_on["address"] == address
    assert measured_on["host"]["n_cpus"] > 0
    assert (read_fingerprint(output / STUDY_FILE) or {})["measured on"] == measured_on
    run("report", output, "--format", "md", "-o", tmp_path / "report.md")
    assert f"of {address}" in (tmp_path / "report.md").read_text()
    # The package goes to others, and tells no address.
    packaged = (output / "best" / "manifest.json").read_text()
    assert json.loads(packaged)["measured_on"] == {key: measured_on[key] for key in ("device", "host", "openvino")}
    assert "127.0.0.1" not in packaged
    assert json.loads((output / "result.json").read_text())["kernels"]["winner"]["kernels"]


def test_a_study_is_not_continued_with_latencies_of_another_machine(finished: tuple[Path, str, list[int]]) -> None:
    here = load_job(finished[0] / "job.yaml", {"output": str(finished[0])})
    with pytest.raises(OutputError, match="holds the study of another job; different: measured on"):
        search(here.model_copy(update={"measure_on": None, "remote_python": None}))


@pytest.mark.usefixtures("nothing_left")
def test_models_side_by_side_are_timed_there_and_another_openvino_there_is_told(
    finished: tuple[Path, str, list[int]], conv_case: Case, loopback: Loopback, run: Run, tmp_path: Path
) -> None:
    info = tmp_path / "other" / "openvino-2025.3.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: openvino\nVersion: 2025.3.0\n")
    greeting = ("echo Welcome", "echo '{\"news\": 1}'", "echo 7")  # as some shells do at log-in
    python = wrapper(tmp_path, *greeting, f'PYTHONPATH={info.parent} exec {sys.executable} "$@"')
    models = [conv_case[0], finished[0] / "best" / "model.xml"]
    arguments = ["--data", conv_case[1], "--measure-on", loopback.url(), "--remote-python", python, "--json"]
    found = json.loads(run("evaluate", *models, *arguments).stdout)
    assert found["device"].endswith(f"of {loopback.url().partition('?')[0]}")
    assert len(found["rows"]) == 3
    assert any(note.startswith("OpenVINO 2025.3.0 measures latency, ") for note in found["notes"])


# A machine that goes away


@pytest.mark.usefixtures("nothing_left")
def test_a_search_outlives_the_machine_for_some_candidates_and_is_continued_if_it_is_gone_at_the_end(
    job: Job, loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_PAUSES_S", (0.01, 0.01))
    # One generation, of which four are evaluated together: those that find the machine away are the same whatever was timed.
    job = job.model_copy(update={"population": 12, "max_trials": 12})

    def react(progress: Progress) -> None:
        if progress.n_candidates in {4, 12}:
            loopback.stop()
        if progress.n_candidates == 8:
            loopback.start()

    try:
        with pytest.raises(DeviceError, match="the connection was lost 3 times in a row"):
            search(job, Telling(react))
    finally:
        loopback.start()
    result, trials = search(job)
    failures = [t.outcome for t in trials if isinstance(t.outcome, Failure)]
    assert [(failure.stage, failure.error) for failure in failures] == [("latency", "DeviceError")] * 4
    assert all("the connection was lost 3 times in a row" in failure.message for failure in failures)
    assert (result["n_trials"], result["n_failures"], result["stop_reason"]) == (13, 4, "max_trials reached")


# What is refused before anything begins


def wrapper(folder: Path, *lines: str) -> Path:
    """Write a Python that does something first."""
    path = folder / "python"
    path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def refused(run: Run, conv_case: Case, tmp_path: Path) -> Callable[..., str]:
    """Return what a search says that cannot begin: one line, and nothing is left."""

    def call(url: object, *options: object, code: int = 6) -> str:
        model, data = conv_case
        result = run("search", model, "--data", data, "-o", tmp_path / "out", "--measure-on", url, *options, code=code)
        assert not (tmp_path / "out").exists()
        (line,) = result.output.strip().splitlines()
        return line

    return call


def test_an_unknown_host_is_refused_and_the_way_to_accept_it_is_told(refused: Callable[..., str], loopback: Loopback) -> None:
    config = loopback.configured("unknown", None)
    line = refused(loopback.url(config=config))
    assert "its host key is not in known_hosts. Compare and accept it once by: ssh -F" in line
    assert shlex.split(line.partition("once by: ")[2])[-3:] == ["-p", str(loopback.port), "127.0.0.1"]
    assert (loopback.folder / "unknown.known").read_text() == ""


def test_a_host_key_that_changed_is_refused(refused: Callable[..., str], loopback: Loopback) -> None:
    line = refused(loopback.url(config=loopback.configured("changed", "other")))
    assert "its host key is not the one in known_hosts, so nothing was sent" in line


def test_a_login_that_is_refused_is_told(refused: Callable[..., str], loopback: Loopback) -> None:
    line = refused(loopback.url(config=loopback.configured("stranger", "host", user_key="other")))
    assert "logging in was refused" in line


def test_a_port_where_nobody_listens_is_told(refused: Callable[..., str], loopback: Loopback) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        line = refused(loopback.url(port=taken.getsockname()[1]))
    assert "cannot be measured on: " in line
    assert "Connection refused" in line


@pytest.mark.parametrize("url", ["board", "ssh://", "ssh://me:secret@board", "ssh://board:port"])
def test_a_bad_address_is_told_with_the_form_of_a_good_one(refused: Callable[..., str], url: str) -> None:
    assert "measure_on: " in (line := refused(url, code=3))
    assert "write ssh://USER@HOST:PORT" in line


def test_a_python_for_no_machine_is_refused(run: Run, conv_case: Case) -> None:
    result = run("search", conv_case[0], "--data", conv_case[1], "--remote-python", "python3", code=3)
    assert "remote_python: is of no use without measure_on" in result.output


def test_a_missing_python_is_told(refused: Callable[..., str], loopback: Loopback) -> None:
    line = refused(loopback.url(), "--remote-python", "/no/such/python")
    assert "no Python can be run there as '/no/such/python'" in line


def test_a_python_without_openvino_is_told(refused: Callable[..., str], loopback: Loopback, tmp_path: Path) -> None:
    venv.create(tmp_path / "bare")
    line = refused(loopback.url(), "--remote-python", tmp_path / "bare" / "bin" / "python")
    assert "lacks OpenVINO (ModuleNotFoundError: No module named 'numpy')" in line
    assert loopback.left_behind() == []


def test_a_python_that_is_too_old_is_told(refused: Callable[..., str], loopback: Loopback, tmp_path: Path) -> None:
    older = "import sys; sys.version_info = (3, 8, 1); sys.version = '3.8.1 (old)'; exec(sys.argv.pop(1))"
    line = refused(loopback.url(), "--remote-python", wrapper(tmp_path, f'shift; exec {sys.executable} -c "{older}" "$@"'))
    assert "lacks Python 3.11 or later; it is 3.8.1" in line


def test_a_device_that_is_not_there_is_told_with_those_that_are(refused: Callable[..., str], loopback: Loopback) -> None:
    line = refused(*loopback.options()[1:], "--device", "NPU")
    assert f"--device: device 'NPU' is not on {loopback.url().partition('?')[0]}; devices there: CPU" in line


def test_what_the_target_requires_is_asked_of_the_other_machine(
    refused: Callable[..., str], loopback: Loopback, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text("version: 1\nname: mine\ndevice: CPU\nrequirements: {cpu_flags_any: [no_such_flag]}\n")
    line = refused(*loopback.options()[1:], "--target", tmp_path / "mine.yaml")
    assert "does not meet its requirements: CPU flag no_such_flag is missing" in line
