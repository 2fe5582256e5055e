"""Data sets that the Hugging Face package `datasets` saved to disk."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ovquant.datasets.conform import conform
from ovquant.datasets.images import Lazily, checked_size
from ovquant.datasets.preprocess import image_to_array, mask_to_array, model_layout, normalize
from ovquant.errors import DataError, did_you_mean, first_line
from ovquant.job import DataSpec, Source
from ovquant.protocols import Array, Sample
from ovquant.runtime import InputInfo

_LABEL_WORDS = ("label", "labels", "y")


def is_saved_dataset(path: Path) -> bool:
    """Return True for a folder that ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk`` wrote."""
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


class SavedDataset:
    """Columns of a saved data set: one per model input, or one of images for a model with one input; labels beside them."""

    def __init__(self, path: Path, *, source: Source, spec: DataSpec, inputs: Sequence[InputInfo]) -> None:
        """Open it; rows are read when asked for.

        Raises:
            DataError: package `datasets` is not here, or columns and model do not fit.
        """
        if not (path / "state.json").is_file():
            parts = ", ".join(sorted(child.name for child in path.iterdir() if (child / "state.json").is_file()))
            raise DataError(f"{path}: holds several data sets ({parts}); name one of them, e.g. {path / parts.split(', ')[0]}")
        try:
            import datasets
        except ImportError:
            raise DataError(f"{path}: needs the package datasets: pip install 'ovquant[huggingface]'") from None
        try:
            table = datasets.load_from_disk(str(path))
            for name, feature in table.features.items():
                if isinstance(feature, datasets.Image):
                    table = table.cast_column(name, datasets.Image(decode=False))
        except Exception as error:
            raise DataError(f"{path}: cannot be read as a saved data set: {first_line(error)}") from error
        self._table, self._path = table, path
        self._pictures = {name for name, feature in table.features.items() if isinstance(feature, datasets.Image)}
        self._inputs = tuple(inputs)
        self._options = spec.preprocessing
        self._chosen = source.inputs or self._find_inputs()
        self._require_columns([*self._chosen.values()], "data.inputs")
        self.identity = (str(path.resolve()),)
        self.labels: Sequence[Any] | None = self._labels(source.labels)
        if not len(table):
            raise DataError(f"{path}: has no rows")

    def __len__(self) -> int:
        return len(self._table)

    def item_name(self, index: int) -> str:
        """Return folder and index."""
        return f"{self._path}[{index}]"

    def sample(self, index: int) -> Sample:
        """Return one row, images preprocessed."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        row = self._table[index]
        infos = {info.name: info for info in self._inputs}
        where = self.item_name(index)
        found = {name: self._prepared(row[column], column, infos.get(name), where) for name, column in self._chosen.items()}
        return conform(found, self._inputs, where)

    def _prepared(self, value: Any, column: str, info: InputInfo | None, where: str) -> Array:
        if column not in self._pictures or info is None:
            return np.asarray(value)
        layout = model_layout(self._options, info, str(self._path))
        return normalize(image_to_array(_picture(value, where), self._options), self._options, layout, info.dtype)

    def _find_inputs(self) -> dict[str, str]:
        columns = list(self._table.column_names)
        if all(info.name in columns for info in self._inputs):
            return {info.name: info.name for info in self._inputs}
        if len(self._inputs) == 1 and len(self._pictures) == 1:
            return {self._inputs[0].name: next(iter(self._pictures))}
        raise DataError(
            f"{self._path}: cannot tell which columns feed {', '.join(info.name for info in self._inputs)}; it has "
            f"{', '.join(columns)}. Name them in data.inputs (model input: column)"
        )

    def _labels(self, wanted: str | tuple[str, ...] | None) -> Sequence[Any] | None:
        columns = self._table.column_names
        if wanted is None:
            wanted = next((name for name in _LABEL_WORDS if name in columns and name not in self._chosen.values()), None)
        if wanted is None:
            return None
        names = (wanted,) if isinstance(wanted, str) else wanted
        self._require_columns(names, "data.labels")
        found = {name: self._label_column(name) for name in names}
        if isinstance(wanted, str):
            return found[wanted]
        return Lazily(lambda index: {name: column[index] for name, column in found.items()}, len(self._table))

    def _label_column(self, name: str) -> Sequence[Any]:
        if name not in self._pictures:
            return list(self._table[name])

        def mask(index: int) -> Array:
            return mask_to_array(_picture(self._table[index][name], self.item_name(index)), self._options)

        return Lazily(mask, len(self._table))

    def _require_columns(self, names: Sequence[str], key: str) -> None:
        columns = self._table.column_names
        for name in names:
            if name not in columns:
                raise DataError(
                    f"{self._path}: no column {name!r}{did_you_mean(name, columns)} ({key}); it has {', '.join(columns)}"
                )


def _picture(value: Mapping[str, Any], where: str) -> Image.Image:
    """Return an image that is stored in the data set itself.

    Raises:
        DataError: it is none, is too large, or only a path is stored, which could be any file.
    """
    content = value.get("bytes") if isinstance(value, Mapping) else None
    if content is None:
        raise DataError(
            f"{where}: the data set holds the path of an image instead of the image; save it again with images embedded"
        )
    try:
        return checked_size(Image.open(io.BytesIO(content)))
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    except Exception as error:
        raise DataError(f"{where}: cannot be read as an image: {first_line(error)}") from error
