"""Python objects in place of files: models, loaders, data sets. PyTorch itself where it is installed."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import pytest

import ovquant
from ovquant import commands, runtime
from ovquant.datasets.objects import stored
from ovquant.errors import ConfigError, DataError, ModelError, OutputError, UsageError
from ovquant.given import Objects, placed
from ovquant.study import read_trials

Case = tuple[Path, Path]
OPTIONS: dict[str, Any] = {"metrics": [{"name": "accuracy", "max_drop": 0.5}], "max_trials": 2}


class Loader:
    """Yields batches, and is nobody's class."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, batch_size: int | None = 8) -> None:
        self.images, self.labels, self.batch_size = images, labels, batch_size

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        step = self.batch_size or 1
        for start in range(0, len(self.images), step):
            yield [self.images[start : start + step], self.labels[start : start + step]]


class RandomSampler:
    """What a loader that shuffles has."""


def content(case: Case) -> tuple[np.ndarray, np.ndarray]:
    with np.load(case[1]) as arrays:
        return arrays["image"], arrays["y"]


def outputs(directory: Path) -> dict[str, str]:
    """Return strategy -> digest of what it gave."""
    trials = read_trials(directory / "study.db")
    return {str(trial.code): trial.evaluation.outputs_digest for trial in trials}


@pytest.fixture(scope="module")
def by_objects(conv_case: Case, tmp_path_factory: pytest.TempPathFactory) -> ovquant.SearchResult:
    output = tmp_path_factory.mktemp("objects") / "out"
    model = runtime.read_model(conv_case[0])
    return ovquant.search(model, data=Loader(*content(conv_case)), output=str(output), **OPTIONS)


def test_objects_are_searched_as_their_files_are(by_objects: ovquant.SearchResult, conv_case: Case, tmp_path: Path) -> None:
    ovquant.search(conv_case[0], data=str(conv_case[1]), output=str(tmp_path / "files"), **OPTIONS)
    assert outputs(by_objects.output) == outputs(tmp_path / "files")


def test_the_recipe_is_replayed_on_what_was_kept(by_objects: ovquant.SearchResult, tmp_path: Path) -> None:
    given = by_objects.output / "given"
    assert sorted(path.name for path in given.iterdir()) == ["data.npz", "model.bin", "model.xml"]
    assert not (by_objects.output / "work").exists()
    again = ovquant.quantize(
        given / "model.xml", recipe=by_objects.recipe, data=str(given / "data.npz"), output=tmp_path / "again"
    )
    assert again.is_identical_to_recipe
    with np.load(given / "data.npz") as arrays:
        assert set(arrays.files) == {"image", "labels"}  # which evaluate finds by their names


def test_a_search_of_objects_goes_on_by_itself_and_by_the_same_call(
    by_objects: ovquant.SearchResult, conv_case: Case, tmp_path: Path
) -> None:
    output = Path(shutil.copytree(by_objects.output, tmp_path / "copy"))
    job = output / "job.yaml"
    job.write_text(job.read_text().replace(str(by_objects.output), str(output)))
    resumed = ovquant.resume(output, max_trials=3)
    assert len(resumed.trials) == 4
    images, labels = content(conv_case)
    model = runtime.read_model(conv_case[0])
    again = ovquant.search(model, data=Loader(images, labels), output=str(output), **{**OPTIONS, "max_trials": 4})
    assert len(again.trials) == 5
    with pytest.raises(OutputError, match=r"different: data\. Nothing was changed"):
        ovquant.search(model, data=Loader(images[::-1], labels[::-1]), output=str(output), **OPTIONS)
    assert len(read_trials(output / "study.db")) == 5


def kept(model: Any, data: Any, tmp_path: Path, **more: Any) -> dict[str, np.ndarray]:
    """Return what is kept of data."""
    with placed(Objects(model=model, data=data, **more), tmp_path / "out", print) as (_, section):
        arrays = dict(np.load(section["path"]))
    found = {name: arrays[key] for name, key in section["inputs"].items()}
    return found | ({"labels": arrays[section["labels"]]} if section["labels"] else {})


def test_ways_to_give_items_come_to_the_same(conv_case: Case, tmp_path: Path) -> None:
    images, labels = content(conv_case)
    images, labels = images[:20], labels[:20]
    model = runtime.read_model(conv_case[0])
    rows = [{"picture": image, "class": label} for image, label in zip(images, labels, strict=True)]
    ways: list[tuple[Any, dict[str, Any]]] = [
        (Loader(images, labels), {}),
        ([(image, label) for image, label in zip(images, labels, strict=True)], {}),
        ([{"image": image[np.newaxis], "y": label} for image, label in zip(images, labels, strict=True)], {}),
        (rows, {"transform_fn": lambda row: row["picture"], "label_fn": lambda row: row["class"]}),
        (nncf.Dataset(rows, lambda row: row["picture"][np.newaxis]), {"label_fn": lambda row: row["class"]}),
        (iter(Loader(images, labels, batch_size=None)), {}),
    ]
    for data, more in ways:
        found = kept(model, data, tmp_path, **more)
        assert np.array_equal(found["image"], images)
        assert np.array_equal(found["labels"], labels)
    assert set(kept(model, list(images), tmp_path)) == {"image"}
    assert len(kept(model, Loader(images, labels), tmp_path, n_items=5)["labels"]) == 5
    assert not (tmp_path / "out").exists()  # no search came of it


def test_a_loader_that_shuffles_is_told(
    conv_case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = Loader(*content(conv_case))
    loader.sampler = RandomSampler()  # type: ignore[attr-defined]
    monkeypatch.setattr(commands, "search", lambda job, console: (_ for _ in ()).throw(DataError("stop")))
    with pytest.raises(DataError, match="stop"):
        ovquant.search(str(conv_case[0]), data=loader, output=str(tmp_path / "out"), **OPTIONS)
    assert "the loader shuffles" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_callers_get_wrong_is_told_and_nothing_is_written(conv_case: Case, tmp_path: Path) -> None:
    images, labels = content(conv_case)
    model, output = conv_case[0], str(tmp_path / "out")

    def search(data: Any, **more: Any) -> None:
        ovquant.search(more.pop("model", model), data=data, output=output, **{**OPTIONS, **more})

    with pytest.raises(UsageError, match="transform_fn: is for data that are Python objects"):
        search(str(conv_case[1]), transform_fn=len)
    with pytest.raises(ConfigError, match="did you mean 'max_trials'"):
        search(Loader(images, labels), max_trails=3)
    with pytest.raises(ModelError, match="list is none that is known here"):
        search(Loader(images, labels), model=[1])
    with pytest.raises(DataError, match="cannot be iterated over"):
        search(3)
    with pytest.raises(DataError, match="yields nothing"):
        search([])
    with pytest.raises(DataError, match=r"data\[0\]: transform_fn raised KeyError"):
        search([{}], transform_fn=lambda item: item["x"])
    with pytest.raises(DataError, match=r"input 'image' takes shape"):
        search([images[0][:, 1:]])
    with pytest.raises(DataError, match="3 values for 1 inputs"):
        search([(images[0], 1, 2)])
    with pytest.raises(DataError, match="some items have a label"):
        search([images[0], (images[1], 3)])
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(OutputError, match="nothing was written"):
        search(Loader(images, labels))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")


@needs_torch
def test_a_torch_module_and_its_loader_are_searched(tmp_path: Path) -> None:
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(), torch.nn.Linear(8, 4),
    )  # fmt: skip
    module.train()
    images = torch.randn(60, 3, 12, 12)
    with torch.no_grad():
        module.eval()
        labels = module(images).argmax(dim=1)
        module.train()
    loader = DataLoader(TensorDataset(images, labels), batch_size=16)
    found = ovquant.search(module, data=loader, output=str(tmp_path / "out"), **OPTIONS)
    assert module.training  # as it was
    assert found.verdict.rows[0].evaluation.metrics[0].value == 1.0  # the reference names the labels that the module gave
    assert [info.shape for info in runtime.input_infos(runtime.read_model(tmp_path / "out" / "given" / "model.xml"))] == [
        (1, 3, 12, 12)
    ]


@needs_torch
def test_a_torch_module_with_named_inputs_is_traced_by_its_items(tmp_path: Path) -> None:
    import torch

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(50, 16)
            self.project = torch.nn.Linear(16, 8)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            weights = attention_mask.unsqueeze(-1).float()
            return self.project((self.embed(input_ids) * weights).sum(1) / weights.sum(1))

    def item(seed: int) -> dict[str, torch.Tensor]:
        rng = torch.Generator().manual_seed(seed)
        return {
            "input_ids": torch.randint(0, 50, (1, 10), generator=rng),
            "attention_mask": torch.ones(1, 10, dtype=torch.int64),
            "labels": torch.tensor([seed % 3]),
        }

    objects = Objects(model=Encoder(), data=[item(seed) for seed in range(6)])
    with placed(objects, tmp_path / "out", print) as (path, section):
        infos = runtime.input_infos(runtime.read_model(Path(path)))
        assert {info.name: info.shape for info in infos} == {"input_ids": (1, 10), "attention_mask": (1, 10)}
        with np.load(section["path"]) as arrays:
            assert arrays[section["labels"]].tolist() == [0, 1, 2, 0, 1, 2]
            assert arrays[section["inputs"]["input_ids"]].shape == (6, 10)


@needs_torch
def test_a_module_needs_an_example_where_data_are_files(conv_case: Case, tmp_path: Path) -> None:
    import torch

    module = torch.nn.Conv2d(3, 4, 3)
    with pytest.raises(UsageError, match="example_input"):
        ovquant.search(module, data=str(conv_case[1]), output=str(tmp_path / "out"))


def test_arrays_whose_names_are_taken_have_others() -> None:
    samples = [{"labels": np.zeros((1, 2)), "file": np.ones((1, 3)), "a/b": np.ones((2, 3))} for _ in range(4)]
    kept = stored(((sample, number) for number, sample in enumerate(samples)), None)
    assert kept.inputs == {"labels": "input0", "file": "input1", "a/b": "input2"}
    assert {name: array.shape for name, array in kept.arrays.items()} == {
        "labels": (4,), "input0": (4, 2), "input1": (4, 3), "input2": (4, 2, 3)
    }  # fmt: skip


def test_labels_of_all_kinds_are_kept() -> None:
    def labels(*given: Any) -> Any:
        found = stored((({"x": np.zeros((1, 2))}, label) for label in given), None)
        return found.labels, {name: array.tolist() for name, array in found.arrays.items() if name != "x"}

    assert labels("ab", "c") == ("labels", {"labels": ["ab", "c"]})
    assert labels(np.array([1, 2]), np.array([3])) == ("labels", {"labels": [[1, 2], [3, -1]]})
    assert labels({"a": 1, "b": 0.5}, {"a": 2, "b": 1.5}) == (["a", "b"], {"a": [1, 2], "b": [0.5, 1.5]})
    assert labels(None, None) == (None, {})
    for wrong in ((np.zeros(2), np.zeros(3)), ({"boxes": 1},), (b"raw", b"raw")):
        with pytest.raises(DataError):
            labels(*wrong)


def test_items_of_different_shapes_are_refused_in_words() -> None:
    with pytest.raises(DataError, match=r"items differ in shape \(input 'x': 1x2 and 1x3\)"):
        stored(iter([({"x": np.zeros((1, 2))}, 0), ({"x": np.zeros((1, 3))}, 1)]), None)
