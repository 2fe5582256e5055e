"""Items with their outputs: what survives the file, how far apart outputs are, and files that are something else."""

from __future__ import annotations

import io

import numpy as np
import pytest

from ovquant.checks import Checks, checks_from, from_bytes, relative_errors
from ovquant.errors import OutputError


def made(error: float = 0.1) -> Checks:
    inputs = [{"a/b": np.full((1, 2), index, np.float32), "c": np.array([index])} for index in range(3)]
    floats = [{"y": np.ones((1, 4), np.float32), "z/0": np.zeros((1,), np.float32)} for _ in range(3)]
    outputs = [{"y": np.full((1, 4), 1 + error, np.float32), "z/0": np.zeros((1,), np.float32)} for _ in range(3)]
    return checks_from(inputs, floats, outputs)


def test_what_is_written_is_read() -> None:
    checks = made()
    again = from_bytes(checks.to_bytes(), "here")
    assert again.limits == checks.limits
    for one, other in ((checks.inputs, again.inputs), (checks.outputs, again.outputs)):
        assert [set(item) for item in one] == [set(item) for item in other]
        for theirs, ours in zip(one, other, strict=True):
            for name, array in theirs.items():
                assert (ours[name].dtype, ours[name].tolist()) == (array.dtype, array.tolist())


def test_half_of_what_quantization_changed_is_let_pass() -> None:
    assert made(0.1).limits == {"y": pytest.approx(0.05 / 1.1 * 1.1, rel=1e-5), "z/0": 1e-3}
    assert made(0.0).limits == {"y": 1e-3, "z/0": 1e-3}


def test_errors_are_relative_over_all_items() -> None:
    expected = [{"y": np.array([3.0, 0.0])}, {"y": np.array([0.0, 4.0])}]
    found = [{"y": np.array([3.0, 0.5])}, {"y": np.array([0.0, 4.0])}]
    assert relative_errors(expected, found) == {"y": pytest.approx(0.5 / 5)}
    assert relative_errors(expected, expected) == {"y": 0}


@pytest.mark.parametrize("wrong", [{"y": np.array([1.0])}, {"y": np.array([np.nan, 1.0])}, {}])
def test_outputs_that_cannot_be_compared_are_infinitely_far(wrong: dict[str, np.ndarray]) -> None:
    assert relative_errors([{"y": np.array([1.0, 1.0])}], [wrong]) == {"y": np.inf}


def _npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "cannot be read"),
        (b"words", "cannot be read"),
        (_npz(other=np.zeros(1)), "cannot be read"),
        (_npz(), "is not whole: 0 inputs"),
        (_npz(**{"inputs/0/x": np.zeros(1)}), "is not whole: 1 inputs, 0 outputs"),
        (_npz(**{"inputs/0/x": np.zeros(1), "outputs/0/y": np.zeros(1)}), "is not whole"),
        (_npz(**{"inputs/0/x": np.array([object()], dtype=object)}), "cannot be read"),
    ],
)
def test_a_file_of_something_else_is_an_error(content: bytes, told: str) -> None:
    with pytest.raises(OutputError, match=f"here: checks.npz {told}"):
        from_bytes(content, "here")
