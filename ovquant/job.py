"""The job file: which model, data, target, constraints and budget. Command-line options are merged in before it is read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, ByteSize, Field, PlainSerializer, model_validator

from ovquant.address import Address, parse_address
from ovquant.configfile import FileModel, read_yaml, validate
from ovquant.errors import ConfigError, UsageError
from ovquant.strategy import StrategySpec

OutputKind: TypeAlias = Literal["logits", "probabilities", "values"]
Fitness: TypeAlias = Literal["pareto", "accuracy", "divergence", "weighted"]
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_seconds(value: Any) -> Any:
    """Return seconds for ``90``, ``90s``, ``10m``, ``1.5h`` or ``1h30m``."""
    if isinstance(value, bool):
        raise ValueError(f"a duration is written like 90s, 10m or 1h30m, found {value!r}")
    if isinstance(value, str):
        parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", value)
        if parts and "".join(number + unit for number, unit in parts) == value.strip():
            return sum(float(number) * _SECONDS[unit] for number, unit in parts)
        if re.fullmatch(r"\d+(?:\.\d+)?", value.strip()):
            return float(value)
        raise ValueError(f"a duration is written like 90s, 10m or 1h30m, found {value!r}")
    return value


Seconds = Annotated[float, BeforeValidator(parse_seconds), Field(gt=0)]


class Drop(FileModel):
    """A limit on how much worse than the reference a metric may be.

    Attributes:
        amount: in the metric's own unit, or a fraction of the reference's value if `is_relative`.
    """

    amount: Annotated[float, Field(ge=0, le=1e9, strict=True)]
    is_relative: bool = False

    def limit(self, reference: float) -> float:
        """Return the largest allowed drop, in the metric's own unit."""
        return self.amount * abs(reference) if self.is_relative else self.amount

    def __str__(self) -> str:
        return f"{self.amount * 100:g}%" if self.is_relative else f"{self.amount:g}"


def _parse_drop(value: Any) -> Any:
    if isinstance(value, dict | Drop) or value is None:
        return value
    text = str(value).strip()
    try:
        number = float(text.removesuffix("%")) if not isinstance(value, bool) else float("nan")
    except ValueError:
        number = float("nan")
    if not 0 <= number < float("inf"):
        raise ValueError(f"a drop is a number in the metric's unit, or like 1%, and not negative; found {value!r}")
    return {"amount": number / 100, "is_relative": True} if text.endswith("%") else {"amount": number}


def _write_drop(drop: Drop) -> str | dict[str, Any]:
    """Return the short form of a drop where reading it gives the same number again."""
    text = str(drop)
    content = {"amount": drop.amount, "is_relative": drop.is_relative}
    return text if {"is_relative": False, **_parse_drop(text)} == content else content


DropLimit = Annotated[Drop, BeforeValidator(_parse_drop), PlainSerializer(_write_drop)]


class MetricSpec(FileModel):
    """One metric and its limit. Which metric takes which option is checked when the metric is made.

    Attributes:
        name: ``accuracy``, ``top5``, ``map``, ``miou`` ..., a scikit-learn scorer, or a Python entry ``file.py:function``.
        max_drop: absolute (``0.01``) or relative to the reference (``1%``); None only reports the metric.
        output: the model output it reads; None is the first one.
        labels: which labels it compares with, where the data has several.
        direction: for Python entries only; others know their own.
        decode: from the outputs of one item to what the metric compares: ``ctc``, ``argmax``, or a Python entry.
        blank: class that means "no symbol" in ``ctc``.
        end: class that ends a sequence in ``argmax``.
        alphabet: the symbols that the other classes stand for, in their order.
        ignore_index: label of pixels that do not count.
        num_classes: number of classes, where the output does not tell.
    """

    name: Annotated[str, Field(min_length=1)]
    max_drop: DropLimit | None = Drop(amount=0.01, is_relative=True)
    output: str | None = None
    labels: str | None = None
    direction: Literal["maximize", "minimize"] = "maximize"
    decode: str | None = None
    blank: Annotated[int, Field(ge=0, strict=True)] | None = None
    end: Annotated[int, Field(ge=0, strict=True)] | None = None
    alphabet: Annotated[str, Field(min_length=1)] | None = None
    ignore_index: Annotated[int, Field(strict=True)] | None = None
    num_classes: Annotated[int, Field(ge=2, le=65_536, strict=True)] | None = None

    @property
    def label(self) -> str:
        """What results call it: its name, and output and labels where they are given."""
        return "@".join([self.name, *filter(None, [self.output, self.labels])])


def _as_metrics(value: Any) -> Any:
    if value is None:
        return []
    values = value if isinstance(value, list | tuple) else [value]
    return [{"name": item} if isinstance(item, str) else item for item in values]


def _as_pair(value: Any) -> Any:
    return value if value is None or isinstance(value, list | tuple) else [value]


Number = Annotated[float, Field(strict=True)]
Side = Annotated[int, Field(ge=1, le=16_384, strict=True)]
Sides = Annotated[tuple[Side, ...], BeforeValidator(_as_pair), Field(min_length=1, max_length=2)]
Values = Annotated[tuple[Number, ...], BeforeValidator(_as_pair), Field(min_length=1)]


class Preprocessing(FileModel):
    """From a stored image (or image array) to what the model takes: resize, crop, (x - mean) / scale, layout.

    Attributes:
        resize: one number is the shorter side (aspect ratio kept), two are height and width.
        crop: side, or height and width, of the centre crop taken after `resize`.
        mean: one value, or one per channel, in units of the stored pixel (0..255).
        scale: likewise; must not be zero.
        layout: of the model's input; None reads it off its shape.
        channels: channel order that the model takes; images are stored as RGB.
    """

    resize: Sides | None = None
    crop: Sides | None = None
    mean: Values | None = None
    scale: Values | None = None
    layout: Literal["NCHW", "NHWC"] | None = None
    channels: Literal["RGB", "BGR", "GRAY"] = "RGB"

    @model_validator(mode="after")
    def _check_scale(self) -> Preprocessing:
        if self.scale is not None and 0 in self.scale:
            raise ValueError("scale: must not be zero")
        return self


Labels = str | Annotated[tuple[str, ...], Field(min_length=1)] | None


class Source(FileModel):
    """Where samples come from.

    Attributes:
        path: image folder, CSV file, COCO JSON file, ``.npz`` file, saved Hugging Face data set, or Python entry
            ``file.py:function``.
        inputs: for arrays and data sets: model input name -> array or column; None finds them by name.
        labels: for arrays and tables: array or column of the labels, or several of them; None finds it by name.
        annotations: for an image folder: COCO JSON or CSV file that lists images of it.
        masks: for an image folder: folder with a PNG of class numbers for each image.
    """

    path: Annotated[str, Field(min_length=1)]
    inputs: dict[str, str] | None = None
    labels: Labels = None
    annotations: str | None = None
    masks: str | None = None


def _as_source(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


class DataSpec(FileModel):
    """The samples and how they are divided.

    Attributes:
        path, inputs, labels, annotations, masks: the main source: validation, and whatever has no source of its own.
        calibration: a source of its own for calibration items (labels are not needed).
        holdout: a source of its own for holdout items.
        calibration_items: how many items to calibrate with at most; None takes 300, and at most a third of a source
            that also has to serve validation.
        max_items: use at most this many items for validation and holdout together (seeded choice).
        preprocessing: for images and image arrays (uint8 [N, H, W, C]).
        class_names: names of class folders, categories or text labels in the order of the model's outputs; None sorts folders by
            name and categories by id.
        arguments: keyword arguments of a Python entry.
    """

    path: Annotated[str, Field(min_length=1)]
    inputs: dict[str, str] | None = None
    labels: Labels = None
    annotations: str | None = None
    masks: str | None = None
    calibration: Annotated[Source, BeforeValidator(_as_source)] | None = None
    holdout: Annotated[Source, BeforeValidator(_as_source)] | None = None
    calibration_items: Annotated[int, Field(ge=1, strict=True)] | None = None
    max_items: Annotated[int, Field(ge=2, strict=True)] | None = None
    preprocessing: Preprocessing = Preprocessing()
    class_names: tuple[str, ...] | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)

    @property
    def main(self) -> Source:
        """The main source."""
        return Source(path=self.path, inputs=self.inputs, labels=self.labels, annotations=self.annotations, masks=self.masks)


class Objective(FileModel):
    """What is maximized.

    Attributes:
        fitness: ``pareto``: NSGA-II on divergence and latency, the metrics only constrain. The others maximize one number:
            quality - latency_weight * (latency / baseline latency), with quality the first metric (``accuracy``, negated if
            it is minimized), minus the divergence in nats (``divergence``), or both with the weights below (``weighted``).
        accuracy_weight, divergence_weight: of ``weighted``.
        latency_weight: the lambda of the three.
    """

    fitness: Fitness = "pareto"
    accuracy_weight: Annotated[float, Field(ge=0, strict=True)] = 1.0
    divergence_weight: Annotated[float, Field(ge=0, strict=True)] = 1.0
    latency_weight: Annotated[float, Field(ge=0, strict=True)] = 0.1


class StopAt(FileModel):
    """Ends the search as soon as a feasible candidate meets all that is given here.

    Attributes:
        max_drop: of the first metric.
        min_speedup: baseline latency / candidate latency.
        fitness: at least this fitness (not in pareto mode).
    """

    max_drop: DropLimit | None = None
    min_speedup: Annotated[float, Field(gt=0, strict=True)] | None = None
    fitness: Number | None = None

    @model_validator(mode="after")
    def _check_any(self) -> StopAt:
        if self.max_drop is None and self.min_speedup is None and self.fitness is None:
            raise ValueError("give at least one of max_drop, min_speedup, fitness")
        return self


class RecipeSource(FileModel):
    """What an earlier search found.

    Attributes:
        name: recipe file, package, or output directory of a search; with a strategy, what it is called.
        strategy: that is in it. A search keeps it in its own job, so that it goes on without the file.
    """

    name: Annotated[str, Field(min_length=1)]
    strategy: StrategySpec | None = None


def _as_recipes(value: Any) -> Any:
    values = value if isinstance(value, list | tuple) else [] if value is None else [value]
    return [{"name": str(item)} if isinstance(item, str | Path) else item for item in values]


class Job(FileModel):
    """Everything a search needs. See the README for a commented example.

    Attributes:
        recipes: of earlier searches, which this one begins with.
        measure_on: address of the machine that latency is measured on, see `ovquant.address`; None is this one.
        remote_python: Python there that has OpenVINO; goes over that of the address.
        cluster: address of a Dask scheduler whose workers evaluate the candidates, or its scheduler file (``.json``); None
            evaluates them on this machine.
    """

    version: Literal[1] = 1
    model: Annotated[str, Field(min_length=1)]
    target: str = "cpu"
    device: str | None = None
    measure_on: str | None = None
    remote_python: Annotated[str, Field(min_length=1)] | None = None
    cluster: str | None = None
    data: Annotated[DataSpec, BeforeValidator(_as_source)]
    metrics: Annotated[tuple[MetricSpec, ...], BeforeValidator(_as_metrics)] = ()
    max_divergence: Annotated[float, Field(ge=0, strict=True)] | None = None
    output_kinds: dict[str, OutputKind] = Field(default_factory=dict)
    objective: Objective = Objective()
    recipes: Annotated[tuple[RecipeSource, ...], BeforeValidator(_as_recipes)] = ()
    stop_at: StopAt | None = None
    budget: Seconds | None = None
    max_trials: Annotated[int, Field(ge=1, le=100_000, strict=True)] | None = None
    memory_limit: Annotated[ByteSize, Field(ge=1 << 20)] | None = None
    population: Annotated[int, Field(ge=2, le=10_000, strict=True)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32, strict=True)] = 0
    output: str = "ovquant-out"

    @model_validator(mode="after")
    def _check_consistency(self) -> Job:
        fitness = self.objective.fitness
        faults = []
        try:
            _ = self.address
        except ValueError as error:
            faults.append(f"measure_on: {error}")
        if self.remote_python is not None and self.measure_on is None:
            faults.append("remote_python: is of no use without measure_on")
        if self.cluster is not None and not re.fullmatch(r"[a-z]+://[^\s/]+|.+\.json", self.cluster):
            faults.append(f"cluster: is written like tcp://HOST:PORT, or as the scheduler's .json file; found {self.cluster!r}")
        if self.cluster is not None and self.measure_on is not None:
            faults.append("measure_on: is of no use with cluster, whose workers measure")
        if fitness in {"accuracy", "weighted"} and not self.metrics:
            faults.append(f"objective.fitness: {fitness} needs a metric; give one, or use divergence or pareto")
        if self.stop_at is not None and self.stop_at.max_drop is not None and not self.metrics:
            faults.append("stop_at.max_drop: needs a metric")
        if self.stop_at is not None and self.stop_at.fitness is not None and fitness == "pareto":
            faults.append("stop_at.fitness: pareto mode has no single fitness; set objective.fitness, or drop it")
        names = [metric.label for metric in self.metrics]
        if len(set(names)) != len(names):
            faults.append("metrics: the same metric is given twice")
        if faults:
            raise ValueError("\n".join(faults))
        return self

    @property
    def address(self) -> Address | None:
        """Of the machine that latency is measured on; None is this one."""
        return None if self.measure_on is None else parse_address(self.measure_on, self.remote_python)

    @property
    def population_size(self) -> int:
        """Trials per generation: at most a fifth of the trials, so that a short search still breeds, and few, to learn often.

        Six keep the workers of a small cluster busy.
        """
        if self.population is not None:
            return self.population
        most = _MOST_MEMBERS if self.cluster is None else _MOST_MEMBERS_ON_CLUSTER
        return most if self.max_trials is None else max(2, min(most, self.max_trials // 5))


DEFAULT_MAX_TRIALS = 40
_MOST_MEMBERS = 3  # of a generation; of 2, 3, 4 and 6 the best on a table of 768 strategies, and with 3 a search takes no longer
_MOST_MEMBERS_ON_CLUSTER = 6
# Keys that hold paths, and how these end where the key may hold something else.
_PATH_KEYS = {"model": ("",), "output": ("",), "cluster": (".json",), "target": (".yaml", ".yml")}
_SOURCE_PATHS = ("path", "annotations", "masks")


def load_job(path: Path | None, options: Mapping[str, Any], max_drops: Sequence[str] = ()) -> Job:
    """Return the job of a file and of command-line options, which win over the file.

    Relative paths in a file are relative to the file; those on the command line to the working directory.

    Args:
        path: job file or None.
        options: nested like the job file; None values are absent.
        max_drops: limits of the metrics, one for all or one each.

    Raises:
        ConfigError: all faults, one a line.
    """
    content: dict[str, Any] = {}
    if path is not None:
        content = _anchor(read_yaml(path, "job"), path.resolve().parent)
    given = _without_none(options)
    merged = _merge(content, given)
    if max_drops:
        merged["metrics"] = _with_drops(merged.get("metrics"), max_drops)
    if merged.get("budget") is None and merged.get("max_trials") is None:
        merged["max_trials"] = DEFAULT_MAX_TRIALS
    where = "command line" if path is None else f"{path} with command-line options" if given else str(path)
    if path is None and "data" not in merged:
        raise ConfigError("command line: --data is required: an image folder, an .npz file or file.py:function")
    return validate(Job, merged, where)


def _with_drops(metrics: Any, drops: Sequence[str]) -> list[Any]:
    entries = _as_metrics(metrics)
    if not entries:
        raise UsageError("--max-drop: no metric is given that may drop; add --metric")
    if len(drops) not in {1, len(entries)}:
        raise UsageError(f"--max-drop: {len(drops)} limits for {len(entries)} metrics; give one for all, or one each")
    limits = drops if len(drops) == len(entries) else list(drops) * len(entries)
    return [
        {**entry, "max_drop": limit} if isinstance(entry, dict) else entry for entry, limit in zip(entries, limits, strict=True)
    ]


def with_absolute_paths(job: Job, folder: Path) -> Job:
    """Return the same job with every relative path taken from `folder`, to be written to a file somewhere else."""
    content = _anchor(job.model_dump(exclude_defaults=True), folder)
    return Job.model_validate({**content, "output": _absolute(job.output, folder)})


def split_entry(text: str) -> tuple[Path, str] | None:
    """Return (file, function) of a Python entry ``file.py:function``, or None if it is not one."""
    match = re.fullmatch(r"(.+\.py):([A-Za-z_]\w*)", text)
    return (Path(match[1]), match[2]) if match else None


def _anchor(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make the relative paths of a job file absolute; faults of type are left for validation."""
    anchored = dict(content)
    for key, endings in _PATH_KEYS.items():
        if isinstance(anchored.get(key), str) and anchored[key].endswith(endings):
            anchored[key] = _absolute(anchored[key], folder)
    if "data" in anchored:
        anchored["data"] = _anchor_source(anchored["data"], folder)
    if isinstance(anchored.get("data"), dict):
        for role in ("calibration", "holdout"):
            if role in anchored["data"]:
                anchored["data"][role] = _anchor_source(anchored["data"][role], folder)
    for key, listed, anchor in (("metrics", _as_metrics, _anchor_metric), ("recipes", _as_recipes, _anchor_recipe)):
        if anchored.get(key) is not None:
            anchored[key] = [anchor(entry, folder) for entry in listed(anchored[key])]
    return anchored


def _anchor_source(source: Any, folder: Path) -> Any:
    if isinstance(source, str):
        return {"path": _absolute(source, folder)}
    if isinstance(source, dict):
        return {**source, **{key: _absolute(source[key], folder) for key in _SOURCE_PATHS if isinstance(source.get(key), str)}}
    return source


def _anchor_metric(metric: Any, folder: Path) -> Any:
    if isinstance(metric, dict):
        entries = [key for key in ("name", "decode") if isinstance(metric.get(key), str) and split_entry(metric[key])]
        return {**metric, **{key: _absolute(metric[key], folder) for key in entries}}
    return metric


def _anchor_recipe(recipe: Any, folder: Path) -> Any:
    is_file = isinstance(recipe, dict) and isinstance(recipe.get("name"), str) and recipe.get("strategy") is None
    return {**recipe, "name": _absolute(recipe["name"], folder)} if is_file else recipe


def _absolute(text: str, folder: Path) -> str:
    try:
        path = Path(text).expanduser()
    except RuntimeError:  # no such user; the path is not found later, and said to be
        path = Path(text)
    return str(path if path.is_absolute() else folder / path)


def _without_none(options: Mapping[str, Any]) -> dict[str, Any]:
    cleaned = {
        key: _without_none(value) if isinstance(value, Mapping) else value for key, value in options.items() if value is not None
    }
    return {key: value for key, value in cleaned.items() if value not in ({}, [], ())}


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged
