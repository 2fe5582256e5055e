"""Images: resize, crop, channel order, normalization, layout."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ovquant.datasets.preprocess import image_to_array, model_layout, normalize
from ovquant.errors import DataError
from ovquant.job import Preprocessing
from ovquant.runtime import InputInfo

F32 = np.dtype("float32")


def image_info(*shape: int | None) -> InputInfo:
    return InputInfo(name="image", shape=shape, dtype=F32)


def image_of(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("size", "expected"), [((20, 30), (10, 15)), ((30, 20), (15, 10)), ((40, 40), (10, 10)), ((5, 8), (10, 16))]
)
def test_one_number_makes_the_shorter_side_that_long_and_keeps_the_aspect_ratio(size, expected):
    assert image_to_array(image_of(*size), Preprocessing(resize=10)).shape == (*expected, 3)


def test_two_numbers_are_height_and_width_whatever_the_aspect_ratio():
    assert image_to_array(image_of(20, 30), Preprocessing(resize=(7, 9))).shape == (7, 9, 3)


def test_resize_is_bilinear():
    image = image_of(20, 30)
    expected = np.asarray(image.resize((9, 7), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(image_to_array(image, Preprocessing(resize=(7, 9))), expected)


def test_crop_takes_the_centre():
    image = image_of(10, 12)
    np.testing.assert_array_equal(image_to_array(image, Preprocessing(crop=(4, 6))), np.asarray(image)[3:7, 3:9])


def test_crop_by_one_number_is_a_square():
    image = image_of(10, 12)
    np.testing.assert_array_equal(image_to_array(image, Preprocessing(crop=4)), np.asarray(image)[3:7, 4:8])


def test_crop_comes_after_resize():
    image = image_of(20, 30)
    resized = np.asarray(image.resize((15, 10), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(image_to_array(image, Preprocessing(resize=10, crop=10)), resized[:, 2:12])


def test_crop_larger_than_the_image_tells_both_sizes():
    with pytest.raises(DataError, match=r"preprocessing\.crop: 8x30 is larger than the image, 10x12; set resize, too"):
        image_to_array(image_of(10, 12), Preprocessing(crop=(8, 30)))


def test_without_options_the_pixels_are_as_stored():
    image = image_of(4, 5)
    np.testing.assert_array_equal(image_to_array(image, Preprocessing()), np.asarray(image))


def test_bgr_reverses_the_channels():
    image = image_of(4, 5)
    np.testing.assert_array_equal(image_to_array(image, Preprocessing(channels="BGR")), np.asarray(image)[:, :, ::-1])


def test_gray_is_luminance_with_one_channel():
    image = image_of(4, 5)
    array = image_to_array(image, Preprocessing(channels="GRAY"))
    np.testing.assert_array_equal(array[:, :, 0], np.asarray(image.convert("L")))
    assert array.shape == (4, 5, 1)


def test_gray_image_serves_a_colour_model():
    gray = image_of(4, 5).convert("L")
    array = image_to_array(gray, Preprocessing())
    for channel in range(3):
        np.testing.assert_array_equal(array[:, :, channel], np.asarray(gray))


def test_palette_image_is_resized_like_the_colours_it_shows():
    palette = image_of(20, 20).quantize(16)
    expected = image_to_array(palette.convert("RGB"), Preprocessing(resize=(7, 7)))
    np.testing.assert_array_equal(image_to_array(palette, Preprocessing(resize=(7, 7))), expected)


def test_sixteen_bit_image_is_scaled_or_refused_but_not_clipped():
    ramp = np.linspace(0, 65535, 16, dtype=np.uint16).reshape(4, 4)
    try:
        array = image_to_array(Image.fromarray(ramp), Preprocessing(channels="GRAY"))
    except DataError:
        return
    np.testing.assert_allclose(array[:, :, 0], ramp / 257, atol=1)


def test_mean_and_scale_go_by_channel():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    options = Preprocessing(mean=(1, 2, 3), scale=(2, 4, 8))
    expected = (pixels.astype(np.float64) - [1, 2, 3]) / [2, 4, 8]
    array = normalize(pixels, options, "NHWC", F32)
    assert array.dtype == np.float32
    np.testing.assert_allclose(array, expected, rtol=1e-6)


def test_mean_alone_leaves_the_scale_and_scale_alone_the_mean():
    pixels = np.full((2, 2, 3), 10, np.uint8)
    assert normalize(pixels, Preprocessing(mean=4), "NHWC", F32).max() == 6
    assert normalize(pixels, Preprocessing(scale=4), "NHWC", F32).max() == 2.5


def test_one_value_serves_all_channels():
    pixels = np.full((2, 2, 3), 10, np.uint8)
    np.testing.assert_array_equal(normalize(pixels, Preprocessing(mean=4, scale=2), "NHWC", F32), np.full((2, 2, 3), 3.0))


@pytest.mark.parametrize("name", ["mean", "scale"])
def test_wrong_number_of_values_is_told_with_the_channels(name):
    options = Preprocessing.model_validate({name: [1, 2]})
    with pytest.raises(DataError, match=rf"preprocessing\.{name}: 2 values for 3 channels"):
        normalize(np.zeros((2, 2, 3), np.uint8), options, "NCHW", F32)


def test_nchw_moves_the_channels_first():
    pixels = np.arange(30, dtype=np.uint8).reshape(2, 5, 3)
    array = normalize(pixels, Preprocessing(), "NCHW", F32)
    assert array.flags.c_contiguous
    np.testing.assert_array_equal(array, pixels.transpose(2, 0, 1))


def test_nhwc_leaves_the_channels_last():
    pixels = np.arange(30, dtype=np.uint8).reshape(2, 5, 3)
    np.testing.assert_array_equal(normalize(pixels, Preprocessing(), "NHWC", F32), pixels)


def test_layouts_apply_to_stacks_of_images_too():
    stack = np.arange(120, dtype=np.uint8).reshape(4, 2, 5, 3)
    np.testing.assert_array_equal(normalize(stack, Preprocessing(), "NCHW", F32), stack.transpose(0, 3, 1, 2))


def test_integer_input_gets_the_stored_values():
    pixels = np.arange(30, dtype=np.uint8).reshape(2, 5, 3)
    array = normalize(pixels, Preprocessing(), "NHWC", np.dtype("uint8"))
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, pixels)


@pytest.mark.parametrize(
    ("shape", "layout"),
    [((1, 3, 8, 8), "NCHW"), ((1, 8, 8, 3), "NHWC"), ((None, 1, None, None), "NCHW"), ((None, None, None, 4), "NHWC")],
)
def test_layout_is_read_off_the_shape(shape, layout):
    assert model_layout(Preprocessing(), image_info(*shape), "data") == layout


def test_layout_as_told_wins_over_the_shape():
    assert model_layout(Preprocessing(layout="NHWC"), image_info(1, 3, 8, 8), "data") == "NHWC"


@pytest.mark.parametrize("shape", [(1, 3, 8, 3), (1, 8, 8, 8), (None, None, None, None)])
def test_ambiguous_layout_asks_for_the_option(shape):
    with pytest.raises(DataError, match=r"data: cannot tell the layout of input 'image' .*; set preprocessing\.layout"):
        model_layout(Preprocessing(), image_info(*shape), "data")


def test_input_that_is_no_image_is_refused():
    with pytest.raises(DataError, match="data: images need a model input of rank 4, 'image' has shape"):
        model_layout(Preprocessing(layout="NCHW"), image_info(1, 8), "data")


def test_input_of_dynamic_rank_is_refused():
    with pytest.raises(DataError, match="images need a model input of rank 4"):
        model_layout(Preprocessing(), InputInfo(name="image", shape=None, dtype=F32), "data")
