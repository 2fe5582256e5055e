"""Recipes on models that were trained or exported again, through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import small
import yaml
from conftest import Run
from onnx import numpy_helper

import ovquant
from ovquant import runtime
from ovquant.datasets.readers import open_source
from ovquant.job import DataSpec
from ovquant.recipe import made, recipe_from
from ovquant.scopes import resolve
from ovquant.selectors import ScopeSelector
from ovquant.strategy import Strategy
from ovquant.targets import load_target, to_yaml

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
DATA = f"{DIGITS / 'data.py'}:digits"
# The normalizations that the example's search leaves in float, by the names that the exporter gave them, and two more layers.
SCOPE = ScopeSelector(patterns=(".*/(Sub|Div|Mul|Add)(_1|_2)?$",), names=("/features/features.0/Conv/WithoutBiases",))


def named(model: Any) -> dict[str, str]:
    """Name -> new name of all operations."""
    return {node.get_friendly_name(): f"other_{index}" for index, node in enumerate(model.get_ops())}


def renamed_ir(source: Path, path: Path) -> Path:
    """Write a model as IR in which every operation has another name."""
    model = runtime.read_model(source)
    names = named(model)
    for node in model.get_ops():
        if node.get_type_name() not in {"Parameter", "Result"}:
            node.set_friendly_name(names[node.get_friendly_name()])
    runtime.save_model(model, path)
    return path


def noisy_onnx(source: Path, path: Path) -> Path:
    """Write a model whose weights are others by 2 %, as those of a network that was trained on."""
    model = onnx.load(source)
    rng = np.random.default_rng(1)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size > 1:
            noisy = values * (1 + 0.02 * rng.standard_normal(values.shape))
            tensor.CopyFrom(numpy_helper.from_array(noisy.astype(np.float32), tensor.name))
    onnx.save(model, path)
    return path


def digits_recipe(model: Path, scope: ScopeSelector, path: Path) -> tuple[str, ...]:
    """Write a recipe as a search on this model would; return the names of the layers that it leaves in float."""
    float_model = runtime.read_model(model)
    operations = runtime.operations(float_model)
    strategy = Strategy(model_type="transformer", subset_size=40, ignored_scope=scope).canonical()
    data = DataSpec(path=DATA)
    n_items = len(open_source(data.main, "main", data, runtime.input_infos(float_model)))
    found = made(strategy, operations, model_sha256="0" * 64, graph_digest="0" * 64, versions={"nncf": "3.4.0"})
    items = [("main", index) for index in range(0, n_items, 30)]
    recipe = recipe_from(strategy, target=load_target("cpu"), data=data, calibration=items, made=found)  # type: ignore[arg-type]
    path.write_text(to_yaml(recipe))
    return resolve(scope, operations)


def replayed(run: Run, model: Path, output: str) -> dict[str, Any]:
    limits = ["--metric", "accuracy", "--max-drop", "0.02"]
    run("quantize", model, "--recipe", "recipe.yaml", "--data", DATA, *limits, "-o", output)
    content: dict[str, Any] = json.loads((Path(output) / "manifest.json").read_text())
    return content


def test_a_recipe_holds_for_the_digits_network_with_other_weights_and_in_another_export(run: Run) -> None:
    onnx_model = DIGITS / "digits.onnx"
    left = digits_recipe(onnx_model, SCOPE, Path("recipe.yaml"))
    assert len(left) > 10
    other = named(runtime.read_model(onnx_model))
    manifests = {
        "noisy": replayed(run, noisy_onnx(onnx_model, Path("noisy.onnx")), "noisy"),
        "ir": replayed(run, renamed_ir(onnx_model, Path("ir.xml")), "ir"),
    }
    assert tuple(manifests["noisy"]["ignored_operations"]) == left
    assert set(manifests["ir"]["ignored_operations"]) == {other[name] for name in left}
    for manifest in manifests.values():
        assert manifest["recipe"]["differences"] == ["the model's file is another one: other weights, or another export"]
        measured = manifest["replayed"]
        assert measured["judgement"] == "confirmed"
        assert measured["evaluation"]["n_items"] > 1000
        assert measured["evaluation"]["metrics"][0]["drop"]["high"] <= 0.02


def test_a_recipe_of_an_ir_holds_for_the_onnx_model_that_it_comes_from(run: Run) -> None:
    ir = renamed_ir(DIGITS / "digits.onnx", Path("ir.xml"))
    other = named(runtime.read_model(DIGITS / "digits.onnx"))
    there = tuple(other[name] for name in resolve(SCOPE, runtime.operations(runtime.read_model(DIGITS / "digits.onnx"))))
    assert set(digits_recipe(ir, ScopeSelector(names=there), Path("recipe.yaml"))) == set(there)
    result = run("quantize", DIGITS / "digits.onnx", "--recipe", "recipe.yaml", "--data", DATA, "-o", "onnx")
    assert "found by the places that the recipe recorded" in " ".join(result.output.split())
    manifest = json.loads(Path("onnx/manifest.json").read_text())
    assert {other[name] for name in manifest["ignored_operations"]} == set(there)
    again = yaml.safe_load(Path("onnx/recipe.yaml").read_text())["strategy"]["ignored_scope"]
    assert set(again) == {"places"}


def test_a_recipe_changed_by_hand_is_not_led_by_what_it_left_in_float_before(run: Run) -> None:
    ir = renamed_ir(DIGITS / "digits.onnx", Path("ir.xml"))
    digits_recipe(DIGITS / "digits.onnx", SCOPE, Path("recipe.yaml"))
    recipe = yaml.safe_load(Path("recipe.yaml").read_text())
    recipe["strategy"]["ignored_scope"] = {"names": ["/features/features.5/conv/Conv/WithoutBiases"]}
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    result = run("quantize", ir, "--recipe", "recipe.yaml", "--data", DATA, "-o", "ir", code=3)
    assert "matches nothing in this model" in result.output
    assert not Path("ir").exists()


def test_a_retrained_model_is_measured_on_items_that_were_not_calibrated_on(
    run: Run, searched: Path, conv_case: tuple[Path, Path]
) -> None:
    small.conv_model(Path("retrained.onnx"), seed=7)
    recipe = searched / "best" / "recipe.yaml"
    n_calibrated = len(yaml.safe_load(recipe.read_text())["calibration"]["items"])
    with np.load(conv_case[1]) as arrays:
        n_items = len(arrays["y"])
    options = ["--recipe", recipe, "--data", conv_case[1], "--metric", "accuracy", "--max-drop", "0.5", "-o", "again"]
    result = json.loads(run("quantize", "retrained.onnx", *options, "--json").stdout)
    assert result["measured"]["evaluation"]["n_items"] == n_items - n_calibrated
    assert result["measured"]["limits"] == [0.5]
    assert "the model's file is another one: other weights, or another export" in result["differences"]
    assert ovquant.load("again").get_property("PERFORMANCE_HINT") == "LATENCY"
    told = run("verify", "again", "--data", conv_case[1]).output
    value = result["measured"]["evaluation"]["metrics"][0]["value"]
    assert f"recorded {value:.4f} on {n_items - n_calibrated} items" in " ".join(told.split())


def test_a_replayed_model_that_breaks_its_limit_is_written_and_refuted(
    run: Run, searched: Path, conv_case: tuple[Path, Path]
) -> None:
    with np.load(conv_case[1]) as arrays:
        np.savez("dark.npz", image=arrays["image"] * 1e-3, y=arrays["y"])  # ranges of these clip all others
    # The network is linear enough for its classes to stay the same: how large outputs are is what is lost.
    Path("m.py").write_text("def size(outputs, labels):\n    return [float(abs(array).max()) for array in outputs['logits']]\n")
    options = ["--recipe", searched / "best" / "recipe.yaml", "--data", "dark.npz", "--holdout-data", conv_case[1]]
    result = run("quantize", conv_case[0], *options, "--metric", "m.py:size", "--max-drop", "1%", "-o", "again", code=10)
    assert "broken: refuted" in result.output
    assert "it is in again all the same" in " ".join(result.output.split())
    assert json.loads(Path("again/manifest.json").read_text())["replayed"]["judgement"] == "refuted"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--max-drop", "0.01"], "no metric is given"),
        (["--holdout-data", "x.npz"], "give --metric, too"),
        (["--device", "CPU"], "give --metric, too"),
    ],
)
def test_limits_without_a_metric_are_refused(
    run: Run, searched: Path, conv_case: tuple[Path, Path], options: list[str], told: str
) -> None:
    recipe = searched / "best" / "recipe.yaml"
    result = run("quantize", conv_case[0], "--recipe", recipe, "--data", conv_case[1], *options, "-o", "again", code=2)
    assert told in result.output
    assert not Path("again").exists()


def test_data_that_is_all_calibrated_on_measures_nothing(run: Run, searched: Path, conv_case: tuple[Path, Path]) -> None:
    with np.load(conv_case[1]) as arrays:
        np.savez("few.npz", image=arrays["image"][:8], y=arrays["y"][:8])
    options = ["--recipe", searched / "best" / "recipe.yaml", "--data", "few.npz", "--metric", "accuracy", "-o", "again"]
    result = run("quantize", conv_case[0], *options, code=4)
    assert "all items were calibrated on" in result.output
    assert not Path("again").exists()


def test_data_for_calibration_alone_is_not_measured_on(run: Run, searched: Path, conv_case: tuple[Path, Path]) -> None:
    recipe = yaml.safe_load((searched / "best" / "recipe.yaml").read_text())
    recipe["calibration"]["has_own_source"] = True
    Path("r.yaml").write_text(yaml.safe_dump(recipe))
    options = ["--recipe", "r.yaml", "--data", conv_case[1], "--metric", "accuracy", "-o", "again"]
    result = run("quantize", conv_case[0], *options, code=2)
    assert "name labelled samples of their own with --holdout-data" in result.output


def test_a_recipe_for_a_device_that_is_not_here_is_measured_as_a_dry_run(
    run: Run, searched: Path, conv_case: tuple[Path, Path]
) -> None:
    recipe = yaml.safe_load((searched / "best" / "recipe.yaml").read_text())
    recipe["device"] = "NPU"
    Path("r.yaml").write_text(yaml.safe_dump(recipe))
    options = ["--recipe", "r.yaml", "--data", conv_case[1], "--metric", "accuracy", "--max-drop", "0.5"]
    result = run("quantize", conv_case[0], *options, "-o", "again", code=6)
    assert "device 'NPU' is not on this machine" in result.output
    assert not Path("again").exists()
    result = run("quantize", conv_case[0], *options, "--device", "CPU", "-o", "again")
    assert "DRY RUN" in result.output
    assert "DRY RUN" in Path("again/manifest.json").read_text()
