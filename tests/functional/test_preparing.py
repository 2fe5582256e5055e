"""From a model to a job file that a search takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Run
from onnx import TensorProto, helper
from PIL import Image

from ovquant.job import load_job

CONFIG, DATA, MODEL, OUTPUT = 3, 4, 5, 7


def model_of(path: Path, inputs: dict[str, tuple[int, list[int]]], output: list[int | str]) -> Path:
    """Write a model whose output has any shape: only what it looks like counts."""
    name, (_, shape) = next(iter(inputs.items()))
    values = [helper.make_tensor_value_info(n, k, s) for n, (k, s) in inputs.items()]
    weight = onnx.numpy_helper.from_array(np.ones((shape[-1], 3), np.float32), "w")
    nodes = [helper.make_node("Cast", [name], ["cast"], to=TensorProto.FLOAT), helper.make_node("MatMul", ["cast", "w"], ["y"])]
    end = [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)]
    others = [helper.make_node("Identity", [n], [f"{n}.kept"]) for n in list(inputs)[1:]]
    ends = [helper.make_tensor_value_info(f"{n}.kept", k, s) for n, (k, s) in list(inputs.items())[1:]]
    graph = helper.make_graph([*nodes, *others], "g", values, [*end, *ends], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_a_job_is_written_checked_and_searched(run: Run, conv_case: tuple[Path, Path]) -> None:
    model, data = conv_case
    run("init", model, "--data", data, "-o", "mine.yaml")
    job = load_job(Path("mine.yaml"), {})
    assert [metric.name for metric in job.metrics] == ["accuracy"]
    assert job.data.preprocessing.layout is None  # the arrays are what the model takes
    checked = run("check", "mine.yaml")
    assert "NNCF's default: accuracy" in checked.output
    assert "A search of 40 strategies takes about" in checked.output
    assert not Path("ovquant-out").exists()
    run("search", "mine.yaml", "--max-trials", "2", "-o", "out")


def test_what_cannot_be_known_is_left_to_fill_in(run: Run, conv_case: tuple[Path, Path]) -> None:
    result = run("init", conv_case[0])
    assert "FILL IN" in result.output
    assert load_job(Path("job.yaml"), {}).data.path.endswith("images")
    assert "no such" in run("check", "job.yaml", code=DATA).output


@pytest.mark.parametrize(
    ("inputs", "output", "task"),
    [
        ({"ids": (TensorProto.INT64, [1, 8])}, [1, 3], "classification"),
        ({"x": (TensorProto.FLOAT, [1, 5, 8])}, [1, 5, 3], "sequences or boxes"),
        ({"x": (TensorProto.FLOAT, [1, 3, 8, 8])}, [1, 3, 8, 3], "maps (segmentation or detection)"),
        ({"ids": (TensorProto.INT64, [1, 8]), "mask": (TensorProto.INT64, [1, 8])}, [1, 3], "something else"),
    ],
    ids=["tokens", "sequence", "maps", "several outputs"],
)
def test_the_task_is_guessed_from_shapes(run: Run, inputs, output, task: str) -> None:
    model_of(Path("m.onnx"), inputs, output)
    found = json.loads(run("init", "m.onnx", "--json").stdout)
    assert found["task"] == task
    job = load_job(Path("job.yaml"), {})
    assert bool(job.metrics) == (task == "classification")


def test_images_of_bytes_are_preprocessed(run: Run, conv_case: tuple[Path, Path]) -> None:
    with np.load(conv_case[1]) as content:
        images = np.clip(content["image"] * 64 + 128, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
        np.savez("bytes.npz", image=images.repeat(2, axis=1).repeat(2, axis=2), y=content["y"])
    run("init", conv_case[0], "--data", "bytes.npz")
    assert load_job(Path("job.yaml"), {}).data.preprocessing.resize == (12, 12)
    run("check", "job.yaml")


def test_data_without_labels_have_no_metric(run: Run, conv_case: tuple[Path, Path]) -> None:
    with np.load(conv_case[1]) as content:
        np.savez("plain.npz", image=content["image"])
    assert "the data has no labels" in run("init", conv_case[0], "--data", "plain.npz").output
    assert load_job(Path("job.yaml"), {}).metrics == ()


def test_names_that_others_made_do_not_leave_their_comment(run: Run) -> None:
    model_of(Path("m.onnx"), {"a\nmodel: other.onnx\x1b": (TensorProto.FLOAT, [1, 8])}, [1, 3])
    run("init", "m.onnx")
    assert load_job(Path("job.yaml"), {}).model.endswith("m.onnx")
    assert "\x1b" not in Path("job.yaml").read_text()


# Example -> arguments of init beside the model, the task that it finds, and the metrics; those of the example's own job.
EXAMPLES = {
    "sequence": ("lines", ["data/lines.csv"], "sequence"),
    "segmentation": ("scenes", ["data/scenes", "--masks", "data/masks"], "segmentation"),
    "text": ("encoder", ["data/pairs.npz"], "pairs"),
    "regression": ("turned", ["data/turned.csv"], "classification and regression"),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_job_for_each_task_has_the_metrics_of_its_example(
    run: Run, examples: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    model, data, task = EXAMPLES[name]
    target = Path("job.yaml").resolve()
    monkeypatch.chdir(examples)
    found = json.loads(run("init", f"{model}.onnx", "--data", *data, "-o", target, "--json").stdout)
    assert found["task"] == task
    mine, own = load_job(target, {}), load_job(examples / f"{name}.yaml", {})
    told = [metric.model_dump(exclude={"max_drop"}) for metric in mine.metrics]
    assert told == [metric.model_dump(exclude={"max_drop"}) for metric in own.metrics]
    assert mine.output_kinds == own.output_kinds
    assert (mine.data.labels, mine.data.preprocessing.channels) == (own.data.labels, own.data.preprocessing.channels)
    assert run("check", target).output.count("of the float model at f32") == len(told)


def test_a_job_for_detection_is_valid_before_and_after_boxes_are_filled_in(
    run: Run, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Path("job.yaml").resolve()
    monkeypatch.chdir(examples)
    arguments = ["init", "scenes.onnx", "--data", "data/scenes", "--annotations", "data/scenes.json", "-o", target, "--json"]
    assert json.loads(run(*arguments).stdout)["task"] == "detection"
    text = target.read_text()
    assert "NNCF's default: div" in run("check", target).output
    filled = text.replace("# metrics:\n#   -", "metrics:\n  -").replace("\n#   - {name: map,", "\n  - {name: map,")
    target.write_text(filled.replace("FILL_IN.py", str(examples / "data.py")))
    told = run("check", target).output
    assert "map50 of the float model at f32: 0." in told
    assert "map of the float model at f32: 0." in told


def test_what_lies_beside_images_is_pointed_at(run: Run, examples: Path) -> None:
    told = run("init", examples / "scenes.onnx", "--data", examples / "data" / "scenes").output
    assert f"--masks {examples / 'data' / 'masks'}" in told.replace("\n", " ")
    assert f"--annotations {examples / 'data' / 'scenes.json'}" in told.replace("\n", " ")
    assert told.count("--masks") == 1  # the images of other folders have other sizes
    assert run("init", examples / "scenes.onnx", "--masks", "masks", "-o", "no.yaml", code=2)


def test_vectors_of_length_one_without_labels_are_embeddings(run: Run, examples: Path) -> None:
    with np.load(examples / "data" / "pairs.npz") as content:
        np.savez("bare.npz", input_ids=content["input_ids"][:, 0], attention_mask=content["attention_mask"][:, 0])
    found = json.loads(run("init", examples / "encoder.onnx", "--data", "bare.npz", "--json").stdout)
    assert (found["task"], [entry["name"] for entry in found["metrics"]]) == ("embedding", ["cosine"])


def two_scores(weight: np.ndarray) -> None:
    """Write `m.onnx`, which convolves grey images of 8x8 with a weight [2, 1, h, w] and gives the means of the two."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("ReduceMean", ["c"], ["y"], axes=[2, 3], keepdims=0),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [1, 1, 8, 8]), ("y", [1, 2]))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [onnx.numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), "m.onnx")


def test_the_usual_mean_and_scale_that_do_best_are_taken(run: Run, tmp_path: Path) -> None:
    """The network tells dark images from light ones, by their sign after the mean is taken off."""
    two_scores(np.array([[[[-1.0]]], [[[1.0]]]], np.float32))
    arrays = [np.full((8, 8), value + number, np.uint8) for value in (60, 200) for number in range(12)]
    for place, array in enumerate(arrays):
        folder = Path("images") / ("dark" if place < 12 else "light")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / f"{place}.png")
    np.savez("images.npz", x=np.stack(arrays), y=np.repeat([0, 1], 12))
    for data in ("images", "images.npz"):
        told = run("init", "m.onnx", "--data", data, "-o", f"{data}.yaml").output
        options = load_job(Path(f"{data}.yaml"), {}).data.preprocessing
        assert (options.mean, options.scale, options.channels, options.resize) == ((127.5,), (127.5,), "GRAY", None)
        assert "# 1.0000" in told
        assert "cannot tell" not in told


def test_means_and_scales_that_do_as_well_are_told(run: Run, tmp_path: Path) -> None:
    """The network compares the halves of an image, so that no mean or scale matters."""
    left = np.repeat([1.0, -1.0], 4).astype(np.float32) * np.ones((8, 1), np.float32)
    two_scores(np.stack([left, -left])[:, None])
    images = np.full((24, 8, 8), 100, np.uint8)
    images[:12, :, :4], images[12:, :, 4:] = 200, 200
    np.savez("images.npz", x=images, y=np.repeat([0, 1], 12))
    told = run("init", "m.onnx", "--data", "images.npz", "-o", "job.yaml").output
    assert load_job(Path("job.yaml"), {}).data.preprocessing.scale is None
    assert "# CHECK: 8 items cannot tell these from mean [0.0], scale [255.0] or mean [127.5], scale [127.5]" in told


def test_nothing_is_overwritten_and_faults_are_told(run: Run, conv_case: tuple[Path, Path]) -> None:
    Path("job.yaml").write_text("mine")
    assert "there already" in run("init", conv_case[0], code=OUTPUT).output
    assert Path("job.yaml").read_text() == "mine"
    run("init", "missing.onnx", "-o", "new.yaml", code=MODEL)
    run("init", conv_case[0], "--data", "missing.npz", "-o", "new.yaml", code=DATA)
    run("check", "missing.yaml", code=CONFIG)
    assert not Path("new.yaml").exists()
