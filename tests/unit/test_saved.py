"""Data sets that Hugging Face's `datasets` saved to disk."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from ovquant.datasets.files import files_of
from ovquant.datasets.readers import open_source
from ovquant.datasets.saved import SavedDataset
from ovquant.errors import DataError
from ovquant.job import DataSpec, Preprocessing
from ovquant.runtime import InputInfo

FLOAT, INT = np.dtype(np.float32), np.dtype(np.int64)
IMAGE = [InputInfo(name="image", shape=(1, 1, 4, 6), dtype=FLOAT)]
PAIR = [InputInfo(name="input_ids", shape=(None, 5), dtype=INT), InputInfo(name="attention_mask", shape=(None, 5), dtype=INT)]
PIXELS = np.arange(3 * 24, dtype=np.uint8).reshape(3, 4, 6)
TOKENS = {"input_ids": [[1, 2, 3, 0, 0], [4, 5, 6, 7, 8]], "attention_mask": [[1, 1, 1, 0, 0], [1] * 5], "label": [0.5, 1.5]}


@pytest.fixture(autouse=True, scope="module")
def quiet() -> None:
    datasets.disable_progress_bars()


def save(folder: Path, content: dict[str, Any]) -> Path:
    datasets.Dataset.from_dict(content).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def pictures(folder: Path, **columns: Any) -> Path:
    return save(folder, {"picture": [Image.fromarray(pixels) for pixels in PIXELS], **columns})


def read(path: Path, infos: list[InputInfo], **options: Any) -> SavedDataset:
    spec = DataSpec(
        path=str(path), preprocessing=Preprocessing(channels="GRAY") if infos is IMAGE else Preprocessing(), **options
    )
    found = open_source(spec.main, "main", spec, infos)
    assert isinstance(found, SavedDataset)
    return found


def test_columns_feed_inputs_of_their_names(tmp_path):
    data = read(save(tmp_path, TOKENS), PAIR)
    sample = data.sample(1)
    assert {name: (array.shape, array.dtype) for name, array in sample.items()} == dict.fromkeys(
        TOKENS.keys() - {"label"}, ((1, 5), INT)
    )
    np.testing.assert_array_equal(sample["input_ids"], [[4, 5, 6, 7, 8]])
    assert (list(data.labels), len(data)) == ([0.5, 1.5], 2)


def test_the_only_images_feed_the_only_input(tmp_path):
    data = read(pictures(tmp_path, label=[2, 0, 1]), IMAGE)
    np.testing.assert_array_equal(data.sample(2)["image"][0, 0], PIXELS[2])
    assert list(data.labels) == [2, 0, 1]


def test_images_may_be_masks_and_labels_several(tmp_path):
    masks = [Image.fromarray(pixels % 3) for pixels in PIXELS]
    content = pictures(tmp_path, mask=masks, kind=[2, 0, 1])
    data = read(content, IMAGE, inputs={"image": "picture"}, labels=("mask", "kind"))
    np.testing.assert_array_equal(data.labels[1]["mask"], PIXELS[1] % 3)
    assert data.labels[1]["kind"] == 0


def test_item_beyond_the_end_is_an_index_error(tmp_path):
    with pytest.raises(IndexError):
        read(save(tmp_path, TOKENS), PAIR).sample(2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"inputs": {"input_ids": "ids", "attention_mask": "attention_mask"}},
            r"no column 'ids'.* \(data.inputs\); it has input_ids",
        ),
        ({"labels": "labl"}, r"no column 'labl' \(did you mean 'label'\?\) \(data.labels\)"),
    ],
)
def test_unknown_columns_are_told(tmp_path, options, message):
    with pytest.raises(DataError, match=message):
        read(save(tmp_path, TOKENS), PAIR, **options)


def test_columns_that_cannot_be_told_are_asked_for(tmp_path):
    with pytest.raises(DataError, match=r"cannot tell which columns feed input_ids, attention_mask; it has words. .*data.inputs"):
        read(save(tmp_path, {"words": ["a"]}), PAIR)


def test_dictionary_of_data_sets_names_its_parts(tmp_path):
    part = datasets.Dataset.from_dict(TOKENS)
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(str(tmp_path / "all"))
    with pytest.raises(DataError, match=r"all: holds several data sets \(test, train\); name one of them, e.g. .*all/test"):
        read(tmp_path / "all", PAIR)
    assert len(read(tmp_path / "all" / "train", PAIR)) == 2


def test_paths_of_images_are_not_followed(tmp_path):
    Image.fromarray(PIXELS[0]).save(tmp_path / "secret.png")
    table = datasets.Dataset.from_dict({"picture": [{"bytes": None, "path": str(tmp_path / "secret.png")}]})
    table.cast_column("picture", datasets.Image(decode=False)).save_to_disk(str(tmp_path / "saved"))
    data = read(tmp_path / "saved", IMAGE)
    if data._table[0]["picture"]["bytes"] is None:
        with pytest.raises(DataError, match="holds the path of an image instead of the image"):
            data.sample(0)


def test_without_the_package_it_says_what_to_install(tmp_path, monkeypatch):
    path, real = save(tmp_path, TOKENS), builtins.__import__

    def without(name, *arguments, **options):
        if name == "datasets":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r"needs the package datasets: pip install 'ovquant\[huggingface\]'"):
        read(path, PAIR)


def test_what_is_broken_is_told(tmp_path):
    path = save(tmp_path, TOKENS)
    (path / "state.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as a saved data set"):
        read(path, PAIR)


def test_its_files_count_for_the_fingerprint(tmp_path):
    assert {Path(name).suffix for name in files_of(DataSpec(path=str(save(tmp_path, TOKENS))).main)} == {".arrow", ".json"}
