"""Divergence of a candidate's outputs from the reference's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import special, stats

from ovquant.metrics.divergence import class_axis, guess_kind, per_item

RNG = np.random.default_rng(0)
LOGITS = arrays(np.float32, (1, 5), elements=st.floats(-30, 30, width=32))
SHARES = arrays(np.float64, (1, 5), elements=st.floats(0, 1)).filter(lambda a: a.sum() > 1e-3).map(lambda a: a / a.sum())
VALUES = arrays(np.float32, (1, 4), elements=st.floats(-100, 100, width=32))


def divergence(reference: np.ndarray, candidate: np.ndarray, kind: str) -> float:
    """Return the divergence of one item, given with its batch axis."""
    return float(per_item({"out": [reference]}, {"out": [candidate]}, {"out": kind})[0])


# Relative entropy


@given(LOGITS, LOGITS)
def test_divergence_of_logits_is_scipys_relative_entropy_of_their_softmax(reference, candidate):
    p, q = special.softmax(reference.astype(np.float64)), special.softmax(candidate.astype(np.float64))
    assert divergence(reference, candidate, "logits") == pytest.approx(stats.entropy(p[0], q[0]), rel=1e-6, abs=1e-12)


@given(st.integers(0, 1000))
def test_divergence_of_probabilities_is_scipys_relative_entropy(seed):
    p, q = np.random.default_rng(seed).dirichlet(np.full(6, 0.5), size=2)
    assert divergence(p[None], q[None], "probabilities") == pytest.approx(stats.entropy(p, q), rel=1e-4, abs=1e-9)


def test_relative_entropy_is_of_the_reference_from_the_candidate():
    p, q = np.array([[0.9, 0.1]]), np.array([[0.5, 0.5]])
    assert divergence(p, q, "probabilities") == pytest.approx(0.9 * np.log(1.8) + 0.1 * np.log(0.2))
    assert divergence(q, p, "probabilities") == pytest.approx(0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(5))


@pytest.mark.parametrize(("kind", "values"), [("logits", LOGITS), ("probabilities", SHARES), ("values", VALUES)])
def test_equal_outputs_have_no_divergence(kind, values):
    @given(values)
    def check(output):
        assert divergence(output, output.copy(), kind) == 0

    check()


@pytest.mark.parametrize(("kind", "values"), [("logits", LOGITS), ("probabilities", SHARES), ("values", VALUES)])
def test_divergence_is_finite_and_not_negative(kind, values):
    @given(values, values)
    def check(reference, candidate):
        found = divergence(reference, candidate, kind)
        assert np.isfinite(found)
        assert found >= -1e-12

    check()


def test_exact_zero_of_the_candidate_costs_much_but_not_infinity():
    found = divergence(np.array([[0.5, 0.5]]), np.array([[1.0, 0.0]]), "probabilities")
    assert found == pytest.approx(0.5 * np.log(0.5) + 0.5 * np.log(0.5e12), rel=1e-6)


def test_exact_zero_of_the_reference_costs_nothing():
    assert divergence(np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]]), "probabilities") == pytest.approx(np.log(2))


def test_probabilities_that_are_a_little_off_are_normalized_first():
    p, q = np.array([[0.7, 0.3]]), np.array([[0.6, 0.4]])
    assert divergence(p * 1.004, q * 0.996, "probabilities") == pytest.approx(stats.entropy(p[0], q[0]))


def test_logits_shifted_by_a_constant_are_equal():
    logits = RNG.normal(size=(1, 5))
    assert divergence(logits, logits + 100, "logits") == pytest.approx(0, abs=1e-12)


def test_positions_of_a_map_are_averaged_over_the_class_axis():
    reference, candidate = RNG.normal(size=(2, 1, 4, 3, 2))
    p, q = special.softmax(reference, axis=1), special.softmax(candidate, axis=1)
    assert divergence(reference, candidate, "logits") == pytest.approx(stats.entropy(p, q, axis=1).mean())


def test_positions_of_a_sequence_are_averaged_over_the_last_axis():
    reference, candidate = RNG.normal(size=(2, 1, 3, 4))
    p, q = special.softmax(reference, axis=2), special.softmax(candidate, axis=2)
    assert divergence(reference, candidate, "logits") == pytest.approx(stats.entropy(p, q, axis=2).mean())


@pytest.mark.parametrize(("rank", "axis"), [(2, 1), (3, 2), (4, 1), (5, 1)])
def test_class_axis_goes_by_rank(rank, axis):
    assert class_axis(rank) == axis


# Values and several outputs


def test_divergence_of_values_is_squared_error_over_the_mean_square_of_all_items():
    reference = [np.array([[3.0, 4.0]]), np.array([[0.0, 1.0]])]
    candidate = [np.array([[3.0, 5.0]]), np.array([[2.0, 1.0]])]
    # Mean square of the reference: (9 + 16 + 0 + 1) / 4 = 6.5; mean squared errors of the items: 1 / 2 and 4 / 2.
    found = per_item({"out": reference}, {"out": candidate}, {"out": "values"})
    np.testing.assert_allclose(found, [0.5 / 6.5, 2 / 6.5])


def test_divergence_of_values_does_not_depend_on_their_unit():
    reference, candidate = RNG.normal(size=(2, 1, 6))
    assert divergence(reference * 1000, candidate * 1000, "values") == pytest.approx(divergence(reference, candidate, "values"))


def test_reference_of_nothing_but_zeros_keeps_the_divergence_finite():
    assert np.isfinite(divergence(np.zeros((1, 4)), np.ones((1, 4)), "values"))


def test_small_differences_of_large_float32_values_are_not_lost():
    reference = np.full((1, 4), 1e20, np.float32)
    assert divergence(reference, reference * np.float32(1.01), "values") == pytest.approx(1e-4, rel=1e-2)


def test_outputs_are_averaged_per_item():
    logits = [RNG.normal(size=(1, 3)) for _ in range(4)]
    values = [RNG.normal(size=(1, 2)) for _ in range(4)]
    reference = {"a": logits[:2], "b": values[:2]}
    candidate = {"a": logits[2:], "b": values[2:]}
    alone = [per_item(reference, candidate, kinds) for kinds in ({"a": "logits"}, {"b": "values"})]
    both = per_item(reference, candidate, {"a": "logits", "b": "values"})
    assert both.shape == (2,)
    np.testing.assert_allclose(both, (alone[0] + alone[1]) / 2)


def test_different_numbers_of_items_are_an_error():
    with pytest.raises(ValueError, match="2 items of the reference and 1 of the candidate"):
        per_item({"out": [np.ones((1, 2))] * 2}, {"out": [np.ones((1, 2))]}, {"out": "values"})


# What an output is taken for


def items(*shape: int) -> list[np.ndarray]:
    return [RNG.normal(size=shape) for _ in range(5)]


def test_shares_that_sum_to_one_are_probabilities():
    assert guess_kind([special.softmax(row, axis=1) for row in items(1, 4)], is_classified=False) == "probabilities"


def test_shares_of_a_map_that_sum_to_one_on_axis_1_are_probabilities():
    assert guess_kind([special.softmax(row, axis=1) for row in items(1, 4, 3, 2)], is_classified=False) == "probabilities"


def test_shares_of_a_map_that_sum_to_one_on_another_axis_are_not():
    assert guess_kind([special.softmax(row, axis=3) for row in items(1, 4, 3, 5)], is_classified=False) == "values"


def test_one_item_that_is_no_distribution_decides():
    rows = [special.softmax(row, axis=1) for row in items(1, 4)]
    rows[3] = rows[3] * 2
    assert guess_kind(rows, is_classified=False) == "logits"


def test_scores_per_class_are_logits():
    assert guess_kind(items(1, 4), is_classified=False) == "logits"


@pytest.mark.parametrize(("is_classified", "kind"), [(False, "values"), (True, "logits")])
def test_unit_vectors_are_embeddings_unless_a_classification_metric_reads_them(is_classified, kind):
    embeddings = [row / np.linalg.norm(row) for row in items(1, 4)]
    assert guess_kind(embeddings, is_classified) == kind


def test_single_number_is_a_value_even_if_a_classification_metric_reads_it():
    assert guess_kind(items(1, 1), is_classified=True) == "values"
    assert guess_kind([np.array([0.5])] * 3, is_classified=False) == "values"


@pytest.mark.parametrize("shape", [(1, 4, 6), (1, 4, 3, 2), (3, 4)])
def test_maps_sequences_and_boxes_are_values(shape):
    assert guess_kind(items(*shape), is_classified=False) == "values"


def test_map_that_a_classification_metric_reads_is_logits():
    assert guess_kind(items(1, 4, 3, 2), is_classified=True) == "logits"
