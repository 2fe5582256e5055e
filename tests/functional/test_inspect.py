"""inspect through the command line, and searches with genes of layers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from conftest import Run

from ovquant import evaluation
from ovquant.study import read_trials

TARGET = """
version: 1
name: mine
device: CPU
measurement:
  ranking: {visits: 6, burst: 4, discard: 1, seconds: 0.2}
  verdict: {visits: 6, burst: 4, discard: 1, seconds: 0.2, spread: 0}
genes:
  preset: [performance, mixed]
  ignored_scope: {none: {}, ends: {roles: [first_convolution, last_matmul]}}
  layers: {top: 3}
"""


@pytest.fixture
def inspected(run: Run, conv_case: tuple[Path, Path]) -> tuple[dict, str]:
    model, data = conv_case
    result = run("inspect", model, "--data", data, "-o", "found.json")
    return json.loads(Path("found.json").read_text()), result.output


def test_layers_are_told_with_place_time_and_precision(inspected: tuple[dict, str]) -> None:
    found, output = inspected
    layers = {layer["place"]: layer for layer in found["layers"]}
    assert {"Convolution[0]", "depthwise[0]", "Convolution[1]", "MatMul[0]"} <= set(layers)
    for layer in layers.values():
        assert layer["saved"]["low"] <= layer["saved"]["value"] <= layer["saved"]["high"]
        assert layer["place"] in output
    assert layers["depthwise[0]"]["name"] == "depthwise"
    assert layers["Convolution[0]"]["float_us"] >= 0
    assert layers["Convolution[0]"]["runs_in"] in {"i8", "u8"}
    assert "Brackets: 95 % intervals" in output
    assert f"mean of {found['n_items']} calibration items" in " ".join(output.split())


def test_sums_that_may_saturate_are_told_for_targets_without_vnni(run: Run, conv_case: tuple[Path, Path]) -> None:
    """With NNCF's default, and by half the range of weights where the target asks for it."""
    options = [conv_case[0], "--data", conv_case[1], "--target", "cpu-avx2", "--device", "CPU", "--json"]
    found = json.loads(run("inspect", *options).stdout)["saturation"]
    places = {one["place"]: one for one in found}
    assert set(places) == {"Convolution[0]", "Convolution[1]", "MatMul[0]"}
    assert not places["Convolution[0]"]["is_possible"]  # NNCF halves the range of the first layer by itself
    assert places["Convolution[1]"]["is_possible"]
    assert all(one["n_values"] > 0 for one in found if one["is_possible"])


def test_a_target_whose_sums_take_32_bits_is_told_nothing_of_saturation(
    run: Run, conv_case: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "may_saturate", lambda device: False)
    result = run("inspect", conv_case[0], "--data", conv_case[1], "-o", "found.json")
    assert json.loads(Path("found.json").read_text())["saturation"] is None
    assert "saturate" not in result.output


def test_time_is_told_by_precision(inspected: tuple[dict, str]) -> None:
    found, output = inspected
    assert sum(found["float"]["shares"].values()) == pytest.approx(1, abs=0.01)
    assert "int8" in found["int8"]["shares"]
    assert "Time of NNCF's default on CPU" in " ".join(output.split())


def test_a_file_that_is_there_is_not_overwritten(run: Run, conv_case: tuple[Path, Path]) -> None:
    Path("mine.json").write_text("mine")
    result = run("inspect", conv_case[0], "--data", conv_case[1], "-o", "mine.json", code=7)
    assert "is there already" in result.output
    assert Path("mine.json").read_text() == "mine"


def test_json_goes_to_standard_output(run: Run, conv_case: tuple[Path, Path]) -> None:
    result = run("inspect", conv_case[0], "--data", conv_case[1], "--json")
    assert json.loads(result.stdout)["layers"]


def test_a_search_has_a_gene_for_each_layer_and_goes_on_with_the_same_ranking(run: Run, conv_case: tuple[Path, Path]) -> None:
    model, data = conv_case
    Path("t.yaml").write_text(TARGET)
    command = ["search", model, "--data", data, "--target", "t.yaml", "--max-divergence", "1", "-o", "out"]
    first = run(*command, "--max-trials", "6").output
    assert "layers ranked by the divergence that each saves in float" in " ".join(first.split())
    inspected = Path("out/inspection.json").read_text()
    rows = Path("out/trials.csv").read_text()
    assert '"places": ["' in rows.replace('""', '"')
    more = run(*command, "--max-trials", "9").output
    assert "continuing a study" in more
    assert Path("out/inspection.json").read_text() == inspected
    # Of one that has them: whether the winner does depends on what was timed.
    one = next(trial for trial in read_trials(Path("out/study.db")) if trial.strategy and trial.strategy.ignored_scope.places)
    run("export", "out", "--trial", one.number, "-o", "one")
    recipe = yaml.safe_load(Path("one/recipe.yaml").read_text())
    scope = recipe["strategy"]["ignored_scope"]
    assert "names" not in scope
