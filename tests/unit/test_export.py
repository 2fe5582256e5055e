"""Packages are written whole or not at all; trials.csv has a line per trial."""

from __future__ import annotations

import csv
import errno
import io
import json
import shutil
import zipfile
from pathlib import Path

import pytest
import small
from fakes.records import evaluation, metric, trial

from ovquant import export, runtime
from ovquant.errors import OutputError
from ovquant.job import DataSpec, Preprocessing, Source
from ovquant.recipe import Made, Recipe, recipe_from
from ovquant.records import Failure
from ovquant.selectors import ScopeSelector
from ovquant.strategy import Strategy
from ovquant.targets import Target


def recipe() -> Recipe:
    made = Made(model_sha256="a", graph_digest="b", versions={"nncf": "3.4.0"})
    data = DataSpec(path="d", calibration=Source(path="c"), preprocessing=Preprocessing(mean=(1.0,)))
    target = Target(version=1, name="t", device="CPU", compile_properties={"A": 1})
    strategy = Strategy(inference_precision="bf16")
    return recipe_from(strategy, target=target, data=data, calibration=[("calibration", 4)], made=made)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    from ovquant import runtime

    runtime.save_model(runtime.read_model(small.conv_model(tmp_path / "m.onnx")), tmp_path / "ir" / "m.xml")
    return tmp_path / "ir" / "m.xml"


def test_a_package_has_model_recipe_and_manifest_with_hashes(model: Path, tmp_path: Path):
    export.write_package(tmp_path / "new" / "best", model, recipe(), {"trial": 5})
    manifest = json.loads((tmp_path / "new" / "best" / "manifest.json").read_text())
    assert manifest["trial"] == 5
    for name, digest in manifest["files"].items():
        assert runtime.file_sha256(tmp_path / "new" / "best" / name) == digest
    assert set(manifest["files"]) == {"model.xml", "model.bin", "recipe.yaml"}


def test_what_is_there_is_not_overwritten(model: Path, tmp_path: Path):
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "mine").write_text("x")
    with pytest.raises(OutputError, match="not empty"):
        export.write_package(tmp_path / "best", model, recipe(), {})
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["mine"]


def test_our_own_package_is_replaced_whole(model: Path, tmp_path: Path):
    for number in (1, 2):
        export.write_package(tmp_path / "best", model, recipe(), {"trial": number}, is_ours=True)
    assert json.loads((tmp_path / "best" / "manifest.json").read_text())["trial"] == 2
    assert sorted(path.name for path in tmp_path.iterdir() if "best" in path.name) == ["best"]


def test_a_full_disk_leaves_the_old_package_and_no_rest(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    export.write_package(tmp_path / "best", model, recipe(), {"trial": 1})

    def full(source: Path, destination: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OutputError, match="No space left on device"):
        export.write_package(tmp_path / "best", model, recipe(), {"trial": 2}, is_ours=True)
    assert json.loads((tmp_path / "best" / "manifest.json").read_text())["trial"] == 1
    assert not list(tmp_path.glob("*partial*"))


@pytest.mark.parametrize("fault", ["zip_folder", "_move_new"])
def test_a_full_disk_leaves_nothing_of_a_zip(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str):
    def full(source: Path, destination: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = set(tmp_path.iterdir())
    monkeypatch.setattr(export, fault, full)
    with pytest.raises(OutputError, match="No space left on device"):
        export.write_package(tmp_path / "p.zip", model, recipe(), {}, layout="zip")
    assert set(tmp_path.iterdir()) == before


def test_a_zip_is_written_where_the_file_system_has_no_links(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_links(self: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    names = export.write_package(tmp_path / "p.zip", model, recipe(), {}, layout="zip")
    with zipfile.ZipFile(tmp_path / "p.zip") as archive:
        assert sorted(archive.namelist()) == sorted(names)
    assert not list(tmp_path.glob(".p.zip*"))


def test_a_file_in_the_way_is_told(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a file"):
        export.require_free(tmp_path / "file")


def test_text_is_written_beside_and_renamed(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    export.write_text(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_the_hash_of_an_ir_covers_its_weights(model: Path):
    before = runtime.model_sha256(model)
    assert set(before) == {"m.xml", "m.bin"}
    model.with_suffix(".bin").write_bytes(b"other")
    assert runtime.model_sha256(model)["m.bin"] != before["m.bin"]


def test_trials_csv_has_a_line_per_trial_with_metrics_genes_and_failures():
    strategy = Strategy(ignored_scope=ScopeSelector(types=("Add",)), model_type="transformer")
    trials = [
        trial(1, evaluation(metrics=[metric(0.9, 0.01)]), strategy=strategy),
        trial(2, Failure(stage="compile", error="RuntimeError", message='no, "never"\nagain')),
    ]
    rows = list(csv.DictReader(io.StringIO(export.trials_csv(trials, None))))
    assert [row["trial"] for row in rows] == ["1", "2"]
    assert (rows[0]["accuracy"], rows[0]["accuracy_drop"], rows[0]["model_type"]) == ("0.9", "0.01", "transformer")
    assert json.loads(rows[0]["ignored_scope"]) == {"types": ["Add"]}
    assert rows[1]["failure"] == 'compile: RuntimeError: no, "never"\nagain'
    assert rows[1]["divergence"] == ""


def test_trials_csv_of_nothing_is_a_header():
    assert export.trials_csv([], None).count("\n") == 1


def test_the_recipes_precision_wins_over_the_profiles():
    assert recipe().compile_properties == {"A": 1, "INFERENCE_PRECISION_HINT": "bf16"}
    assert recipe().calibration.has_own_source
