"""Pre-processing in the model does what the readers do to an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small

from ovquant import embedding, runtime
from ovquant.checks import relative_errors
from ovquant.errors import UsageError
from ovquant.inference import CompiledModel
from ovquant.job import Preprocessing

OPTIONS = Preprocessing(mean=(100.0, 90.0, 80.0), scale=(60.0, 50.0, 40.0))


def outputs(model: Any, samples: list[Any]) -> list[Any]:
    compiled = CompiledModel(model, "CPU", {}, "f32")
    return [compiled.infer(sample) for sample in samples]


@pytest.mark.parametrize(
    ("changed", "limit", "is_resizing"),
    [
        ({}, 1e-5, False),
        ({"channels": "BGR"}, 1e-5, False),
        ({"mean": (100.0,), "scale": None}, 1e-5, False),
        ({"mean": None, "scale": None}, 1e-5, False),
        ({"resize": (16,), "crop": (12,)}, 1e-5, False),
        ({"resize": (12, 12)}, 5e-3, True),
        ({"resize": (12, 12), "channels": "BGR"}, 5e-3, True),
    ],
)
def test_the_model_with_it_does_what_the_readers_and_the_model_do(
    tmp_path: Path, changed: dict[str, Any], limit: float, is_resizing: bool
) -> None:
    options = OPTIONS.model_copy(update=changed)
    model = runtime.read_model(small.conv_model(tmp_path / "m.onnx"))
    (info,) = runtime.input_infos(model)
    made = embedding.embed(model, options)
    assert made.is_resizing == is_resizing
    assert bool(made.left_out) == ("crop" in changed)
    pairs = embedding.pairs(list(small.images(3)), options, info, is_resizing=is_resizing)
    for stored, _ in pairs:
        assert (stored["image"].dtype, stored["image"].shape[3]) == (np.uint8, 3)
        assert stored["image"].shape[1:3] == ((18, 18) if is_resizing else (12, 12))
    errors = relative_errors(outputs(model, [pair[1] for pair in pairs]), outputs(made.model, [pair[0] for pair in pairs]))
    assert errors["logits"] < limit
    assert runtime.input_infos(model) == (info,)  # the model that came in is as it was


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_the_images_behind_samples_are_found_again(tmp_path: Path, channels: Any) -> None:
    options = OPTIONS.model_copy(update={"channels": channels})
    (info,) = runtime.input_infos(runtime.read_model(small.conv_model(tmp_path / "m.onnx")))
    images = list(small.images(3))
    samples = [pair[1] for pair in embedding.pairs(images, options, info, is_resizing=False)]
    for found, image in zip(embedding.images_of(samples, options, info), images, strict=True):
        assert np.array_equal(found, image)


def test_samples_that_were_no_images_are_refused(tmp_path: Path) -> None:
    (info,) = runtime.input_infos(runtime.read_model(small.conv_model(tmp_path / "m.onnx")))
    noise = np.random.default_rng(0).normal(size=(1, 3, 12, 12)).astype(np.float32)
    for sample in (noise, noise.round() * 1000):
        with pytest.raises(UsageError, match="not made from 8-bit images"):
            embedding.images_of([{"image": sample}], Preprocessing(), info)


def test_models_that_take_no_image_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="models with one float input"):
        embedding.embed(runtime.read_model(small.two_input_model(tmp_path / "two.onnx")), Preprocessing())
