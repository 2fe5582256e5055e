"""Python objects in place of files: what a caller hands over is written into the output directory, for workers and a resume."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ovquant import runtime
from ovquant.datasets.objects import Raw, first_inputs, is_shuffled, items_of, raw_items, stored, to_array
from ovquant.errors import DataError, ModelError, OutputError, UsageError
from ovquant.studyfile import STUDY_FILE
from ovquant.workplace import GIVEN

_TOLD = 300  # characters of a message
_MODEL, _DATA = "model.xml", "data.npz"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Objects:
    """What a caller hands over.

    Attributes:
        model: a file, an ``openvino.Model``, or a ``torch.nn.Module``.
        data: as in a job, or anything that can be iterated over.
        transform_fn: from what `data` yields to the model's inputs.
        label_fn: likewise, to a label.
        n_items: of `data` are used at most, the first ones.
        example_input: that a PyTorch model is traced with; None takes the first item.
    """

    model: Any
    data: Any
    transform_fn: Callable[[Any], Any] | None = None
    label_fn: Callable[[Any], Any] | None = None
    n_items: int | None = None
    example_input: Any = None

    @property
    def is_model_given(self) -> bool:
        """True where the model is no file."""
        return not isinstance(self.model, str | Path)

    @property
    def is_data_given(self) -> bool:
        """True where the data are no files."""
        return not (self.data is None or isinstance(self.data, str | Path | dict))


@contextlib.contextmanager
def placed(objects: Objects, output: Path, warn: Callable[[str], None]) -> Iterator[tuple[str, Any]]:
    """Write objects into `output`, and yield the model and the data section of a job that names what was written.

    What is there from the same objects is used as it is. It is removed again if no search came of it.

    Raises:
        UsageError: a function is given for data that are files, or an example is missing.
        OutputError: the directory holds a search of something else.
        OvquantError: the objects cannot be used.
    """
    for name in ("transform_fn", "label_fn", "n_items"):
        if getattr(objects, name) is not None and not objects.is_data_given:
            raise UsageError(f"{name}: is for data that are Python objects, and these are {objects.data!r}")
    if not (objects.is_model_given or objects.is_data_given):
        yield str(objects.model), objects.data
        return
    if objects.is_data_given and is_shuffled(objects.data):
        warn(
            "the loader shuffles: the items in its first order are kept, and the same call will not find them again; "
            f"ovquant.resume({str(output)!r}) will"
        )
    home = output / GIVEN
    is_new, was_there = not home.exists(), output.exists()
    if is_new and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise OutputError(
            f"{output}: is not empty, and holds no search of Python objects; nothing was written. Give a new directory"
        )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as folder:
            section = _write(objects, Path(folder) / GIVEN, home)
            if is_new:
                output.mkdir(exist_ok=True)
                (Path(folder) / GIVEN).rename(home)
            else:
                _require_same(home, Path(folder) / GIVEN, output)
    except OSError as error:
        raise OutputError(f"{output}: cannot be written: {error.strerror or error}") from error
    try:
        yield str(home / _MODEL) if objects.is_model_given else str(objects.model), section
    finally:
        if is_new and not (output / STUDY_FILE).exists():
            shutil.rmtree(home, ignore_errors=True)
            if not was_there and not any(output.iterdir()):
                output.rmdir()


def _write(objects: Objects, folder: Path, home: Path) -> Any:
    """Write what is given into a new folder; return the data section that names it where it will be."""
    folder.mkdir()
    known = None if _is_torch(objects.model) else _model(objects)
    n_inputs = None if known is None else len(known.inputs)
    raws: Iterator[Raw] = iter(())
    if objects.is_data_given:
        if not isinstance(objects.data, Iterable) and not callable(getattr(objects.data, "get_inference_data", None)):
            raise DataError(
                f"data: {type(objects.data).__name__} cannot be iterated over; accepted: loaders, iterables, data sets"
            )
        raws = raw_items(objects.data, objects.transform_fn, objects.label_fn, n_inputs)
    if known is None:
        first = next(raws, None)
        example = objects.example_input if objects.example_input is not None else None if first is None else first_inputs(first)
        if example is None:
            raise UsageError("example_input: is needed to trace a PyTorch model where the data are files")
        known = _traced(objects.model, example)
        raws = itertools.chain([] if first is None else [first], raws)
    if objects.is_model_given:
        runtime.save_model(known, folder / _MODEL)
    if not objects.is_data_given:
        return objects.data
    infos = runtime.input_infos(known)
    items = (item for number, raw in enumerate(raws) for item in items_of(raw, infos, number))
    kept = stored(items, objects.n_items)
    np.savez(folder / _DATA, **kept.arrays)  # type: ignore[arg-type]
    return {"path": str(home / _DATA), "inputs": kept.inputs, "labels": kept.labels}


def _model(objects: Objects) -> Any:
    if not objects.is_model_given:
        return runtime.read_model(Path(objects.model))
    if not isinstance(objects.model, runtime.openvino().Model):
        raise ModelError(
            f"model: {type(objects.model).__name__} is none that is known here; accepted: a file, openvino.Model, torch.nn.Module"
        )
    return objects.model


def _is_torch(model: Any) -> bool:
    """Return whether a model is one of PyTorch; without that imported, none is."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def _traced(module: Any, example: Any) -> Any:
    """Return a PyTorch model as OpenVINO's, for items of the example's shape; the module itself stays as it was.

    Raises:
        ModelError: it cannot be converted.
    """
    were_training = [(part, bool(part.training)) for part in module.modules()]  # parts may be frozen
    module.eval()
    try:
        model = runtime.openvino().convert_model(module, example_input=example)
        values = list(example.values()) if isinstance(example, dict) else example if isinstance(example, tuple) else (example,)
        if len(values) == len(model.inputs):
            model.reshape({index: list(to_array(value).shape) for index, value in enumerate(values)})
    except Exception as error:
        told = " ".join(str(error).split())[:_TOLD]  # the reason is not in its first line
        raise ModelError(f"model: {type(module).__name__} cannot be converted by OpenVINO: {told}") from error
    finally:
        for part, was_training in were_training:
            part.training = was_training
    return model


def _require_same(home: Path, mine: Path, output: Path) -> None:
    """Check that what is there was written from the same objects.

    Raises:
        OutputError: it was not.
    """
    changed = []
    names = {path.name for path in (*home.iterdir(), *mine.iterdir())}
    if _MODEL in names and _digest(home / _MODEL) != _digest(mine / _MODEL):
        changed.append("model")
    if _DATA in names and not _are_equal(home / _DATA, mine / _DATA):
        changed.append("data")
    if changed:
        raise OutputError(
            f"{output}: holds a search of other Python objects; different: {', '.join(changed)}. Nothing was changed. Give "
            f"another output directory; ovquant.resume({str(output)!r}) goes on with what is there"
        )


def _digest(path: Path) -> str | None:
    return runtime.graph_digest(runtime.read_model(path)) if path.exists() else None


def _are_equal(first: Path, second: Path) -> bool:
    if not (first.exists() and second.exists()):
        return False
    with np.load(first, allow_pickle=False) as mine, np.load(second, allow_pickle=False) as theirs:
        return set(mine.files) == set(theirs.files) and all(np.array_equal(mine[name], theirs[name]) for name in mine.files)
