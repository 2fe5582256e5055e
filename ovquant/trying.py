"""A float model run on a few items of its data, to find out how they are read and what they are for."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovquant import runtime
from ovquant.datasets.coco import read_coco
from ovquant.datasets.images import images_in, read_mask
from ovquant.datasets.splits import Samples
from ovquant.datasets.table import IMAGE, LABEL, MASK, TEXT, read_table
from ovquant.drafting import IMAGENET, Draft
from ovquant.errors import DataError, ModelError, first_line
from ovquant.inference import CompiledModel
from ovquant.job import DataSpec, Preprocessing, split_entry
from ovquant.protocols import Array, Sample
from ovquant.recognition import Finding, recognize

if TYPE_CHECKING:
    import openvino as ov

Options = Mapping[str, Any]
_N_ITEMS = 24
_SECONDS = 20.0  # for the items of one run; two are run whatever it takes
_USUAL: tuple[Options, ...] = ({"mean": [0.0], "scale": [255.0]}, {"mean": [127.5], "scale": [127.5]}, IMAGENET)
_GAIN = 0.05  # of the metric, by which another mean and scale must be better than none
_MAX_JSON = 64 << 20  # bytes of a file beside the data that is looked into


def source_of(data: str, annotations: str | None, masks: str | None) -> dict[str, Any]:
    """Return the data section of a job, with absolute paths."""
    entry = split_entry(data)
    path = str(Path(data).resolve()) if entry is None else f"{entry[0].resolve()}:{entry[1]}"
    told = {"annotations": annotations, "masks": masks}
    return {"path": path, **{key: str(Path(value).resolve()) for key, value in told.items() if value is not None}}


@dataclasses.dataclass(frozen=True, slots=True)
class _Items:
    """Some items, ready for the model, with their labels."""

    samples: list[Sample]
    labels: list[Any] | None


class Trial:
    """A model and its data, tried out."""

    def __init__(self, model: ov.Model, draft: Draft, source: dict[str, Any]) -> None:
        """Keep what there is; nothing is read yet.

        Args:
            model: float model.
            draft: what its shapes tell.
            source: of the data, as a job names it.
        """
        self._model, self._draft, self._source = model, draft, source
        self._compiled: CompiledModel | None = None

    def drafted(self) -> Draft:
        """Return the draft with what was found.

        Raises:
            DataError: the data cannot be read, or does not fit the model.
        """
        columns = self._columns()
        source = {**self._source, **({} if columns is None else {"labels": columns})}
        options, items = self._readable(source)
        as_good: list[Options] = []
        try:
            options, findings, as_good = self._recognized(source, options, items)
        except ModelError as error:
            findings = {None: Finding(task="unknown", remark=f"the float model cannot be run on the data: {first_line(error)}")}
        useful = {name: finding for name, finding in findings.items() if finding.metrics}
        if isinstance(columns, list) and useful:
            findings, source["labels"] = useful, list(useful)
        return dataclasses.replace(
            self._draft,
            data=source,
            preprocessing=options,
            findings=findings,
            n_tried=len(items.samples),
            as_good=as_good,
            hints=[] if items.labels is not None else list(self._hints()),
        )

    def _columns(self) -> str | list[str] | None:
        """Return which columns of a table hold labels, where their names do not tell."""
        listing = Path(self._source.get("annotations") or self._source["path"])
        if listing.suffix.lower() != ".csv" or not listing.is_file():
            return None
        names = [name for name in read_table(listing) if name != IMAGE]
        if len(names) == 1:
            return None if names[0] in {LABEL, TEXT, MASK} else names[0]
        return names or None

    def _readable(self, source: Options) -> tuple[Options | None, _Items]:
        """Return the preprocessing by which items fit the model, and some of them.

        Raises:
            DataError: there is none.
        """
        fault: DataError | None = None
        is_array = Path(source["path"]).suffix == ".npz"
        for options in self._ways():
            try:
                return options, self._read(source, options)
            except DataError as error:
                # Of images, the fault of those that were prepared tells more than that of those that were not.
                if options is not None or fault is None or is_array:
                    fault = error
        raise fault or DataError(f"{source['path']}: cannot be read")

    def _ways(self) -> Iterator[Options | None]:
        """Yield the preprocessing that may be needed; arrays that are no images of bytes refuse any."""
        options = self._draft.preprocessing
        if options is not None and split_entry(self._source["path"]) is None:
            yield {key: value for key, value in options.items() if key != "resize"}
            if "resize" in options:
                yield options
        yield None

    def _read(self, source: Options, options: Options | None) -> _Items:
        spec = DataSpec.model_validate({**source, **({} if options is None else {"preprocessing": options})})
        samples = Samples(spec, self._draft.inputs, 0)
        items = samples.items("validation")[:_N_ITEMS]
        read = [samples.sample(item) for item in items]
        labels = [samples.label(item) for item in items]
        return _Items(read, None if any(label is None for label in labels) else labels)

    def _recognized(
        self, source: Options, options: Options | None, items: _Items
    ) -> tuple[Options | None, Mapping[str | None, Finding], list[Options]]:
        """Return what the items are for; of the usual means and scales of images the best by it, and its equals."""
        alphabets = runtime.alphabets(self._draft.model)
        plain = _findings(items.labels, self._run(items.samples), alphabets)
        if options is None or _goodness(plain) == float("-inf"):
            return options, plain, []
        best, found = options, plain
        tries: list[tuple[Options, float]] = []
        for usual in _USUAL:
            n_channels = 1 if options.get("channels") == "GRAY" else 3
            if any(len(values) not in {1, n_channels} for values in usual.values()):
                continue
            other = {**options, **usual}
            tried = _findings(items.labels, self._run(self._read(source, other).samples), alphabets)
            tries.append((usual, _goodness(tried)))
            if _goodness(tried) > _goodness(found) + _GAIN:
                best, found = other, tried
        equals = [usual for usual, value in tries if value >= _goodness(found) - _GAIN and {**options, **usual} != best]
        return best, found, equals

    def _run(self, samples: Sequence[Sample]) -> dict[str, list[Array]]:
        if self._compiled is None:
            self._compiled = CompiledModel(self._model, "CPU", {}, "f32")
        begun = time.monotonic()
        outputs: dict[str, list[Array]] = {}
        for number, sample in enumerate(samples):
            for name, array in self._compiled.infer(sample).items():
                outputs.setdefault(name, []).append(array)
            if number > 0 and time.monotonic() - begun > _SECONDS:
                break
        return outputs

    def _hints(self) -> Iterator[str]:
        """Yield what lies beside a folder of images and may say more of them."""
        folder = Path(self._source["path"])
        images = images_in(folder)
        if not images or "annotations" in self._source or "masks" in self._source:
            return
        for beside in sorted(folder.parent.iterdir()):
            if beside.suffix == ".json" and beside.stat().st_size < _MAX_JSON and _lists(beside, images):
                yield f"{beside.name} lists boxes of these images: for detection, run init again with --annotations {beside}"
            if beside.is_dir() and beside != folder and _has_masks(beside, images):
                yield f"{beside.name} has a .png for each image: for segmentation, run init again with --masks {beside}"


def _has_masks(folder: Path, images: Sequence[Path]) -> bool:
    if not all((folder / f"{image.stem}.png").is_file() for image in images):
        return False
    try:
        read_mask(folder / f"{images[0].stem}.png", images[0], Preprocessing())
    except DataError:
        return False
    return True


def _lists(path: Path, images: Sequence[Path]) -> bool:
    try:
        names = {entry["file_name"] for entry in read_coco(path)["images"]}
    except DataError:
        return False
    return bool(names & {image.name for image in images})


def _findings(
    labels: Sequence[Any] | None, outputs: Mapping[str, Sequence[Array]], alphabets: Sequence[str]
) -> dict[str | None, Finding]:
    """Return what items are for, by column of labels."""
    n_run = len(next(iter(outputs.values())))
    labels = None if labels is None else labels[:n_run]
    if labels is not None and isinstance(labels[0], Mapping) and "boxes" not in labels[0]:
        return {name: recognize([label[name] for label in labels], outputs, name, alphabets) for name in labels[0]}
    return {None: recognize(labels, outputs, None, alphabets)}


def _goodness(findings: Mapping[str | None, Finding]) -> float:
    return next((finding.goodness for finding in findings.values() if finding.metrics), float("-inf"))
