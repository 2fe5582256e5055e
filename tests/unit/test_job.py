from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from ovquant.errors import ConfigError
from ovquant.job import DEFAULT_MAX_TRIALS, Drop, DropLimit, Job, load_job, parse_seconds, split_entry, with_absolute_paths
from ovquant.targets import to_yaml

SMALLEST: dict[str, Any] = {"model": "m.xml", "data": "d.npz"}
STRATEGY: dict[str, Any] = {
    "subset_size": 30,
    "ignored_scope": {"types": ["Add"]},
    "smooth_quant_alpha_matmul": 0.95,
    "smooth_quant_alpha_convolution": -1,
    "inference_precision": "f32",
    "target_device": "ANY",
}
FULL: dict[str, Any] = {
    "model": "m.onnx",
    "target": "profiles/mine.yaml",
    "device": "GPU.1",
    "data": {
        "path": "images",
        "inputs": {"x": "pixels"},
        "labels": "y",
        "calibration": "calibration.npz",
        "holdout": {"path": "code.py:holdout", "labels": "z"},
        "calibration_items": 12,
        "max_items": 100,
        "preprocessing": {
            "resize": 256,
            "crop": [224, 192],
            "mean": [1.5, 2, 3],
            "scale": 58,
            "channels": "BGR",
            "layout": "NHWC",
        },
        "class_names": ["no", "yes", "1e3"],
        "arguments": {"split": "test", "n": 3, "nested": {"x": [1, None, True]}},
    },
    "metrics": [
        "accuracy",
        {"name": "scores.py:f1", "max_drop": "0.5%", "output": "logits", "direction": "minimize"},
        {"name": "f1_macro", "max_drop": None},
        {"name": "top5", "max_drop": 0.02},
    ],
    "max_divergence": 0.1,
    "output_kinds": {"logits": "logits", "box": "values"},
    "objective": {"fitness": "weighted", "accuracy_weight": 2, "divergence_weight": 0, "latency_weight": 0.3},
    "recipes": ["last/best/recipe.yaml", {"name": "OUT trial 3", "strategy": STRATEGY}],
    "stop_at": {"max_drop": "1%", "min_speedup": 1.5, "fitness": 0.7},
    "budget": "1h30m",
    "max_trials": 33,
    "population": 6,
    "seed": 5,
    "output": "out",
}


def write(folder: Path, content: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def job_of(**keys: Any) -> Job:
    return load_job(None, {"model": "m.xml", "data": {"path": "d.npz"}, **keys})


def faults_of(folder: Path, **keys: Any) -> list[str]:
    """The lines that a job file gives, without the file's name."""
    path = write(folder, {**SMALLEST, **keys})
    with pytest.raises(ConfigError) as caught:
        load_job(path, {})
    return [line.removeprefix(f"{path}: ") for line in str(caught.value).splitlines()]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (90, 90),
        (1.5, 1.5),
        ("90", 90),
        ("90s", 90),
        ("10m", 600),
        ("1.5h", 5400),
        ("1h30m", 5400),
        ("1h1m1s", 3661),
        (" 2m ", 120),
    ],
)
def test_durations(text: Any, seconds: float) -> None:
    assert job_of(budget=text).budget == seconds


@pytest.mark.parametrize("text", ["10x", "m", "1h 30", "-5s", "abc", "1h30", "5 minutes", "s10"])
def test_what_is_no_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ConfigError, match=f"budget: a duration is written like 90s, 10m or 1h30m, found '{text}'"):
        job_of(budget=text)


@pytest.mark.parametrize("value", [0, -1, "0s", float("nan")])
def test_a_duration_must_be_positive(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"budget: input should be (greater than 0|a finite number)"):
        job_of(budget=value)


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59))
def test_parts_of_a_duration_add_up(hours: int, minutes: int, seconds: int) -> None:
    assert parse_seconds(f"{hours}h{minutes}m{seconds}s") == 3600 * hours + 60 * minutes + seconds


@pytest.mark.parametrize(
    ("written", "amount", "is_relative"),
    [
        (0.01, 0.01, False),
        (0, 0.0, False),
        ("0.01", 0.01, False),
        ("1%", 0.01, True),
        (" 2.5 % ", 0.025, True),
        ("0%", 0.0, True),
    ],
)
def test_drops(written: Any, amount: float, is_relative: bool) -> None:
    (metric,) = job_of(metrics=[{"name": "accuracy", "max_drop": written}]).metrics
    assert metric.max_drop == Drop(amount=amount, is_relative=is_relative)


@pytest.mark.parametrize(
    "written",
    ["abc", "%", "1%%", "one%", "", -1, "-1", "-1%", float("nan"), "nan%", float("inf"), "inf%", True, [1]],
)
def test_what_is_no_drop_is_refused_with_an_example(tmp_path: Path, written: Any) -> None:
    assert faults_of(tmp_path, metrics=[{"name": "accuracy", "max_drop": written}]) == [
        f"metrics.0.max_drop: a drop is a number in the metric's unit, or like 1%, and not negative; found {written!r}"
    ]


def test_a_drop_in_parts_must_not_be_negative(tmp_path: Path) -> None:
    assert faults_of(tmp_path, metrics=[{"name": "accuracy", "max_drop": {"amount": -1}}]) == [
        "metrics.0.max_drop.amount: input should be greater than or equal to 0, found -1"
    ]


def test_a_drop_in_parts_is_finite(tmp_path: Path) -> None:
    (line,) = faults_of(tmp_path, metrics=[{"name": "accuracy", "max_drop": {"amount": float("inf")}}])
    assert line.startswith("metrics.0.max_drop.amount: ")


@pytest.mark.parametrize(
    ("drop", "reference", "limit"),
    [
        (Drop(amount=0.02), 0.8, 0.02),
        (Drop(amount=0.02, is_relative=True), 0.8, 0.016),
        (Drop(amount=0.5, is_relative=True), -4, 2),
    ],
)
def test_a_relative_drop_is_a_share_of_the_size_of_the_reference(drop: Drop, reference: float, limit: float) -> None:
    assert drop.limit(reference) == pytest.approx(limit)


@pytest.mark.parametrize("written", ["0.01", "0", "1%", "0.7%", "12.5%"])
def test_a_drop_is_written_as_it_was_read(written: str) -> None:
    drop = TypeAdapter(DropLimit).validate_python(written)
    assert str(drop) == written
    assert TypeAdapter(DropLimit).validate_python(str(drop)) == drop


@pytest.mark.parametrize(
    ("drop", "content"),
    [
        (Drop(amount=0.01), "0.01"),
        (Drop(amount=0.7 / 100, is_relative=True), "0.7%"),
        (Drop(amount=0.0123456789), {"amount": 0.0123456789, "is_relative": False}),
        (Drop(amount=1 / 3, is_relative=True), {"amount": 1 / 3, "is_relative": True}),
    ],
)
def test_a_drop_goes_into_a_file_in_its_short_form_unless_that_loses_digits(drop: Drop, content: Any) -> None:
    assert TypeAdapter(DropLimit).dump_python(drop) == content


@given(st.floats(0, 100), st.booleans())
def test_a_drop_is_read_back_from_a_file_to_the_last_digit(amount: float, is_relative: bool) -> None:
    drop = Drop(amount=amount, is_relative=is_relative)
    text = yaml.safe_dump(TypeAdapter(DropLimit).dump_python(drop))
    assert TypeAdapter(DropLimit).validate_python(yaml.safe_load(text)) == drop


def test_a_metric_alone_may_drop_by_one_percent_of_the_reference() -> None:
    assert job_of(metrics=["accuracy"]).metrics[0].max_drop == Drop(amount=0.01, is_relative=True)


def test_a_null_drop_only_reports_the_metric() -> None:
    assert job_of(metrics=[{"name": "accuracy", "max_drop": None}]).metrics[0].max_drop is None


def test_one_metric_and_a_data_path_need_no_lists_and_mappings(tmp_path: Path) -> None:
    short = load_job(write(tmp_path, {**SMALLEST, "metrics": "accuracy"}), {})
    long = load_job(write(tmp_path, {"model": "m.xml", "data": {"path": "d.npz"}, "metrics": [{"name": "accuracy"}]}), {})
    assert short == long


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"max_trails": 3}, "max_trails: unknown key (did you mean 'max_trials'?)"),
        ({"metrics": [{"name": "accuracy", "max_dorp": 1}]}, "metrics.0.max_dorp: unknown key (did you mean 'max_drop'?)"),
        ({"data": {"path": "d", "preprocesing": {}}}, "data.preprocesing: unknown key (did you mean 'preprocessing'?)"),
        (
            {"data": {"path": "d", "calibration": {"path": "c", "lables": "y"}}},
            "data.calibration.lables: unknown key (did you mean",
        ),
        (
            {"objective": {"fitness": "acuracy"}},
            "objective.fitness: input should be 'pareto', 'accuracy', 'divergence' or 'weighted'",
        ),
        ({"max_trials": "many"}, "max_trials: expected an integer, found 'many'"),
        ({"max_trials": 1.5}, "max_trials: expected an integer, found 1.5"),
        ({"max_trials": 0}, "max_trials: input should be greater than or equal to 1, found 0"),
        ({"population": 1}, "population: input should be greater than or equal to 2, found 1"),
        ({"seed": -1}, "seed: input should be greater than or equal to 0, found -1"),
        ({"version": 2}, "version: input should be 1, found 2"),
        ({"target": 5}, "target: expected a string, found 5"),
        ({"max_divergence": float("nan")}, "max_divergence: input should be a finite number, found nan"),
        (
            {"data": {"path": "d", "preprocessing": {"resize": [1, 2, 3]}}},
            "data.preprocessing.resize: takes at most 2, found 3",
        ),
        ({"data": {"path": "d", "preprocessing": {"crop": []}}}, "data.preprocessing.crop: takes at least 1, found 0"),
        ({"data": {"path": "d", "preprocessing": {"crop": [0.5]}}}, "data.preprocessing.crop.0: expected an integer, found 0.5"),
        ({"data": {"path": "d", "preprocessing": {"scale": 0}}}, "data.preprocessing: scale: must not be zero"),
        ({"data": {}}, "data.path: required key is missing"),
        ({"stop_at": {}}, "stop_at: give at least one of max_drop, min_speedup, fitness"),
    ],
)
def test_a_fault_is_told_where_it_is(tmp_path: Path, keys: dict[str, Any], line: str) -> None:
    (found,) = faults_of(tmp_path, **keys)
    assert found.startswith(line)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"objective": {"fitness": "accuracy"}}, "objective.fitness: accuracy needs a metric"),
        ({"objective": {"fitness": "weighted"}}, "objective.fitness: weighted needs a metric"),
        ({"stop_at": {"max_drop": "1%"}}, "stop_at.max_drop: needs a metric"),
        ({"stop_at": {"fitness": 1}}, "stop_at.fitness: pareto mode has no single fitness"),
        ({"metrics": ["accuracy", {"name": "accuracy", "max_drop": 0.1}]}, "metrics: the same metric is given twice"),
    ],
)
def test_parts_that_contradict_each_other_are_refused(tmp_path: Path, keys: dict[str, Any], words: str) -> None:
    (found,) = faults_of(tmp_path, **keys)
    assert words in found


@pytest.mark.parametrize(
    "keys",
    [
        {"objective": {"fitness": "accuracy"}, "metrics": "accuracy"},
        {"objective": {"fitness": "divergence"}, "stop_at": {"fitness": -0.2}},
        {"stop_at": {"min_speedup": 2}},
        {"stop_at": {"max_drop": 0.1}, "metrics": "accuracy"},
    ],
)
def test_parts_that_agree_are_accepted(tmp_path: Path, keys: dict[str, Any]) -> None:
    assert load_job(write(tmp_path, {**SMALLEST, **keys}), {}).model == str(tmp_path / "m.xml")


def test_several_faults_are_reported_at_once(tmp_path: Path) -> None:
    faults = faults_of(tmp_path, max_trials=0, seed=-1, sede=1, data={"path": "d", "max_items": 1}, metrics=[{"max_drop": "x"}])
    places = {line.partition(":")[0] for line in faults}
    assert places == {"max_trials", "seed", "sede", "data.max_items", "metrics.0.name", "metrics.0.max_drop"}


def test_contradictions_are_reported_together(tmp_path: Path) -> None:
    assert faults_of(tmp_path, stop_at={"fitness": 1}, metrics=["f1", "f1"]) == [
        "stop_at.fitness: pareto mode has no single fitness; set objective.fitness, or drop it",
        "metrics: the same metric is given twice",
    ]


def test_a_budget_that_is_left_empty_is_no_budget(tmp_path: Path) -> None:
    assert load_job(write(tmp_path, {**SMALLEST, "budget": None}), {}).max_trials == DEFAULT_MAX_TRIALS


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("max_trials", "expected an integer, found True"),
        ("population", "expected an integer, found True"),
        ("seed", "expected an integer, found True"),
        ("budget", "a duration is written like 90s, 10m or 1h30m, found True"),
        ("max_divergence", "expected a number, found True"),
    ],
)
def test_a_truth_value_is_no_number(tmp_path: Path, key: str, message: str) -> None:
    assert faults_of(tmp_path, **{key: True}) == [f"{key}: {message}"]


@pytest.mark.parametrize(
    ("keys", "place"),
    [
        ({"stop_at": {"min_speedup": True}}, "stop_at.min_speedup"),
        ({"objective": {"latency_weight": True}}, "objective.latency_weight"),
        ({"data": {"path": "d", "preprocessing": {"mean": True}}}, "data.preprocessing.mean.0"),
    ],
)
def test_a_truth_value_is_no_number_in_a_section_either(tmp_path: Path, keys: dict[str, Any], place: str) -> None:
    assert faults_of(tmp_path, **keys) == [f"{place}: expected a number, found True"]


def test_the_home_of_an_unknown_user_is_left_as_a_path_that_is_not_there(tmp_path: Path) -> None:
    job = load_job(write(tmp_path, {**SMALLEST, "model": "~no-such-user/m.xml"}), {})
    assert job.model == str(tmp_path / "~no-such-user" / "m.xml")


def test_options_win_over_the_file(tmp_path: Path) -> None:
    path = write(
        tmp_path, {**SMALLEST, "seed": 1, "max_trials": 9, "objective": {"fitness": "divergence", "latency_weight": 0.5}}
    )
    job = load_job(path, {"seed": 2, "objective": {"fitness": "pareto"}})
    assert (job.seed, job.max_trials) == (2, 9)
    assert (job.objective.fitness, job.objective.latency_weight) == ("pareto", 0.5)


def test_options_that_are_not_given_leave_the_file_alone(tmp_path: Path) -> None:
    path = write(tmp_path, {**SMALLEST, "metrics": "accuracy", "budget": 5, "data": {"path": "d.npz", "labels": "y"}})
    options = {
        "budget": None,
        "metrics": [],
        "objective": {"fitness": None},
        "data": {"path": None, "preprocessing": {"crop": ()}},
    }
    assert load_job(path, options) == load_job(path, {})


def test_an_option_for_the_data_keeps_the_rest_of_the_section(tmp_path: Path) -> None:
    path = write(tmp_path, {"model": "m", "data": {"path": "d.npz", "labels": "y", "preprocessing": {"crop": 8, "resize": 9}}})
    data = load_job(path, {"data": {"path": "other.npz", "preprocessing": {"crop": [5]}}}).data
    assert (data.path, data.labels, data.preprocessing.crop, data.preprocessing.resize) == ("other.npz", "y", (5,), (9,))


def test_a_data_option_goes_over_data_written_as_a_path(tmp_path: Path) -> None:
    data = load_job(write(tmp_path, SMALLEST), {"data": {"calibration_items": 4}}).data
    assert (data.path, data.calibration_items) == (str(tmp_path / "d.npz"), 4)


def test_metrics_on_the_command_line_replace_those_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, {**SMALLEST, "metrics": ["accuracy", "f1_macro"]})
    assert [metric.name for metric in load_job(path, {"metrics": [{"name": "top5"}]}).metrics] == ["top5"]


def test_options_alone_make_a_job() -> None:
    job = load_job(None, {"model": "m.xml", "data": {"path": "d"}, "budget": "5m"})
    assert (job.model, job.data.path, job.budget, job.max_trials) == ("m.xml", "d", 300, None)


def test_faults_of_options_are_put_down_to_the_command_line() -> None:
    with pytest.raises(ConfigError, match=r"^command line: max_trials: input should be greater than or equal to 1, found 0$"):
        job_of(max_trials=0)


def test_faults_of_options_over_a_file_are_not_put_down_to_the_file_alone(tmp_path: Path) -> None:
    path = write(tmp_path, SMALLEST)
    with pytest.raises(ConfigError) as caught:
        load_job(path, {"max_trials": 0, "seed": None})
    where = f"{path} with command-line options"
    assert str(caught.value) == f"{where}: max_trials: input should be greater than or equal to 1, found 0"


def test_faults_of_a_file_without_options_are_put_down_to_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, {**SMALLEST, "max_trials": 0})
    with pytest.raises(ConfigError) as caught:
        load_job(path, {"seed": None, "data": {"path": None}})
    assert str(caught.value) == f"{path}: max_trials: input should be greater than or equal to 1, found 0"


def test_without_data_the_option_is_named() -> None:
    with pytest.raises(ConfigError, match="--data is required"):
        load_job(None, {"model": "m.xml"})


def test_without_a_limit_the_number_of_trials_is_the_default(tmp_path: Path) -> None:
    assert load_job(write(tmp_path, SMALLEST), {}).max_trials == DEFAULT_MAX_TRIALS
    assert load_job(write(tmp_path, {**SMALLEST, "budget": "1m"}), {}).max_trials is None
    assert load_job(write(tmp_path, {**SMALLEST, "max_trials": 7}), {}).max_trials == 7


@given(st.integers(1, 100_000))
def test_a_generation_is_at_most_a_fifth_of_the_trials(max_trials: int) -> None:
    size = job_of(max_trials=max_trials).population_size
    assert 2 <= size <= max(2, max_trials / 5)


def test_the_size_of_a_generation_that_is_given_is_kept() -> None:
    assert job_of(max_trials=10, population=9).population_size == 9
    assert job_of(budget=5).population_size >= 2


def test_a_cluster_has_larger_generations() -> None:
    alone, together = job_of(max_trials=60), job_of(max_trials=60, cluster="tcp://10.0.0.1:8786")
    assert (alone.population_size, together.population_size) == (3, 6)


def test_relative_paths_of_a_file_start_at_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "jobs"
    path = write(folder, FULL)
    monkeypatch.chdir(tmp_path)
    job = load_job(path.relative_to(tmp_path), {})
    assert job.model == str(folder / "m.onnx")
    assert job.target == str(folder / "profiles/mine.yaml")
    assert job.data.path == str(folder / "images")
    assert job.data.calibration is not None
    assert job.data.calibration.path == str(folder / "calibration.npz")
    assert job.data.holdout is not None
    assert job.data.holdout.path == str(folder / "code.py:holdout")
    assert job.metrics[1].name == str(folder / "scores.py:f1")
    assert job.output == str(folder / "out")
    # A strategy that is kept in the job has no file any more.
    assert [recipe.name for recipe in job.recipes] == [str(folder / "last/best/recipe.yaml"), "OUT trial 3"]


@pytest.mark.parametrize("written", ["OUT", Path("OUT"), ["OUT"], [{"name": "OUT"}]])
def test_a_recipe_may_be_one_path_or_several(written: Any) -> None:
    assert [recipe.name for recipe in job_of(recipes=written).recipes] == ["OUT"]


def test_names_that_are_no_paths_stay_as_they_are(tmp_path: Path) -> None:
    job = load_job(write(tmp_path, {**FULL, "target": "cpu-amx"}), {})
    assert job.target == "cpu-amx"
    assert [job.metrics[index].name for index in (0, 2, 3)] == ["accuracy", "f1_macro", "top5"]


def test_absolute_paths_of_a_file_stay_as_they_are(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "m.xml"
    assert load_job(write(tmp_path / "jobs", {**SMALLEST, "model": str(elsewhere)}), {}).model == str(elsewhere)


def test_relative_paths_on_the_command_line_stay_relative_to_the_working_directory(tmp_path: Path) -> None:
    job = load_job(write(tmp_path, SMALLEST), {"data": {"path": "mine.npz"}, "output": "here"})
    assert (job.data.path, job.output) == ("mine.npz", "here")


def test_a_home_directory_is_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert load_job(write(tmp_path, {**SMALLEST, "model": "~/m.xml"}), {}).model == str(tmp_path / "home" / "m.xml")


def test_with_absolute_paths_takes_every_path_from_the_folder(tmp_path: Path) -> None:
    job = Job.model_validate(FULL)
    resolved = with_absolute_paths(job, tmp_path)
    assert resolved == load_job(write(tmp_path, FULL), {})
    assert with_absolute_paths(resolved, tmp_path / "elsewhere") == resolved


def test_with_absolute_paths_anchors_the_default_output(tmp_path: Path) -> None:
    assert with_absolute_paths(job_of(), tmp_path).output == str(tmp_path / "ovquant-out")


@pytest.mark.parametrize("content", [SMALLEST, FULL], ids=["smallest", "full"])
def test_a_resolved_job_survives_its_file(tmp_path: Path, content: dict[str, Any]) -> None:
    job = load_job(write(tmp_path / "first", content), {})
    resolved = with_absolute_paths(job, tmp_path)
    second = tmp_path / "second" / "job.yaml"
    second.parent.mkdir()
    second.write_text(to_yaml(resolved))
    assert load_job(second, {}) == resolved


@pytest.mark.parametrize("value", [".inf", "2024-01-31"])
def test_arguments_that_json_lacks_survive_the_file_of_a_resolved_job(tmp_path: Path, value: str) -> None:
    data = {"path": "d.npz", "arguments": {"x": yaml.safe_load(value)}}
    path = write(tmp_path, {**SMALLEST, "output": "out", "data": data})
    job = load_job(path, {})
    path.write_text(to_yaml(with_absolute_paths(job, tmp_path)))
    assert load_job(path, {}) == job


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("scores.py:f1", (Path("scores.py"), "f1")),
        ("/a/b.c/x.py:_f2", (Path("/a/b.c/x.py"), "_f2")),
        ("accuracy", None),
        ("scores.py", None),
        ("scores.py:", None),
        ("scores.py:2f", None),
        ("data.npz:x", None),
    ],
)
def test_python_entries(text: str, expected: tuple[Path, str] | None) -> None:
    assert split_entry(text) == expected
