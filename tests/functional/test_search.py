"""The main job through the command line, with the real NNCF and OpenVINO."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
from conftest import Run
from PIL import Image

OUTPUT_FILES = {"study.db", "job.yaml", "target.yaml", "splits.json", "trials.csv", "result.json", "best"}
ONE_GENERATION = ["--max-trials", "3"]


def rows_of(output: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((output / "trials.csv").open()))


def result_of(output: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((output / "result.json").read_text())
    return content


def test_writes_what_it_promises(searched: Path) -> None:
    assert {path.name for path in searched.iterdir()} == OUTPUT_FILES
    assert {path.name for path in (searched / "best").iterdir()} == {"model.xml", "model.bin", "recipe.yaml", "manifest.json"}


def test_trial_zero_is_the_float_model_and_nncf_default_is_tried_first(searched: Path) -> None:
    rows = rows_of(searched)
    assert [row["role"] for row in rows[:2]] == ["baseline", "default"]
    assert rows[0]["code"] == ""
    assert len(rows) == 11


def test_no_strategy_is_tried_twice(searched: Path) -> None:
    digests = [row["digest"] for row in rows_of(searched) if row["digest"]]
    assert len(digests) == len(set(digests)) == 10


def test_most_trials_after_the_first_generation_have_two_parents(searched: Path) -> None:
    bred = [row for row in rows_of(searched) if row["generation"] not in {"", "0"}]
    numbers = {int(row["trial"]) for row in rows_of(searched)}
    two = [row for row in bred if len(set(row["parents"].split())) == 2]
    assert len(bred) >= 6
    assert len(two) > len(bred) / 2
    for row in bred:
        assert all(int(parent) in numbers and int(parent) < int(row["trial"]) for parent in row["parents"].split())


def test_the_exported_model_runs_in_a_plain_script_and_answers_as_measured(
    searched: Path, conv_case: tuple[Path, Path], manifest: dict[str, Any], tmp_path: Path
) -> None:
    script = tmp_path / "plain.py"
    script.write_text(
        "import hashlib, json, sys\n"
        "import numpy as np, openvino as ov\n"
        "best, data, splits, precision = sys.argv[1:]\n"
        "properties = {'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': precision}\n"
        "model = ov.Core().compile_model(best + '/model.xml', 'CPU', properties)\n"
        "images = np.load(data)['image']\n"
        "items = json.load(open(splits))['validation']['main']\n"
        "digest = hashlib.sha256()\n"
        "for index in items:\n"
        "    digest.update(np.ascontiguousarray(model(images[index:index + 1])[0]).tobytes())\n"
        "print(digest.hexdigest())\n"
    )
    recipe = (searched / "best" / "recipe.yaml").read_text()
    precision = recipe.split("INFERENCE_PRECISION_HINT:")[1].split()[0]
    arguments = [searched / "best", conv_case[1], searched / "splits.json", precision]
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == manifest["trial"]["during_search"]["outputs_digest"]


def test_the_manifest_names_files_device_versions_and_measurements(searched: Path, manifest: dict[str, Any]) -> None:
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((searched / "best" / name).read_bytes()).hexdigest() == digest
    assert manifest["versions"].keys() >= {"python", "openvino", "nncf", "optuna"}
    assert manifest["device"]["name"] == "CPU"
    assert manifest["data"]["items"] == {"calibration": 40, "validation": 40, "holdout": 40}
    names = [row["name"] for row in manifest["verdict"]["rows"]]
    assert names[:4] == ["reference", "baseline", "NNCF default", "winner"]
    for row in manifest["verdict"]["rows"]:
        assert row["evaluation"]["split"] == "holdout"
        assert row["latency"]["ratio"]["low"] <= row["latency"]["ratio"]["value"] <= row["latency"]["ratio"]["high"]


def test_splits_are_recorded_and_disjoint(searched: Path) -> None:
    splits = json.loads((searched / "splits.json").read_text())
    sets = [set(splits[name]["main"]) for name in ("calibration", "validation", "holdout")]
    assert sum(map(len, sets)) == len(set.union(*sets)) == 120


def test_candidate_models_are_not_left_behind(searched: Path) -> None:
    assert not list(searched.glob("models*"))
    assert not list(searched.rglob("*.partial"))


def test_the_same_command_continues_and_adds_what_is_missing(run: Run, searched_copy: Path) -> None:
    before = rows_of(searched_copy)
    job = searched_copy / "job.yaml"
    result = run("search", job, "--max-trials", "12", "--population", "2", "-o", searched_copy)
    rows = rows_of(searched_copy)
    assert "continuing a study of 11 trials" in result.output
    assert rows[:11] == before
    assert len(rows) == 13


def test_json_is_one_object_on_standard_output(run: Run, conv_case: tuple[Path, Path]) -> None:
    model, data = conv_case
    result = run("search", model, "--data", data, *ONE_GENERATION, "--json", "-o", "out")
    content = json.loads(result.stdout)
    assert content["stop_reason"] == "max_trials reached"
    assert content["verdict"]["rows"][0]["name"] == "reference"
    assert "trial   1" in result.stderr


def test_unlabelled_data_is_searched_by_divergence_within_nncf_defaults(run: Run, conv_case: tuple[Path, Path]) -> None:
    with np.load(conv_case[1]) as arrays:
        np.savez("unlabelled.npz", image=arrays["image"])
    result = run("search", conv_case[0], "--data", "unlabelled.npz", "--max-trials", "6", "-o", "out")
    assert "drop [95" not in result.output
    rows = rows_of(Path("out"))
    limit = float(rows[1]["divergence"])
    for row in rows[1:]:
        assert (row["feasible"] == "True") == (float(row["divergence"]) <= limit)
    winner = result_of(Path("out"))["verdict"]["winner"]
    assert float(rows[winner]["divergence"]) <= limit


def test_an_image_folder_with_classes(run: Run, conv_case: tuple[Path, Path]) -> None:
    pixels = small.images(60, seed=3)
    labels = small.float_logits(conv_case[0], small.normalized(pixels)).argmax(axis=1)
    for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        folder = Path("data") / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index}.png")
    options = ["--mean", "100", "--scale", "60", "--metric", "accuracy", "--max-drop", "50%"]
    run("search", conv_case[0], "--data", "data", *options, *ONE_GENERATION, "-o", "out")
    reference = result_of(Path("out"))["verdict"]["rows"][0]
    assert reference["evaluation"]["metrics"][0]["value"] == 1.0


def test_several_inputs_and_outputs_with_dynamic_batch_from_a_python_entry(run: Run, tmp_path: Path) -> None:
    model = small.two_input_model(tmp_path / "two.onnx")
    Path("data.py").write_text(
        "import numpy as np\n"
        "def samples(n):\n"
        "    rng = np.random.default_rng(0)\n"
        "    for _ in range(n):\n"
        "        left, right = rng.normal(size=8).astype('f'), rng.normal(size=4).astype('f')\n"
        "        yield {'left': left, 'right': right}, int(left.sum() > 0)\n"
    )
    Path("job.yaml").write_text(
        f"version: 1\nmodel: {model}\ndata:\n  path: data.py:samples\n  arguments: {{n: 90}}\n"
        "metrics:\n  - {name: accuracy, output: scores, max_drop: 0.9}\nmax_trials: 3\n"
    )
    result = run("search", "job.yaml", "-o", "out")
    assert "'scores' is read as probabilities" in result.output
    assert "'distance' is read as values" in result.output


def test_several_metrics_constrain_at_once(run: Run, conv_case: tuple[Path, Path]) -> None:
    options = ["--metric", "accuracy", "--max-drop", "0.3", "--metric", "f1_macro", "--max-drop", "50%", "--metric", "top2"]
    run("search", conv_case[0], "--data", conv_case[1], *options, "--max-drop", "0.4", *ONE_GENERATION, "-o", "out")
    row = result_of(Path("out"))["verdict"]["winner"]
    metrics = result_of(Path("out"))["verdict"]["rows"][3]["evaluation"]["metrics"]
    assert [metric["name"] for metric in metrics] == ["accuracy", "f1_macro", "top2"]
    assert all(metric["has_interval"] for metric in metrics)
    assert row >= 1


@pytest.mark.parametrize("fitness", ["accuracy", "divergence", "weighted"])
def test_single_fitness_modes_name_the_fittest_feasible(run: Run, conv_case: tuple[Path, Path], fitness: str) -> None:
    options = ["--fitness", fitness, "--metric", "accuracy", "--max-drop", "0.5", "--max-trials", "4"]
    run("search", conv_case[0], "--data", conv_case[1], *options, "-o", "out")
    rows = [row for row in rows_of(Path("out")) if row["role"] != "baseline" and row["feasible"] == "True"]
    for row in rows:
        accuracy, ratio, divergence = (float(row[key]) for key in ("accuracy", "latency_ratio", "divergence"))
        quality = {"accuracy": accuracy, "divergence": -divergence, "weighted": accuracy - divergence}[fitness]
        assert float(row["fitness"]) == pytest.approx(quality - 0.1 * ratio)
    winner = result_of(Path("out"))["verdict"]["winner"]
    assert max(rows, key=lambda row: float(row["fitness"]))["trial"] == str(winner)


def test_stop_at_ends_the_search_with_the_candidate_that_met_it(run: Run, conv_case: tuple[Path, Path]) -> None:
    Path("job.yaml").write_text(
        f"version: 1\nmodel: {conv_case[0]}\ndata: {conv_case[1]}\nmetrics: [{{name: accuracy, max_drop: 0.9}}]\n"
        "stop_at: {max_drop: 0.9, min_speedup: 0.01}\nmax_trials: 8\n"
    )
    run("search", "job.yaml", "-o", "out")
    assert result_of(Path("out"))["stop_reason"] == "stop_at met"
    assert len(rows_of(Path("out"))) == 2
    assert result_of(Path("out"))["verdict"]["winner"] == 1


def test_a_budget_ends_the_search(run: Run, conv_case: tuple[Path, Path]) -> None:
    run("search", conv_case[0], "--data", conv_case[1], "--budget", "0.1s", "-o", "out")
    assert result_of(Path("out"))["stop_reason"] == "budget used up"


def test_a_small_space_is_searched_to_its_end(run: Run, conv_case: tuple[Path, Path]) -> None:
    Path("tiny.yaml").write_text(
        "version: 1\nname: tiny\ndevice: CPU\ngenes:\n  preset: [performance, mixed]\n"
        "  disable_bias_correction: [false, true]\n  fast_bias_correction: [true, false]\n"
    )
    run("search", conv_case[0], "--data", conv_case[1], "--target", "tiny.yaml", "--max-trials", "20", "-o", "out")
    assert result_of(Path("out"))["stop_reason"] == "search space exhausted"
    assert len(rows_of(Path("out"))) == 1 + 6  # fast bias correction means nothing where bias correction is off


def test_nncf_default_is_compared_with_where_the_target_does_not_allow_it(run: Run, conv_case: tuple[Path, Path]) -> None:
    Path("tiny.yaml").write_text("version: 1\nname: tiny\ndevice: CPU\ngenes:\n  preset: mixed\n  subset_size: [10, 20]\n")
    run("search", conv_case[0], "--data", conv_case[1], "--target", "tiny.yaml", "--max-divergence", "1", "-o", "out")
    rows = rows_of(Path("out"))
    assert [row["role"] for row in rows] == ["baseline", "default", "candidate", "candidate"]
    assert result_of(Path("out"))["verdict"]["winner"] != 1
