"""`ovquant report` on real searches: finished, running, killed, without a winner; what it refuses to overwrite; hostile names."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Run

SEARCH = ("--population", "2", "--metric", "accuracy", "--max-drop", "0.5")


def content(run: Run, output: Path) -> dict[str, Any]:
    """Return the report of a directory as JSON values."""
    run("report", output, "--format", "json", "-o", "seen.json")
    found: dict[str, Any] = json.loads(Path("seen.json").read_text())
    Path("seen.json").unlink()
    return found


def files(folder: Path) -> dict[str, str]:
    """Return name -> SHA-256 of all files below a directory but reports."""
    found = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("report.")]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@contextlib.contextmanager
def searching(model: Path, data: Path, output: Path, *more: str) -> Any:
    """Yield a search in a process of its own that has measured a strategy or two; nothing of it is left afterwards."""
    arguments = ["search", model, "--data", data, *SEARCH, *more, "-o", output]
    command = [sys.executable, "-m", "ovquant", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(line)
            if "trial   2" in line:
                break
        else:
            raise AssertionError("".join(seen))
        yield process
    finally:
        kill(process)


def kill(process: subprocess.Popen[str]) -> None:
    """End a search and all that it started, at once."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGKILL)
        psutil.wait_procs(family, timeout=20)
    if process.stdout is not None:
        process.stdout.close()
    process.wait(timeout=20)


def test_a_finished_search_is_told_as_its_result_has_it(run: Run, searched_copy: Path) -> None:
    before = files(searched_copy)
    result = json.loads((searched_copy / "result.json").read_text())
    found = content(run, searched_copy)
    assert found["state"] == "finished"
    assert found["verdict"]["sentences"] == result["verdict"]["sentences"]
    assert found["winner"] == result["verdict"]["winner"]
    assert len(found["trials"]) == result["n_trials"]
    told = {row["name"]: row for row in found["models"]["measured"] if row["name"] != "finalist"}
    assert set(told) == {"reference", "baseline", "NNCF default", "winner"}
    for row in result["verdict"]["rows"]:
        if row["name"] in told:
            assert told[row["name"]]["divergence"] == row["evaluation"]["divergence"]
            ratio = row["latency"]["ratio"]
            assert told[row["name"]]["speedup"]["value"] == pytest.approx(1 / ratio["value"])
            assert told[row["name"]]["speedup"]["low"] == pytest.approx(1 / ratio["high"])
    winner = next(trial for trial in found["trials"] if trial["number"] == found["winner"])
    assert "winner" in winner["role"]
    assert winner["standing"] in {"front", "feasible"}
    assert set(winner["strategy"]) >= {"preset", "ignored_scope", "inference_precision"}
    assert files(searched_copy) == before


def test_layers_of_the_winner_are_those_that_its_compiled_model_runs(run: Run, searched_copy: Path) -> None:
    from ovquant import runtime

    found = content(run, searched_copy)["layers"]
    recipe = json.loads((searched_copy / "result.json").read_text())["kernels"]["winner"]["kernels"]
    compiled = runtime.core().compile_model(str(searched_copy / "best/model.xml"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    told = {
        node.get_friendly_name(): node.get_rt_info()["runtimePrecision"].value
        for node in compiled.get_runtime_model().get_ordered_ops()
        if "runtimePrecision" in node.get_rt_info()
    }
    assert {kernel["name"]: kernel["precision"] for kernel in recipe}.items() <= told.items()
    by_name = {name: layer for layer in found["layers"] for name in layer["names"]}
    assert {"stem", "depthwise", "pointwise"} <= set(by_name), by_name
    assert by_name["pointwise"]["float_precisions"] == ["f32"]
    assert any(precision in {"u8", "i8"} for precision in by_name["pointwise"]["precisions"])
    assert by_name["pointwise"]["us"] > 0
    assert sum(found["shares"].values()) == pytest.approx(1)


def test_a_search_leaves_a_report_and_another_one_replaces_it(run: Run, searched_copy: Path) -> None:
    page = searched_copy / "report.html"
    assert "<!doctype html>" in page.read_text()[:100]
    page.write_text(page.read_text()[:1000])
    assert f"Wrote {page}" in run("report", searched_copy).output
    text = page.read_text()
    assert text.rstrip().endswith("</html>")
    assert len(text.encode()) < 6_000_000
    assert [path.name for path in searched_copy.iterdir() if "partial" in path.name] == []


def test_markdown_has_the_verdict_first_and_a_table(run: Run, searched_copy: Path) -> None:
    run("report", searched_copy, "--format", "md")
    text = (searched_copy / "report.md").read_text()
    sentence = json.loads((searched_copy / "result.json").read_text())["verdict"]["sentences"][0]
    plain = text.replace("\\", "")
    assert sentence in plain
    assert plain.index(sentence) < plain.index("| model |")
    for heading in ("Pareto front", "Which genes mattered", "Failures", "Environment", "How to reproduce"):
        assert f"## {heading}" in text


def test_the_commands_it_gives_run(run: Run, searched_copy: Path) -> None:
    import shlex

    commands = {one["does"]: one["command"] for one in content(run, searched_copy)["reproduce"]}
    replay = commands["the winner again, without a search"].replace("-o DIR", "-o again --json")
    assert json.loads(run(*shlex.split(replay)[1:]).stdout)["is_identical_to_recipe"]
    run(*shlex.split(commands["write a trial's model"].replace("-o DIR", "-o exported"))[1:])
    assert Path("exported/model.xml").is_file()
    run(*shlex.split(commands["measure the winner again"])[1:])


def test_what_is_no_report_is_never_overwritten(run: Run, searched_copy: Path) -> None:
    for form in ("html", "md", "json"):
        mine = Path(f"mine.{form}")
        mine.write_text("my notes")
        assert "nothing was overwritten" in run("report", searched_copy, "--format", form, "-o", mine, code=7).output
        assert mine.read_text() == "my notes"
    Path("taken").mkdir()
    run("report", searched_copy, "-o", "taken", code=7)
    run("report", searched_copy, "-o", "not/there/report.html", code=7)


def test_what_holds_no_search_is_refused_in_words(run: Run) -> None:
    assert "no such directory" in run("report", "nowhere", code=7).output
    Path("empty").mkdir()
    assert "no study there" in run("report", "empty", code=7).output
    assert list(Path("empty").iterdir()) == []
    Path("foreign").mkdir()
    with contextlib.closing(sqlite3.connect("foreign/study.db")) as database:
        database.execute("create table mine (a)")
        database.commit()
    assert "is no study of ovquant" in run("report", "foreign", code=7).output
    (Path("foreign") / "study.db").write_bytes(b"torn" * 1000)
    run("report", "foreign", code=7)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"verdict": {"rows": 7}}', '{"verdict": null}'])
def test_a_result_that_cannot_be_read_is_told_and_the_rest_is_there(run: Run, searched_copy: Path, text: str) -> None:
    (searched_copy / "result.json").write_text(text)
    found = content(run, searched_copy)
    assert found["state"] == "stopped"
    assert any("result.json cannot be read" in note for note in found["notes"])
    assert found["winner"] is None
    assert found["best_so_far"] is not None
    run("report", searched_copy)


def test_a_search_without_a_winner_is_reported(run: Run, conv_case: tuple[Path, Path]) -> None:
    run("search", conv_case[0], "--data", conv_case[1], "--max-divergence", "0", "--max-trials", "2", "-o", "out", code=8)
    assert Path("out/report.html").is_file()
    found = content(run, Path("out"))
    assert found["state"] == "stopped"
    assert "No strategy meets the limits so far." in found["verdict"]["sentences"]
    assert "Nearest miss" in found["verdict"]["sentences"][1]
    assert found["best_so_far"] is None
    assert "without a winner" in found["completeness"]


def test_a_search_is_watched_until_it_is_killed(run: Run, conv_case: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "out"
    with searching(*conv_case, output, "--max-trials", "400") as process:
        seen = content(run, output)
        assert seen["state"] == "running"
        assert seen["verdict"]["judgement"] is None
        assert "running" in seen["completeness"]
        assert {row["name"] for row in seen["models"]["measured"]} >= {"baseline", "NNCF default"}
        assert seen["models"]["measured"][0]["split"] == "validation"
        run("report", output)
        assert 'id="refresh"' in (output / "report.html").read_text()
        assert process.poll() is None
        death = threading.Timer(4, kill, [process])
        death.start()
        told = run("report", output, "--watch", "0.2", "-o", "watched.html").output
        death.join()
    assert "The search is running" in told
    assert "stopped before its end" in told.splitlines()[-1]
    before = files(output)
    found = content(run, output)
    assert found["state"] == "stopped"
    assert len(found["trials"]) > len(seen["trials"])
    assert any(one["command"].startswith("ovquant resume") for one in found["reproduce"])
    assert files(output) == before
    text = Path("watched.html").read_text()
    assert "stopped before its end" in text
    assert 'id="refresh"' not in text


def test_a_page_of_hostile_names_is_a_page(run: Run, hostile: Path) -> None:
    text = (hostile / "report.html").read_text()
    assert "<img src=x" not in text
    assert "<script>hacked" not in text
    assert text.count("</script>") == 3
    run("report", hostile, "--format", "md", "-o", "hostile.md")
    outside_of_code = re.sub(r"^```.*?^```$", "", Path("hostile.md").read_text(), flags=re.DOTALL | re.MULTILINE)
    assert "onerror" in outside_of_code
    assert "<img" not in outside_of_code
    assert "<script" not in outside_of_code


def test_a_report_is_written_while_the_study_is(run: Run, searched_copy: Path) -> None:
    """A transaction that is under way neither blocks the report nor is seen by it, and goes through."""
    with contextlib.closing(sqlite3.connect(searched_copy / "study.db", isolation_level=None)) as writer:
        writer.execute("begin immediate")
        writer.execute("delete from trial_user_attributes")
        begun = time.monotonic()
        n_trials = len(content(run, searched_copy)["trials"])
        assert time.monotonic() - begun < 15
        writer.execute("commit")
    assert n_trials == json.loads((searched_copy / "result.json").read_text())["n_trials"]


def test_a_half_written_study_is_taken_back_in_the_copy_alone(run: Run, searched_copy: Path, tmp_path: Path) -> None:
    """What a machine that lost its power leaves: pages of a transaction in the file, and the journal to undo them."""
    torn = tmp_path / "torn"
    writer = sqlite3.connect(searched_copy / "study.db", isolation_level=None)
    writer.execute("pragma cache_size = 1")
    writer.execute("begin immediate")
    writer.execute("update trial_user_attributes set value_json = '{}'")
    shutil.copytree(searched_copy, torn)
    writer.close()
    assert (torn / "study.db-journal").stat().st_size > 0
    assert (torn / "study.db").read_bytes() != (searched_copy / "study.db").read_bytes()
    before = files(torn)
    assert content(run, torn)["trials"] == content(run, searched_copy)["trials"]
    assert files(torn) == before


def test_a_directory_that_may_not_be_written_is_read(run: Run, searched_copy: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    searched_copy.chmod(0o555)
    try:
        assert content(run, searched_copy)["state"] == "finished"
    finally:
        searched_copy.chmod(0o755)
