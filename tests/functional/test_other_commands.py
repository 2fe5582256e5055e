"""quantize, export, evaluate and targets through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import Run

from ovquant import kernels, runtime
from ovquant.targets import MeasurementPlan, shipped_names


def digest(folder: Path) -> str:
    return runtime.graph_digest(runtime.read_model(folder / "model.xml"))


def test_a_recipe_replays_ranges_weights_and_biases(run: Run, searched: Path, conv_case: tuple[Path, Path]) -> None:
    recipe = searched / "best" / "recipe.yaml"
    result = run("quantize", conv_case[0], "--recipe", recipe, "--data", conv_case[1], "-o", "again")
    assert "Same structure, ranges, weights and biases" in result.output
    assert digest(Path("again")) == digest(searched / "best")
    first, second = (np.fromfile(folder / "model.bin", np.uint8) for folder in (Path("again"), searched / "best"))
    assert np.array_equal(first, second)


def test_a_recipe_on_other_data_says_that_the_model_differs(run: Run, searched: Path, conv_case: tuple[Path, Path]) -> None:
    with np.load(conv_case[1]) as arrays:
        np.savez("other.npz", image=arrays["image"] * 0.5, y=arrays["y"])
    recipe = searched / "best" / "recipe.yaml"
    result = run("quantize", conv_case[0], "--recipe", recipe, "--data", "other.npz", "-o", "again")
    assert "Differs from the recipe's model" in result.output


def test_a_recipe_by_places_holds_for_another_export_of_the_network(
    run: Run, searched: Path, conv_case: tuple[Path, Path]
) -> None:
    """What it leaves in float is found in an IR in which every operation has another name, as it is in the ONNX model."""
    recipe = yaml.safe_load((searched / "best" / "recipe.yaml").read_text())
    recipe["strategy"]["ignored_scope"] = {"places": ["depthwise[0]", "Add(2)[0]", "Convolution[-1]"]}
    Path("places.yaml").write_text(yaml.safe_dump(recipe))
    renamed = runtime.read_model(conv_case[0])
    for index, node in enumerate(renamed.get_ops()):
        if node.get_type_name() not in {"Parameter", "Result"}:
            node.set_friendly_name(f"other_{index}")
    was = {node.get_friendly_name(): index for index, node in enumerate(runtime.read_model(conv_case[0]).get_ops())}
    runtime.save_model(renamed, Path("renamed.xml"))
    left = {}
    for model in (conv_case[0], Path("renamed.xml")):
        result = run("quantize", model, "--recipe", "places.yaml", "--data", conv_case[1], "-o", model.stem)
        left[model.stem] = json.loads((Path(model.stem) / "manifest.json").read_text())["ignored_operations"]
        assert f"Left in float: {', '.join(left[model.stem])}" in result.output.replace("\n", " ")
    onnx_names = left.pop(conv_case[0].stem)
    assert onnx_names == ["depthwise", "pointwise", "residual"]
    assert set(left["renamed"]) == {f"other_{was[name]}" for name in onnx_names}


def test_a_recipe_that_names_what_the_model_does_not_have_is_refused(
    run: Run, searched: Path, conv_case: tuple[Path, Path]
) -> None:
    recipe = yaml.safe_load((searched / "best" / "recipe.yaml").read_text())
    recipe["strategy"]["ignored_scope"] = {"places": ["depthwise[3]"], "names": ["stem", "residul"]}
    Path("r.yaml").write_text(yaml.safe_dump(recipe))
    result = run("quantize", conv_case[0], "--recipe", "r.yaml", "--data", conv_case[1], "-o", "again", code=3)
    told = " ".join(result.output.split())
    assert "names 'residul' matches nothing in this model (nearest: residual" in told
    assert "places 'depthwise[3]' matches nothing in this model (nearest: depthwise[0])" in told
    assert not Path("again").exists()


def test_export_of_a_trial_gives_the_model_that_was_measured(run: Run, searched: Path) -> None:
    run("export", searched, "--trial", "2", "-o", "two")
    manifest = json.loads(Path("two/manifest.json").read_text())
    assert manifest["trial"]["number"] == 2
    assert digest(Path("two")) == manifest["trial"]["during_search"]["graph_digest"]


@pytest.mark.parametrize("pick", ["fastest", "accurate", "knee"])
def test_export_picks(run: Run, searched: Path, pick: str) -> None:
    result = run("export", searched, "--pick", pick, "-o", pick, "--json")
    assert json.loads(result.stdout)["trial"] >= 1
    assert Path(pick, "model.xml").exists()


def test_evaluate_shows_models_side_by_side(run: Run, searched: Path, conv_case: tuple[Path, Path]) -> None:
    job = {"version": 1, "model": str(conv_case[0]), "data": str(conv_case[1])}
    Path("job.yaml").write_text(yaml.safe_dump(job))
    result = run("evaluate", "job.yaml", searched / "best" / "model.xml", "--metric", "accuracy", "--json")
    for told in (
        "items/s [95 %]",
        "memory MB",
        "items/s: compiled for throughput,",
        f"baseline are {conv_case[0]}",
        f"all 120 items of {conv_case[1]}",
    ):
        assert told in result.stderr
    rows = json.loads(result.stdout)["rows"]
    assert [row["name"] for row in rows] == ["reference", "baseline", "model 2"]
    assert {row["evaluation"]["n_items"] for row in rows} == {120}
    assert rows[0]["evaluation"]["divergence"]["value"] == 0
    assert rows[2]["evaluation"]["n_fake_quantize"] > 0
    for row in rows:
        per_s = row["capacity"]["throughput"]["per_s"]
        assert 0 < per_s["low"] <= per_s["value"] <= per_s["high"]
        assert row["capacity"]["memory"]["peak_bytes"] > 1e6
    assert [path.name for path in Path().iterdir()] == ["job.yaml"]  # nothing is left behind


def test_evaluate_says_where_it_ran_some_items_only(run: Run, conv_case: tuple[Path, Path]) -> None:
    told = run("evaluate", conv_case[0], "--data", conv_case[1], "--max-items", "24").output
    assert f"24 items drawn from {conv_case[1]}" in told
    assert "all 24" not in told


@pytest.mark.parametrize("name", shipped_names())
def test_targets_show_prints_what_check_accepts(run: Run, name: str) -> None:
    text = run("targets", "show", name).output
    Path("copy.yaml").write_text(text)
    assert "valid" in run("targets", "check", "copy.yaml").output


def test_targets_list_names_every_shipped_profile(run: Run) -> None:
    lines = run("targets", "list").output.splitlines()
    assert [line.split()[0] for line in lines] == shipped_names()


def test_the_printed_schema_is_json(run: Run) -> None:
    assert json.loads(run("targets", "schema").output)["title"] == "Target"


def test_a_dry_run_on_another_device_says_so_everywhere(run: Run, conv_case: tuple[Path, Path]) -> None:
    options = ["--target", "igpu", "--device", "CPU", "--max-trials", "2"]
    result = run("search", conv_case[0], "--data", conv_case[1], *options, "-o", "out")
    assert result.output.count("DRY RUN") >= 2
    for name in ("out/result.json", "out/best/manifest.json"):
        assert "DRY RUN" in Path(name).read_text()
    assert yaml.safe_load(Path("out/best/recipe.yaml").read_text())["device"] == "GPU"


def test_a_profile_that_extends_another_is_checked_and_shown_whole(run: Run) -> None:
    Path("mine.yaml").write_text("version: 1\nname: mine\nextends: cpu\ngenes: {subset_size: [5]}\n")
    assert "mine.yaml: valid (target 'mine', device CPU)" in run("targets", "check", "mine.yaml").output
    resolved = yaml.safe_load(run("targets", "show", "mine.yaml", "--resolved").output)
    assert (resolved["device"], resolved["genes"]["subset_size"]) == ("CPU", [5])
    Path("mine.yaml").write_text("version: 1\nname: mine\nextends: cpuu\n")
    told = run("targets", "check", "mine.yaml", code=3).output
    assert "mine.yaml: extends: target 'cpuu': no such profile (did you mean 'cpu'?)" in told


def test_a_probed_profile_is_valid_here_and_never_overwrites(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "PLAN", MeasurementPlan(visits=6, burst=4, discard=1, seconds=0.05))
    result = json.loads(run("targets", "probe", "-o", "here.yaml", "--json").stdout)
    assert {one["kind"] for one in result["kernels"]} == set(kernels.KINDS)
    assert result["cpu_features"]["AVX2"] == ("avx2" in Path("/proc/cpuinfo").read_text())
    assert "this machine meets its requirements" in run("targets", "check", "here.yaml").output
    was = Path("here.yaml").read_text()
    assert "is there already" in run("targets", "probe", "-o", "here.yaml", code=7).output
    assert Path("here.yaml").read_text() == was
    assert "device 'GPU' is not on this machine" in run("targets", "probe", "--device", "GPU", code=6).output
