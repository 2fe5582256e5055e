"""Tasks beyond classification through the command line, on networks that were trained for them, and what users get wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import Run
from PIL import Image
from typer.testing import CliRunner

from ovquant.cli import app

TASKS = Path(__file__).resolve().parents[2] / "examples" / "tasks"
CONFIG, DATA = 3, 4
# Job -> the least that the float network reaches on the validation items, by metric; errors with their sign.
REACHED = {
    "detection": {"map50": 0.8, "map": 0.5},
    "segmentation": {"miou@mask": 0.6},
    "sequence": {"cer": -0.1, "exact_match": 0.7},
    "text": {"spearman": 0.6, "cosine": 1.0},
    "regression": {"accuracy@digit@digit": 0.8, "neg_mean_absolute_error@angle@angle": -10.0},
}


@pytest.fixture
def own(examples: Path, tmp_path: Path) -> Path:
    """Return a copy of them that may be changed."""
    return Path(shutil.copytree(examples, tmp_path / "own"))


def search(job: Path, output: Path, *arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["search", str(job), "-o", str(output), "--json", "--max-trials", "3", *arguments])
    assert result.exit_code in {0, 10}, result.output
    content: dict[str, Any] = json.loads(result.stdout)
    return content


@pytest.mark.parametrize("name", REACHED)
def test_a_search_measures_the_task_with_intervals(examples: Path, tmp_path: Path, name: str) -> None:
    # The limits of the examples hold on more items than these.
    job = yaml.safe_load((examples / f"{name}.yaml").read_text())
    job["metrics"] = [{**metric, "max_drop": 1.0 if "error" not in metric["name"] else 10.0} for metric in job["metrics"]]
    (examples / f"{name}-free.yaml").write_text(yaml.safe_dump(job))
    search(examples / f"{name}-free.yaml", tmp_path / "out")
    verdict = json.loads((tmp_path / "out" / "result.json").read_text())["verdict"]
    rows = {row["name"]: row["evaluation"] for row in verdict["rows"]}
    for metric in rows["reference"]["metrics"]:
        least = REACHED[name][metric["name"]]
        assert (-metric["value"] if metric["name"] == "cer" else metric["value"]) >= least - 1e-6, metric
    for metric in rows["NNCF default"]["metrics"]:
        drop = metric["drop"]
        assert drop["low"] <= drop["value"] <= drop["high"]
        assert metric["has_interval"] or drop["value"] == 0
    best = tmp_path / "out" / "best"
    source = job["data"] if isinstance(job["data"], dict) else {"path": job["data"]}
    extra = [part for key in ("annotations", "masks") if key in source for part in (f"--{key}", str(examples / source[key]))]
    verified = CliRunner().invoke(app, ["verify", str(best), "--data", str(examples / source["path"]), *extra, "--json"])
    assert verified.exit_code == 0, verified.output
    told = json.loads(verified.stdout)
    labelled = [metric["name"] for metric in rows["reference"]["metrics"] if metric["name"] != "cosine"]
    assert [metric["name"] for metric in told["metrics"]] == labelled
    assert {metric["n_items"] for metric in told["metrics"]} == {90}
    assert any("cosine compares with the float model" in note for note in told["notes"]) == (name == "text")


def test_networks_are_small_enough_to_be_committed() -> None:
    sizes = {path.name: path.stat().st_size for path in TASKS.glob("*.onnx")}
    assert len(sizes) == 4
    assert max(sizes.values()) < 300_000


def test_cosine_needs_no_labels(run: Run, examples: Path) -> None:
    with np.load(examples / "data" / "pairs.npz") as data:
        np.savez("bare.npz", input_ids=data["input_ids"][:, 0], attention_mask=data["attention_mask"][:, 0])
    result = run("evaluate", examples / "encoder.onnx", "--data", "bare.npz", "--metric", "cosine", "--json")
    rows = {row["name"]: row["evaluation"]["metrics"][0]["value"] for row in json.loads(result.stdout)["rows"]}
    assert rows["reference"] == 1


def test_masks_and_annotations_may_be_given_on_the_command_line(run: Run, examples: Path) -> None:
    options = ["--mean", "64", "--scale", "64", "--channels", "GRAY", "--max-items", "20", "--json"]
    model, scenes = examples / "scenes.onnx", examples / "data" / "scenes"
    for extra in (["--masks", examples / "data" / "masks"], ["--annotations", examples / "data" / "scenes.json"]):
        result = run("evaluate", model, "--data", scenes, *extra, *options)
        assert [row["evaluation"]["n_items"] for row in json.loads(result.stdout)["rows"]] == [20, 20]


@pytest.fixture(scope="session")
def detected(examples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the examples whose JSON lists every other image, with the output of a search for detection."""
    folder = Path(shutil.copytree(examples, tmp_path_factory.mktemp("detected") / "tasks"))
    content = json.loads((folder / "data" / "scenes.json").read_text())
    content["images"] = content["images"][::2]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in kept]
    (folder / "data" / "scenes.json").write_text(json.dumps(content))
    search(folder / "detection.yaml", folder / "out", "--max-drop", "1")
    return folder


def test_a_recipe_of_listed_items_is_replayed_on_the_same_ones(run: Run, detected: Path) -> None:
    scenes, recipe = detected / "data" / "scenes", detected / "out" / "best" / "recipe.yaml"
    arguments = ["quantize", detected / "scenes.onnx", "--recipe", recipe, "--data", scenes, "-o", "again"]
    assert "name it by --annotations" in run(*arguments, code=2).output
    verify = ["verify", detected / "out" / "best", "--data", scenes]
    assert "name it, or another one, by --annotations" in run(*verify, code=2).output
    assert "say more of images" in run(*verify[:2], "--masks", scenes, code=2).output
    again = run(*arguments, "--annotations", detected / "data" / "scenes.json", "--json")
    assert json.loads(again.stdout)["is_identical_to_recipe"] is True


def test_changed_code_of_a_metric_makes_another_job(run: Run, detected: Path) -> None:
    code = (detected / "data.py").read_text()
    (detected / "data.py").write_text(code + "\n# another threshold\n")
    try:
        result = run(
            "search", detected / "detection.yaml", "-o", detected / "out", "--max-trials", "3", "--max-drop", "1", code=7
        )
    finally:
        (detected / "data.py").write_text(code)
    assert "different: code of metrics" in " ".join(result.output.split())


def edit_json(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "data" / "scenes.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return apply


def edit_text(name: str, old: str, new: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return apply


def small_mask(folder: Path) -> None:
    Image.new("L", (32, 32)).save(folder / "data" / "masks" / "0003.png")


def remove_image(folder: Path) -> None:
    (folder / "data" / "lines" / "0003.png").unlink()


WRONG: dict[str, tuple[str, Callable[[Path], None], int, str]] = {
    "unknown category": (
        "detection",
        edit_json(lambda content: content["annotations"][5].update(category_id=77)),
        DATA,
        "annotations[5]: category_id 77 is not among the ids of categories (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)",
    ),
    "no annotations": ("detection", edit_json(lambda content: content.update(annotations=[])), DATA, "annotations is empty"),
    "image outside": (
        "detection",
        edit_json(lambda content: content["images"][0].update(file_name="../lines/0000.png")),
        DATA,
        "leads out of",
    ),
    "no function": ("detection", edit_text("detection.yaml", "data.py:boxes", "data.py:boxs"), DATA, "did you mean 'boxes'?"),
    "no decode": ("detection", edit_text("detection.yaml", ', decode: "data.py:boxes"', ""), CONFIG, "needs decode"),
    "mask of another size": ("segmentation", small_mask, DATA, "a mask of 32x32 pixels, its image 0003.png has 64x64"),
    "rim not ignored": ("segmentation", edit_text("segmentation.yaml", "ignore_index: 255, ", ""), DATA, "set ignore_index"),
    "other output": ("segmentation", edit_text("segmentation.yaml", "output: mask", "output: cells"), DATA, "has shape 1x15x8x8"),
    "image missing": ("sequence", remove_image, DATA, "1 of 90 files are missing, the first one is"),
    "column missing": (
        "sequence",
        edit_text("data/lines.csv", "image,", "file,"),
        DATA,
        "one of them must be image; found file, text",
    ),
    "labels not text": ("sequence", edit_text("data/lines.csv", ",text", ",label"), DATA, "name the column of a table 'text'"),
    "short alphabet": ("sequence", edit_text("sequence.yaml", "0123456789", "012345678"), DATA, "alphabet has 9 symbols"),
    "labels not named": (
        "regression",
        edit_text("regression.yaml", ", labels: digit", ""),
        DATA,
        "several labels (digit, angle)",
    ),
    "labels misspelt": (
        "regression",
        edit_text("regression.yaml", "labels: angle", "labels: angel"),
        DATA,
        "did you mean 'angle'?",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_users_get_wrong_is_told(run: Run, own: Path, what: str) -> None:
    name, change, code, message = WRONG[what]
    change(own)
    result = run("search", own / f"{name}.yaml", "-o", own / "out", code=code)
    assert message in " ".join(result.output.split())
    assert not (own / "out").exists()
