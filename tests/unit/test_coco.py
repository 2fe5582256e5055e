"""COCO JSON: boxes where resize and crop put them, and every fault told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovquant.datasets.images import Images
from ovquant.datasets.readers import open_source
from ovquant.errors import DataError
from ovquant.job import DataSpec, Preprocessing
from ovquant.runtime import InputInfo

WIDTH, HEIGHT = 20, 10
CONTENT: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "b.png", "width": WIDTH, "height": HEIGHT},
        {"id": 3, "file_name": "a.png", "width": WIDTH, "height": HEIGHT},
    ],
    "annotations": [
        {"id": 0, "image_id": 7, "category_id": 90, "bbox": [2, 4, 6, 5]},
        {"id": 1, "image_id": 7, "category_id": 1, "bbox": [12.5, 0, 7.5, 10], "iscrowd": 1},
    ],
    "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}],
}


def inputs(height: int = HEIGHT, width: int = WIDTH) -> list[InputInfo]:
    return [InputInfo(name="image", shape=(1, 3, height, width), dtype=np.dtype(np.float32))]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., None]:
    """Write images and JSON, with what `change` makes of the content."""

    def call(change: Callable[[dict[str, Any]], Any] = lambda content: None) -> None:
        (tmp_path / "images").mkdir(exist_ok=True)
        for name in ("a.png", "b.png"):
            Image.new("RGB", (WIDTH, HEIGHT), (1, 2, 3)).save(tmp_path / "images" / name)
        content = json.loads(json.dumps(CONTENT))
        change(content)
        (tmp_path / "boxes.json").write_text(json.dumps(content))

    return call


def read(folder: Path, infos: list[InputInfo] | None = None, **options: Any) -> Images:
    spec = DataSpec(path=str(folder / "images"), annotations=str(folder / "boxes.json"), **options)
    found = open_source(spec.main, "main", spec, inputs() if infos is None else infos)
    assert isinstance(found, Images)
    return found


def test_items_come_in_the_order_of_names_with_their_boxes(write, tmp_path):
    write()
    data = read(tmp_path)
    assert [Path(data.item_name(i)).name for i in range(len(data))] == ["a.png", "b.png"]
    empty, label = data.labels
    assert (empty["boxes"].shape, empty["labels"].shape) == ((0, 4), (0,))
    np.testing.assert_array_equal(label["boxes"], [[2, 4, 8, 9], [12.5, 0, 20, 10]])
    assert (label["labels"].tolist(), label["is_crowd"].tolist()) == ([1, 0], [False, True])
    assert label["categories"] == ("person", "toothbrush")
    np.testing.assert_array_equal(data.sample(1)["image"][0, :, 0, 0], [1, 2, 3])


def test_the_json_alone_names_images_beside_it(write, tmp_path):
    write()
    (tmp_path / "boxes.json").rename(tmp_path / "images" / "boxes.json")
    spec = DataSpec(path=str(tmp_path / "images" / "boxes.json"))
    assert len(open_source(spec.main, "main", spec, inputs())) == 2


def test_class_names_give_the_order_of_the_categories(write, tmp_path):
    write()
    label = read(tmp_path, class_names=("toothbrush", "hair drier", "person")).labels[1]
    assert label["labels"].tolist() == [0, 2]
    with pytest.raises(DataError, match=r"category 'toothbrush' is not in data\.class_names"):
        read(tmp_path, class_names=("person", "tooth brush"))


def test_boxes_are_stretched_with_the_image(write, tmp_path):
    write()
    label = read(tmp_path, inputs(30, 40), preprocessing=Preprocessing(resize=(30, 40))).labels[1]
    np.testing.assert_array_equal(label["boxes"], [[4, 12, 16, 27], [25, 0, 40, 30]])


def test_boxes_are_cut_by_the_crop_and_left_out_beyond_it(write, tmp_path):
    write(lambda content: content["annotations"].append({"image_id": 7, "category_id": 1, "bbox": [16, 1, 3, 3]}))
    label = read(tmp_path, inputs(10, 10), preprocessing=Preprocessing(crop=(10, 10))).labels[1]
    np.testing.assert_array_equal(label["boxes"], [[0, 4, 3, 9], [7.5, 0, 10, 10]])


def test_boxes_follow_the_pixels_through_resize_and_crop(tmp_path):
    """The one bright rectangle of an image is found again where its box says."""
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[24:42, 36:60] = 255
    (tmp_path / "images").mkdir()
    Image.fromarray(pixels).save(tmp_path / "images" / "a.png")
    content = {
        "images": [{"id": 0, "file_name": "a.png", "width": 90, "height": 60}],
        "annotations": [{"image_id": 0, "category_id": 0, "bbox": [36, 24, 24, 18]}],
        "categories": [{"id": 0, "name": "x"}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    data = read(tmp_path, inputs(80, 80), preprocessing=Preprocessing(resize=120, crop=80))
    bright = data.sample(0)["image"][0, 0] > 127
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    np.testing.assert_allclose(data.labels[0]["boxes"], [[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], atol=1)


def change(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def apply(content: dict[str, Any]) -> None:
        where: Any = content
        for key in path[:-1]:
            where = where[key]
        where[path[-1]] = to

    return apply


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (change("annotations", to=[]), "annotations is empty"),
        (change("annotations", 1, "category_id", to=91), r"annotations\[1\]: category_id 91 is not among .* \(1, 90\)"),
        (change("annotations", 0, "image_id", to=4), r"annotations\[0\]: image_id 4 is not among the ids of images"),
        (change("annotations", 0, "bbox", to=[1, 2, 3]), r"annotations\[0\]: bbox must be four numbers"),
        (change("annotations", 0, "bbox", to=[1, 2, -3, 4]), "sizes not negative"),
        (change("annotations", 0, "bbox", to=[1, 2, 3, "4"]), "bbox must be four numbers"),
        (change("annotations", 0, "category_id", to="90"), r"annotations\[0\]: needs category_id \(int\), found '90'"),
        (change("images", 0, "file_name", to=None), r"images\[0\]: needs file_name \(str\), found 'None'"),
        (change("images", 0, "width", to=0), "width and height must be at least 1"),
        (change("images", 0, "id", to=3), "images: an id is given twice"),
        (change("images", to=[]), "images is empty"),
        (change("categories", to={}), "no COCO JSON: it must hold the lists"),
        (change("images", 0, "file_name", to="a.png"), r"lists .*a\.png twice"),
        (change("images", 0, "file_name", to="c.png"), r"1 of 2 files are missing, the first one is .*c\.png"),
        (change("images", 0, "file_name", to="../boxes.json"), r"'\.\./boxes\.json' leads out of .*images; files are relative"),
        (change("images", 0, "file_name", to="/etc/passwd"), "'/etc/passwd' leads out of"),
        (change("images", 0, "file_name", to="a\0.png"), "is no path"),
    ],
)
def test_what_is_wrong_is_told(write, tmp_path, wrong, message):
    write(wrong)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_what_is_no_json_is_told(write, tmp_path):
    write()
    for text in ("{", "[" * 100_000, "[]", ""):
        (tmp_path / "boxes.json").write_text(text)
        with pytest.raises(DataError, match=r"boxes\.json: (cannot be read as JSON|no COCO JSON)"):
            read(tmp_path)


def test_a_link_that_leads_out_of_the_folder_is_refused(write, tmp_path):
    write()
    (tmp_path / "images" / "b.png").rename(tmp_path / "elsewhere.png")
    (tmp_path / "images" / "b.png").symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(DataError, match=r"'b\.png' leads out of"):
        read(tmp_path)


def test_an_image_of_another_size_than_annotated_is_told(write, tmp_path):
    write()
    Image.new("RGB", (HEIGHT, WIDTH)).save(tmp_path / "images" / "b.png")
    with pytest.raises(DataError, match=r"b\.png: has 10x20 pixels, 20x10 according to .*boxes\.json"):
        read(tmp_path).sample(1)


@pytest.mark.parametrize("name", ["nowhere.json", "images"])
def test_annotations_must_be_a_file(write, tmp_path, name):
    write()
    spec = DataSpec(path=str(tmp_path / "images"), annotations=str(tmp_path / name))
    with pytest.raises(DataError, match=rf"{name}: (no such file|not a .json)"):
        open_source(spec.main, "main", spec, inputs())


def test_annotations_belong_to_a_folder(write, tmp_path):
    write()
    np.savez(tmp_path / "data.npz", x=np.zeros(3))
    spec = DataSpec(path=str(tmp_path / "data.npz"), annotations=str(tmp_path / "boxes.json"))
    with pytest.raises(DataError, match="annotations and masks belong to a folder of images"):
        open_source(spec.main, "main", spec, inputs())
