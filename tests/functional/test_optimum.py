"""What Optimum Intel makes of the layout made for it: a transformer from its exporter to its classes, by way of a search.

Needs optimum-intel, which brings torch, and is skipped without it. Nothing is downloaded: the weights are random.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import small
from typer.testing import CliRunner

import ovquant
from ovquant import runtime
from ovquant.cli import app

N_ITEMS, N_TOKENS = 90, 12
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.fixture(scope="module")
def optimum() -> Any:
    return pytest.importorskip("optimum.intel", reason="optimum-intel is not installed", exc_type=ImportError)


@pytest.fixture(scope="module")
def bert(optimum: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a classifier as Optimum exports it, its tokenizer, and ``tokens.npz``."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 64}
    module = BertForSequenceClassification(BertConfig(**sizes, max_position_embeddings=32, num_labels=3)).eval()
    for weights in module.parameters():
        weights.data *= 4 if weights.ndim == 2 else 1  # so that the classes differ
    module.save_pretrained(folder / "torch")
    model = optimum.OVModelForSequenceClassification.from_pretrained(folder / "torch", export=True)
    model.save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(chr, range(ord("a"), ord("z") + 1))]
    BertTokenizer(vocab={word: number for number, word in enumerate(words)}).save_pretrained(folder)
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 64, size=(N_ITEMS, N_TOKENS))
    mask = np.ones_like(ids)
    mask[:, 9:] = rng.integers(0, 2, size=(N_ITEMS, 1))
    tokens = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    labels = [model(*(tokens[name][at : at + 1] for name in INPUTS)).logits.argmax() for at in range(N_ITEMS)]
    np.savez(folder / "tokens.npz", y=np.array(labels), **tokens)
    return folder


@pytest.fixture(scope="module")
def exported(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the winner of a search, measured at f32 on one thread, as a directory for Optimum."""
    folder = tmp_path_factory.mktemp("exported")
    (folder / "one.yaml").write_text(
        "{version: 1, name: one, extends: cpu, compile_properties: {INFERENCE_NUM_THREADS: 1}, "
        "genes: {inference_precision: [f32]}}"
    )
    options = ["--target", folder / "one.yaml", "--metric", "accuracy", "--max-drop", "0.5", "--max-trials", "2"]
    search = ["search", bert / "openvino_model.xml", "--data", bert / "tokens.npz", *options, "-o", folder / "out"]
    for arguments in (search, ["export", folder / "out", "--layout", "optimum", "-o", folder / "HF"]):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
    return folder / "HF"


def arguments_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "openvino_config.json").read_text())
    return content


def test_optimum_computes_what_was_measured_under_the_same_properties(optimum: Any, bert: Path, exported: Path) -> None:
    theirs = optimum.OVModelForSequenceClassification.from_pretrained(exported, **arguments_of(exported))
    ours = ovquant.load(exported)
    for name in ("INFERENCE_PRECISION_HINT", "INFERENCE_NUM_THREADS", "PERFORMANCE_HINT"):
        assert theirs.request.get_property(name) == ours.get_property(name)
    assert ours.get_property("INFERENCE_NUM_THREADS") == 1
    assert [str(port.partial_shape) for port in theirs.request.inputs] == [str(port.partial_shape) for port in ours.inputs]
    with np.load(bert / "tokens.npz") as tokens:
        for at in range(N_ITEMS):
            item = {name: tokens[name][at : at + 1] for name in INPUTS}
            assert np.array_equal(theirs(**item).logits, ours(item)["logits"])
    assert theirs.config.num_labels == 3


def test_a_pipeline_runs_from_the_directory_alone(optimum: Any, exported: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """As the README has it."""
    from transformers import AutoTokenizer, pipeline

    monkeypatch.chdir(tmp_path)
    Path("HF").symlink_to(exported)
    (snippet,) = (
        block for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if "from_pretrained" in block
    )
    scope: dict[str, Any] = {}
    exec(snippet, scope)
    tokenizer = AutoTokenizer.from_pretrained("HF")
    (answer,) = pipeline("text-classification", model=scope["model"], tokenizer=tokenizer)("a b c")
    logits = ovquant.load("HF")({name: tokens[np.newaxis] for name, tokens in _tokens(tokenizer, "a b c").items()})["logits"]
    assert answer["label"] == f"LABEL_{logits.argmax()}"
    assert answer["score"] == pytest.approx(float(np.exp(logits).max() / np.exp(logits).sum()), rel=1e-5)


def _tokens(tokenizer: Any, text: str) -> dict[str, np.ndarray]:
    return {name: np.asarray(values) for name, values in tokenizer(text).items()}


def test_the_directory_is_still_what_was_exported_after_optimum_read_it(exported: Path) -> None:
    result = CliRunner().invoke(app, ["verify", str(exported), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["notes"] == []


def test_static_shapes_stay_static(optimum: Any, tmp_path: Path) -> None:
    """The kernels of dynamic shapes are others than those that were timed."""
    model = onnx.load(str(small.conv_model(tmp_path / "m.onnx")))
    model.graph.input[0].name = "pixel_values"
    for node in model.graph.node:
        node.input[:] = ["pixel_values" if name == "image" else name for name in node.input]
    onnx.save(model, str(tmp_path / "m.onnx"))
    runtime.save_model(runtime.read_model(tmp_path / "m.onnx"), tmp_path / "openvino_model.xml", "f32")
    (tmp_path / "config.json").write_text('{"model_type": "resnet", "num_channels": 3}')
    from ovquant.layouts import optimum_config

    (tmp_path / "openvino_config.json").write_text(optimum_config("CPU", {"INFERENCE_PRECISION_HINT": "f32"}))
    image = small.normalized(small.images(1))
    found = optimum.OVModelForImageClassification.from_pretrained(tmp_path, **arguments_of(tmp_path))
    assert found.request.inputs[0].partial_shape.is_static
    assert np.array_equal(
        found(image).logits, ovquant.load(tmp_path, properties={"INFERENCE_PRECISION_HINT": "f32"})(image)["logits"]
    )
