"""The Python API: the same results as the command line, typed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import ovquant
from ovquant.errors import ConfigError, DataError
from ovquant.loop import Progress
from ovquant.records import Evaluation


@pytest.fixture(scope="module")
def found(conv_case: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[ovquant.SearchResult, list[Progress]]:
    heard: list[Progress] = []
    output = tmp_path_factory.mktemp("api") / "out"
    metrics = [{"name": "accuracy", "max_drop": 0.2}]
    model, data = conv_case
    result = ovquant.search(model, data=str(data), metrics=metrics, max_trials=10, output=str(output), on_progress=heard.append)
    return result, heard


def test_a_search_gives_a_typed_result(found: tuple[ovquant.SearchResult, list[Progress]]) -> None:
    result, heard = found
    assert result.model.exists()
    assert result.recipe.exists()
    assert result.verdict.winner_row.trial == result.verdict.winner
    assert [progress.trial.number for progress in heard] == [trial.number for trial in result.trials]
    assert result.stop_reason == "max_trials reached"


def test_it_proposes_what_the_command_line_does(found: tuple[ovquant.SearchResult, list[Progress]], searched: Path) -> None:
    # The first generation is bred from nothing that was measured; later ones depend on latencies, which differ from run to run.
    from ovquant.study import read_trials

    mine, theirs = found[0].trials, read_trials(searched / "study.db")
    first = [trial.code for trial in mine if trial.generation == 0]
    assert first == [trial.code for trial in theirs if trial.generation == 0]
    measured = {trial.code: trial.outcome for trial in theirs if isinstance(trial.outcome, Evaluation)}
    for trial in mine:
        other = measured.get(trial.code)
        if other is not None and isinstance(trial.outcome, Evaluation) and trial.evaluation.raced is None and other.raced is None:
            assert trial.outcome.outputs_digest == other.outputs_digest
            assert trial.outcome.metrics == other.metrics


def test_notebooks_show_a_table(found: tuple[ovquant.SearchResult, list[Progress]]) -> None:
    html = found[0]._repr_html_()
    assert html.count("<tr>") == len(found[0].verdict.rows) + 1
    assert "NNCF default" in html


def test_a_recipe_is_replayed_and_models_are_compared(
    found: tuple[ovquant.SearchResult, list[Progress]],
    conv_case: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, data = conv_case
    again = ovquant.quantize(model, recipe=found[0].recipe, data=str(data), output=tmp_path / "again")
    assert again.is_identical_to_recipe
    compared = ovquant.evaluate([model, again.model], data=str(data), metrics=["accuracy"])
    assert [row.name for row in compared.rows] == ["reference", "baseline", "model 2"]
    assert "model 2" in compared._repr_html_()
    assert compared.rows[2].capacity is not None
    assert "<th>items/s [95 %]</th><th>memory MB</th>" in compared._repr_html_()
    assert "speed-up" not in "".join(capsys.readouterr())  # the caller has the table


def test_errors_are_those_of_the_command_line(conv_case: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        ovquant.search(conv_case[0], data="missing.npz", output=str(tmp_path / "out"))
    with pytest.raises(ConfigError, match="did you mean 'max_trials'"):
        ovquant.search(conv_case[0], data=str(conv_case[1]), max_trails=3)


def test_public_names_are_what_they_seem() -> None:
    import ovquant.api
    import ovquant.loop

    for name in ovquant.__all__:
        assert callable(getattr(ovquant, name)), name
    assert set(ovquant.__all__) <= set(dir(ovquant))
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        ovquant.serach  # noqa: B018


def test_a_plain_script_without_a_main_guard_works(conv_case: tuple[Path, Path], tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import ovquant\n"
        f"found = ovquant.search({str(conv_case[0])!r}, data={str(conv_case[1])!r}, max_trials=2, output='out')\n"
        "print(found.model)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "out/best/model.xml"
