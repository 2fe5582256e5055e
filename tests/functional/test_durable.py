"""Searches that are stopped in every way, and directories that two processes want."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import psutil
import pytest
from conftest import Run

from ovquant import studyfile, workplace
from ovquant.records import Evaluation
from ovquant.study import read_trials
from ovquant.studyfile import STUDY_FILE

OUTPUT = 7
METRIC = """
import os
from pathlib import Path
import numpy as np

CALLS = Path({calls!r})

def score(outputs, labels):
    n_calls = int(CALLS.read_text()) if CALLS.exists() else 0
    CALLS.write_text(str(n_calls + 1))
    if n_calls in {crashing!r}:
        os.abort()
    return np.array([float(np.argmax(output) == label) for output, label in zip(outputs["logits"], labels)])
"""

# Runs a program of the test's at one call of the metric, which is in the worker, in the midst of a search.
INTERRUPTED = """
import os, sqlite3, sys, threading, time
from pathlib import Path
import numpy as np

n_calls = 0

def score(outputs, labels):
    global n_calls
    n_calls += 1
    happened = Path(__file__).with_name("happened")
    if n_calls == 4 and not happened.exists():
        happened.touch()
{program}
    return np.array([float(np.argmax(output) == label) for output, label in zip(outputs["logits"], labels)])
"""


def begin(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ovquant", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(process: subprocess.Popen[str], text: str) -> str:
    """Read what a process prints until `text`."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return "".join(seen)
    raise AssertionError(f"{text!r} was not printed:\n{''.join(seen)}")


def events(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


@pytest.fixture
def running(conv_case: tuple[Path, Path], tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Yield a search that has some trials, and its output directory."""
    output = tmp_path / "out"
    process = begin("search", conv_case[0], "--data", conv_case[1], "--budget", "5m", "--population", "4", "-o", output)
    wait_for(process, "trial   2")
    yield process, output
    process.kill()
    process.wait()


def test_after_a_kill_resume_goes_on_and_nothing_is_lost(running: tuple[subprocess.Popen[str], Path], run: Run) -> None:
    process, output = running
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = read_trials(output / STUDY_FILE)
    assert len(before) >= 3
    _, left = psutil.wait_procs(children, timeout=30)
    assert not left
    result = run("resume", output, "--budget", "10s", "--max-trials", len(before) + 2)
    assert "continuing a study of" in result.output
    after = read_trials(output / STUDY_FILE)
    assert after[: len(before)] == before
    codes = [trial.code for trial in after if trial.code is not None]
    assert len(set(codes)) == len(codes)
    assert (output / "best" / "model.xml").exists()
    assert not (output / "work").exists()
    # The last outcome before the kill may have been recorded and not yet logged.
    assert len(after) - 1 <= [event["event"] for event in events(output)].count("trial") <= len(after)


def test_a_second_writer_is_refused_and_readers_are_not(
    running: tuple[subprocess.Popen[str], Path], run: Run, tmp_path: Path
) -> None:
    process, output = running
    refused = run("resume", output, code=OUTPUT)
    assert f"process {process.pid} on " in refused.output
    run("export", output, "--pick", "fastest", "-o", tmp_path / "exported")
    assert process.poll() is None


def test_a_lock_that_a_dead_process_left_is_no_hindrance(searched_copy: Path, run: Run) -> None:
    (searched_copy / "lock").touch()
    (searched_copy / "writer.json").write_text(json.dumps({"pid": 1, "host": "elsewhere", "since": "2020-01-01"}))
    run("resume", searched_copy)
    assert not (searched_copy / "writer.json").exists()


def test_the_holder_of_a_lock_is_told_as_far_as_it_is_known(searched_copy: Path, run: Run) -> None:
    with filelock.FileLock(searched_copy / "lock"):
        assert "another process is writing there" in run("resume", searched_copy, code=OUTPUT).output


def test_termination_is_an_interrupt(running: tuple[subprocess.Popen[str], Path]) -> None:
    process, output = running
    process.send_signal(signal.SIGTERM)
    told = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    assert f"ovquant resume {output}" in told
    assert "Traceback" not in told
    assert (output / "work").is_dir()  # for the next run to go on from


def test_there_is_nothing_to_resume_where_nothing_began(run: Run, tmp_path: Path) -> None:
    assert "no search was begun there" in run("resume", tmp_path / "nothing", code=OUTPUT).output
    assert not (tmp_path / "nothing").exists()


def test_a_search_that_cannot_begin_leaves_nothing(run: Run, conv_case: tuple[Path, Path], tmp_path: Path) -> None:
    run("search", conv_case[0], "--data", tmp_path / "missing.npz", "-o", tmp_path / "out", code=4)
    assert not (tmp_path / "out").exists()


def test_candidates_that_crash_are_counted_and_the_search_goes_on(run: Run, conv_case: tuple[Path, Path], tmp_path: Path) -> None:
    # The reference takes the first two calls, the float model the third.
    (tmp_path / "metric.py").write_text(METRIC.format(calls=str(tmp_path / "calls"), crashing=[4, 7]))
    output = tmp_path / "out"
    arguments = ["--metric", f"{tmp_path / 'metric.py'}:score", "--max-drop", "0.5", "--max-trials", "6", "-o", output]
    result = run("search", conv_case[0], "--data", conv_case[1], *arguments)
    failed = [event for event in events(output) if event["event"] == "failure"]
    assert [(event["stage"], event["kind"]) for event in failed] == [("validate", "Crash")] * len(failed)
    assert 1 <= len(failed) <= 2
    assert f"{len(failed)} failed" in result.output
    assert "SIGABRT" in result.output
    assert "Fatal Python error: Aborted" in next(e["printed"] for e in events(output) if e["event"] == "worker replaced")


def test_failures_of_one_kind_end_a_search_with_a_diagnosis(run: Run, conv_case: tuple[Path, Path], tmp_path: Path) -> None:
    source = METRIC.format(calls=str(tmp_path / "calls"), crashing=[])
    (tmp_path / "metric.py").write_text(source.replace("    return", "    n_calls <= 2 or 1 / 0\n    return"))
    arguments = ["--metric", f"{tmp_path / 'metric.py'}:score", "--max-drop", "0.5", "--max-trials", "40", "-o", tmp_path / "out"]
    result = run("search", conv_case[0], "--data", conv_case[1], *arguments, code=9)
    assert "the last 8 strategies all failed at validate" in result.output
    assert "division by zero" in result.output
    assert len(read_trials(tmp_path / "out" / STUDY_FILE)) == 9


def test_a_directory_without_room_is_refused_before_any_work(
    run: Run, conv_case: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "disk_usage", lambda path: type("Usage", (), {"free": 20 << 20})())
    result = run("search", conv_case[0], "--data", conv_case[1], "-o", tmp_path / "out", code=OUTPUT)
    assert "20 MB are free there" in result.output
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.iterdir())


def interrupted(folder: Path, program: str) -> list[object]:
    """Return options of a search that something happens to while its first candidates are validated."""
    source = INTERRUPTED.format(program=textwrap.indent(textwrap.dedent(program), " " * 8))
    (folder / "metric.py").write_text(source)
    return ["--metric", f"{folder / 'metric.py'}:score", "--max-drop", "0.5", "--max-trials", "6", "--population", "2"]


LOCKED = """
    database = sqlite3.connect({study!r}, check_same_thread=False, isolation_level=None)
    database.execute("begin exclusive")
    threading.Timer({seconds}, database.close).start()
"""


def test_a_study_that_is_locked_for_a_while_is_waited_for(run: Run, conv_case: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "out"
    options = interrupted(tmp_path, LOCKED.format(study=str(output / STUDY_FILE), seconds=1.0))
    run("search", conv_case[0], "--data", conv_case[1], *options, "-o", output)
    assert sum(trial.code is not None for trial in read_trials(output / STUDY_FILE)) == 6


def test_a_study_that_stays_locked_ends_the_search_and_it_goes_on_later(
    run: Run, conv_case: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studyfile, "_LOCKED_S", 0.1)
    output = tmp_path / "out"
    options = interrupted(tmp_path, LOCKED.format(study=str(output / STUDY_FILE), seconds=1000.0))
    result = run("search", conv_case[0], "--data", conv_case[1], *options, "-o", output, code=OUTPUT)
    assert "the study cannot be read or written: database is locked" in " ".join(result.output.split())
    run("resume", output)
    assert sum(trial.code is not None for trial in read_trials(output / STUDY_FILE)) == 6


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a file system of 24 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a file system can be mounted by root alone")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


FULL = """
    with Path({filler!r}).open("wb") as stream:
        try:
            while True:
                os.write(stream.fileno(), bytes(4096))
        except OSError:
            pass
"""


def test_a_disk_that_fills_up_ends_the_search_and_it_goes_on_once_there_is_room(
    run: Run, conv_case: tuple[Path, Path], tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workplace, "_ROOM_BYTES", 1 << 20)
    output, filler = small_disk / "out", small_disk / "filler"
    options = interrupted(tmp_path, FULL.format(filler=str(filler)))
    result = run("search", conv_case[0], "--data", conv_case[1], *options, "-o", output, code=OUTPUT)
    assert "Traceback" not in result.output
    assert re.search(r"no space left|disk is full|No space left", " ".join(result.output.split())), result.output
    filler.unlink()
    run("resume", output)
    assert sum(trial.code is not None for trial in read_trials(output / STUDY_FILE)) >= 6


def test_a_clock_that_jumps_changes_nothing(
    run: Run, conv_case: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, jumps = time.time, itertools.cycle([0.0, 86_400.0, -86_400.0])
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    output = tmp_path / "out"
    options = interrupted(tmp_path, "    time.time = lambda real=time.time: real() - 86_400 * n_calls\n")
    run("search", conv_case[0], "--data", conv_case[1], *options, "--budget", "10m", "-o", output)
    trials = read_trials(output / STUDY_FILE)
    assert sum(trial.code is not None for trial in trials) == 6
    spent = [seconds for trial in trials if isinstance(trial.outcome, Evaluation) for seconds in trial.outcome.seconds.values()]
    assert all(0 <= seconds < 600 for seconds in spent)
