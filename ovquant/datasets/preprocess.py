"""Images: resize, crop, channel order, normalization, layout."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import Image

from ovquant.errors import DataError
from ovquant.job import Preprocessing
from ovquant.protocols import Array
from ovquant.runtime import InputInfo

Layout = Literal["NCHW", "NHWC"]


def model_layout(options: Preprocessing, info: InputInfo, where: str) -> Layout:
    """Return the layout of the model's image input: as told, or read off its shape.

    Raises:
        DataError: the input is no image, or its layout cannot be told.
    """
    if info.shape is None or len(info.shape) != 4:
        raise DataError(f"{where}: images need a model input of rank 4, {info.name!r} has shape {info.shape}")
    if options.layout is not None:
        return options.layout
    is_first, is_last = info.shape[1] in {1, 3, 4}, info.shape[3] in {1, 3, 4}
    if is_first == is_last:
        raise DataError(f"{where}: cannot tell the layout of input {info.name!r} {info.shape}; set preprocessing.layout")
    return "NCHW" if is_first else "NHWC"


def image_to_array(image: Image.Image, options: Preprocessing) -> Array:
    """Return an image as uint8 [H, W, C] after resize and crop, channels in the model's order."""
    if image.mode.startswith(("I", "F")):
        raise DataError(f"an image of mode {image.mode} (more than 8 bits a channel); convert it to 8 bits first")
    image = image.convert("L" if options.channels == "GRAY" else "RGB")
    if options.resize is not None:
        image = image.resize(_resized(image.size, options.resize), Image.Resampling.BILINEAR)
    if options.crop is not None:
        image = _crop(image, options.crop)
    array = np.asarray(image, dtype=np.uint8)
    if options.channels == "GRAY":
        return array[:, :, np.newaxis]
    return array[:, :, ::-1] if options.channels == "BGR" else array


def _resized(size: tuple[int, int], resize: Sequence[int]) -> tuple[int, int]:
    """Return (width, height): the shorter side made `resize` long, or both sides as given (height, width)."""
    if len(resize) == 2:
        return resize[1], resize[0]
    width, height = size
    shorter = min(width, height)
    return max(1, round(width * resize[0] / shorter)), max(1, round(height * resize[0] / shorter))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where points of a stored image come to lie in the model's input: x * scale_x - left, y * scale_y - top.

    Attributes:
        scale_x, scale_y: of the resize.
        left, top: pixels that the crop takes off.
        width, height: of the result, in pixels.
    """

    scale_x: float
    scale_y: float
    left: int
    top: int
    width: int
    height: int


def placement(width: int, height: int, options: Preprocessing) -> Placement:
    """Return where resize and crop put an image of that size."""
    resized = (width, height) if options.resize is None else _resized((width, height), options.resize)
    cropped = resized if options.crop is None else (options.crop[-1], options.crop[0])
    return Placement(
        scale_x=resized[0] / width,
        scale_y=resized[1] / height,
        left=(resized[0] - cropped[0]) // 2,
        top=(resized[1] - cropped[1]) // 2,
        width=cropped[0],
        height=cropped[1],
    )


def mask_to_array(image: Image.Image, options: Preprocessing) -> Array:
    """Return a mask of class numbers [H, W] after the resize (nearest pixel) and crop of its image."""
    if image.mode not in {"1", "L", "P", "I", "I;16"}:
        raise DataError(f"a mask of mode {image.mode}; class numbers are stored in one channel (grey, palette or 16 bits)")
    if image.mode == "I;16":
        image = image.convert("I")
    if options.resize is not None:
        image = image.resize(_resized(image.size, options.resize), Image.Resampling.NEAREST)
    if options.crop is not None:
        image = _crop(image, options.crop)
    array = np.asarray(image)
    return array.astype(np.uint8) if array.dtype.kind in "bu" else array.astype(np.int32)


def _crop(image: Image.Image, crop: Sequence[int]) -> Image.Image:
    height, width = (crop[0], crop[0]) if len(crop) == 1 else (crop[0], crop[1])
    if image.width < width or image.height < height:
        raise DataError(
            f"preprocessing.crop: {height}x{width} is larger than the image, {image.height}x{image.width}; set resize, too"
        )
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def normalize(array: Array, options: Preprocessing, layout: Layout, dtype: np.dtype[np.generic]) -> Array:
    """Return ``(x - mean) / scale`` of [H, W, C] (or [N, H, W, C]) in the model's layout.

    Integer inputs get the stored values; mean and scale must not be set for them.
    """
    if options.mean is not None or options.scale is not None:
        n_channels = array.shape[-1]
        mean = _per_channel(options.mean or (0.0,), n_channels, "mean")
        scale = _per_channel(options.scale or (1.0,), n_channels, "scale")
        array = (array.astype(np.float32) - mean) / scale
    elif dtype.kind == "f":
        array = array.astype(np.float32)
    return np.ascontiguousarray(np.moveaxis(array, -1, -3)) if layout == "NCHW" else array


def _per_channel(values: Sequence[float], n_channels: int, name: str) -> Array:
    if len(values) not in {1, n_channels}:
        raise DataError(f"preprocessing.{name}: {len(values)} values for {n_channels} channels")
    return np.asarray(values, dtype=np.float32)
