"""CSV files and folders of masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ovquant.datasets import images
from ovquant.datasets.files import files_of
from ovquant.datasets.readers import open_source
from ovquant.datasets.splits import fingerprint
from ovquant.datasets.table import typed
from ovquant.errors import DataError
from ovquant.job import DataSpec, Preprocessing
from ovquant.protocols import Dataset
from ovquant.runtime import InputInfo

INPUTS = [InputInfo(name="image", shape=(1, 1, 4, 6), dtype=np.dtype(np.float32))]
GRAY = Preprocessing(channels="GRAY")
MASK = np.arange(24, dtype=np.uint8).reshape(4, 6)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Path:
    """Write three images and their masks."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        for index in range(3):
            Image.fromarray(MASK + index).save(tmp_path / name / f"{index}.png")
    return tmp_path


def read(folder: Path, text: str | None = None, **options: Any) -> Dataset:
    options = {"path": str(folder / "table.csv"), "preprocessing": GRAY, **options}
    if text is not None:
        (folder / "table.csv").write_text(text)
    spec = DataSpec(**options)
    return open_source(spec.main, "main", spec, INPUTS)


def rows(header: str, *cells: str) -> str:
    return "\n".join([header, *(f"images/{index}.png,{cell}" for index, cell in enumerate(cells))]) + "\n"


@pytest.mark.parametrize(
    ("cells", "labels"),
    [(("2", "0", "-1"), [2, 0, -1]), (("2", "0.5", "1e3"), [2.0, 0.5, 1000.0]), (("cat", "07", "1"), ["cat", "07", "1"])],
)
def test_labels_are_numbers_where_all_are(folder, cells, labels):
    data = read(folder, rows("image,label", *cells))
    assert list(data.labels) == labels
    assert [type(label) for label in data.labels] == [type(label) for label in labels]
    np.testing.assert_array_equal(data.sample(1)["image"][0, 0], MASK + 1)


def test_text_stays_text(folder):
    assert list(read(folder, rows("image,text", "12", "007", '"a,b"')).labels) == ["12", "007", "a,b"]


def test_names_of_classes_become_their_places(folder):
    data = read(folder, rows("image,label", "cat", "dog", "cat"), class_names=("dog", "cat"))
    assert list(data.labels) == [1, 0, 1]
    with pytest.raises(DataError, match=r"row 3: 'dgo' is not in data.class_names \(did you mean 'dog'\?\)"):
        read(folder, rows("image,label", "cat", "dgo", "cat"), class_names=("dog", "cat"))


def test_suffix_may_be_in_capitals(folder):
    (folder / "TABLE.CSV").write_text(rows("image,label", "1", "2", "3"))
    assert len(read(folder, path=str(folder / "TABLE.CSV"))) == 3
    assert "images/0.png" in files_of(DataSpec(path=str(folder / "TABLE.CSV")).main)


def test_table_without_labels(folder):
    assert read(folder, "image\nimages/0.png\nimages/2.png\n").labels is None


def test_several_columns_of_labels(folder):
    data = read(folder, rows("image,digit,angle", "1,0.5", "2,1", "3,2"), labels=("digit", "angle"))
    assert data.labels[1] == {"digit": 2, "angle": 1.0}


def test_column_of_masks(folder):
    text = rows("image,label,mask", *(f"{i},masks/{i}.png" for i in range(3)))
    np.testing.assert_array_equal(read(folder, text, labels="mask").labels[2], MASK + 2)
    with pytest.raises(
        DataError, match=r"columns label and mask: say which .*data.labels: label, or data.labels: \[label, mask\]"
    ):
        read(folder)


def test_a_table_may_be_beside_the_folder_that_it_lists(folder):
    text = "image,label\n" + "".join(f"{index}.png,{index}\n" for index in range(3))
    (folder / "labels.csv").write_text(text)
    data = read(folder, path=str(folder / "images"), annotations=str(folder / "labels.csv"))
    assert list(data.labels) == [0, 1, 2]


def test_byte_order_mark_and_spaces_are_ignored(folder):
    (folder / "table.csv").write_text("\ufeffimage, label\n images/0.png , 3\n\n", encoding="utf-8")
    assert list(read(folder).labels) == [3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "file,label\nimages/0.png,1\n",
            "one of them must be image; found file, label. Others that are known: label, text, mask",
        ),
        ("image,label,label\n", "name the columns, each once"),
        ("", "found nothing"),
        ("image,label\n", "has no rows"),
        ("image,label\nimages/0.png\n", "row 2: needs 2 cells"),
        ("image,label\nimages/0.png,\n", "row 2: needs 2 cells, none of them empty"),
        ("image,label\nimages/9.png,1\nimages/0.png,2\n", r"1 of 2 files are missing, the first one is .*9\.png"),
        ("image,label\nimages/0.png,1\nimages/../images/0.png,2\n", r"lists .*0\.png twice"),
        ("image,label\n../0.png,1\n", r"'\.\./0\.png' leads out of .*data: \{path: FOLDER, annotations: FILE\}"),
        ("image,label\n/etc/passwd,1\n", "'/etc/passwd' leads out of"),
        ("image,mask\nimages/0.png,../masks/0.png\n", r"mask: '\.\./masks/0\.png' leads out of"),
    ],
)
def test_what_is_wrong_is_told(folder, text, message):
    with pytest.raises(DataError, match=message):
        read(folder, text)


def test_unknown_column_of_labels_is_told(folder):
    with pytest.raises(DataError, match=r"no column 'lable' for labels \(did you mean 'label'\?\); it has image, label"):
        read(folder, rows("image,label", "1", "2", "3"), labels="lable")


def test_what_is_no_text_is_told(folder):
    (folder / "table.csv").write_bytes(b"image\n\xff\xfe")
    with pytest.raises(DataError, match="cannot be read as CSV"):
        read(folder)


@given(st.lists(st.integers(-1000, 1000) | st.floats(allow_nan=False), min_size=1, max_size=5))
def test_numbers_are_read_as_they_were_written(values):
    cells = [str(value) for value in values]
    assert typed(cells, None, "") == values


# Masks


def masked(folder: Path, **options: Any) -> Dataset:
    return read(folder, path=str(folder / "images"), masks=str(folder / "masks"), **options)


def test_masks_are_read_by_the_names_of_the_images(folder):
    np.testing.assert_array_equal(masked(folder).labels[1], MASK + 1)


def test_masks_are_resized_and_cropped_as_their_images_are_without_new_numbers(folder):
    label = masked(folder, preprocessing=Preprocessing(channels="GRAY", resize=(8, 12), crop=(4, 6))).labels[0]
    np.testing.assert_array_equal(label, np.kron(MASK, np.ones((2, 2), np.uint8))[2:6, 3:9])


@pytest.mark.parametrize("mode", ["1", "P", "I;16"])
def test_masks_may_have_one_channel_of_any_kind(folder, mode):
    numbers = (MASK > 9).astype(np.uint8) if mode == "1" else MASK
    if mode == "1":
        Image.fromarray(numbers * 255).convert("1", dither=Image.Dither.NONE).save(folder / "masks" / "0.png")
    elif mode == "P":
        image = Image.fromarray(numbers, mode="P")
        image.putpalette([255 - value // 3 for value in range(768)])
        image.save(folder / "masks" / "0.png")
    else:
        Image.fromarray(numbers.astype(np.uint16) * 100).save(folder / "masks" / "0.png")
        numbers = numbers.astype(int) * 100
    np.testing.assert_array_equal(masked(folder).labels[0], numbers)


def test_masks_that_do_not_fit_are_told(folder):
    Image.new("RGB", (6, 4)).save(folder / "masks" / "0.png")
    Image.new("L", (4, 6)).save(folder / "masks" / "1.png")
    (folder / "masks" / "2.png").write_text("no image")
    labels = masked(folder).labels
    for index, message in enumerate(("mask of mode RGB", "4x6 pixels, its image 1.png has 6x4", "cannot be read as an image")):
        with pytest.raises(DataError, match=rf"{index}\.png: .*{message}"):
            labels[index]
    (folder / "masks" / "2.png").unlink()
    with pytest.raises(DataError, match=r"1 of 3 files are missing, the first one is .*masks/2\.png"):
        masked(folder)


def test_masks_need_their_folder_and_images(folder):
    with pytest.raises(DataError, match=r"nowhere: no such folder \(data.masks\)"):
        read(folder, path=str(folder / "images"), masks=str(folder / "nowhere"))
    with pytest.raises(DataError, match=r"holds no images; with data\.masks"):
        read(folder, path=str(folder), masks=str(folder / "masks"))


def test_annotations_and_masks_exclude_each_other(folder):
    with pytest.raises(DataError, match="annotations or masks, not both"):
        masked(folder, annotations="x.json")


# Images that would fill the memory


def test_decompression_bombs_are_refused(folder, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 23)
    data = masked(folder)
    for act in (lambda: data.sample(0), lambda: data.labels[0]):
        with pytest.raises(DataError, match=r"0\.png: 6x4 pixels, more than 23: refused, as it may be a decompression bomb"):
            act()


def test_a_real_bomb_is_refused_before_it_is_unpacked(folder):
    Image.new("1", (20_000, 10_000)).save(folder / "images" / "0.png")
    assert (folder / "images" / "0.png").stat().st_size < 100_000
    with pytest.raises(DataError, match=r"0\.png: .*(decompression bomb|exceeds limit)"):
        read(folder, path=str(folder / "images")).sample(0)


# What a source consists of


def test_files_of_a_source_are_those_that_count(folder):
    (folder / "table.csv").write_text(rows("image,mask", *(f"masks/{i}.png" for i in range(3))))
    (folder / "images" / "notes.txt").write_text("")
    listed = files_of(DataSpec(path=str(folder / "table.csv")).main)
    assert sorted(listed) == ["", *(f"images/{i}.png" for i in range(3)), *(f"masks/{i}.png" for i in range(3))]
    with_masks = files_of(DataSpec(path=str(folder / "images"), masks=str(folder / "masks")).main)
    assert sorted(with_masks) == ["0.png", "1.png", "2.png", *(f"masks/{i}.png" for i in range(3))]


def test_fingerprint_changes_with_labels_and_images(folder):
    text = rows("image,label", "1", "2", "3")
    (folder / "table.csv").write_text(text)
    spec = DataSpec(path=str(folder / "table.csv"))
    first = fingerprint(spec)
    assert fingerprint(spec) == first
    (folder / "table.csv").write_text(text.replace(",3", ",4"))
    second = fingerprint(spec)
    Image.fromarray(MASK).save(folder / "images" / "2.png")
    assert len({str(found) for found in (first, second, fingerprint(spec))}) == 3
