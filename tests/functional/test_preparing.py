"""From a model to a job file that a search takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Run
from onnx import TensorProto, helper

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


def test_nothing_is_overwritten_and_faults_are_told(run: Run, conv_case: tuple[Path, Path]) -> None:
    Path("job.yaml").write_text("mine")
    assert "there already" in run("init", conv_case[0], code=OUTPUT).output
    assert Path("job.yaml").read_text() == "mine"
    run("init", "missing.onnx", "-o", "new.yaml", code=MODEL)
    run("init", conv_case[0], "--data", "missing.npz", "-o", "new.yaml", code=DATA)
    run("check", "missing.yaml", code=CONFIG)
    assert not Path("new.yaml").exists()
