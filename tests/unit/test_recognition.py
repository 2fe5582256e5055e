"""What labels and outputs are taken for."""

from __future__ import annotations

import numpy as np
import pytest

from ovquant.recognition import Finding, recognize

RNG = np.random.default_rng(0)
N = 12


def scores(classes: list[int], n_classes: int) -> list[np.ndarray]:
    """Return outputs [1, C] that name these classes."""
    return [(np.eye(n_classes)[[index]] * 5 - 1).astype(np.float32) for index in classes]


def steps(rows: list[list[int]], n_classes: int) -> list[np.ndarray]:
    """Return outputs [1, T, C] that name these classes."""
    return [(np.eye(n_classes)[[row]] * 5 - 1).astype(np.float32) for row in rows]


def names(finding: Finding) -> list[str]:
    return [entry["name"] for entry in finding.metrics]


CLASSES = [index % 4 for index in range(N)]


def test_whole_numbers_are_classes_of_the_output_that_tells_them():
    found = recognize(CLASSES, {"other": scores([0] * N, 4), "right": scores(CLASSES, 4)})
    assert (found.task, found.value) == ("classification", 1.0)
    assert found.metrics == ({"name": "accuracy", "output": "right", "max_drop": 0.01},)
    assert recognize(CLASSES, {"y": scores(CLASSES, 4)}).metrics == ({"name": "accuracy", "max_drop": 0.01},)


def test_a_model_that_guesses_is_pointed_out():
    assert "guessing" in (recognize(CLASSES, {"y": scores([3 - index for index in CLASSES], 4)}).remark or "")
    assert recognize(CLASSES, {"y": scores(CLASSES, 4)}).remark is None


def test_numbers_for_an_output_of_one_value_are_values():
    values = RNG.normal(size=N)
    found = recognize(list(values), {"y": [np.array([[value + 0.5]], np.float32) for value in values]})
    assert (found.task, names(found)) == ("regression", ["neg_mean_absolute_error"])
    assert found.value == pytest.approx(-0.5, abs=1e-3)


def test_numbers_that_no_output_can_tell_have_no_metric():
    found = recognize([9] * N, {"y": scores(CLASSES, 4)})  # there are four classes
    assert (found.task, found.metrics) == ("unknown", ())


def test_a_column_is_named_where_there_are_several():
    found = recognize(CLASSES, {"y": scores(CLASSES, 4)}, "kind")
    assert found.metrics[0]["labels"] == "kind"


def test_names_of_classes_need_their_order_checked():
    words = ["ant", "bee", "cat", "dog"]
    found = recognize([words[index] for index in CLASSES], {"y": scores(CLASSES, 4)})
    assert (found.task, found.class_names) == ("classification", tuple(words))
    assert "CHECK class_names" in (found.remark or "")


@pytest.mark.parametrize(("blank", "shift"), [(0, 1), (4, 0)])
def test_the_class_between_symbols_is_found(blank: int, shift: int):
    texts = ["0123", "3321", "10", "22"] * 3
    rows = [[value for symbol in text for value in (int(symbol) + shift, blank)] for text in texts]
    found = recognize(texts, {"y": steps(rows, 5)})
    assert (found.task, found.value) == ("sequence", 0.0)
    assert found.metrics[0]["blank"] == blank
    assert found.metrics[0]["alphabet"] == "0123"  # digits would be ten
    assert found.kinds == {"y": "logits"}


def test_an_alphabet_that_the_model_tells_is_taken():
    texts = ["badc", "ddcb", "ba", "cc"] * 3
    alphabet = "dcba"
    rows = [[value for symbol in text for value in (alphabet.index(symbol) + 1, 0)] for text in texts]
    found = recognize(texts, {"y": steps(rows, 5)}, None, ["dcb", alphabet])
    assert (found.task, found.value) == ("sequence", 0.0)
    assert found.metrics[0]["alphabet"] == alphabet
    assert recognize(texts, {"y": steps(rows, 5)}).value != 0.0


def test_rows_of_numbers_are_sequences_without_an_alphabet():
    rows = [[1, 2, 3], [3, 3, 1]] * 6
    found = recognize([np.array(row) for row in rows], {"y": steps(rows, 5)})
    assert found.metrics[0] == {"name": "cer", "decode": "argmax", "max_drop": 0.01}
    assert found.value == 0


def test_texts_of_more_symbols_than_classes_are_left_to_the_user():
    found = recognize(["hello", "world"], {"y": steps([[0, 1], [1, 0]], 3)})
    assert (found.task, found.metrics) == ("unknown", ()) or (found.task, found.metrics) == ("sequence", ())
    assert found.remark


def test_masks_go_to_the_output_of_their_size_and_the_rest_is_ignored():
    masks = [RNG.integers(0, 3, size=(6, 8)) for _ in range(N)]
    maps = [np.moveaxis(np.eye(3)[mask], -1, 0)[np.newaxis].astype(np.float32) * 4 for mask in masks]
    rims = [np.where(RNG.random(mask.shape) < 0.1, 255, mask) for mask in masks]
    found = recognize(rims, {"small": [array[..., ::2, ::2] for array in maps], "map": maps})
    assert found.metrics == ({"name": "miou", "output": "map", "ignore_index": 255, "max_drop": 0.01},)
    assert (found.value, found.kinds) == (1.0, {"map": "logits"})
    shares = [np.exp(array) / np.exp(array).sum(axis=1, keepdims=True) for array in maps]
    assert recognize(masks, {"map": shares}).kinds == {}
    unfit = recognize(masks, {"small": [array[..., ::2, ::2] for array in maps]})
    assert (unfit.task, unfit.metrics) == ("segmentation", ())
    assert "resize" in (unfit.remark or "")


def test_boxes_are_the_users_to_decode():
    found = recognize([{"boxes": np.zeros((1, 4))}] * N, {"y": [np.zeros((1, 15, 8, 8))] * N})
    assert (found.task, found.metrics) == ("detection", ())


def test_without_labels_only_vectors_of_length_one_tell_something():
    vectors = [array / np.linalg.norm(array) for array in RNG.normal(size=(N, 1, 16))]
    assert names(recognize(None, {"e": vectors})) == ["cosine"]
    assert recognize(None, {"y": scores(CLASSES, 4)}).metrics == ()
    assert recognize(None, {"y": [np.eye(4)[[index]] for index in CLASSES]}).metrics == ()  # probabilities
