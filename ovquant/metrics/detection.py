"""Object detection: mean average precision as COCO defines it.

Boxes are matched by pycocotools, image by image; the average precision of any choice of images is then a matter of sorting.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovquant.errors import ConfigError, DataError
from ovquant.metrics.summarized import Decode, Summarized, decoded
from ovquant.protocols import Outputs

MAX_BOXES = 100  # per image and class, as in COCO
THRESHOLDS: dict[str, tuple[float, ...]] = {
    "map": tuple(np.linspace(0.5, 0.95, 10).tolist()),
    "map50": (0.5,),
    "map75": (0.75,),
}
_RECALLS = np.linspace(0.0, 1.0, 101)
_TINY = float(np.spacing(1))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Boxes:
    """The boxes of one image.

    Attributes:
        corners: x1, y1, x2, y2 in pixels, shape [K, 4].
        classes: shape [K].
        scores: of found boxes, shape [K]; None for true ones.
        is_crowd: of true boxes, shape [K]; None for found ones.
    """

    corners: NDArray[np.float64]
    classes: NDArray[np.int64]
    scores: NDArray[np.float64] | None = None
    is_crowd: NDArray[np.bool_] | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Matches:
    """What came of the boxes that were found in one image, at T thresholds of overlap.

    Attributes:
        classes: of the D found boxes, shape [D].
        scores: shape [D].
        is_true: matched to a true box, shape [T, D].
        is_ignored: matched to a crowd, which counts neither way, shape [T, D].
        true_classes: of the true boxes that are no crowds, shape [G].
    """

    classes: NDArray[np.int64]
    scores: NDArray[np.float64]
    is_true: NDArray[np.bool_]
    is_ignored: NDArray[np.bool_]
    true_classes: NDArray[np.int64]


class MeanAveragePrecision(Summarized):
    """AP of COCO (Lin et al. 2014; cocodataset.org/#detection-eval), averaged over classes and thresholds of overlap."""

    def __init__(self, name: str, thresholds: Sequence[float], decode: Decode) -> None:
        """Keep the user's function from outputs to boxes, and check that pycocotools is here.

        Raises:
            ConfigError: it is not.
        """
        try:
            import pycocotools.cocoeval  # noqa: F401
        except ImportError:
            raise ConfigError(f"metric {name!r} needs pycocotools: pip install 'ovquant[detection]'") from None
        self.name, self._thresholds, self._decode = name, np.asarray(thresholds), decode

    def summaries(self, outputs: Outputs, labels: Sequence[Any]) -> list[Matches]:
        """Return the matches of each image.

        Args:
            outputs: of the model; ``decode`` gets those of an item and returns (boxes, scores, labels).
            labels: one mapping per image: boxes [G, 4] as x1, y1, x2, y2; labels [G]; is_crowd [G] if there are crowds.
        """
        truths = [self._true(label) for label in labels]
        found = [self._found(outputs, index, label) for index, label in enumerate(labels)]
        return self._matched(truths, found)

    def value_of(self, summaries: Sequence[Matches]) -> float:
        """Return the mean average precision of these images, 0..1; classes without a true box in them are left out."""
        true_classes = np.concatenate([image.true_classes for image in summaries])
        present, n_true = np.unique(true_classes, return_counts=True)
        if not len(present):
            raise DataError(f"metric {self.name!r}: no box is annotated on these {len(summaries)} images")
        classes = np.concatenate([image.classes for image in summaries])
        scores = np.concatenate([image.scores for image in summaries])
        order = np.lexsort((-scores, classes))
        is_true = np.concatenate([image.is_true for image in summaries], axis=1)[:, order]
        is_ignored = np.concatenate([image.is_ignored for image in summaries], axis=1)[:, order]
        starts, ends = (np.searchsorted(classes[order], present, side=side) for side in ("left", "right"))
        precisions = [
            _average_precision(is_true[:, start:end], is_ignored[:, start:end], int(count))
            for start, end, count in zip(starts, ends, n_true, strict=True)
        ]
        return float(np.mean(precisions))

    def _true(self, label: Any) -> Boxes:
        where = f"metric {self.name!r}: labels"
        if not isinstance(label, Mapping) or not {"boxes", "labels"} <= set(label):
            raise DataError(
                f"{where} must be mappings with boxes and labels (data.annotations: a COCO JSON), found {str(label)[:60]}"
            )
        corners, classes = _checked(label["boxes"], label["labels"], where)
        is_crowd = np.asarray(label.get("is_crowd", np.zeros(len(classes))), dtype=bool)
        if is_crowd.shape != classes.shape:
            raise DataError(f"{where}: is_crowd has shape {is_crowd.shape} beside {len(classes)} boxes")
        return Boxes(corners=corners, classes=classes, is_crowd=is_crowd)

    def _found(self, outputs: Outputs, index: int, label: Mapping[str, Any]) -> Boxes:
        result = decoded(self._decode, outputs, index, self.name)
        where = f"metric {self.name!r}: decode"
        if not isinstance(result, tuple | list) or len(result) != 3:
            raise DataError(f"{where} must return (boxes [D, 4], scores [D], labels [D]), found {type(result).__name__}")
        corners, classes = _checked(result[0], result[2], where)
        scores = np.asarray(result[1], dtype=np.float64).reshape(-1)
        if len(scores) != len(classes) or not np.isfinite(scores).all():
            raise DataError(f"{where}: gave {len(classes)} boxes and {len(scores)} scores; one finite score for each is needed")
        n_classes = len(label["categories"]) if "categories" in label else None
        if n_classes is not None and len(classes) and not 0 <= classes.min() <= classes.max() < n_classes:
            wrong = int(classes.max() if classes.max() >= n_classes else classes.min())
            raise DataError(
                f"{where}: gave label {wrong}; the annotations have {n_classes} categories: labels are 0..{n_classes - 1}, their "
                "places in the order of ids (or of data.class_names), not the ids"
            )
        return Boxes(corners=corners, classes=classes, scores=scores)

    def _matched(self, truths: Sequence[Boxes], found: Sequence[Boxes]) -> list[Matches]:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        n_classes = 1 + max((int(boxes.classes.max()) for boxes in (*truths, *found) if len(boxes.classes)), default=0)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints progress
            pair = []
            for side in (truths, found):
                index = COCO()
                index.dataset = _as_coco(side, n_classes)
                index.createIndex()
                pair.append(index)
            judge = COCOeval(*pair, iouType="bbox")
            judge.params.iouThrs, judge.params.maxDets = self._thresholds, [MAX_BOXES]
            judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
            judge.params.imgIds, judge.params.catIds = list(range(len(truths))), list(range(n_classes))
            judge.evaluate()
        by_image: list[list[tuple[int, Mapping[str, Any]]]] = [[] for _ in truths]
        for place, entry in enumerate(judge.evalImgs):  # classes, within them images
            if entry is not None:
                by_image[place % len(truths)].append((place // len(truths), entry))
        return [self._matches(entries) for entries in by_image]

    def _matches(self, entries: Sequence[tuple[int, Mapping[str, Any]]]) -> Matches:
        columns = np.zeros((len(self._thresholds), 0), dtype=bool)
        n_true = [(number, int(np.sum(np.asarray(entry["gtIgnore"]) == 0))) for number, entry in entries]
        n_found = [(number, len(entry["dtScores"])) for number, entry in entries]
        return Matches(
            classes=np.repeat(*np.array(n_found or [(0, 0)]).T),
            scores=np.concatenate([np.zeros(0), *(entry["dtScores"] for _, entry in entries)]),
            is_true=np.concatenate([columns, *(np.asarray(entry["dtMatches"]) > 0 for _, entry in entries)], axis=1),
            is_ignored=np.concatenate([columns, *(np.asarray(entry["dtIgnore"]) > 0 for _, entry in entries)], axis=1),
            true_classes=np.repeat(*np.array(n_true or [(0, 0)]).T),
        )


def _checked(boxes: Any, labels: Any, where: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return corners [K, 4] and classes [K].

    Raises:
        DataError: they are none.
    """
    try:
        corners = np.asarray(boxes, dtype=np.float64)
        classes = np.asarray(labels)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: boxes must be numbers [K, 4] with labels [K]: {error}") from error
    corners = corners.reshape(0, 4) if corners.size == 0 else corners
    if corners.ndim != 2 or corners.shape[1] != 4 or classes.reshape(-1).shape != (len(corners),):
        raise DataError(f"{where}: boxes must have shape [K, 4], and labels [K]; found {corners.shape} and {classes.shape}")
    whole = np.asarray(classes.reshape(-1), dtype=np.float64) if classes.dtype.kind in "iufb" or not len(corners) else None
    if whole is None or (whole != np.floor(whole)).any() or (whole < 0).any():
        raise DataError(f"{where}: labels of boxes must be class numbers (integers from 0), found {str(classes)[:60]}")
    if not np.isfinite(corners).all() or (corners[:, 2:] < corners[:, :2]).any():
        raise DataError(f"{where}: boxes must be x1, y1, x2, y2 with x1 <= x2 and y1 <= y2, all finite")
    return corners, whole.astype(np.int64)


def _as_coco(images: Sequence[Boxes], n_classes: int) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for number, boxes in enumerate(images):
        sizes = boxes.corners[:, 2:] - boxes.corners[:, :2]
        for place, (corner, size) in enumerate(zip(boxes.corners, sizes, strict=True)):
            annotation = {
                "id": len(annotations) + 1,  # 0 means "no match" to pycocotools
                "image_id": number,
                "category_id": int(boxes.classes[place]),
                "bbox": [*corner[:2].tolist(), *size.tolist()],
                "area": float(np.prod(size)),
                "iscrowd": int(boxes.is_crowd[place]) if boxes.is_crowd is not None else 0,
            }
            annotations.append(annotation if boxes.scores is None else {**annotation, "score": float(boxes.scores[place])})
    return {
        "images": [{"id": number} for number in range(len(images))],
        "annotations": annotations,
        "categories": [{"id": number} for number in range(n_classes)],
    }


def _average_precision(is_true: NDArray[np.bool_], is_ignored: NDArray[np.bool_], n_true: int) -> float:
    """Return the mean over thresholds of the precision at 101 recalls; boxes come in the order of falling scores, [T, D]."""
    hits = np.cumsum(is_true & ~is_ignored, axis=1, dtype=np.float64)
    misses = np.cumsum(~is_true & ~is_ignored, axis=1, dtype=np.float64)
    recalls = hits / n_true
    precisions = hits / (hits + misses + _TINY)
    best_ahead = np.maximum.accumulate(precisions[:, ::-1], axis=1)[:, ::-1]
    padded = np.concatenate([best_ahead, np.zeros((len(best_ahead), 1))], axis=1)
    at = [row[np.searchsorted(recall, _RECALLS, side="left")] for row, recall in zip(padded, recalls, strict=True)]
    return float(np.mean(at))
