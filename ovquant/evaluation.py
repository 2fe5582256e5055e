"""One model -> Outcome: build it, run it on the items of a split, score it, time it against the baseline."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovquant import quantization, runtime
from ovquant.datasets.splits import Samples
from ovquant.errors import DataError, ModelError, OvquantError, did_you_mean, first_line
from ovquant.job import DataSpec, MetricSpec, OutputKind
from ovquant.latency import SystemClock, measure, summarize
from ovquant.metrics import divergence, intervals
from ovquant.metrics.scores import SklearnScorer, TopK, build_metric
from ovquant.protocols import Array, Metric
from ovquant.records import (
    Comparison,
    Evaluation,
    Failure,
    FloatModel,
    Interval,
    MetricResult,
    ModelFile,
    Outcome,
    Split,
    Subject,
)
from ovquant.space import ModelFacts
from ovquant.strategy import InferencePrecision, Strategy
from ovquant.targets import MeasurementPlan, Target

Columns = dict[str, list[Array]]
_FUNCTION_RESAMPLES = 400
_MODELS_BYTES = 2 << 30


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BenchSpec:
    """All that a process needs to evaluate candidates of one job; plain values, so that it can be sent anywhere.

    Attributes:
        model: path of the float model.
        target: profile.
        device: OpenVINO device that is really used.
        data: samples.
        seed: of the division of the samples.
        metrics: in the order of the job.
        output_kinds: output name -> kind, where the user told.
        model_dir: where candidate IRs are kept for a while; a directory of this run alone.
        is_divided: False uses all samples for validation.
    """

    model: str
    target: Target
    device: str
    data: DataSpec
    seed: int
    metrics: tuple[MetricSpec, ...]
    output_kinds: Mapping[str, OutputKind]
    model_dir: str
    is_divided: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Evaluate one model.

    Attributes:
        bench: what it is evaluated on.
        subject: the model.
        split: the items.
        is_timed: measure latency, too, by the target's ranking plan.
        has_intervals: compute the intervals that need resampling.
    """

    bench: BenchSpec
    subject: Subject
    split: Split = "validation"
    is_timed: bool = True
    has_intervals: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonTask:
    """Measure several models in turns by the target's verdict plan; the first one is the baseline."""

    bench: BenchSpec
    subjects: tuple[Subject, ...]


@dataclasses.dataclass(slots=True)
class _Stages:
    """Names the stage at work and keeps the seconds of each."""

    current: str = "start"
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.current = name
        start = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 4)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Reference:
    """Outputs and metric values of the float model at f32 on one split."""

    outputs: Columns
    values: tuple[float, ...]
    items: tuple[NDArray[np.float64] | None, ...]


class Workbench:
    """The float model, the samples and the reference of one job, open in this process."""

    def __init__(self, spec: BenchSpec) -> None:
        """Open model and data.

        Raises:
            ModelError, DataError, ConfigError: they cannot be used together.
        """
        self.spec = spec
        self.model = runtime.read_model(Path(spec.model))
        if unnamed := runtime.unnamed_inputs(self.model):
            raise ModelError(f"{spec.model}: input {', '.join(unnamed)} has no name; export the model with named inputs")
        self.inputs = runtime.input_infos(self.model)
        self.operations = runtime.operations(self.model)
        self.output_names = runtime.output_names(self.model)
        for name in spec.output_kinds:
            if name not in self.output_names:
                hint = did_you_mean(name, self.output_names)
                raise DataError(f"output_kinds: no output {name!r}{hint}; outputs: {', '.join(self.output_names)}")
        self.samples = Samples(spec.data, self.inputs, spec.seed, is_divided=spec.is_divided)
        self.metrics: list[Metric] = [build_metric(metric, self.output_names) for metric in spec.metrics]
        self._baseline = self._compile(self.model, None)
        self._references: dict[Split, _Reference] = {}
        self._kinds: dict[str, OutputKind] | None = None
        splits: tuple[Split, ...] = ("validation", "holdout")
        for split in splits:
            if self.metrics and self.samples.items(split) and self.samples.labels(split) is None:
                raise DataError(
                    f"{spec.data.path}: metric {spec.metrics[0].name!r} needs labels, and the {split} items have none; "
                    "name them, or leave the metric out to search by divergence alone"
                )

    @property
    def own_precision(self) -> InferencePrecision:
        """The float precision that the target's compile properties give on the device."""
        return self._baseline.precision

    def facts(self) -> ModelFacts:
        """Return what a search space needs to know."""
        return ModelFacts(
            operations=self.operations,
            n_calibration=len(self.samples.items("calibration")),
            own_precision=self.own_precision,
            device_precisions=runtime.device_precisions(self.spec.device) | {self.own_precision},
        )

    def output_kinds(self) -> dict[str, OutputKind]:
        """Return how each output is read: as told, else guessed from the reference's outputs on validation items."""
        if self._kinds is None:
            outputs = self.reference("validation").outputs
            labels = self.samples.labels("validation") or []
            classified = {
                spec.output or self.output_names[0]
                for spec, metric in zip(self.spec.metrics, self.metrics, strict=True)
                if isinstance(metric, TopK) or (isinstance(metric, SklearnScorer) and metric.is_classification(labels))
            }
            self._kinds = {
                name: self.spec.output_kinds.get(name) or divergence.guess_kind(outputs[name], name in classified)
                for name in self.output_names
            }
        return self._kinds

    def reference(self, split: Split) -> _Reference:
        """Return the float model's outputs at f32, computed once per split.

        Raises:
            ModelError: they are not finite.
            DataError: a metric does not fit them and the labels.
        """
        if split not in self._references:
            outputs = self._run(self._compile(self.model, "f32"), split, f"{self.spec.model} at f32: ")
            values, items = self._score(outputs, split)
            self._references[split] = _Reference(outputs=outputs, values=values, items=items)
        return self._references[split]

    def evaluate(self, task: Task) -> Outcome:
        """Return what came of one model; faults of a candidate are a `Failure`.

        Raises:
            OvquantError: the float model itself cannot be evaluated.
        """
        stages = _Stages()
        reference = self.reference(task.split)
        try:
            return self._evaluate(task, reference, stages)
        except Exception as error:
            if isinstance(error, OvquantError) and not isinstance(task.subject, Strategy):
                raise
            return Failure(stage=stages.current, error=type(error).__name__, message=first_line(error))

    def compare(self, task: ComparisonTask) -> Comparison | Failure:
        """Return the latencies of several models measured in turns; the first one is the baseline."""
        stages = _Stages()
        try:
            compiled = []
            for subject in task.subjects:
                with stages.stage("quantize"):
                    path = self.build(subject)
                with stages.stage("compile"):
                    compiled.append(self._compile(runtime.read_model(path), subject.inference_precision))
            with stages.stage("latency"):
                plan = self.spec.target.measurement.verdict
                return Comparison(latencies=tuple(self._time(compiled, plan)))
        except Exception as error:
            return Failure(stage=stages.current, error=type(error).__name__, message=first_line(error))

    def build(self, subject: Subject) -> Path:
        """Return the file of a subject's model; a strategy's IR is made if it is not kept already."""
        if isinstance(subject, FloatModel):
            return Path(self.spec.model)
        if isinstance(subject, ModelFile):
            return Path(subject.path)
        path = Path(self.spec.model_dir) / f"{subject.digest}.xml"
        if not path.exists():
            samples = self.samples.samples("calibration", subject.subset_size)
            quantized = quantization.quantize(self.model, subject, samples, self.operations)
            if runtime.count_fake_quantize(quantized) == 0:
                raise ModelError("nothing was quantized: the ignored scope covers all that NNCF would quantize")
            runtime.save_model(quantized, path, subject.inference_precision)
            _drop_oldest(path)
        return path

    def _evaluate(self, task: Task, reference: _Reference, stages: _Stages) -> Evaluation:
        subject = task.subject
        with stages.stage("quantize"):
            path = self.build(subject)
        with stages.stage("compile"):
            model = runtime.read_model(path)
            self._check_interface(model, path)
            compiled = self._compile(model, subject.inference_precision)
        with stages.stage("validate"):
            outputs = self._run(compiled, task.split, f"{path}: " if isinstance(subject, ModelFile) else "")
            items = divergence.per_item(reference.outputs, outputs, self.output_kinds())
            metrics = self._metric_results(outputs, reference, task)
        latency = None
        if task.is_timed:
            with stages.stage("latency"):
                pair = [self._baseline, compiled]
                latency = self._time(pair, self.spec.target.measurement.ranking)[1]
        value = float(items.mean())
        return Evaluation(
            split=task.split,
            n_items=len(items),
            divergence=intervals.mean(items) if task.has_intervals else Interval(value=value, low=value, high=value),
            metrics=metrics,
            latency=latency,
            size_bytes=runtime.size_bytes(path),
            n_fake_quantize=runtime.count_fake_quantize(model),
            graph_digest=runtime.graph_digest(model),
            outputs_digest=_digest(outputs),
            seconds=stages.seconds,
        )

    def _check_interface(self, model: Any, path: Path) -> None:
        names = [info.name for info in runtime.input_infos(model)]
        shapes = [str(port.get_partial_shape()) for port in model.outputs]
        if names != [info.name for info in self.inputs] or shapes != [str(p.get_partial_shape()) for p in self.model.outputs]:
            raise ModelError(f"{path}: its inputs and outputs differ from those of {self.spec.model}; they cannot be compared")

    def _compile(self, model: Any, precision: InferencePrecision | None) -> runtime.CompiledModel:
        return runtime.CompiledModel(model, self.spec.device, self.spec.target.compile_properties, precision)

    def _run(self, compiled: runtime.CompiledModel, split: Split, what: str) -> Columns:
        columns: Columns = {name: [] for name in self.output_names}
        for item in self.samples.items(split):
            results = compiled.infer(self.samples.sample(item))
            for name, array in zip(self.output_names, results.values(), strict=True):
                if array.dtype.kind == "f" and not np.isfinite(array).all():
                    raise ModelError(f"{what}output {name!r} holds NaN or infinity on {self.samples.name_of(item)}")
                columns[name].append(array)
        return columns

    def _score(self, outputs: Columns, split: Split) -> tuple[tuple[float, ...], tuple[NDArray[np.float64] | None, ...]]:
        """Return the value of each metric and, where it is a mean over items, the score of each item."""
        labels = self.samples.labels(split) or []
        items = tuple(metric.per_item(outputs, labels) for metric in self.metrics)
        values = tuple(
            metric.value(outputs, labels) if scores is None else float(scores.mean())
            for metric, scores in zip(self.metrics, items, strict=True)
        )
        return values, items

    def _metric_results(self, outputs: Columns, reference: _Reference, task: Task) -> tuple[MetricResult, ...]:
        values, items = self._score(outputs, task.split)
        results = []
        for index, metric in enumerate(self.metrics):
            sign = 1.0 if metric.direction == "maximize" else -1.0
            mine, theirs = items[index], reference.items[index]
            drop = sign * (reference.values[index] - values[index])
            interval: Interval | None = None
            if mine is not None and theirs is not None:
                better, worse = (theirs, mine) if sign > 0 else (mine, theirs)
                interval = intervals.paired_drop(better, worse)
            elif task.has_intervals:
                interval = self._resampled_drop(metric, sign, outputs, reference, task.split)
            shown = interval or Interval(value=drop, low=drop, high=drop)
            results.append(MetricResult(name=metric.name, value=values[index], drop=shown, has_interval=interval is not None))
        return tuple(results)

    def _resampled_drop(
        self, metric: Metric, sign: float, outputs: Columns, reference: _Reference, split: Split
    ) -> Interval | None:
        labels = self.samples.labels(split) or []

        def drop(picks: Sequence[int]) -> float:
            chosen = [labels[i] for i in picks]
            try:
                theirs = metric.value(_pick(reference.outputs, picks), chosen)
                mine = metric.value(_pick(outputs, picks), chosen)
            except DataError as error:  # e.g. a resample without one of the classes
                raise ValueError(str(error)) from error
            return sign * (theirs - mine)

        return intervals.bootstrap(lambda picks: drop(picks.tolist()), len(labels), _FUNCTION_RESAMPLES)

    def _time(self, compiled: Sequence[runtime.CompiledModel], plan: MeasurementPlan) -> list[Any]:
        sample = self.samples.sample(self.samples.items("validation")[0])
        runners = {str(index): model.runner(sample) for index, model in enumerate(compiled)}
        bursts = measure(runners, plan, SystemClock())
        return [summarize(bursts[str(i)], bursts["0"], model.n_threads) for i, model in enumerate(compiled)]


def _drop_oldest(newest: Path) -> None:
    """Keep the candidate IRs below a limit; finalists that were dropped are quantized again."""
    kept = sorted(newest.parent.glob("*.xml"), key=lambda path: path.stat().st_mtime)
    total = sum(runtime.size_bytes(path) for path in kept)
    for path in kept:
        if total <= _MODELS_BYTES or path == newest:
            return
        total -= runtime.size_bytes(path)
        path.unlink()
        path.with_suffix(".bin").unlink(missing_ok=True)


def _pick(outputs: Columns, picks: Sequence[int]) -> Columns:
    return {name: [arrays[i] for i in picks] for name, arrays in outputs.items()}


def _digest(outputs: Columns) -> str:
    digest = hashlib.sha256()
    for name in outputs:
        for array in outputs[name]:
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


_open_benches: dict[str, Workbench] = {}


def open_bench(spec: BenchSpec) -> Workbench:
    """Return this process's workbench for a job; it stays open until another job's is asked for."""
    key = repr(spec)
    if key not in _open_benches:
        _open_benches.clear()
        _open_benches[key] = Workbench(spec)
    return _open_benches[key]


def run_task(task: Task) -> Outcome:
    """Evaluate a task in this process."""
    return open_bench(task.bench).evaluate(task)


def run_comparison(task: ComparisonTask) -> Comparison | Failure:
    """Measure the models of a comparison in this process."""
    return open_bench(task.bench).compare(task)
