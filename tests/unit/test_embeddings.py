"""Cosines and rank correlations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ovquant.errors import ConfigError, DataError
from ovquant.job import MetricSpec
from ovquant.metrics.embeddings import cosine
from ovquant.metrics.scores import build_metric
from ovquant.protocols import Metric

RNG = np.random.default_rng(0)


def metric(name: str, **options) -> Metric:
    return build_metric(MetricSpec(name=name, **options), ["out", "other"])


def test_cosine_is_that_of_the_angle_and_defined_for_zeros():
    angles = RNG.uniform(0, np.pi, 50)
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1) * RNG.uniform(0.1, 9, (50, 1))
    np.testing.assert_allclose(cosine(np.array([2.0, 0]), rows), np.cos(angles), atol=1e-12)
    np.testing.assert_array_equal(cosine(np.array([[0.0, 0], [0, 0]]), np.array([[1.0, 0], [0, 0]])), [0, 1])


def test_cosine_to_the_reference_is_averaged_over_the_vectors_of_an_item():
    theirs = {"out": np.array([[[1.0, 0], [0, 1]]]), "other": np.zeros(1)}
    mine = np.array([[[3.0, 0], [1, 1]]])
    np.testing.assert_allclose(metric("cosine").per_item({"out": [mine]}, [theirs]), [(1 + np.sqrt(0.5)) / 2])
    assert metric("cosine", output="other").per_item({"other": [np.zeros(1)]}, [theirs]) == [1]


def test_spearman_is_that_of_scipy_on_cosines_of_the_pairs():
    pairs = list(RNG.normal(size=(40, 2, 8)))
    labels = RNG.integers(0, 6, 40)
    similarities = [first @ second / np.linalg.norm(first) / np.linalg.norm(second) for first, second in pairs]
    expected = stats.spearmanr(similarities, labels).statistic
    assert metric("spearman").value({"out": pairs}, labels) == pytest.approx(expected)
    assert metric("spearman").value({"out": [np.array([[s]]) for s in similarities]}, labels) == pytest.approx(expected)


def test_a_function_may_pool_tokens(tmp_path):
    (tmp_path / "mine.py").write_text("def pooled(outputs):\n    return outputs['out'].mean(axis=1)\n")
    pairs, labels = list(RNG.normal(size=(20, 2, 8))), RNG.normal(size=20)
    tokens = [np.stack([pair - 1, pair + 1], axis=1) for pair in pairs]
    found = metric("spearman", decode=f"{tmp_path / 'mine.py'}:pooled").value({"out": tokens}, labels)
    assert found == pytest.approx(metric("spearman").value({"out": pairs}, labels))


@pytest.mark.parametrize(
    ("outputs", "labels", "message"),
    [
        ([np.ones((2, 3))] * 2, ["a", "b"], "labels must be finite numbers"),
        ([np.ones((2, 3))] * 2, [1.0, np.nan], "labels must be finite numbers"),
        ([np.ones((1, 3))] * 2, [1, 2], "has shape 1x3 on an item; accepted: one similarity, or 2xD"),
        ([np.ones((2, 3))] * 2, [1, 2], "no correlation"),
    ],
)
def test_what_does_not_fit_is_an_error(outputs, labels, message):
    with pytest.raises(DataError, match=message):
        metric("spearman").value({"out": outputs}, labels)


def test_cosine_takes_no_labels():
    with pytest.raises(ConfigError, match="takes no labels; accepted: max_drop, output"):
        metric("cosine", labels="y")
