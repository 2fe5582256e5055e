"""Image folders, .npz files and Python entries."""

from __future__ import annotations

import io
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from PIL import Image

from ovquant.datasets.readers import ArrayFile, ImageFolder, PythonSamples, load_function, npz_has, open_source
from ovquant.errors import DataError
from ovquant.job import DataSpec, Preprocessing, Source
from ovquant.runtime import InputInfo

IMAGE = (InputInfo(name="image", shape=(1, 3, 6, 6), dtype=np.dtype("float32")),)
VECTOR = (InputInfo(name="features", shape=(None, 8), dtype=np.dtype("float32")),)
PAIR = (
    InputInfo(name="left", shape=(None, 8), dtype=np.dtype("float32")),
    InputInfo(name="right", shape=(None, 4), dtype=np.dtype("int32")),
)


def pixels(seed: int = 0, side: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def write_image(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed)).save(path)
    return path


def image_folder(path: Path, **options) -> ImageFolder:
    return ImageFolder(path, spec=DataSpec(path=str(path), **options), inputs=IMAGE)


def array_file(path: Path, inputs=VECTOR, part="main", **options) -> ArrayFile:
    spec = DataSpec(path=str(path), **options)
    return ArrayFile(path, source=spec.main, part=part, spec=spec, inputs=inputs)


def write_npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def vectors(n_items: int = 3) -> np.ndarray:
    return np.arange(n_items * 8, dtype=np.float32).reshape(n_items, 8)


def python_samples(folder: Path, code: str, function: str = "samples", inputs=VECTOR, **arguments) -> PythonSamples:
    path = folder / "entry.py"
    path.write_text("import numpy as np\n" + dedent(code))
    return PythonSamples(path, function, arguments=arguments, inputs=inputs)


# Image folders


def test_class_folders_are_numbered_in_sorted_order(tmp_path):
    for name in ("zebra/1.png", "ant/2.png", "ant/1.png"):
        write_image(tmp_path / name)
    folder = image_folder(tmp_path)
    assert [Path(folder.item_name(i)).relative_to(tmp_path).as_posix() for i in range(len(folder))] == [
        "ant/1.png",
        "ant/2.png",
        "zebra/1.png",
    ]
    assert folder.labels == [0, 0, 1]


def test_numeric_class_folders_are_the_classes_they_name(tmp_path):
    for name in ("10/a.png", "9/a.png", "2/a.png"):
        write_image(tmp_path / name)
    folder = image_folder(tmp_path)
    assert {Path(folder.item_name(i)).parent.name: label for i, label in enumerate(folder.labels)} == {"10": 10, "9": 9, "2": 2}


def test_class_names_give_the_order_of_the_outputs(tmp_path):
    write_image(tmp_path / "ant" / "1.png")
    write_image(tmp_path / "zebra" / "1.png")
    assert image_folder(tmp_path, class_names=("zebra", "yak", "ant")).labels == [2, 0]


def test_class_folder_missing_in_class_names_is_told_with_a_hint(tmp_path):
    write_image(tmp_path / "zebra" / "1.png")
    with pytest.raises(DataError, match=r"class 'zebra' is not in data\.class_names \(did you mean 'zebras'\?\)"):
        image_folder(tmp_path, class_names=("zebras", "ants"))


def test_flat_folder_has_no_labels(tmp_path):
    write_image(tmp_path / "b.png")
    write_image(tmp_path / "a.JPG")
    folder = image_folder(tmp_path)
    assert folder.labels is None
    assert [Path(folder.item_name(i)).name for i in range(len(folder))] == ["a.JPG", "b.png"]


def test_files_that_are_no_images_are_left_out(tmp_path):
    write_image(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("no image")
    assert len(image_folder(tmp_path)) == 1


@pytest.mark.parametrize("name", ["a.png", "cat/a.png"])
def test_hidden_folders_are_no_classes(tmp_path, name):
    write_image(tmp_path / name)
    write_image(tmp_path / ".cache" / "b.png")
    folder = image_folder(tmp_path)
    assert [folder.item_name(index) for index in range(len(folder))] == [str(tmp_path / name)]
    assert folder.labels == ([0] if "cat" in name else None)


def test_class_folder_without_images_is_refused_unless_the_classes_are_listed(tmp_path):
    write_image(tmp_path / "ant" / "1.png")
    (tmp_path / "bee").mkdir()
    write_image(tmp_path / "cat" / "1.png")
    with pytest.raises(DataError, match=r"no images in bee: .* list the classes in data\.class_names"):
        image_folder(tmp_path)
    assert image_folder(tmp_path, class_names=("ant", "bee", "cat")).labels == [0, 2]


def test_numbered_class_folders_may_be_empty(tmp_path):
    write_image(tmp_path / "0" / "1.png")
    (tmp_path / "1").mkdir()
    write_image(tmp_path / "2" / "1.png")
    assert image_folder(tmp_path).labels == [0, 2]


def test_images_beside_class_folders_are_refused(tmp_path):
    write_image(tmp_path / "cat" / "a.png")
    write_image(tmp_path / "stray.png")
    with pytest.raises(DataError, match="holds 1 images beside 1 class folders; put each image into the folder of its class"):
        image_folder(tmp_path)


@pytest.mark.parametrize("folder", ["", "class"])
def test_folder_without_images_is_refused_with_what_is_accepted(tmp_path, folder):
    (tmp_path / folder).mkdir(exist_ok=True)
    with pytest.raises(DataError, match=r"holds no images; accepted: .*\.jpg.*\.png.*, in class sub-folders or not"):
        image_folder(tmp_path)


def test_image_sample_is_normalized_in_the_layout_of_the_model(tmp_path):
    write_image(tmp_path / "a.png", seed=5)
    folder = image_folder(tmp_path, preprocessing=Preprocessing(mean=100, scale=60))
    expected = ((pixels(5).astype(np.float32) - 100) / 60).transpose(2, 0, 1)[np.newaxis]
    np.testing.assert_allclose(folder.sample(0)["image"], expected, rtol=1e-6)


def test_broken_image_is_told_by_its_path(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image at all")
    with pytest.raises(DataError, match=r"bad\.png: cannot be read as an image: cannot identify image file"):
        image_folder(tmp_path).sample(0)


def test_truncated_image_is_told_by_its_path(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(pixels(side=64)).save(buffer, "PNG")
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[:2000])
    with pytest.raises(DataError, match=r"cut\.png: cannot be read as an image: "):
        image_folder(tmp_path).sample(0)


def test_crop_larger_than_an_image_is_told_with_its_path(tmp_path):
    write_image(tmp_path / "small.png")
    with pytest.raises(DataError, match=r"small\.png: preprocessing\.crop: 8x8 is larger than the image, 6x6"):
        image_folder(tmp_path, preprocessing=Preprocessing(crop=8)).sample(0)


def test_image_folder_is_refused_for_a_model_with_two_inputs(tmp_path):
    with pytest.raises(DataError, match="images serve models with one input, this one has 2"):
        ImageFolder(tmp_path, spec=DataSpec(path=str(tmp_path)), inputs=PAIR)


# .npz files


@pytest.mark.parametrize("name", ["features", "x", "inputs", "images", "data", "x_val", "features_validation"])
def test_input_is_found_by_its_own_or_a_usual_name(tmp_path, name):
    data = array_file(write_npz(tmp_path / "d.npz", **{name: vectors(), "other": vectors(5)}))
    np.testing.assert_array_equal(data.sample(1)["features"], vectors()[1:2])


@pytest.mark.parametrize("name", ["y", "labels", "label", "targets"])
def test_labels_are_found_by_a_usual_name(tmp_path, name):
    data = array_file(write_npz(tmp_path / "d.npz", **{"x": vectors(), name: np.array([2, 0, 1])}))
    assert data.labels == [2, 0, 1]


@pytest.mark.parametrize(
    ("part", "suffix"),
    [("calibration", "_calib"), ("calibration", "_calibration"), ("holdout", "_holdout"), ("holdout", "_test")],
)
def test_arrays_of_a_part_are_found_by_their_suffix(tmp_path, part, suffix):
    arrays = {"x": vectors(3), "y": np.arange(3), f"x{suffix}": vectors(5), f"y{suffix}": np.arange(5)}
    path = write_npz(tmp_path / "d.npz", **arrays)
    assert npz_has(path, part, VECTOR)
    data = array_file(path, part=part)
    assert len(data) == 5
    assert data.labels == [0, 1, 2, 3, 4]


def test_file_without_arrays_of_a_part_does_not_have_it(tmp_path):
    path = write_npz(tmp_path / "d.npz", x=vectors(), y=np.arange(3))
    assert not npz_has(path, "calibration", VECTOR)


def test_labels_of_another_part_are_not_taken(tmp_path):
    path = write_npz(tmp_path / "d.npz", x=vectors(), x_holdout=vectors(), y=np.arange(3))
    assert array_file(path, part="holdout").labels is None


def test_labels_with_the_suffix_of_the_inputs_win_over_others(tmp_path):
    arrays = {"x_val": vectors(), "y_val": np.array([2, 0, 1]), "labels": np.array(["cat", "dog", "emu"])}
    assert array_file(write_npz(tmp_path / "d.npz", **arrays)).labels == [2, 0, 1]


@pytest.mark.parametrize("part", ["calibration", "holdout"])
def test_file_that_serves_one_part_alone_needs_no_suffix(tmp_path, part):
    path = write_npz(tmp_path / "own.npz", x=vectors(), y=np.arange(3))
    spec = DataSpec(path="main.npz", **{part: Source(path=str(path))})
    assert len(open_source(Source(path=str(path)), part, spec, VECTOR)) == 3


def test_arrays_that_cannot_be_told_in_a_holdout_file_point_at_the_key_of_that_source(tmp_path):
    path = write_npz(tmp_path / "own.npz", first=vectors())
    spec = DataSpec(path="main.npz", holdout=Source(path=str(path)))
    with pytest.raises(DataError, match=r"data\.holdout\.inputs"):
        open_source(Source(path=str(path)), "holdout", spec, VECTOR)


def test_mapping_names_inputs_and_labels(tmp_path):
    path = write_npz(tmp_path / "d.npz", x=vectors(2), mine=vectors(3), truth=np.array([7, 8, 9]))
    spec = DataSpec(path=str(path), inputs={"features": "mine"}, labels="truth")
    data = ArrayFile(path, source=spec.main, part="main", spec=spec, inputs=VECTOR)
    np.testing.assert_array_equal(data.sample(2)["features"], vectors(3)[2:])
    assert data.labels == [7, 8, 9]


def test_several_inputs_are_found_by_their_names(tmp_path):
    right = np.arange(12).reshape(3, 4)
    data = array_file(write_npz(tmp_path / "d.npz", left=vectors(), right=right, y=np.arange(3)), inputs=PAIR)
    sample = data.sample(1)
    np.testing.assert_array_equal(sample["left"], vectors()[1:2])
    np.testing.assert_array_equal(sample["right"], right[1:2])
    assert sample["right"].dtype == np.int32


def test_arrays_that_cannot_be_told_are_listed(tmp_path):
    path = write_npz(tmp_path / "d.npz", first=vectors(), second=vectors())
    with pytest.raises(
        DataError, match=r"cannot tell which arrays feed features; it holds first, second\. Name them in data\.inputs"
    ):
        array_file(path)


def test_missing_array_gets_a_hint_and_the_list(tmp_path):
    path = write_npz(tmp_path / "d.npz", images=vectors(), y=np.arange(3))
    spec = DataSpec(path=str(path), inputs={"features": "image"})
    with pytest.raises(DataError, match=r"no array 'image' \(did you mean 'images'\?\); it holds images, y"):
        ArrayFile(path, source=spec.main, part="main", spec=spec, inputs=VECTOR)


def test_missing_label_array_gets_a_hint(tmp_path):
    path = write_npz(tmp_path / "d.npz", x=vectors(), classes=np.arange(3))
    spec = DataSpec(path=str(path), labels="clases")
    with pytest.raises(DataError, match=r"no array 'clases' \(did you mean 'classes'\?\)"):
        ArrayFile(path, source=spec.main, part="main", spec=spec, inputs=VECTOR)


def test_unequal_lengths_are_told_by_array(tmp_path):
    path = write_npz(tmp_path / "d.npz", x=vectors(3), y=np.arange(4))
    with pytest.raises(DataError, match="same number of items, at least one; found x: 3, y: 4"):
        array_file(path)


def test_empty_arrays_are_refused(tmp_path):
    with pytest.raises(DataError, match="same number of items, at least one; found x: 0"):
        array_file(write_npz(tmp_path / "d.npz", x=vectors(0)))


def test_single_number_is_refused(tmp_path):
    with pytest.raises(DataError, match="array 'x' is a single number; the first axis must count items"):
        array_file(write_npz(tmp_path / "d.npz", x=np.float32(3)))


class Unpickled:
    """Leaves a trace if anyone unpickles it."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_pickled_objects_are_refused_and_never_run(tmp_path):
    trace = tmp_path / "was-here"
    path = write_npz(tmp_path / "d.npz", x=np.array([Unpickled(trace)] * 3, dtype=object))
    with pytest.raises(DataError, match="array 'x' cannot be read: Object arrays cannot be loaded"):
        array_file(path)
    assert not trace.exists()


def test_truncated_file_is_refused(tmp_path):
    path = write_npz(tmp_path / "d.npz", x=vectors(100))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"d\.npz: cannot be read as \.npz: "):
        array_file(path)


def test_damaged_array_is_refused(tmp_path):
    path = write_npz(tmp_path / "d.npz", x=vectors(100))
    content = bytearray(path.read_bytes())
    content[600:700] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(DataError, match="array 'x' cannot be read: Bad CRC-32"):
        array_file(path)


def test_array_saved_alone_under_the_name_of_an_npz_is_refused(tmp_path):
    with (tmp_path / "d.npz").open("wb") as file:
        np.save(file, vectors())
    with pytest.raises(DataError, match=r"d\.npz: cannot be read as \.npz: "):
        array_file(tmp_path / "d.npz")


def test_array_item_is_named_by_file_and_index(tmp_path):
    assert array_file(write_npz(tmp_path / "d.npz", x=vectors())).item_name(2) == f"{tmp_path / 'd.npz'}[2]"


@pytest.mark.parametrize("is_stored_as_chw", [False, True])
def test_stored_images_are_normalized_in_the_layout_of_the_model(tmp_path, is_stored_as_chw):
    images = np.stack([pixels(1), pixels(2)])
    stored = images.transpose(0, 3, 1, 2) if is_stored_as_chw else images
    options = Preprocessing(mean=(10, 20, 30), scale=(2, 4, 8))
    data = array_file(write_npz(tmp_path / "d.npz", x=stored), inputs=IMAGE, preprocessing=options)
    expected = ((images[1].astype(np.float32) - [10, 20, 30]) / [2, 4, 8]).transpose(2, 0, 1)
    np.testing.assert_allclose(data.sample(1)["image"][0], expected, rtol=1e-6)


def test_stored_images_are_resized(tmp_path):
    image = pixels(3, side=9)
    data = array_file(
        write_npz(tmp_path / "d.npz", x=image[np.newaxis]), inputs=IMAGE, preprocessing=Preprocessing(resize=(6, 6))
    )
    expected = np.asarray(Image.fromarray(image).resize((6, 6), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(data.sample(0)["image"][0], expected.transpose(2, 0, 1))


def test_stored_images_serve_a_bgr_model(tmp_path):
    data = array_file(
        write_npz(tmp_path / "d.npz", x=pixels()[np.newaxis]), inputs=IMAGE, preprocessing=Preprocessing(channels="BGR")
    )
    np.testing.assert_array_equal(data.sample(0)["image"][0], pixels()[:, :, ::-1].transpose(2, 0, 1))


def test_stored_images_serve_a_gray_model(tmp_path):
    gray = (InputInfo(name="image", shape=(1, 1, 6, 6), dtype=np.dtype("float32")),)
    data = array_file(
        write_npz(tmp_path / "d.npz", x=pixels()[np.newaxis]), inputs=gray, preprocessing=Preprocessing(channels="GRAY")
    )
    np.testing.assert_array_equal(data.sample(0)["image"][0, 0], np.asarray(Image.fromarray(pixels()).convert("L")))


def test_float_arrays_are_taken_as_they_are(tmp_path):
    stored = np.random.default_rng(0).normal(size=(2, 3, 6, 6)).astype(np.float32)
    data = array_file(write_npz(tmp_path / "d.npz", x=stored), inputs=IMAGE)
    np.testing.assert_array_equal(data.sample(1)["image"], stored[1:])


def test_mean_and_scale_are_applied_or_refused_for_gray_images_without_a_channel_axis(tmp_path):
    path = write_npz(tmp_path / "d.npz", x=np.full((2, 6, 6), 255, np.uint8))
    inputs = (InputInfo(name="image", shape=(1, 6, 6), dtype=np.dtype("float32")),)
    try:
        sample = array_file(path, inputs=inputs, preprocessing=Preprocessing(mean=127, scale=128)).sample(0)
    except DataError:
        return
    assert sample["image"].max() == 1


@pytest.mark.parametrize(("stored_type", "model_type"), [("float32", "float32"), ("uint8", "uint8")])
def test_arrays_that_are_not_rearranged_get_the_advice_to_transpose(tmp_path, stored_type, model_type):
    path = write_npz(tmp_path / "d.npz", x=np.ones((2, 6, 6, 3), stored_type))
    inputs = (InputInfo(name="image", shape=(1, 3, 6, 6), dtype=np.dtype(model_type)),)
    with pytest.raises(DataError, match="transpose it"):
        array_file(path, inputs=inputs).sample(0)


def test_preprocessing_of_what_is_no_image_is_refused(tmp_path):
    path = write_npz(tmp_path / "d.npz", x=np.ones((2, 3, 6, 6), np.float32))
    inputs = (InputInfo(name="image", shape=(1, 3, 6, 6), dtype=np.dtype("float32")),)
    with pytest.raises(DataError, match="preprocessing is for uint8 images"):
        array_file(path, inputs=inputs, preprocessing=Preprocessing(mean=1)).sample(0)


# Python entries


def test_pairs_give_inputs_and_labels(tmp_path):
    data = python_samples(tmp_path, "def samples():\n    for i in range(3):\n        yield np.full(8, i), i * 10")
    assert (len(data), data.labels) == (3, [0, 10, 20])
    np.testing.assert_array_equal(data.sample(2)["features"], np.full((1, 8), 2.0))


def test_inputs_alone_give_no_labels(tmp_path):
    data = python_samples(tmp_path, "def samples():\n    return [np.zeros(8), np.ones(8)]")
    assert (len(data), data.labels) == (2, None)


def test_mapping_feeds_several_inputs(tmp_path):
    code = """
        def samples():
            yield {"left": np.ones(8), "right": np.arange(4)}, 1
        """
    data = python_samples(tmp_path, code, inputs=PAIR)
    np.testing.assert_array_equal(data.sample(0)["right"], [[0, 1, 2, 3]])


def test_arguments_reach_the_function(tmp_path):
    data = python_samples(tmp_path, "def samples(n, value=0):\n    return [np.full(8, value)] * n", n=4, value=2)
    assert len(data) == 4
    assert data.sample(0)["features"].max() == 2


def test_unknown_argument_is_told(tmp_path):
    with pytest.raises(DataError, match=r"entry\.py:samples: raised TypeError: .*unexpected keyword argument 'm'"):
        python_samples(tmp_path, "def samples(n=1):\n    return [np.zeros(8)] * n", m=4)


def test_mixture_of_pairs_and_inputs_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"either inputs or \(inputs, label\) pairs, not both"):
        python_samples(tmp_path, "def samples():\n    yield np.zeros(8), 1\n    yield np.zeros(8)")


def test_error_while_yielding_is_told_by_type_and_first_line(tmp_path):
    code = """
        def samples():
            yield np.zeros(8)
            raise RuntimeError("no disk\\nand more")
        """
    with pytest.raises(DataError, match=r"entry\.py:samples: raised RuntimeError: no disk$"):
        python_samples(tmp_path, code)


def test_nothing_yielded_is_refused(tmp_path):
    with pytest.raises(DataError, match="yielded nothing"):
        python_samples(tmp_path, "def samples():\n    return []")


def test_bad_item_is_told_by_its_index(tmp_path):
    data = python_samples(tmp_path, "def samples():\n    return [np.zeros(8), np.zeros(7)]")
    with pytest.raises(DataError, match=r"entry\.py:samples\[1\]: input 'features' takes shape \?x8, found 1x7"):
        data.sample(1)


def test_missing_function_gets_a_hint(tmp_path):
    with pytest.raises(DataError, match=r"has no function 'sample' \(did you mean 'samples'\?\)"):
        python_samples(tmp_path, "def samples():\n    return []", function="sample")


def test_missing_python_file_is_told(tmp_path):
    with pytest.raises(DataError, match=r"nope\.py: no such Python file"):
        load_function(tmp_path / "nope.py", "samples")


@pytest.mark.parametrize(
    ("code", "told"), [("1 / 0", "ZeroDivisionError when imported: division by zero"), ("def f(:", "SyntaxError when imported")]
)
def test_file_that_cannot_be_imported_is_told(tmp_path, code, told):
    (tmp_path / "bad.py").write_text(code)
    with pytest.raises(DataError, match=rf"bad\.py: raised {told}"):
        load_function(tmp_path / "bad.py", "f")


def test_file_imports_its_neighbours(tmp_path):
    (tmp_path / "ovquant_test_neighbour.py").write_text("VALUE = 7")
    data = python_samples(tmp_path, "import ovquant_test_neighbour as n\ndef samples():\n    return [np.full(8, n.VALUE)]")
    assert data.sample(0)["features"].max() == 7


def test_file_may_define_dataclasses_with_postponed_annotations(tmp_path):
    code = """\
        from __future__ import annotations
        import dataclasses

        @dataclasses.dataclass
        class Options:
            n: int = 1

        def samples():
            return [[0.0] * 8] * Options().n
        """
    (tmp_path / "entry.py").write_text(dedent(code))
    assert len(load_function(tmp_path / "entry.py", "samples")()) == 1


# Any source


@pytest.mark.parametrize(("name", "kind"), [("folder", ImageFolder), ("d.npz", ArrayFile), ("entry.py:samples", PythonSamples)])
def test_reader_is_chosen_by_the_path(tmp_path, name, kind):
    write_image(tmp_path / "folder" / "a.png")
    write_npz(tmp_path / "d.npz", x=pixels()[np.newaxis])
    (tmp_path / "entry.py").write_text("def samples():\n    return [[0]]")
    spec = DataSpec(path=str(tmp_path / name))
    assert isinstance(open_source(spec.main, "main", spec, IMAGE), kind)


def test_missing_path_is_told_with_what_data_can_be():
    spec = DataSpec(path="nowhere/data")
    with pytest.raises(
        DataError, match=r"nowhere/data: no such file or directory; data is: image folder, \.csv file, .*file\.py:function"
    ):
        open_source(spec.main, "main", spec, IMAGE)


def test_missing_npz_is_told():
    spec = DataSpec(path="nowhere/data.npz")
    with pytest.raises(DataError, match=r"nowhere/data\.npz: no such file"):
        open_source(spec.main, "main", spec, IMAGE)


@pytest.mark.parametrize("name", ["table.tsv", "entry.py"])
def test_unknown_kind_of_file_is_told_with_what_is_accepted(tmp_path, name):
    (tmp_path / name).write_text("1,2,3")
    spec = DataSpec(path=str(tmp_path / name))
    with pytest.raises(
        DataError, match=r"not a kind of data that is known here; accepted: image folder, \.csv file, .*file\.py:function"
    ):
        open_source(spec.main, "main", spec, IMAGE)


# Sources with a transform, as NNCF's data sets have


def write_source(folder: Path, returned: str) -> DataSpec:
    (folder / "source.py").write_text(f"import numpy as np\n\ndef make():\n    return {returned}\n")
    return DataSpec(path=f"{folder / 'source.py'}:make")


def test_transform_gives_the_inputs_and_a_third_function_the_labels(tmp_path):
    spec = write_source(tmp_path, "range(3), lambda n: np.full(8, n, np.float32), lambda n: n * n")
    data = open_source(spec.main, "main", spec, VECTOR)
    assert data.labels == [0, 1, 4]
    np.testing.assert_array_equal(data.sample(2)[VECTOR[0].name], [[2] * 8])
    spec = write_source(tmp_path, "range(3), lambda n: np.full(8, n, np.float32)")
    assert open_source(spec.main, "main", spec, VECTOR).labels is None


def test_transform_may_give_several_inputs_in_their_order(tmp_path):
    shapes = ", ".join(f"np.full({info.shape[1]}, n, {info.dtype.str!r})" for info in PAIR if info.shape)
    spec = write_source(tmp_path, f"range(2), lambda n: ({shapes})")
    assert set(open_source(spec.main, "main", spec, PAIR).sample(1)) == {info.name for info in PAIR}


def test_transform_that_fails_is_told(tmp_path):
    spec = write_source(tmp_path, "range(3), lambda n: n['image']")
    with pytest.raises(DataError, match=r"source\.py:make: raised TypeError"):
        open_source(spec.main, "main", spec, VECTOR)


def test_several_arrays_of_labels(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.zeros((3, 8), np.float32), digit=np.arange(3), angle=np.arange(3) / 2)
    spec = DataSpec(path=str(tmp_path / "data.npz"), labels=("digit", "angle"))
    assert open_source(spec.main, "main", spec, VECTOR).labels[1] == {"digit": 1, "angle": 0.5}
