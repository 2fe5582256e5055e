"""Mean average precision against the whole of pycocotools, and by hand."""

from __future__ import annotations

import builtins
import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ovquant.errors import ConfigError, DataError
from ovquant.job import MetricSpec
from ovquant.metrics.detection import THRESHOLDS, MeanAveragePrecision
from ovquant.metrics.scores import build_metric

N_CLASSES = 5


def metric(name: str = "map") -> MeanAveragePrecision:
    return MeanAveragePrecision(name, THRESHOLDS[name], lambda outputs: outputs["out"])


def random_boxes(rng: np.random.Generator, n: int) -> np.ndarray:
    corners = rng.uniform(0, 60, (n, 2))
    return np.concatenate([corners, corners + rng.uniform(2, 40, (n, 2))], axis=1)


def scene(rng: np.random.Generator) -> tuple[dict[str, Any], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return a label, and boxes that find some of it, with many equal scores."""
    n = int(rng.integers(0, 5))
    boxes, labels = random_boxes(rng, n), rng.integers(0, N_CLASSES, n)
    n_false = int(rng.integers(0, 6))
    near = np.sort((boxes + rng.normal(0, 3, boxes.shape)).reshape(n, 2, 2), axis=1).reshape(n, 4)
    found = np.concatenate([near, random_boxes(rng, n_false)])
    classes = np.concatenate([labels, rng.integers(0, N_CLASSES, n_false)])
    is_crowd = rng.random(n) < 0.15
    return {"boxes": boxes, "labels": labels, "is_crowd": is_crowd}, (found, rng.random(len(found)).round(1), classes)


def coco_stats(labels: list[dict[str, Any]], found: list[tuple[Any, Any, Any]]) -> np.ndarray:
    """Evaluate with pycocotools alone, from evaluate to summarize."""
    truth: list[dict[str, Any]] = []
    for image, label in enumerate(labels):
        for (x1, y1, x2, y2), number, crowd in zip(label["boxes"], label["labels"], label["is_crowd"], strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            entry = {"id": len(truth) + 1, "image_id": image, "category_id": int(number), "bbox": box, "area": box[2] * box[3]}
            truth.append({**entry, "iscrowd": int(crowd)})
    results = [
        {"image_id": image, "category_id": int(number), "bbox": [x1, y1, x2 - x1, y2 - y1], "score": float(score)}
        for image, item in enumerate(found)
        for (x1, y1, x2, y2), score, number in zip(*item, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": image} for image in range(len(labels))],
            "annotations": truth,
            "categories": [{"id": number} for number in range(N_CLASSES)],
        }
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return np.asarray(judge.stats[:3])


@given(st.integers(0, 10_000))
def test_it_is_that_of_pycocotools(seed):
    rng = np.random.default_rng(seed)
    labels, found = (list(column) for column in zip(*(scene(rng) for _ in range(12)), strict=True))
    labels[0] = {"boxes": np.array([[0, 0, 9, 9.0]]), "labels": np.array([0]), "is_crowd": np.array([False])}
    found[0] = (np.array([[0, 0, 9, 8.0]]), np.array([0.5]), np.array([0]))
    values = [metric(name).value({"out": found}, labels) for name in ("map", "map50", "map75")]
    np.testing.assert_allclose(values, coco_stats(labels, found), atol=1e-12)


def test_by_hand():
    label = {"boxes": [[0, 0, 10, 10], [20, 20, 30, 30]], "labels": [0, 0]}
    found = ([[0, 0, 10, 10], [50, 50, 60, 60], [20, 20, 30, 30]], [0.9, 0.8, 0.7], [0, 0, 0])
    # Precision 1 up to recall 0.5, which are 51 of the 101 points, and 2/3 on the other 50.
    assert metric().value({"out": [found]}, [label]) == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_nothing_found_is_worth_nothing_and_needs_no_shape():
    label = {"boxes": [[0, 0, 10, 10]], "labels": [3]}
    assert metric().value({"out": [([], [], [])]}, [label]) == 0


def test_images_without_boxes_count_through_what_is_found_in_them():
    label, empty = {"boxes": [[0, 0, 9, 9]], "labels": [0]}, {"boxes": [], "labels": []}
    right, wrong = ([[0, 0, 9, 9]], [0.5], [0]), ([[0, 0, 9, 9]], [0.9], [0])
    assert metric().value({"out": [right, ([], [], [])]}, [label, empty]) == pytest.approx(1)
    assert metric().value({"out": [right, wrong]}, [label, empty]) == pytest.approx(0.5)


def test_nothing_is_printed(capsys):
    metric().value({"out": [([], [], [])]}, [{"boxes": [[0, 0, 1, 1]], "labels": [0]}])
    assert capsys.readouterr().out == ""


def test_no_annotated_box_is_an_error():
    with pytest.raises(DataError, match="no box is annotated on these 1 images"):
        metric().value({"out": [([], [], [])]}, [{"boxes": [], "labels": []}])


GOOD: dict[str, Any] = {"boxes": [[0, 0, 9, 9]], "labels": [0], "categories": ("a", "b")}


@pytest.mark.parametrize(
    ("found", "label", "message"),
    [
        (([[0, 0, 9, 9]], [0.5], [2]), GOOD, "gave label 2; the annotations have 2 categories: labels are 0..1"),
        (([[0, 0, 9, 9]], [0.5], [0.5]), GOOD, "decode: labels of boxes must be class numbers"),
        (([[0, 0, 9, 9]], [0.5], ["a"]), GOOD, "decode: labels of boxes must be class numbers"),
        (([[0, 0, 9, 9]], [0.5, 0.6], [0]), GOOD, "1 boxes and 2 scores"),
        (([[0, 0, 9, 9]], [np.nan], [0]), GOOD, "one finite score"),
        (([[9, 0, 0, 9]], [0.5], [0]), GOOD, "x1 <= x2"),
        (([[0, 0, 9]], [0.5], [0]), GOOD, r"boxes must have shape \[K, 4\]"),
        (np.zeros((1, 6)), GOOD, "decode must return"),
        (([], [], []), 3, "must be mappings with boxes and labels"),
        (([], [], []), {"boxes": [[0, 0, 9, 9]], "labels": [-1]}, "labels: labels of boxes must be class numbers"),
    ],
)
def test_what_does_not_fit_is_an_error(found, label, message):
    with pytest.raises(DataError, match=message):
        metric().value({"out": [found]}, [label])


def test_it_needs_a_function():
    with pytest.raises(
        ConfigError, match=r"metric 'map50': needs decode: file\.py:function, which takes the outputs of one image"
    ):
        build_metric(MetricSpec(name="map50"), ["out"])


def test_missing_pycocotools_says_what_to_install(monkeypatch, tmp_path: Path):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("pycocotools"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"needs pycocotools: pip install 'ovquant\[detection\]'"):
        metric()
