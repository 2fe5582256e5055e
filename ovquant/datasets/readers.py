"""One reader per kind of source: image folder, ``.npz`` file, Python entry; tables and saved data sets are opened here, too."""

from __future__ import annotations

import importlib.util
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from ovquant.datasets.coco import coco_images
from ovquant.datasets.conform import conform
from ovquant.datasets.images import IMAGE_SUFFIXES, Images, images_in, masked_images, only_input
from ovquant.datasets.preprocess import image_to_array, model_layout, normalize
from ovquant.datasets.saved import SavedDataset, is_saved_dataset
from ovquant.datasets.table import table_images
from ovquant.errors import DataError, did_you_mean, first_line
from ovquant.job import DataSpec, Source, split_entry
from ovquant.protocols import Array, Dataset, Sample
from ovquant.runtime import InputInfo

Part = Literal["main", "calibration", "holdout"]
_KINDS = "image folder, .csv file, COCO .json file, .npz file, folder of a saved Hugging Face data set, file.py:function"
_SUFFIXES: dict[Part, tuple[str, ...]] = {
    "main": ("_val", "_validation", ""),
    "calibration": ("_calib", "_calibration", ""),
    "holdout": ("_holdout", "_test", ""),
}
_INPUT_WORDS = ("x", "inputs", "images", "data")
_LABEL_WORDS = ("y", "labels", "label", "targets")


def open_source(source: Source, part: Part, spec: DataSpec, inputs: Sequence[InputInfo]) -> Dataset:
    """Return the data set of a source.

    Args:
        source: where it is.
        part: what it is for; an ``.npz`` is searched for arrays named after it.
        spec: preprocessing and arguments.
        inputs: of the model.

    Raises:
        DataError: it cannot be read, or does not fit the model.
    """
    entry = split_entry(source.path)
    if entry is not None:
        return PythonSamples(*entry, arguments=spec.arguments, inputs=inputs)
    path = Path(source.path)
    if source.annotations is not None or source.masks is not None:
        return _open_annotated(path, source, spec, inputs)
    if path.is_dir():
        if is_saved_dataset(path):
            return SavedDataset(path, source=source, spec=spec, inputs=inputs)
        return ImageFolder(path, spec=spec, inputs=inputs)
    if not path.exists():
        raise DataError(f"{path}: no such file or directory; data is: {_KINDS}")
    if path.suffix == ".npz":
        return ArrayFile(path, source=source, part=part, spec=spec, inputs=inputs)
    if path.suffix.lower() in _LISTS:
        return _open_list(path, path.parent, source, spec, inputs)
    raise DataError(f"{path}: not a kind of data that is known here; accepted: {_KINDS}")


_LISTS = (".csv", ".json")


def _open_annotated(path: Path, source: Source, spec: DataSpec, inputs: Sequence[InputInfo]) -> Dataset:
    """Return the images of a folder with what a file or another folder says of them."""
    if not path.is_dir():
        raise DataError(f"{path}: annotations and masks belong to a folder of images, and this is none")
    if source.masks is not None:
        if source.annotations is not None:
            raise DataError(f"{path}: give annotations or masks, not both; a CSV file may have a column of masks")
        return masked_images(path, Path(source.masks), spec=spec, inputs=inputs)
    listing = Path(source.annotations or "")
    if not listing.is_file() or listing.suffix.lower() not in _LISTS:
        what = "not a .json (COCO) or .csv file" if listing.exists() else "no such file"
        raise DataError(f"{listing}: {what} (data.annotations)")
    return _open_list(listing, path, source, spec, inputs)


def _open_list(path: Path, folder: Path, source: Source, spec: DataSpec, inputs: Sequence[InputInfo]) -> Dataset:
    if path.suffix.lower() == ".json":
        return coco_images(path, folder, spec=spec, inputs=inputs)
    return table_images(path, folder, source=source, spec=spec, inputs=inputs)


class ImageFolder(Images):
    """Images in one folder, or in one sub-folder per class."""

    def __init__(self, path: Path, *, spec: DataSpec, inputs: Sequence[InputInfo]) -> None:
        """List the images; they are read when asked for."""
        only_input(inputs, str(path))
        folders = [child for child in sorted(path.iterdir()) if child.is_dir() and not child.name.startswith(".")]
        by_class = {folder.name: images_in(folder) for folder in folders}
        flat = images_in(path)
        empty = [name for name, images in by_class.items() if not images]
        if empty and len(empty) < len(by_class) and spec.class_names is None and not all(map(str.isdecimal, by_class)):
            raise DataError(
                f"{path}: no images in {', '.join(empty)}: it cannot be told whether that is a class, which matters for the "
                "numbers of the others. Remove it, or list the classes in data.class_names"
            )
        by_class = {name: images for name, images in by_class.items() if images}
        if by_class and flat:
            raise DataError(
                f"{path}: holds {len(flat)} images beside {len(by_class)} class folders; put each image into the folder of its "
                "class, or all into one folder"
            )
        self.class_names = tuple(by_class)
        index = _class_indices(self.class_names, spec.class_names, path)
        paths = [image for images in by_class.values() for image in images] or flat
        if not paths:
            raise DataError(
                f"{path}: holds no images; accepted: {', '.join(sorted(IMAGE_SUFFIXES))}, in class sub-folders or not"
            )
        labels = [index[name] for name, images in by_class.items() for _ in images] if by_class else None
        super().__init__((str(path.resolve()),), paths, labels, spec=spec, inputs=inputs)


def _class_indices(names: Sequence[str], class_names: Sequence[str] | None, path: Path) -> dict[str, int]:
    """Return class folder -> model output: as listed, else by number where all are numbers, else sorted."""
    if class_names is None:
        if all(name.isdecimal() for name in names):
            return {name: int(name) for name in names}
        return {name: index for index, name in enumerate(sorted(names))}
    for name in names:
        if name not in class_names:
            raise DataError(f"{path / name}: class {name!r} is not in data.class_names{did_you_mean(name, class_names)}")
    return {name: list(class_names).index(name) for name in names}


class ArrayFile:
    """Named arrays in an ``.npz``: one per model input, the first axis counts items; labels beside them."""

    def __init__(self, path: Path, *, source: Source, part: Part, spec: DataSpec, inputs: Sequence[InputInfo]) -> None:
        """Read the arrays into memory (never pickles)."""
        self._path = path
        self._inputs = tuple(inputs)
        self._options = spec.preprocessing
        arrays = _npz_names(path)
        found = _find_inputs(arrays, part, inputs)
        chosen = source.inputs or (found and found[0])
        if chosen is None:
            key = "data.inputs" if part == "main" else f"data.{part}.inputs"
            raise DataError(
                f"{path}: cannot tell which arrays feed {', '.join(info.name for info in inputs)}; "
                f"it holds {', '.join(arrays)}. Name them in {key} (model input: array)"
            )
        suffixes = (found[1],) if found is not None and source.inputs is None else _SUFFIXES[part]
        self.identity = (str(path.resolve()), *sorted(chosen.values()))
        self._arrays = {name: _npz_array(path, array, arrays) for name, array in chosen.items()}
        lengths = {array: len(self._arrays[name]) for name, array in chosen.items()}
        wanted = source.labels or _find_labels(arrays, suffixes, chosen)
        names = () if wanted is None else (wanted,) if isinstance(wanted, str) else wanted
        columns = {name: _npz_array(path, name, arrays) for name in names}
        lengths |= {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            told = ", ".join(f"{name}: {length}" for name, length in lengths.items())
            raise DataError(f"{path}: arrays must have the same number of items, at least one; found {told}")
        self.labels: Sequence[Any] | None = None
        if isinstance(wanted, str):
            self.labels = list(columns[wanted])
        elif wanted is not None:
            self.labels = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def __len__(self) -> int:
        return len(next(iter(self._arrays.values())))

    def item_name(self, index: int) -> str:
        """Return file and index."""
        return f"{self._path}[{index}]"

    def sample(self, index: int) -> Sample:
        """Return one row of each array, image arrays preprocessed."""
        names = {info.name: info for info in self._inputs}
        row = {name: self._prepared(array[index], names.get(name)) for name, array in self._arrays.items()}
        return conform(row, self._inputs, self.item_name(index))

    def _prepared(self, row: Array, info: InputInfo | None) -> Array:
        if row.dtype == np.uint8 and row.ndim == 2 and info is not None and len(info.shape or ()) == 4:
            row = row[:, :, np.newaxis]
        is_image = row.dtype == np.uint8 and row.ndim == 3 and info is not None and info.dtype.kind == "f"
        if not is_image or info is None:
            if len(self._inputs) == 1 and self._options.model_dump(exclude_defaults=True):
                raise DataError(
                    f"{self._path}: preprocessing is for uint8 images [N, H, W] or [N, H, W, C] into a float input of rank 4; "
                    f"this array is {row.dtype} with rows of shape {row.shape}. Leave it out, and store what the model takes"
                )
            return row
        layout = model_layout(self._options, info, str(self._path))
        if row.shape[-1] not in {1, 3, 4}:  # stored as CHW
            row = np.moveaxis(row, 0, -1)
        image = Image.fromarray(row[:, :, 0] if row.shape[-1] == 1 else row)
        if row.shape[-1] == 1:
            pixels = image_to_array(image, self._options.model_copy(update={"channels": "GRAY"}))
        else:
            pixels = image_to_array(image, self._options)
        return normalize(pixels, self._options, layout, info.dtype)


def npz_has(path: Path, part: Part, inputs: Sequence[InputInfo]) -> bool:
    """Return True if the ``.npz`` holds arrays that are named after `part` (``x_calib``, ``x_holdout`` ...)."""
    found = _find_inputs(_npz_names(path), part, inputs)
    return found is not None and found[1] != ""


def _npz_names(path: Path) -> list[str]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return list(archive.files)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise DataError(f"{path}: cannot be read as .npz: {first_line(error)}") from error


def _npz_array(path: Path, name: str, names: Sequence[str]) -> Array:
    if name not in names:
        raise DataError(f"{path}: no array {name!r}{did_you_mean(name, names)}; it holds {', '.join(names)}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            array: Array = archive[name]
    except Exception as error:
        raise DataError(f"{path}: array {name!r} cannot be read: {first_line(error)}") from error
    if array.ndim == 0:
        raise DataError(f"{path}: array {name!r} is a single number; the first axis must count items")
    return array


def _find_inputs(arrays: Sequence[str], part: Part, inputs: Sequence[InputInfo]) -> tuple[dict[str, str], str] | None:
    """Return model input -> array, and the suffix that they were found by."""
    for suffix in _SUFFIXES[part]:
        named = {info.name: info.name + suffix for info in inputs}
        if all(array in arrays for array in named.values()):
            return named, suffix
        if len(inputs) == 1:
            for word in _INPUT_WORDS:
                if word + suffix in arrays:
                    return {inputs[0].name: word + suffix}, suffix
    return None


def _find_labels(arrays: Sequence[str], suffixes: Sequence[str], chosen: Mapping[str, str]) -> str | None:
    candidates = [word + suffix for suffix in suffixes for word in _LABEL_WORDS]
    return next((name for name in candidates if name in arrays and name not in chosen.values()), None)


class PythonSamples:
    """What a Python function gives; read once and kept in memory.

    It yields inputs, or (inputs, label) pairs. Or it returns what NNCF's data sets are made of: (source, transform) or (source,
    transform, label), where ``transform(item)`` gives the inputs of an item of the source, and ``label(item)`` its label.
    """

    def __init__(self, path: Path, function: str, *, arguments: Mapping[str, Any], inputs: Sequence[InputInfo]) -> None:
        """Import the file and run the function. It is code: it runs with the rights of the caller."""
        self._where = f"{path}:{function}"
        self.identity = (str(path.resolve()), function)
        self._inputs = tuple(inputs)
        call = load_function(path, function)
        try:
            items = _items(call(**arguments), self._inputs)
        except Exception as error:
            raise DataError(f"{self._where}: raised {type(error).__name__}: {first_line(error)}") from error
        if not items:
            raise DataError(f"{self._where}: yielded nothing")
        is_pair = isinstance(items[0], tuple) and len(items[0]) == 2
        if any((isinstance(item, tuple) and len(item) == 2) != is_pair for item in items):
            raise DataError(f"{self._where}: must yield either inputs or (inputs, label) pairs, not both")
        self._items = [item[0] for item in items] if is_pair else items
        self.labels: Sequence[Any] | None = [item[1] for item in items] if is_pair else None

    def __len__(self) -> int:
        return len(self._items)

    def item_name(self, index: int) -> str:
        """Return entry and index."""
        return f"{self._where}[{index}]"

    def sample(self, index: int) -> Sample:
        """Return one item, checked."""
        return conform(self._items[index], self._inputs, self.item_name(index))


def _items(result: Any, inputs: Sequence[InputInfo]) -> list[Any]:
    """Return what a function gave, item by item."""
    functions = result[1:] if isinstance(result, tuple) else ()
    if len(functions) not in {1, 2} or not all(map(callable, functions)):
        return list(result)
    items = list(result[0])
    values = [_by_name(functions[0](item), inputs) for item in items]
    return values if len(functions) == 1 else list(zip(values, map(functions[1], items), strict=True))


def _by_name(value: Any, inputs: Sequence[InputInfo]) -> Any:
    """Return inputs by name where a transform gives them in the model's order, as NNCF's may."""
    is_row = isinstance(value, tuple | list) and len(inputs) > 1 and len(value) == len(inputs)
    return {info.name: array for info, array in zip(inputs, value, strict=True)} if is_row else value


def load_function(path: Path, name: str) -> Any:
    """Return a function of a Python file.

    Raises:
        DataError: no such file or function, or the file raises when imported.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such Python file")
    unique = f"_ovquant_entry_{path.resolve().as_posix().replace('/', '_')}"
    spec = importlib.util.spec_from_file_location(unique, path)
    if spec is None or spec.loader is None:
        raise DataError(f"{path}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module  # dataclasses and pickle look their module up there
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise DataError(f"{path}: raised {type(error).__name__} when imported: {first_line(error)}") from error
    finally:
        sys.path.pop(0)
    function = getattr(module, name, None)
    if not callable(function):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise DataError(f"{path}: has no function {name!r}{did_you_mean(name, public)}")
    return function
