"""Digests of samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fakes.branches import per_sample
from hypothesis import given
from hypothesis import strategies as st

from ovquant.protocols import Array
from ovquant.quantization import statistics


def sample(left: Array, right: Array) -> dict[str, Array]:
    return {"left": left, "right": right}


ZERO, ONE = np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32)
SAMPLES = [sample(ZERO, ONE), sample(ONE, ONE)]
OTHER_SAMPLES = {
    "in another order": SAMPLES[::-1],
    "under other names": [sample(ONE, ZERO), sample(ONE, ONE)],
    "of another shape": [sample(ZERO.reshape(2, 1), ONE), SAMPLES[1]],
    "of another type": [sample(ZERO.view(np.int32), ONE), SAMPLES[1]],
    "one more": [*SAMPLES, SAMPLES[0]],
    "one less": SAMPLES[:1],
    "a name less": [{"right": ONE}, SAMPLES[1]],
    "a last bit": [sample(ZERO, np.nextafter(ONE, ZERO)), SAMPLES[1]],
    "a sign of zero": [sample(-ZERO, ONE), SAMPLES[1]],
}


@pytest.mark.parametrize("name", OTHER_SAMPLES)
def test_other_samples_have_another_digest(name):
    assert statistics._digest_samples(OTHER_SAMPLES[name]) != statistics._digest_samples(SAMPLES)


def test_equal_samples_have_equal_digests_however_they_lie_in_memory():
    turned = [{"right": one["right"].copy(), "left": np.asfortranarray(one["left"])} for one in SAMPLES]
    assert statistics._digest_samples(turned) == statistics._digest_samples(SAMPLES)


@given(st.lists(per_sample(min_size=0), max_size=3))
def test_digest_tells_lists_of_arrays_apart_from_joined_ones(groups):
    flat = [array for group in groups for array in group]
    found = statistics.digest_of("content", *flat)
    assert found == statistics.digest_of("content", *(array.copy() for array in flat))
    assert found != statistics.digest_of("other", *flat)
    if flat:
        assert found != statistics.digest_of("content", *flat[:-1])
        assert math.prod(flat[0].shape) == 0 or found != statistics.digest_of(
            "content", flat[0].view(f"V{flat[0].itemsize}"), *flat[1:]
        )
