"""From what a reader yields to what the model takes: names, batch axis, shape and type, each checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ovquant.errors import DataError, did_you_mean
from ovquant.protocols import Array
from ovquant.runtime import InputInfo


def conform(value: object, inputs: Sequence[InputInfo], where: str) -> dict[str, Array]:
    """Return one item as a sample: model input name -> array with a batch axis, of the model's shape and type.

    Args:
        value: an array for a model with one input, or input name -> array. A missing batch axis of 1 is added; an array of full
            rank is taken as it is, since a dynamic first axis may be something else than a batch.
        inputs: of the model.
        where: the item, for messages.

    Raises:
        DataError: names, shape, type or values do not fit.
    """
    arrays = value if isinstance(value, Mapping) else _single(value, inputs, where)
    accepted = [info.name for info in inputs]
    for name in arrays:
        if name not in accepted:
            raise DataError(
                f"{where}: the model has no input {name!r}{did_you_mean(str(name), accepted)}; inputs: {', '.join(accepted)}"
            )
    missing = [name for name in accepted if name not in arrays]
    if missing:
        raise DataError(f"{where}: no array for the model's input {', '.join(map(repr, missing))}")
    return {info.name: _fit(np.asarray(arrays[info.name]), info, where) for info in inputs}


def _single(value: object, inputs: Sequence[InputInfo], where: str) -> dict[str, Any]:
    if len(inputs) != 1:
        names = ", ".join(info.name for info in inputs)
        raise DataError(f"{where}: the model has {len(inputs)} inputs ({names}); give a mapping of input name to array")
    return {inputs[0].name: value}


def _fit(array: Array, info: InputInfo, where: str) -> Array:
    if info.shape is not None:
        if array.ndim == len(info.shape) - 1:
            array = array[np.newaxis]
        fits = array.ndim == len(info.shape) and all(
            wanted is None or wanted == found for wanted, found in zip(info.shape, array.shape, strict=True)
        )
        if not fits:
            wanted = "x".join("?" if dim is None else str(dim) for dim in info.shape)
            found = "x".join(map(str, array.shape)) or "a scalar"
            raise DataError(f"{where}: input {info.name!r} takes shape {wanted}, found {found}{_layout_hint(array, info)}")
    return np.ascontiguousarray(_cast(array, info, where))


def _layout_hint(array: Array, info: InputInfo) -> str:
    shape = info.shape or ()
    if array.ndim == 4 and len(shape) == 4:
        if shape[1] == array.shape[3] and shape[1] in {1, 3, 4}:
            return "; transpose it (only uint8 images are rearranged for you)"
        if shape[1:2] == array.shape[1:2]:
            return "; set preprocessing.resize and crop to the model's height and width"
    return ""


def _cast(array: Array, info: InputInfo, where: str) -> Array:
    if array.dtype == info.dtype:
        cast = array
    elif array.dtype.kind not in "biuf":
        raise DataError(f"{where}: input {info.name!r} takes {info.dtype}, found {array.dtype}")
    elif array.dtype.kind == "f" and info.dtype.kind in "biu":
        raise DataError(
            f"{where}: input {info.name!r} takes {info.dtype}, found {array.dtype}; convert the data (did you scale integers?)"
        )
    else:
        with np.errstate(over="ignore"):
            cast = array.astype(info.dtype)
        if info.dtype.kind in "biu" and not np.array_equal(cast, array):
            raise DataError(f"{where}: input {info.name!r} takes {info.dtype}, values of type {array.dtype} do not fit in")
    if cast.dtype.kind == "f" and not np.isfinite(cast).all():
        raise DataError(f"{where}: input {info.name!r} holds NaN or infinity")
    return cast
