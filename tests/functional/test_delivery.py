"""export and verify through the command line: every layout, with and without pre-processing, and packages that were changed."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import small
from conftest import Run
from typer.testing import CliRunner

import ovquant
from ovquant import checks, runtime, verification
from ovquant.cli import app
from ovquant.targets import MeasurementPlan


@pytest.fixture(scope="module")
def packages(searched: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return layout -> package of the winner; treat them as read-only."""
    root = tmp_path_factory.mktemp("packages")
    made = {"ir": root / "ir", "ovms": root / "ovms", "optimum": root / "optimum", "zip": root / "p.zip"}
    (root / "config.json").write_text('{"model_type": "bert"}')
    for layout, path in made.items():
        more = ["--config-from", str(root)] if layout == "optimum" else []
        result = CliRunner().invoke(app, ["export", str(searched), "--layout", layout, "-o", str(path), *more])
        assert result.exit_code == 0, result.output
    return made


@pytest.fixture
def package(packages: dict[str, Path], tmp_path: Path) -> Path:
    """Return a package that may be changed."""
    return Path(shutil.copytree(packages["ir"], tmp_path / "package"))


@pytest.mark.parametrize("layout", ["ir", "ovms", "optimum", "zip"])
def test_the_winner_is_exported_loaded_and_verified(run: Run, packages: dict[str, Path], searched: Path, layout: str) -> None:
    package = packages[layout]
    result = json.loads(run("verify", package, "--json").stdout)
    assert result["is_verified"] is True
    assert result["notes"] == []
    compiled = ovquant.load(package)
    kept = checks.from_bytes(ovquant.loading.Package(package).read("checks.npz"), "here")
    found = [{"logits": compiled(dict(sample))["logits"]} for sample in kept.inputs]
    assert checks.relative_errors(kept.outputs, found) == {"logits": 0}
    manifest = ovquant.loading.Package(package).read_json("manifest.json")
    winner = json.loads((searched / "result.json").read_text())["verdict"]["winner"]
    assert manifest["trial"]["number"] == winner
    assert manifest["layout"] == layout
    assert manifest["measured"]["split"] == "holdout"
    properties = manifest["deployment"]["compile_properties"]
    assert {name: _plain(compiled.get_property(name)) for name in properties} == properties


def _plain(value: object) -> object:
    return value.get_type_name() if hasattr(value, "get_type_name") else getattr(value, "name", value)


def test_the_winner_is_what_the_search_wrote(packages: dict[str, Path], searched: Path) -> None:
    digests = {runtime.graph_digest(runtime.read_model(folder / "model.xml")) for folder in (packages["ir"], searched / "best")}
    assert len(digests) == 1


def test_weights_are_stored_in_8_bits(packages: dict[str, Path]) -> None:
    manifest = json.loads((packages["ir"] / "manifest.json").read_text())
    model = runtime.read_model(packages["ir"] / "model.xml")
    assert runtime.loose_weights(model) == []
    assert manifest["weights"] == runtime.weight_bytes(model)
    assert manifest["weights"]["i8"] > 0


def test_weights_that_are_stored_as_floats_are_found(tmp_path: Path) -> None:
    opset = runtime.openvino().opset13
    x = opset.parameter([1, 4], np.float32, "x")
    weights = opset.fake_quantize(opset.constant(np.eye(4, dtype=np.float32)), *map(np.float32, (-1, 1, -1, 1)), 255)
    model = runtime.openvino().Model([opset.matmul(x, weights, False, True)], [x])
    assert len(runtime.loose_weights(model)) == 1


def test_a_zip_holds_what_the_directory_does(packages: dict[str, Path]) -> None:
    with zipfile.ZipFile(packages["zip"]) as archive:
        assert set(archive.namelist()) == {path.name for path in packages["ir"].iterdir()}
        assert archive.read("model.bin") == (packages["ir"] / "model.bin").read_bytes()


def test_nothing_is_overwritten_and_nothing_is_left_behind(run: Run, searched: Path) -> None:
    Path("mine.zip").write_text("mine")
    assert "is a file" in run("export", searched, "--layout", "zip", "-o", "mine.zip", code=7).output
    assert Path("mine.zip").read_text() == "mine"
    assert "ends in .zip" in run("export", searched, "--layout", "zip", "-o", "dir", code=2).output
    assert "not both" in run("export", searched, "--trial", 1, "--pick", "knee", "-o", "dir", code=2).output
    assert [path.name for path in Path().iterdir()] == ["mine.zip"]


def test_optimum_needs_the_configuration_of_the_model(run: Run, searched: Path, conv_case: tuple[Path, Path]) -> None:
    optimum = ("export", searched, "--layout", "optimum", "-o", "new")
    assert f"{conv_case[0].parent / 'config.json'}: is not there" in " ".join(run(*optimum, code=2).output.split())
    assert "leave it out" in run(*optimum, "--embed-preprocessing", "--config-from", ".", code=2).output
    assert "is for --layout optimum" in run("export", searched, "--config-from", ".", "-o", "new", code=2).output
    assert not Path("new").exists()


def test_an_unfinished_search_has_no_winner_to_export(run: Run, searched_copy: Path) -> None:
    (searched_copy / "result.json").unlink()
    assert "has no winner yet; give --trial N or --pick" in run("export", searched_copy, "-o", "new", code=2).output
    (searched_copy / "result.json").write_text("{}")
    assert "cannot be read as the result of a search" in run("export", searched_copy, "-o", "new", code=7).output


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda p: (p / "model.bin").write_bytes((p / "model.bin").read_bytes()[:-1] + b"x"), "model.bin was changed"),
        (lambda p: (p / "recipe.yaml").unlink(), "recipe.yaml is missing"),
        (lambda p: (p / "model.xml").write_text("<net"), "model.xml was changed"),
    ],
)
def test_a_changed_package_is_refused(run: Run, package: Path, change, told: str) -> None:
    change(package)
    assert told in run("verify", package, code=11).output


def test_a_file_that_was_added_is_told(run: Run, package: Path) -> None:
    (package / "notes.txt").write_text("x")
    assert "not from the export, and not checked: notes.txt" in run("verify", package).output


def test_outputs_that_differ_are_refused(run: Run, package: Path) -> None:
    """As if the package had been taken to a machine that computes something else: the recorded outputs are others."""
    kept = checks.from_bytes((package / "checks.npz").read_bytes(), "here")
    others = tuple({name: array + 0.5 * np.abs(array).max() for name, array in output.items()} for output in kept.outputs)
    changed = checks.Checks(inputs=kept.inputs, outputs=others, limits=kept.limits)
    (package / "checks.npz").write_bytes(changed.to_bytes())
    manifest = json.loads((package / "manifest.json").read_text())
    manifest["files"]["checks.npz"] = runtime.file_sha256(package / "checks.npz")
    (package / "manifest.json").write_text(json.dumps(manifest))
    assert "output 'logits' differs from what was recorded by" in run("verify", package, code=11).output


def test_metrics_and_latency_are_measured_here(
    run: Run, package: Path, conv_case: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "PLAN", MeasurementPlan(visits=6, burst=4, discard=1, seconds=0.1))
    result = json.loads(run("verify", package, "--data", conv_case[1], "--latency", "--json").stdout)
    (metric,) = result["metrics"]
    manifest = json.loads((package / "manifest.json").read_text())
    assert (metric["name"], metric["n_items"]) == ("accuracy", 120)
    assert metric["recorded"] == manifest["measured"]["metrics"]["accuracy"]
    assert metric["interval"][0] <= metric["value"] <= metric["interval"][1]
    assert result["latency"]["median_ms"] > 0
    assert result["latency"]["recorded_ms"] == manifest["measured"]["latency_ms"]


def test_an_accuracy_that_is_worse_beyond_doubt_is_refused(run: Run, package: Path, conv_case: tuple[Path, Path]) -> None:
    with np.load(conv_case[1]) as arrays:
        np.savez("wrong.npz", image=arrays["image"], y=(arrays["y"] + 1) % small.N_CLASSES)
        np.savez("unlabelled.npz", image=arrays["image"])
    assert "worse than the recorded" in run("verify", package, "--data", "wrong.npz", code=11).output
    assert "has no labels" in run("verify", package, "--data", "unlabelled.npz", code=4).output


@pytest.mark.parametrize(
    "change", [{"measured": 3}, {"metrics": {}}, {"files": []}, {"deployment": "CPU"}, {"metrics": ["accuracy"]}]
)
def test_a_manifest_of_something_else_is_refused(
    run: Run, package: Path, conv_case: tuple[Path, Path], change: dict[str, object]
) -> None:
    manifest = json.loads((package / "manifest.json").read_text())
    (package / "manifest.json").write_text(json.dumps({**manifest, **change}))
    result = run("verify", package, "--data", conv_case[1], code=3 if change == {"metrics": ["accuracy"]} else 7)
    assert "unexpected" not in result.output


def test_what_is_no_package_is_refused(run: Run, searched: Path) -> None:
    assert "no such package" in run("verify", "nothing", code=7).output
    assert "holds no file 'manifest.json'" in run("verify", searched, code=7).output


def test_without_checks_no_sample_leaves_the_house(run: Run, searched: Path) -> None:
    run("export", searched, "--no-checks", "-o", "bare")
    assert sorted(path.name for path in Path("bare").iterdir()) == ["manifest.json", "model.bin", "model.xml", "recipe.yaml"]
    assert "made without checks" in run("verify", "bare", "--latency").output


def test_a_model_with_its_preprocessing_takes_images(run: Run, tmp_path: Path) -> None:
    model = small.conv_model(tmp_path / "m.onnx")
    images = small.images(90)
    labels = small.float_logits(model, small.normalized(images)).argmax(1)
    np.savez("images.npz", x=images, y=labels)
    options = ["--mean", "100", "--scale", "60", "--metric", "accuracy", "--max-drop", "0.5", "--max-trials", "3"]
    run("search", model, "--data", "images.npz", *options, "-o", "out")
    result = json.loads(run("export", "out", "--embed-preprocessing", "-o", "embedded", "--json").stdout)
    # A last bit of the normalization may put a pixel into the next of 256 steps; which trial wins depends on the machine.
    assert result["embedded"]["relative_error"]["logits"] < 2e-2
    assert result["embedded"]["steps"] == ["u8 to float", "mean [100.0]", "scale [60.0]", "NHWC to NCHW"]
    run("export", "out", "-o", "plain")
    with_it, without = ovquant.load("embedded"), ovquant.load("plain")
    found, plain = [{"y": with_it(images[:1])["logits"]}], [{"y": without(small.normalized(images[:1]))["logits"]}]
    assert checks.relative_errors(plain, found)["y"] < 5e-2
    assert "verified" in run("verify", "embedded").output
    assert "pre-processing within" in run("verify", "embedded", "--data", "images.npz", code=7).output


def test_a_model_that_takes_no_images_has_nothing_to_embed(run: Run, searched: Path) -> None:
    assert "nothing to embed" in run("export", searched, "--embed-preprocessing", "-o", "new", code=2).output
    assert not Path("new").exists()
