"""Searches that begin with what earlier ones found, through the command line and from Python, with the real NNCF."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from conftest import Run
from onnx import numpy_helper

import ovquant

LIMITS = ["--metric", "accuracy", "--max-drop", "0.3"]


@pytest.fixture
def retrained(conv_case: tuple[Path, Path], tmp_path: Path) -> Path:
    """Return the model of the finished search with weights that are others by 2 %."""
    model, rng = onnx.load(conv_case[0]), np.random.default_rng(1)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        noisy = values * (1 + 0.02 * rng.standard_normal(values.shape))
        tensor.CopyFrom(numpy_helper.from_array(noisy.astype(np.float32), tensor.name))
    onnx.save(model, tmp_path / "retrained.onnx")
    return tmp_path / "retrained.onnx"


def changed_recipe(searched: Path, path: Path, **changes: Any) -> Path:
    """Write the winner's recipe with another strategy, as by hand."""
    recipe = yaml.safe_load((searched / "best" / "recipe.yaml").read_text())
    recipe["strategy"].update(changes)
    path.write_text(yaml.safe_dump(recipe))
    return path


def rows_of(output: str) -> list[dict[str, str]]:
    return list(csv.DictReader((Path(output) / "trials.csv").open()))


def test_a_search_begins_with_what_another_one_found_and_goes_on_without_it(
    run: Run, searched_copy: Path, conv_case: tuple[Path, Path], retrained: Path
) -> None:
    scope = {"places": ["Add[0]", "depthwise[0]"]}
    by_hand = changed_recipe(searched_copy, Path("hand.yaml"), ignored_scope=scope, activations_range_estimator="HISTOGRAM")
    # Whichever wins by its latency, it is not NNCF's default.
    changed_recipe(searched_copy, searched_copy / "best" / "recipe.yaml", activations_range_estimator="MINMAX")
    winner = yaml.safe_load((searched_copy / "best" / "recipe.yaml").read_text())["strategy"]
    command = ["search", retrained, "--data", conv_case[1], *LIMITS, "-o", "out", "--recipe", by_hand]
    told = " ".join(run(*command, "--recipe", searched_copy, "--max-trials", "3").output.split())
    assert "hand.yaml: what it leaves in float is no choice of the target's, and is added to them as 'recipe'" in told
    assert "hand.yaml: activations_range_estimator HISTOGRAM is not among the values searched here; null in its place" in told

    rows = rows_of("out")
    best = str(searched_copy / "best" / "recipe.yaml")
    assert rows[1]["role"] == "default"
    assert [row["recipe"] for row in rows[2:4]] == ["hand.yaml", best]
    assert json.loads(rows[2]["ignored_scope"]) == scope
    assert json.loads(rows[3]["ignored_scope"]) == (winner.get("ignored_scope") or {})
    assert rows[3]["activations_range_estimator"] == (winner.get("activations_range_estimator") or "")
    events = [json.loads(line) for line in Path("out/log.jsonl").read_text().splitlines()]
    # NNCF's default is on the front of the earlier search too, when no latency puts it off there.
    told_of = {event["number"]: event["recipe"] for event in events if event["event"] == "trial"}
    assert [told_of[number] for number in (0, 2, 3)] == [None, "hand.yaml", best]

    run("export", "out", "--trial", "2", "-o", "package")
    assert yaml.safe_load(Path("package/recipe.yaml").read_text())["strategy"]["ignored_scope"] == scope
    run("report", "out", "--format", "md", "-o", "report.md")
    assert "(from " in Path("report.md").read_text()

    refused = run(*command, "--max-trials", "4", code=7)
    assert "different: recipes" in refused.output
    shutil.rmtree(searched_copy)
    by_hand.unlink()
    run("resume", "out", "--max-trials", "4")
    assert rows_of("out")[:4] == rows
    assert len(rows_of("out")) == 5


def test_a_recipe_that_matches_nothing_is_refused_with_what_is_nearest(
    run: Run, searched: Path, conv_case: tuple[Path, Path]
) -> None:
    changed_recipe(searched, Path("lost.yaml"), ignored_scope={"places": ["depthwise[3]"], "types": ["Swish"]})
    result = run("search", conv_case[0], "--data", conv_case[1], "--recipe", "lost.yaml", "-o", "out", code=3)
    told = " ".join(result.output.split())
    assert (
        "lost.yaml: strategy.ignored_scope: places 'depthwise[3]' matches nothing in this model (nearest: depthwise[0])" in told
    )
    assert "types 'Swish' matches nothing" in told
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("recipe", "told"),
    [("gone.yaml", "gone.yaml: no such recipe file"), (".", "holds neither recipe.yaml nor a search"), ("m.onnx", "recipe file")],
)
def test_what_is_no_recipe_is_told_before_any_work(run: Run, conv_case: tuple[Path, Path], recipe: str, told: str) -> None:
    shutil.copy(conv_case[0], "m.onnx")
    result = run("search", "m.onnx", "--data", conv_case[1], "--recipe", recipe, "-o", "out", code=3)
    assert told in " ".join(result.output.split())
    assert "reference" not in result.output
    assert not Path("out").exists()


def test_python_takes_the_recipe_of_a_result(
    searched: Path, conv_case: tuple[Path, Path], retrained: Path, tmp_path: Path
) -> None:
    recipe = changed_recipe(searched, tmp_path / "recipe.yaml", activations_range_estimator="MINMAX")
    found = ovquant.search(
        retrained,
        data=str(conv_case[1]),
        metrics=[{"name": "accuracy", "max_drop": 0.3}],
        max_trials=2,
        recipes=[recipe],
        output=str(tmp_path / "out"),
    )
    assert [trial.recipe for trial in found.trials] == [None, None, str(recipe)]
