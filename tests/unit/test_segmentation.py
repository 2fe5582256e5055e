"""Mean intersection over union against scikit-learn and a naive count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score

from ovquant.errors import ConfigError, DataError
from ovquant.job import MetricSpec
from ovquant.metrics.scores import build_metric
from ovquant.metrics.segmentation import MeanIoU

RNG = np.random.default_rng(0)


def miou(**options) -> MeanIoU:
    found = build_metric(MetricSpec(name="miou", **options), ["out"])
    assert isinstance(found, MeanIoU)
    return found


def naive(answers: list[np.ndarray], masks: list[np.ndarray], n_classes: int, ignored: int | None = None) -> float:
    """Count pixel by pixel with sets."""
    ious = []
    for number in range(n_classes):
        said, true = set(), set()
        for item, (answer, mask) in enumerate(zip(answers, masks, strict=True)):
            for place in np.ndindex(mask.shape):
                if mask[place] != ignored:
                    said |= {(item, place)} if answer[place] == number else set()
                    true |= {(item, place)} if mask[place] == number else set()
        if said | true:
            ious.append(len(said & true) / len(said | true))
    return sum(ious) / len(ious)


@st.composite
def cases(draw):
    n_classes, n_items = draw(st.integers(2, 5)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    shapes = [tuple(rng.integers(1, 6, 2)) for _ in range(n_items)]
    masks = [rng.integers(0, n_classes, shape) for shape in shapes]
    answers = [np.where(rng.random(mask.shape) < 0.6, mask, rng.integers(0, n_classes, mask.shape)) for mask in masks]
    return n_classes, answers, masks


def as_scores(answer: np.ndarray, n_classes: int) -> np.ndarray:
    return np.moveaxis(np.eye(n_classes, dtype=np.float32)[answer], -1, 0)[np.newaxis]


@given(cases(), st.booleans())
def test_it_is_the_naive_count(case, has_ignored):
    n_classes, answers, masks = case
    if has_ignored:
        masks[0].flat[0] = 255
        masks[0].flat[-1:] = 0
    if has_ignored and masks[0].size == 1:
        return
    metric = miou(ignore_index=255 if has_ignored else None)
    found = metric.value({"out": [as_scores(answer, n_classes) for answer in answers]}, masks)
    assert found == pytest.approx(naive(answers, masks, n_classes, 255))


@given(cases())
def test_it_does_not_depend_on_names_of_classes_and_is_symmetric(case):
    n_classes, answers, masks = case
    metric = miou(num_classes=n_classes)
    value = metric.value({"out": [answer[np.newaxis] for answer in answers]}, masks)
    renamed = np.random.default_rng(0).permutation(n_classes)
    assert metric.value({"out": [renamed[a][np.newaxis] for a in answers]}, [renamed[m] for m in masks]) == pytest.approx(value)
    assert metric.value({"out": [mask[np.newaxis] for mask in masks]}, answers) == pytest.approx(value)
    assert metric.value({"out": [mask[np.newaxis] for mask in masks]}, masks) == 1


def test_it_is_that_of_scikit_learn():
    masks, answers = RNG.integers(0, 5, (20, 8, 8)), RNG.integers(0, 5, (20, 8, 8))
    value = miou(num_classes=5).value({"out": list(answers[:, np.newaxis])}, list(masks))
    assert value == pytest.approx(jaccard_score(masks.ravel(), answers.ravel(), average="macro"))


@pytest.mark.parametrize("shape", [(1, 4, 5), (1, 1, 4, 5), (1, 4, 5, 1)])
def test_class_numbers_may_have_axes_of_one(shape):
    mask = RNG.integers(0, 3, (4, 5))
    if shape[-1] == 1:
        with pytest.raises(DataError, match="shape 1x4x5x1, the mask 4x5"):
            miou(num_classes=3).value({"out": [mask.reshape(shape)]}, [mask])
    else:
        assert miou(num_classes=3).value({"out": [mask.reshape(shape)]}, [mask]) == 1


def test_scores_may_have_their_classes_last():
    mask = RNG.integers(0, 3, (4, 5))
    assert miou().value({"out": [np.eye(3, dtype=np.float32)[mask][np.newaxis]]}, [mask]) == 1


def test_a_function_may_give_the_class_numbers(tmp_path):
    (tmp_path / "mine.py").write_text("def halves(outputs):\n    return outputs['out'][0, 0].repeat(2, 0).repeat(2, 1)\n")
    metric = miou(decode=f"{tmp_path / 'mine.py'}:halves", num_classes=3)
    small = RNG.integers(0, 3, (4, 5))
    assert metric.value({"out": [small[np.newaxis, np.newaxis]]}, [np.kron(small, np.ones((2, 2), int))]) == 1


@pytest.mark.parametrize(
    ("output", "label", "message"),
    [
        (np.zeros((1, 3, 4, 4), np.float32), np.zeros((4, 5), int), "has shape 1x3x4x4, the mask 4x5 .*decode"),
        (np.zeros((1, 3, 4, 4), np.float32), np.full((4, 4), 3), "label 3 is out of range: there are 3 classes.*ignore_index"),
        (np.zeros((1, 3, 4, 4), np.float32), np.zeros((4, 4)), "masks of class numbers .*float64"),
        (np.zeros((1, 3, 4, 4), np.float32), 7, "masks of class numbers .*shape \\(\\)"),
        (np.zeros((1, 1, 4, 4), np.float32), np.zeros((4, 4), int), "one value of float32 per pixel"),
        (np.zeros((1, 4, 4), np.int64), np.zeros((4, 4), int), "set num_classes"),
    ],
)
def test_what_does_not_fit_is_an_error(output, label, message):
    with pytest.raises(DataError, match=message):
        miou().value({"out": [output]}, [label])


def test_answers_out_of_range_are_an_error():
    with pytest.raises(DataError, match="answer 4 is out of range"):
        miou(num_classes=3).value({"out": [np.full((1, 2, 2), 4)]}, [np.zeros((2, 2), int)])


def test_no_pixel_that_counts_is_an_error():
    with pytest.raises(DataError, match="every pixel has the label ignore_index"):
        miou(ignore_index=9).value({"out": [np.zeros((1, 3, 2, 2), np.float32)]}, [np.full((2, 2), 9)])


def test_options_of_other_metrics_are_refused():
    with pytest.raises(ConfigError, match="takes no alphabet; accepted: max_drop, decode, num_classes, ignore_index"):
        miou(alphabet="ab")
