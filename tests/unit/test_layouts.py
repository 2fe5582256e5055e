"""What lies beside a model for Optimum Intel, and folders that do not have it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ovquant import layouts
from ovquant.errors import UsageError

PROPERTIES = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}


def test_optimum_is_given_device_properties_and_shapes_as_they_were_measured() -> None:
    files = layouts.companions("optimum", "m", "GPU.1", PROPERTIES)
    assert list(files) == ["openvino_config.json"]
    assert json.loads(files["openvino_config.json"]) == {"device": "GPU.1", "ov_config": PROPERTIES, "dynamic_shapes": False}
    assert layouts.companions("ir", "m", "CPU", PROPERTIES) == {}


def test_config_and_tokenizer_are_copied_and_nothing_else(tmp_path: Path) -> None:
    files = {"config.json": b'{"model_type": "bert"}', "vocab.txt": b"[PAD]\r\n\xff", "tokenizer.json": b"{}"}
    for name, content in {**files, "model.safetensors": b"weights", "training_args.bin": b"x", ".env": b"secret"}.items():
        (tmp_path / name).write_bytes(content)
    assert layouts.hub_files(tmp_path) == files


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, r"config.json: is not there, and --layout optimum needs it; --config-from names the folder"),
        ("{", "cannot be read as JSON"),
        ("\xff", "cannot be read as JSON"),
        ("[]", "has no model_type"),
        ('{"model_type": 3}', "has no model_type"),
        ('{"model_config_list": []}', "has no model_type"),
    ],
)
def test_a_folder_without_a_configuration_is_an_error(tmp_path: Path, content: str | None, told: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError, match=told):
        layouts.hub_files(tmp_path)


def test_a_folder_that_is_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "config.json").mkdir()
    for folder in (tmp_path / "nothing", tmp_path / "file", tmp_path):
        with pytest.raises(UsageError, match=r"config\.json: .*--config-from"):
            layouts.hub_files(folder)
