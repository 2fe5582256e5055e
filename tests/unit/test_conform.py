"""From what a reader yields to what the model takes."""

from __future__ import annotations

import numpy as np
import pytest

from ovquant.datasets.conform import conform
from ovquant.errors import DataError
from ovquant.runtime import InputInfo


def info(shape: tuple[int | None, ...] | None, dtype: str = "float32", name: str = "x") -> InputInfo:
    return InputInfo(name=name, shape=shape, dtype=np.dtype(dtype))


def test_missing_batch_axis_is_added():
    array = np.arange(8, dtype=np.float32)
    sample = conform(array, [info((1, 8))], "item")
    np.testing.assert_array_equal(sample["x"], array[np.newaxis])


def test_present_batch_axis_is_kept():
    assert conform(np.zeros((1, 8), np.float32), [info((None, 8))], "item")["x"].shape == (1, 8)


def test_dynamic_dimensions_take_any_length():
    assert conform(np.zeros((5, 2), np.float32), [info((None, None, 2))], "item")["x"].shape == (1, 5, 2)


def test_dynamic_rank_takes_the_array_as_it_is():
    assert conform(np.zeros((3, 4), np.float32), [info(None)], "item")["x"].shape == (3, 4)


def test_number_for_a_vector_input_gets_its_batch_axis():
    np.testing.assert_array_equal(conform(2.5, [info((None,))], "item")["x"], np.array([2.5], np.float32))


def test_array_of_full_rank_is_taken_as_it_is_where_the_first_axis_is_dynamic():
    taken = conform(np.zeros((4, 8), np.float32), [info((None, 8))], "item")["x"]  # that axis may be time, not a batch
    assert taken.shape == (4, 8)


def test_sample_is_contiguous():
    assert conform(np.zeros((3, 2), np.float32).T, [info((1, 2, 3))], "item")["x"].flags.c_contiguous


@pytest.mark.parametrize("shape", [(7,), (2, 8), (1, 1, 8), ()])
def test_wrong_shape_names_item_input_and_both_shapes(shape):
    found = "x".join(map(str, shape)) or "a scalar"
    with pytest.raises(DataError) as error:
        conform(np.zeros(shape, np.float32), [info((1, 8))], "item 3")
    message = str(error.value)
    assert message.startswith("item 3: input 'x' takes shape 1x8, found ")
    assert message.endswith(found) or message.endswith(f"1x{found}")


def test_dynamic_dimensions_are_shown_as_question_marks():
    with pytest.raises(DataError, match=r"takes shape \?x3x\?, found 1x4x5"):
        conform(np.zeros((1, 4, 5), np.float32), [info((None, 3, None))], "item")


def test_image_of_another_size_is_told_to_resize():
    with pytest.raises(DataError, match=r"takes shape 1x3x8x8, found 1x3x9x9; set preprocessing\.resize and crop"):
        conform(np.zeros((3, 9, 9), np.float32), [info((1, 3, 8, 8))], "item")


def test_unknown_name_gets_a_hint_and_the_inputs():
    with pytest.raises(DataError, match=r"item: the model has no input 'lefft' \(did you mean 'left'\?\); inputs: left, right"):
        conform({"lefft": np.zeros(8)}, [info((1, 8), name="left"), info((1, 4), name="right")], "item")


def test_missing_name_is_told():
    with pytest.raises(DataError, match="item: no array for the model's input 'right'"):
        conform({"left": np.zeros(8)}, [info((1, 8), name="left"), info((1, 4), name="right")], "item")


def test_array_alone_is_refused_for_a_model_with_two_inputs():
    with pytest.raises(DataError, match=r"the model has 2 inputs \(left, right\); give a mapping"):
        conform(np.zeros(8), [info((1, 8), name="left"), info((1, 4), name="right")], "item")


def test_mapping_is_returned_in_the_order_of_the_inputs():
    inputs = [info((1, 8), name="left"), info((1, 4), name="right")]
    sample = conform({"right": np.zeros(4), "left": np.zeros(8)}, inputs, "item")
    assert list(sample) == ["left", "right"]


def test_float64_becomes_float32():
    sample = conform(np.array([0.1, 0.2]), [info((1, 2))], "item")
    assert sample["x"].dtype == np.float32
    np.testing.assert_array_equal(sample["x"][0], np.array([0.1, 0.2], np.float32))


def test_integers_become_floats_for_a_float_input():
    np.testing.assert_array_equal(conform(np.array([0, 255], np.uint8), [info((1, 2))], "item")["x"], [[0.0, 255.0]])


def test_int64_becomes_int32_where_it_fits():
    sample = conform(np.array([1, -(2**31)]), [info((1, 2), "int32")], "item")
    assert sample["x"].dtype == np.int32
    np.testing.assert_array_equal(sample["x"], [[1, -(2**31)]])


@pytest.mark.parametrize(("value", "dtype"), [(2**31, "int32"), (-1, "uint8"), (256, "uint8"), (-1, "uint64")])
def test_integers_that_do_not_fit_are_refused(value, dtype):
    with pytest.raises(DataError, match=f"item: input 'x' takes {dtype}, values of type int64 do not fit in"):
        conform(np.array([1, value]), [info((1, 2), dtype)], "item")


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
def test_floats_into_an_integer_input_are_refused_even_if_whole(dtype):
    with pytest.raises(DataError, match=rf"takes {dtype}, found float32; convert the data \(did you scale integers\?\)"):
        conform(np.array([1.0, 0.0], np.float32), [info((1, 2), dtype)], "item")


def test_integers_other_than_0_and_1_are_refused_for_a_boolean_input():
    with pytest.raises(DataError, match="takes bool"):
        conform(np.array([5, 0]), [info((1, 2), "bool")], "item")


@pytest.mark.parametrize("array", [np.array(["a", "b"]), np.array([None, 1]), np.array([1j, 2])])
def test_what_is_no_number_is_refused(array):
    with pytest.raises(DataError, match=f"item: input 'x' takes float32, found {array.dtype}"):
        conform(array, [info((1, 2))], "item")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_nan_and_infinity_are_refused_also_where_they_come_of_the_cast(value):
    with pytest.raises(DataError, match="item: input 'x' holds NaN or infinity"):
        conform(np.array([0.0, value]), [info((1, 2))], "item")
