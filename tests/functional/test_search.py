"""The main job through the command line, with the real NNCF and OpenVINO."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import yaml
from conftest import Run
from PIL import Image

OUTPUT_FILES = {"study.db", "job.yaml", "target.yaml", "splits.json", "trials.csv", "result.json", "log.jsonl"}
OUTPUT_FILES |= {"report.html", "best"}
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
    later = [row for row in rows_of(searched) if row["generation"] not in {"", "0"}]
    bred = [row for row in later if row["parents"]]  # the first place of a generation is for neighbours of the seeds
    numbers = {int(row["trial"]) for row in rows_of(searched)}
    two = [row for row in bred if len(set(row["parents"].split())) == 2]
    assert len(later) >= 6
    assert len(bred) >= len(later) / 2
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
    recipe = yaml.safe_load((searched / "best" / "recipe.yaml").read_text())
    precision = recipe["compile_properties"]["INFERENCE_PRECISION_HINT"]
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
    assert not [path for path in searched.rglob("*") if path.suffix in {".xml", ".bin"} and path.parent.name != "best"]
    assert not list(searched.rglob("*partial*"))


def test_the_same_command_continues_and_adds_what_is_missing(run: Run, searched_copy: Path) -> None:
    before = rows_of(searched_copy)
    job = searched_copy / "job.yaml"
    result = run("search", job, "--max-trials", "12", "-o", searched_copy)
    rows = rows_of(searched_copy)
    assert "continuing a study of 11 trials" in result.output
    assert "The holdout was looked at 2 times" in result.output
    assert rows[:11] == before
    assert len(rows) == 13


def test_json_is_one_object_on_standard_output(run: Run, conv_case: tuple[Path, Path]) -> None:
    model, data = conv_case
    result = run("search", model, "--data", data, *ONE_GENERATION, "--json", "-o", "out")
    content = json.loads(result.stdout)
    assert content["stop_reason"] == "max_trials reached"
    assert content["verdict"]["rows"][0]["name"] == "reference"
    assert "[1/3  " in result.stderr


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
    assert [metric["has_interval"] for metric in metrics][::2] == [True, True]  # of a scorer only where answers differ
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
    verdict = result_of(Path("out"))["verdict"]

    # Decided by validation items and the latencies of the finalists' own run.
    timed = {row["trial"]: row["latency"]["ratio"]["value"] for row in verdict["rows"] if row["name"] in {"winner", "finalist"}}
    by_trial = {int(row["trial"]): float(row["fitness"]) + 0.1 * float(row["latency_ratio"]) for row in rows}
    assert verdict["winner"] == max(timed, key=lambda number: by_trial[number] - 0.1 * timed[number])


def test_stop_at_ends_the_search_with_the_candidate_that_met_it(run: Run, conv_case: tuple[Path, Path]) -> None:
    Path("job.yaml").write_text(
        f"version: 1\nmodel: {conv_case[0]}\ndata: {conv_case[1]}\nmetrics: [{{name: accuracy, max_drop: 0.9}}]\n"
        "stop_at: {max_drop: 0.9, min_speedup: 0.01}\nmax_trials: 8\n"
    )
    run("search", "job.yaml", "-o", "out")
    assert result_of(Path("out"))["stop_reason"] == "stop_at met"
    assert len(rows_of(Path("out"))) == 2
    verdict = result_of(Path("out"))["verdict"]
    assert verdict["winner"] == 1
    assert verdict["sentences"][-1].startswith("Trial 1 met stop_at by point estimates")


def test_a_budget_ends_the_search(run: Run, conv_case: tuple[Path, Path]) -> None:
    told = run("search", conv_case[0], "--data", conv_case[1], "--budget", "0.1s", "-o", "out").output
    assert re.search(
        r"Search ended: budget used up, \d+ s late: what is begun is finished, and NNCF's default always tried\.", told
    )
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


def test_faults_of_the_holdout_are_found_before_the_search(run: Run, conv_case: tuple[Path, Path]) -> None:
    with np.load(conv_case[1]) as arrays:
        np.savez("bare.npz", image=arrays["image"][:20])
        np.savez("wrong.npz", image=arrays["image"][:20], y=np.full(20, 9))
    options = ["--data", conv_case[1], "--metric", "accuracy", "--holdout-data"]
    assert "the holdout items have none" in run("search", conv_case[0], *options, "bare.npz", "-o", "out", code=4).output
    assert "label 9 is out of range" in run("search", conv_case[0], *options, "wrong.npz", "-o", "out", code=4).output
    assert not Path("out").exists()


def test_the_same_samples_cannot_serve_two_parts(run: Run, conv_case: tuple[Path, Path]) -> None:
    for option in ("--holdout-data", "--calibration-data"):
        result = run("search", conv_case[0], "--data", conv_case[1], option, conv_case[1], "-o", "out", code=4)
        assert "the same items would be used for both" in result.output


def test_sources_of_their_own_and_replay_of_their_recipe(run: Run, conv_case: tuple[Path, Path]) -> None:
    with np.load(conv_case[1]) as arrays:
        np.savez("calib.npz", x_calib=arrays["image"][:40])
        np.savez("main.npz", x=arrays["image"][40:80], truth=arrays["y"][40:80])
        np.savez("hold.npz", x=arrays["image"][80:], y=arrays["y"][80:])
    Path("job.yaml").write_text(
        f"version: 1\nmodel: {conv_case[0]}\ndata: {{path: main.npz, labels: truth, calibration: calib.npz, holdout: hold.npz}}\n"
        "metrics: [{name: accuracy, max_drop: 0.5}]\nmax_trials: 3\n"
    )
    run("search", "job.yaml", "-o", "out")
    items = json.loads(Path("out/best/manifest.json").read_text())["data"]["items"]
    assert items == {"calibration": 40, "validation": 40, "holdout": 40}
    result = run("quantize", conv_case[0], "--recipe", "out/best/recipe.yaml", "--data", "calib.npz", "-o", "again", "--json")
    assert json.loads(result.stdout)["is_identical_to_recipe"]


def test_replay_is_identical_where_the_labels_have_a_name_of_their_own(run: Run, conv_case: tuple[Path, Path]) -> None:
    with np.load(conv_case[1]) as arrays:
        np.savez("data.npz", pixels=arrays["image"], truth=arrays["y"])
    Path("job.yaml").write_text(
        f"version: 1\nmodel: {conv_case[0]}\ndata: {{path: data.npz, inputs: {{image: pixels}}, labels: truth}}\n"
        "metrics: [{name: accuracy, max_drop: 0.5}]\nmax_trials: 3\n"
    )
    run("search", "job.yaml", "-o", "out")
    result = run("quantize", conv_case[0], "--recipe", "out/best/recipe.yaml", "--data", "data.npz", "-o", "again", "--json")
    assert json.loads(result.stdout)["is_identical_to_recipe"]


def test_labels_of_any_kind_with_a_python_metric(run: Run, conv_case: tuple[Path, Path]) -> None:
    Path("boxes.py").write_text(
        "import numpy as np\n"
        "def samples():\n"
        f"    images = np.load({str(conv_case[1])!r})['image']\n"
        "    for index, image in enumerate(images):\n"
        "        yield image, [[0, 1, 2, 3]] * (index % 3)\n"
        "def score(outputs, labels):\n"
        "    return [float(array.max() > len(boxes)) for array, boxes in zip(outputs['logits'], labels)]\n"
    )
    options = ["--data", "boxes.py:samples", "--metric", "boxes.py:score", "--max-drop", "0.9", *ONE_GENERATION]
    run("search", conv_case[0], *options, "-o", "out")


def test_max_drop_on_the_command_line_wins_over_the_jobs(run: Run, conv_case: tuple[Path, Path]) -> None:
    Path("job.yaml").write_text(
        f"version: 1\nmodel: {conv_case[0]}\ndata: {conv_case[1]}\nmetrics: [accuracy]\nmax_divergence: 0\nmax_trials: 2\n"
    )
    assert "(max_drop 0.25)" in run("search", "job.yaml", "--max-drop", "0.25", "-o", "out", code=8).output


def test_what_the_user_has_beside_the_output_stays(run: Run, conv_case: tuple[Path, Path]) -> None:
    for name in ("out.partial", "out.models", "out/models"):
        assert not Path(name).exists()
    Path("again.models").mkdir()
    Path("again.models/mine").write_text("x")
    run("search", conv_case[0], "--data", conv_case[1], *ONE_GENERATION, "-o", "out")
    run("quantize", conv_case[0], "--recipe", "out/best/recipe.yaml", "--data", conv_case[1], "-o", "again")
    run("export", "out", "--trial", "1", "-o", "out/models/one")
    assert Path("again.models/mine").read_text() == "x"
    assert Path("out/models/one/model.xml").exists()


def test_a_foreign_database_is_left_alone(run: Run, conv_case: tuple[Path, Path]) -> None:
    import sqlite3

    Path("out").mkdir()
    with sqlite3.connect("out/study.db") as database:
        database.execute("create table mine (x int)")
    before = Path("out/study.db").read_bytes()
    run("search", conv_case[0], "--data", conv_case[1], *ONE_GENERATION, "-o", "out", code=7)
    assert Path("out/study.db").read_bytes() == before


def test_odd_output_paths(run: Run, conv_case: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    run("search", conv_case[0], "--data", conv_case[1], "--max-trials", "1", "-o", "a?b=c")
    assert Path("a?b=c/study.db").exists()
    Path("here").mkdir()
    monkeypatch.chdir("here")
    run("search", conv_case[0], "--data", conv_case[1], "--max-trials", "1", "-o", ".")
    assert Path("best/model.xml").exists()


def test_evaluate_runs_an_exported_model_at_the_precision_it_was_measured_with(run: Run, conv_case: tuple[Path, Path]) -> None:
    Path("t.yaml").write_text("version: 1\nname: t\ndevice: CPU\ngenes: {inference_precision: f32, subset_size: 20}\n")
    options = ["--data", conv_case[1], "--target", "t.yaml", "--max-divergence", "9"]
    run("search", conv_case[0], *options, "-o", "out")
    shown = run("evaluate", conv_case[0], "out/best/model.xml", "--data", conv_case[1], "--json")
    assert json.loads(shown.stdout)["rows"][2]["description"].endswith("at f32")
