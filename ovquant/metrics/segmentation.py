"""Semantic segmentation: mean intersection over union."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovquant.errors import DataError
from ovquant.metrics.summarized import Decode, Summarized, decoded
from ovquant.protocols import Outputs

Counts = NDArray[np.int64]


class MeanIoU(Summarized):
    """Mean over classes of intersection / union, counted over the pixels of all items.

    As in PASCAL VOC (Everingham et al. 2015, section 4.1.3). Classes that neither labels nor answers show are left out.
    """

    def __init__(self, name: str, output: str, decode: Decode | None, num_classes: int | None, ignore_index: int | None) -> None:
        """Keep the options of the job's entry."""
        self.name, self._output, self._decode = name, output, decode
        self._num_classes, self._ignore_index = num_classes, ignore_index

    def summaries(self, outputs: Outputs, labels: Sequence[Any]) -> list[Counts]:
        """Return pixels in the intersection and in the union of each class, shape [2, C], for each item."""
        return [self._counts(outputs, index, label) for index, label in enumerate(labels)]

    def value_of(self, summaries: Sequence[Counts]) -> float:
        """Return the mean over classes, 0..1."""
        intersection, union = np.sum(summaries, axis=0)
        if not union.any():
            raise DataError(f"metric {self.name!r}: every pixel has the label ignore_index")
        seen = union > 0
        return float(np.mean(intersection[seen] / union[seen]))

    def _counts(self, outputs: Outputs, index: int, label: Any) -> Counts:
        mask = self._mask(label)
        answer, n_classes = self._answer(outputs, index, mask.shape)
        counted = np.ones(mask.shape, dtype=bool) if self._ignore_index is None else mask != self._ignore_index
        truth, guess = mask[counted], answer[counted]
        for what, values in (("label", truth), ("answer", guess)):
            wrong = values[(values < 0) | (values >= n_classes)]
            if len(wrong):
                hint = "; set ignore_index if it marks pixels that do not count" if what == "label" else ""
                raise DataError(
                    f"metric {self.name!r}: {what} {int(wrong[0])} is out of range: there are {n_classes} classes, "
                    f"0..{n_classes - 1}{hint}"
                )
        both = np.bincount(truth[truth == guess], minlength=n_classes)
        return np.stack([both, np.bincount(truth, minlength=n_classes) + np.bincount(guess, minlength=n_classes) - both])

    def _mask(self, label: Any) -> NDArray[np.int64]:
        mask = np.asarray(label)
        mask = mask[0] if mask.ndim == 3 and mask.shape[0] == 1 else mask
        if mask.dtype.kind not in "iub" or mask.ndim != 2:
            raise DataError(
                f"metric {self.name!r}: labels must be masks of class numbers [H, W], found {mask.dtype} of shape {mask.shape}"
            )
        return mask.astype(np.int64)

    def _answer(self, outputs: Outputs, index: int, shape: tuple[int, ...]) -> tuple[NDArray[np.int64], int]:
        """Return the class of each pixel, shape [H, W], and the number of classes."""
        if self._decode is not None:
            array = np.asarray(decoded(self._decode, outputs, index, self.name))
            source = "decode gave"
        else:
            array = np.asarray(outputs[self._output][index])
            source = f"output {self._output!r} has"
            if array.ndim == 4 and array.shape[0] == 1 and array.dtype.kind == "f":
                for axis in (1, 3):  # NCHW, NHWC
                    if array.shape[1:axis] + array.shape[axis + 1 :] == shape and array.shape[axis] > 1:
                        return array.argmax(axis=axis)[0].astype(np.int64), self._num_classes or array.shape[axis]
        flat = array.reshape(array.shape[-2:]) if array.size == int(np.prod(array.shape[-2:])) and array.ndim > 2 else array
        if flat.shape != shape:
            raise DataError(
                f"metric {self.name!r}: {source} shape {'x'.join(map(str, array.shape))}, the mask "
                f"{'x'.join(map(str, shape))} (height x width); masks must have the size of the output. "
                "Resize one of them: the masks, or the output by decode: file.py:function"
            )
        if flat.dtype.kind not in "iub":
            raise DataError(
                f"metric {self.name!r}: {source} one value of {flat.dtype} per pixel; it takes scores of at least two classes or "
                "class numbers (integers). Give decode: file.py:function that returns class numbers [H, W]"
            )
        if self._num_classes is None:
            raise DataError(
                f"metric {self.name!r}: {source} class numbers, which do not tell how many there are; set num_classes"
            )
        return flat.astype(np.int64), self._num_classes
