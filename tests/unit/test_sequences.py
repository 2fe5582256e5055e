"""Sequences against a naive edit distance and a naive CTC decoder."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovquant.errors import ConfigError, DataError
from ovquant.job import MetricSpec
from ovquant.metrics.scores import build_metric
from ovquant.protocols import Metric

TEXTS = st.text(alphabet="abc", max_size=6)


def metric(name: str = "cer", **options) -> Metric:
    return build_metric(MetricSpec(name=name, **options), ["out"])


def naive_distance(first: str, second: str) -> int:
    """Follow the definition: the fewest insertions, deletions and substitutions."""

    @functools.cache
    def distance(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        kept = distance(i - 1, j - 1) + (first[i - 1] != second[j - 1])
        return min(kept, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    return distance(len(first), len(second))


def spelled(text: str, alphabet: str = "abc") -> np.ndarray:
    """Return scores [1, T, 1 + letters] that CTC reads as the text: a blank after each letter."""
    steps = [step for letter in text for step in (1 + alphabet.index(letter), 0)] or [0]
    return np.eye(1 + len(alphabet), dtype=np.float32)[steps][np.newaxis]


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6))
def test_error_rate_is_the_naive_one(pairs):
    outputs = {"out": [spelled(answer) for _, answer in pairs]}
    scores = metric(decode="ctc", alphabet="abc").per_item(outputs, [truth for truth, _ in pairs])
    expected = [naive_distance(truth, answer) / max(len(truth), 1) for truth, answer in pairs]
    np.testing.assert_allclose(scores, expected)


@given(TEXTS, TEXTS, TEXTS)
def test_distance_is_a_metric(first, second, third):
    def distance(truth: str, answer: str) -> float:
        found = metric(decode="ctc", alphabet="abc").value({"out": [spelled(answer)]}, [truth])
        return round(found * max(len(truth), 1), 9)

    assert (distance(first, second) == 0) == (first == second)
    assert distance(first, second) == distance(second, first)
    assert distance(first, third) <= distance(first, second) + distance(second, third)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(0, 3))
def test_ctc_joins_repetitions_and_drops_blanks(steps, blank):
    kept = [number for number, _ in itertools.groupby(steps) if number != blank]
    outputs = {"out": [np.eye(4, dtype=np.float32)[steps][np.newaxis]]}
    assert metric("exact_match", decode="ctc", blank=blank).value(outputs, [np.array(kept, dtype=int)]) == 1
    symbols = [letter for place, letter in enumerate("wxyz") if place != blank]
    text = "".join("wxyz"[number] for number in kept)
    assert metric("exact_match", decode="ctc", blank=blank, alphabet="".join(symbols)).value(outputs, [text]) == 1


@pytest.mark.parametrize("shape", [(1, 3, 4), (3, 1, 4)])
def test_batch_may_be_the_first_or_the_second_axis(shape):
    scores = np.eye(4, dtype=np.float32)[[1, 3, 2]].reshape(shape)
    assert metric("exact_match").value({"out": [scores]}, [[1, 3, 2]]) == 1


def test_argmax_stops_at_the_end_and_labels_at_their_padding():
    scores = np.eye(4, dtype=np.float32)[[1, 2, 3, 1]][np.newaxis]
    assert metric("exact_match", end=3).value({"out": [scores]}, [np.array([1, 2, 3, -1])]) == 1
    assert metric("exact_match", end=3, alphabet="abc").value({"out": [scores]}, ["bc"]) == 1
    assert metric("exact_match").value({"out": [scores]}, [np.array([1, 2, 3, -1])]) == 0


def test_integers_are_taken_as_classes():
    assert metric("exact_match", end=0).value({"out": [np.array([[5, 6, 0, 7]])]}, [[5, 6]]) == 1


def test_a_function_may_give_strings(tmp_path):
    (tmp_path / "mine.py").write_text("def word(outputs):\n    return 'yes' if outputs['out'].max() > 0 else 'no'\n")
    found = metric(decode=f"{tmp_path / 'mine.py'}:word").per_item({"out": [np.ones(1), np.zeros(1)]}, ["yes", "yes"])
    np.testing.assert_allclose(found, [0, 1])


@pytest.mark.parametrize(
    ("options", "shape", "label", "message"),
    [
        ({}, (1, 3, 4), "abc", "labels are strings .*alphabet"),
        ({}, (1, 3, 4), 123, "rows of class numbers, found '123' .*column of a table 'text'"),
        ({}, (1, 3, 4), [0.5], "rows of class numbers, found"),
        ({}, (3, 4), [1], "has shape 3x4; accepted: scores 1xTxC"),
        ({"decode": "ctc", "alphabet": "ab"}, (1, 3, 4), "ab", "alphabet has 2 symbols, and output 'out' 4 classes, 3 of which"),
        ({"decode": "ctc", "blank": 9}, (1, 3, 4), [1], "no class 9"),
        ({"alphabet": "abcd"}, (1, 3, 4), [9], "class 9 has no symbol"),
    ],
)
def test_what_does_not_fit_is_an_error(options, shape, label, message):
    with pytest.raises(DataError, match=message):
        metric(**options).per_item({"out": [np.zeros(shape, np.float32)]}, [label])


def test_a_function_of_the_user_that_fails_is_an_error(tmp_path):
    (tmp_path / "mine.py").write_text("def word(outputs):\n    return outputs['logits']\n\ndef number(outputs):\n    return 1\n")
    for function, message in {"word": "decode raised KeyError: 'logits'", "number": "decode gave '1'"}.items():
        with pytest.raises(DataError, match=message):
            metric(decode=f"{tmp_path / 'mine.py'}:{function}").per_item({"out": [np.zeros(1)]}, ["a"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decode": "beam"}, "decode is ctc, argmax or a Python function file.py:function, found 'beam'"),
        ({"blank": 0}, "blank is for decode: ctc"),
        ({"end": 0, "decode": "ctc"}, "end is for decode: argmax"),
        ({"num_classes": 3}, "takes no num_classes"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        metric(**options)
