"""Files that nobody wrote: whatever is in them, they are read or refused with one kind of error."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ovquant.choices import ModelFacts, build_space
from ovquant.configfile import FileModel, load
from ovquant.datasets.readers import open_source
from ovquant.datasets.table import read_table
from ovquant.errors import ConfigError, DataError
from ovquant.job import DataSpec, Job
from ovquant.recipe import Recipe
from ovquant.runtime import InputInfo
from ovquant.targets import Genes, Target

FILES: list[type[FileModel]] = [Job, Target, Recipe]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
WORDS = sorted({name for model in FILES for name in model.model_fields} | set(Genes.model_fields) | {"path", "name", "amount"})
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)


@contextlib.contextmanager
def file_of(content: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.yaml"
        path.write_bytes(content)
        yield path


def read(model: type[FileModel], content: bytes) -> None:
    with file_of(content) as path, contextlib.suppress(ConfigError):
        load(model, path, "job")


@pytest.mark.parametrize("model", FILES)
@given(content=st.binary(max_size=200))
def test_bytes_are_refused(model: type[FileModel], content: bytes) -> None:
    read(model, content)


@pytest.mark.parametrize("model", FILES)
@given(content=st.text(st.sampled_from("ab:-[]{}&*!|>#'\"\n ,?%@0.~<=\t"), max_size=60))
def test_text_that_looks_like_yaml_is_refused(model: type[FileModel], content: str) -> None:
    read(model, content.encode())


@pytest.mark.parametrize("model", FILES)
@given(data=st.data())
def test_known_keys_with_any_values_are_read_or_refused(model: type[FileModel], data: st.DataObject) -> None:
    keys = data.draw(st.lists(st.sampled_from(sorted(model.model_fields)), unique=True))
    content: dict[str, Any] = {key: data.draw(VALUES) for key in keys}
    read(model, yaml.safe_dump(content).encode())


COCO = {
    "images": [{"id": 0, "file_name": "a.png", "width": 6, "height": 4}],
    "annotations": [{"image_id": 0, "category_id": 0, "bbox": [1, 1, 2, 2]}],
    "categories": [{"id": 0, "name": "x"}],
}


@given(content=st.binary(max_size=60) | st.text(st.sampled_from('image,label"\n\r\\./01'), max_size=60).map(str.encode))
def test_tables_are_read_or_refused(content: bytes) -> None:
    with file_of(content) as path, contextlib.suppress(DataError):
        assert all(table := read_table(path)), table


@given(key=st.sampled_from(sorted(COCO)), data=st.data())
def test_lists_of_boxes_are_read_or_refused(key: str, data: st.DataObject) -> None:
    entry = {name: data.draw(SCALARS | st.lists(SCALARS, max_size=5) | st.just(value)) for name, value in COCO[key][0].items()}
    content = {**COCO, key: data.draw(VALUES | st.just([entry]))}
    inputs = [InputInfo(name="image", shape=(1, 3, 4, 6), dtype=np.dtype(np.float32))]
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(DataError):
        Image.new("RGB", (6, 4)).save(Path(folder) / "a.png")
        path = Path(folder) / "boxes.json"
        path.write_text(json.dumps(content, default=str))
        spec = DataSpec(path=str(path))
        assert len(open_source(spec.main, "main", spec, inputs)) == 1


@given(text=st.text(max_size=12) | st.text("0123456789abz-", max_size=12))
def test_codes_are_decoded_or_refused(text: str) -> None:
    target = Target(version=1, name="t", device="CPU", genes=Genes(preset=("performance", "mixed"), subset_size=(1, 2, 3)))
    space = build_space(target, ModelFacts(operations=(), n_calibration=9, own_precision="f32", device_precisions=frozenset()))
    for decode in (space.decode, space.genome_from_bits):
        try:
            decode(text)
        except ValueError:
            continue
    for genome in space.genomes():
        assert space.genome_from_code(space.code_from_genome(genome)) == genome
