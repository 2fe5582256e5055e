"""Pre-processing made part of the model, so that it takes images as they are stored: u8 [1, H, W, C]."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ovquant import runtime
from ovquant.datasets.preprocess import image_to_array, model_layout, normalize
from ovquant.errors import UsageError, first_line
from ovquant.job import Preprocessing
from ovquant.protocols import Array, Sample

if TYPE_CHECKING:
    import openvino as ov

_EXACT = 1e-2  # of a pixel's step
_ENLARGED = 1.5


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """A model with its pre-processing.

    Attributes:
        model: takes u8 [1, H, W, C].
        is_resizing: it takes images of any size; False: of the size that it was made for, after resize and crop.
        steps: what is embedded, in words.
        left_out: what has to be done before, in words.
    """

    model: ov.Model
    is_resizing: bool
    steps: tuple[str, ...]
    left_out: tuple[str, ...]


def embed(model: ov.Model, options: Preprocessing) -> Embedded:
    """Return a copy of a model that normalizes, turns and, where both sides are given, resizes images by itself.

    Raises:
        UsageError: the model takes no image, or OpenVINO cannot embed that.
    """
    infos = runtime.input_infos(model)
    if len(infos) != 1 or infos[0].dtype.kind != "f":
        raise UsageError("--embed-preprocessing: is for models with one float input, an image")
    (info,) = infos
    package = runtime.openvino()
    layout = model_layout(options, info, "--embed-preprocessing")
    is_resizing = options.resize is not None and len(options.resize) == 2 and options.crop is None
    try:
        steps = package.preprocess.PrePostProcessor(model.clone())
        found = steps.input(0)
        found.model().set_layout(package.Layout(layout))
        tensor = found.tensor().set_element_type(package.Type.u8).set_layout(package.Layout("NHWC"))
        if is_resizing:
            tensor.set_spatial_dynamic_shape()
            found.preprocess().resize(package.preprocess.ResizeAlgorithm.RESIZE_BILINEAR_PILLOW)
        if options.channels == "BGR":
            found.preprocess().reverse_channels()
        found.preprocess().convert_element_type(package.Type.f32)
        if options.mean is not None:
            found.preprocess().mean(_listed(options.mean))
        if options.scale is not None:
            found.preprocess().scale(_listed(options.scale))
        made = steps.build()
    except RuntimeError as error:
        raise UsageError(f"--embed-preprocessing: OpenVINO cannot embed it: {first_line(error)}") from error
    told = options.model_dump(exclude_defaults=True, mode="json")
    done = {key: told[key] for key in ("mean", "scale") if key in told} | ({"resize": told["resize"]} if is_resizing else {})
    words = [f"{key} {value}" for key, value in done.items()]
    order = ["RGB to BGR"] if options.channels == "BGR" else []
    left = [] if is_resizing else [f"{key} {told[key]}" for key in ("resize", "crop") if key in told]
    return Embedded(
        model=made,
        is_resizing=is_resizing,
        steps=("u8 to float", *order, *words, f"NHWC to {layout}"),
        left_out=tuple(left),
    )


def _listed(values: Sequence[float]) -> list[float] | float:
    return list(values) if len(values) > 1 else values[0]


def images_of(samples: Sequence[Sample], options: Preprocessing, info: runtime.InputInfo) -> list[Array]:
    """Return the images, u8 [H, W, C] in the order RGB, that samples were made from: after resize and crop.

    Raises:
        UsageError: samples were not made from images by these options.
    """
    layout = model_layout(options, info, "--embed-preprocessing")
    images = []
    for sample in samples:
        array = np.asarray(sample[info.name][0], dtype=np.float64)
        pixels = np.moveaxis(array, 0, -1) if layout == "NCHW" else array
        pixels = pixels * np.asarray(options.scale or (1.0,)) + np.asarray(options.mean or (0.0,))
        image = np.rint(pixels)
        if np.abs(pixels - image).max() > _EXACT or image.min() < 0 or image.max() > 255:
            raise UsageError(
                "--embed-preprocessing: the samples of this search were not made from 8-bit images by --mean and --scale, so "
                "there is nothing to embed"
            )
        bytes_ = image.astype(np.uint8)
        images.append(bytes_[:, :, ::-1].copy() if options.channels == "BGR" else bytes_)
    return images


def pairs(
    images: Sequence[Array], options: Preprocessing, info: runtime.InputInfo, *, is_resizing: bool
) -> list[tuple[Sample, Sample]]:
    """Return what the embedded and what the measured model take, of the same images.

    Where the model resizes by itself, the images are made half as large again first, so that there is something to resize.
    """
    layout = model_layout(options, info, "--embed-preprocessing")
    found: list[tuple[Sample, Sample]] = []
    for image in images:
        stored = _enlarged(image) if is_resizing else image
        plain = options if is_resizing else options.model_copy(update={"resize": None, "crop": None})
        shown = Image.fromarray(stored[:, :, 0] if stored.shape[2] == 1 else stored)
        pixels = image_to_array(shown, plain)
        measured = normalize(pixels, plain, layout, info.dtype)[np.newaxis]
        found.append(({info.name: stored[np.newaxis]}, {info.name: measured.astype(info.dtype)}))
    return found


def _enlarged(image: Array) -> Array:
    height, width = (round(side * _ENLARGED) for side in image.shape[:2])
    shown = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    array = np.asarray(shown.resize((width, height), Image.Resampling.BICUBIC))
    return array[:, :, np.newaxis] if array.ndim == 2 else array


def described(embedded: Embedded, errors: Mapping[str, float], n_items: int) -> dict[str, Any]:
    """Return for a manifest what was embedded, and how far outputs are from the measured model's."""
    return {
        "takes": "u8 [1, H, W, C], RGB" + (" of any size" if embedded.is_resizing else ""),
        "steps": list(embedded.steps),
        "to_be_done_before": list(embedded.left_out),
        "relative_error": dict(errors),
        "n_items": n_items,
        "note": "accuracy, divergence and latency were measured without it",
    }
