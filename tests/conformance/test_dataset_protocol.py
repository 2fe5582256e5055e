"""What every `ovquant.protocols.Dataset` must do: the same images and labels behind each reader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import small
from PIL import Image

from ovquant import runtime
from ovquant.datasets.images import Images
from ovquant.datasets.readers import ArrayFile, ImageFolder, PythonSamples, open_source
from ovquant.datasets.saved import SavedDataset
from ovquant.inference import CompiledModel
from ovquant.job import DataSpec, Preprocessing
from ovquant.protocols import Dataset
from ovquant.runtime import InputInfo

N_ITEMS = 9
PIXELS = small.images(N_ITEMS)
LABELS = [0, 0, 0, 1, 1, 2, 2, 2, 2]
PREPROCESSING = Preprocessing(mean=100, scale=60, layout="NCHW")
ENTRY = """
import pathlib
import numpy as np

def samples():
    arrays = np.load(pathlib.Path(__file__).with_name("raw.npz"))
    for image, label in zip(arrays["pixels"], arrays["classes"]):
        yield ((image.astype(np.float32) - 100) / 60).transpose(2, 0, 1), int(label)
"""

SOURCE = """
import pathlib
import numpy as np

def calibration():
    arrays = np.load(pathlib.Path(__file__).with_name("raw.npz"))
    source = [{"image": image, "label": label} for image, label in zip(arrays["pixels"], arrays["classes"])]

    def transform(item):
        return ((item["image"].astype(np.float32) - 100) / 60).transpose(2, 0, 1)

    return source, transform, lambda item: int(item["label"])
"""


def write_folder(folder: Path) -> str:
    for index, (pixels, label) in enumerate(zip(PIXELS, LABELS, strict=True)):
        path = folder / "images" / str(label) / f"{index:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return str(folder / "images")


def write_arrays(folder: Path) -> str:
    np.savez(folder / "data.npz", x=PIXELS, y=np.array(LABELS))
    return str(folder / "data.npz")


def write_entry(folder: Path) -> str:
    np.savez(folder / "raw.npz", pixels=PIXELS, classes=np.array(LABELS))
    (folder / "entry.py").write_text(ENTRY)
    return f"{folder / 'entry.py'}:samples"


def write_table(folder: Path) -> str:
    write_folder(folder)
    rows = [f"images/{label}/{index:03}.png,{label}" for index, label in enumerate(LABELS)]
    (folder / "table.csv").write_text("\n".join(["image,label", *rows]) + "\n")
    return str(folder / "table.csv")


def write_saved(folder: Path) -> str:
    content = {"picture": [Image.fromarray(pixels) for pixels in PIXELS], "label": LABELS}
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(content).save_to_disk(str(folder / "saved"))
    return str(folder / "saved")


def write_source(folder: Path) -> str:
    np.savez(folder / "raw.npz", pixels=PIXELS, classes=np.array(LABELS))
    (folder / "source.py").write_text(SOURCE)
    return f"{folder / 'source.py'}:calibration"


READERS: dict[str, tuple[type, Callable[[Path], str]]] = {
    "folder": (ImageFolder, write_folder),
    "table": (Images, write_table),
    "arrays": (ArrayFile, write_arrays),
    "saved": (SavedDataset, write_saved),
    "entry": (PythonSamples, write_entry),
    "source": (PythonSamples, write_source),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.conv_model(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture(scope="module")
def inputs(model: Path) -> tuple[InputInfo, ...]:
    return runtime.input_infos(runtime.read_model(model))


@pytest.fixture(params=READERS)
def spec(request: pytest.FixtureRequest, tmp_path: Path) -> DataSpec:
    return DataSpec(path=READERS[request.param][1](tmp_path), preprocessing=PREPROCESSING)


@pytest.fixture
def dataset(spec: DataSpec, inputs: tuple[InputInfo, ...], request: pytest.FixtureRequest) -> Dataset:
    found = open_source(spec.main, "main", spec, inputs)
    assert type(found) is READERS[request.node.callspec.params["spec"]][0]
    return found


def test_length_is_the_number_of_items(dataset):
    assert len(dataset) == N_ITEMS


def test_there_is_one_label_per_item(dataset):
    assert list(dataset.labels) == LABELS


def test_samples_fit_the_model(dataset, inputs):
    for index in range(len(dataset)):
        sample = dataset.sample(index)
        assert list(sample) == [info.name for info in inputs]
        for info in inputs:
            assert sample[info.name].shape == info.shape
            assert sample[info.name].dtype == info.dtype


def test_model_runs_on_a_sample(dataset, model):
    logits = CompiledModel(runtime.read_model(model), "CPU", {}, "f32").infer(dataset.sample(0))["logits"]
    np.testing.assert_allclose(logits, small.float_logits(model, small.normalized(PIXELS[:1])), rtol=1e-5)


def test_samples_are_the_images_normalized(dataset):
    found = np.concatenate([dataset.sample(index)["image"] for index in range(len(dataset))])
    np.testing.assert_allclose(found, small.normalized(PIXELS), rtol=1e-6, atol=1e-6)


def test_access_is_random(dataset):
    backwards = [dataset.sample(index)["image"] for index in reversed(range(len(dataset)))]
    forwards = [dataset.sample(index)["image"] for index in range(len(dataset))]
    np.testing.assert_array_equal(backwards[::-1], forwards)


def test_opening_it_again_gives_the_same_items_in_the_same_order(dataset, spec, inputs):
    again = open_source(spec.main, "main", spec, inputs)
    assert [again.item_name(i) for i in range(len(again))] == [dataset.item_name(i) for i in range(len(dataset))]
    np.testing.assert_array_equal(again.sample(5)["image"], dataset.sample(5)["image"])


def test_items_have_names_of_their_own_that_begin_where_the_source_lies(dataset, spec):
    names = [dataset.item_name(index) for index in range(len(dataset))]
    assert len(set(names)) == N_ITEMS
    assert all(name.startswith(str(Path(spec.path).parent)) for name in names)


def test_identity_is_that_of_the_source_and_of_no_other(dataset, spec, inputs, tmp_path_factory, request):
    elsewhere = READERS[request.node.callspec.params["spec"]][1](tmp_path_factory.mktemp("elsewhere"))
    other = open_source(DataSpec(path=elsewhere).main, "main", spec, inputs)
    again = open_source(spec.main, "main", spec, inputs)
    assert dataset.identity == again.identity != other.identity


def test_index_out_of_range_is_an_error(dataset):
    with pytest.raises(IndexError):
        dataset.sample(N_ITEMS)
