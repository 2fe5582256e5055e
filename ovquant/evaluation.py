"""Models -> Outcomes: build them, time those whose kernels are new against the baseline, run them on the items of a split."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ovquant import runtime
from ovquant.building import SHARED, Builder, watched
from ovquant.candidate import Candidate, Memory, Stages
from ovquant.choices import ModelFacts
from ovquant.datasets.splits import Samples, fingerprint
from ovquant.environment import may_saturate, versions
from ovquant.errors import DataError, DeviceError, ModelError, OvquantError, did_you_mean, first_line
from ovquant.inference import CompiledModel
from ovquant.job import OutputKind
from ovquant.latency import summarize
from ovquant.metering import Ready
from ovquant.metrics import divergence, intervals
from ovquant.metrics.scores import SklearnScorer, TopK, build_metric
from ovquant.protocols import Metric, Sample, Watch, unwatched
from ovquant.quantization import plain
from ovquant.quantization.store import ArrayStore
from ovquant.racing import Constraint
from ovquant.records import (
    Comparison,
    Evaluation,
    Failure,
    FloatModel,
    Interval,
    Latency,
    ModelFile,
    Outcome,
    Raced,
    Split,
    Subject,
)
from ovquant.remote import meter_of
from ovquant.strategy import InferencePrecision, Strategy
from ovquant.targets import MeasurementPlan
from ovquant.tasks import Bench, BenchSpec, ComparisonTask, Made, Task, best_rival, if_hopeless, needs_screening, screening
from ovquant.validation import Reference, Validator, column_of, outputs_digest

_COMPILED_BYTES = 1 << 30  # of models that are open at the same time, by the size of the float model's files
Settle: TypeAlias = Callable[[int, Outcome], None]


def _settle_nothing(place: int, outcome: Outcome) -> None:
    """Tell nobody."""


class Workbench:
    """The float model, the samples and the reference of one job, open in this process."""

    def __init__(self, spec: BenchSpec, watch: Watch = unwatched) -> None:
        """Open model and data.

        Args:
            spec: what.
            watch: hears what is done for whom.

        Raises:
            ModelError, DataError, ConfigError: they cannot be used together.
        """
        self.spec = spec
        self._watch = watch
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
        self.samples = Samples(spec.data, self.inputs, spec.seed, is_divided=spec.is_divided, left_out=frozenset(spec.left_out))
        self.metrics: list[Metric] = [build_metric(metric, self.output_names) for metric in spec.metrics]
        work = Path(spec.model_dir)
        self._builder = Builder(self.model, self.operations, self.samples.samples("calibration"), work, watch)
        self._validator = Validator(self.samples, self.metrics, self.output_names, work / "references")
        self._kept = ArrayStore(work / "items")
        self._identity = ""
        self.meter = meter_of(spec.site, spec.device, spec.target.compile_properties, self._timed_sample, work / "sent")
        self._baseline = self.ready(Path(spec.model), self.model, None)
        self._references: dict[Split, Reference] = {}
        self._kinds: dict[str, OutputKind] | None = None
        self._memory = Memory(work)
        self._divergences: dict[str, NDArray[np.float64]] = {}  # of rivals
        splits: tuple[Split, ...] = ("validation", "holdout")
        for split in splits:
            needy = next((metric for metric in self.metrics if metric.truth == "labels"), None)
            if needy is not None and self.samples.items(split) and self.samples.labels(split) is None:
                raise DataError(
                    f"{spec.data.path}: metric {needy.name!r} needs labels, and the {split} items have none; "
                    "name them, or leave the metric out to search by divergence alone"
                )

    @property
    def own_precision(self) -> InferencePrecision:
        """The float precision that the target's compile properties give on the device."""
        return self.meter.precision(self._baseline)

    def facts(self) -> ModelFacts:
        """Return what a search space needs to know. Of precisions that is those which can be both validated here and timed."""
        site, own, here = self.spec.site, self.own_precision, runtime.device_precisions(self.spec.device)
        return ModelFacts(
            operations=self.operations,
            n_calibration=len(self.samples.items("calibration")),
            own_precision=own,
            device_precisions=(here if site is None else here & set(site.machine.precisions)) | {own},
            may_saturate=may_saturate(self.spec.device) if site is None else site.machine.may_saturate,
            can_align_channels=plain.can_align_channels(),
        )

    def output_kinds(self) -> dict[str, OutputKind]:
        """Return how each output is read: as told, else guessed from the reference's outputs on validation items."""
        if self._kinds is None:
            outputs = self.reference("validation").outputs
            labels = self.samples.labels("validation") or []
            classified = {
                spec.output or self.output_names[0]
                for spec, metric in zip(self.spec.metrics, self.metrics, strict=True)
                if isinstance(metric, TopK)
                or (isinstance(metric, SklearnScorer) and metric.is_classification(column_of(labels, metric)))
            }
            self._kinds = {
                name: self.spec.output_kinds.get(name) or divergence.guess_kind(outputs[name], name in classified)
                for name in self.output_names
            }
        return self._kinds

    def describe(self) -> Bench:
        """Read all items, run the reference on those of both splits, and return what a search needs to know.

        Of the holdout that shows the float model alone: faults are found now, and no candidate is looked at.

        Raises:
            DataError: an item cannot be read, or a metric does not fit.
            ModelError: outputs are not finite.
        """
        runtime.require_quantizable(self.model, Path(self.spec.model))
        self.samples.read_all()
        reference = self.reference("validation")
        self.reference("holdout")
        return Bench(
            facts=self.facts(),
            split=self.samples.split,
            has_labels=self.samples.labels("validation") is not None,
            output_kinds=self.output_kinds(),
            n_first=int(reference.outputs[self.output_names[0]][0].size),
            metric_names=tuple(metric.name for metric in self.metrics),
            metric_directions=tuple(metric.direction for metric in self.metrics),
            reference_values=reference.values,
        )

    def recall(self, known: Sequence[tuple[Strategy, Evaluation]]) -> None:
        """Take over what was measured before: latencies of kernels, outcomes of models that may come up again."""
        self._memory.recall(known)

    def reference(self, split: Split) -> Reference:
        """Return the float model's outputs at f32, computed once per split.

        Raises:
            ModelError: they are not finite.
            DataError: a metric does not fit them and the labels.
        """
        if split not in self._references:
            compiled = self._compile(self.model, "f32")
            what = f"{self.spec.model} at f32: "
            self._references[split] = self._validator.refer(compiled, split, what, self._made_of(split))
        return self._references[split]

    def _made_of(self, split: Split) -> str:
        """Return a digest of all that the reference's outputs depend on."""
        if not self._identity:
            files = list(runtime.model_sha256(Path(self.spec.model)).values())
            data = [fingerprint(self.spec.data), self.spec.data.model_dump(mode="json")]
            self._identity = repr([files, data, self.spec.device, dict(self.spec.properties), versions()])
        return hashlib.sha256(f"{self._identity} {self.samples.items(split)}".encode()).hexdigest()

    @property
    def sharing_fault(self) -> str | None:
        """Why candidates cannot share calibration statistics, None where they can."""
        return self._builder.fallback

    def announce(self, subjects: Sequence[Subject]) -> None:
        """Begin to build what will be evaluated soon, in that order; an accurate bias correction waits for its screening."""
        self._builder.announce([screened for subject in subjects if isinstance(screened := screening(subject), Strategy)])

    def build(self, subject: Subject) -> Path:
        """Return the file of a subject's model; a strategy's IR is made if it is not kept already."""
        if isinstance(subject, FloatModel):
            return Path(self.spec.model)
        return self._builder.build(subject) if isinstance(subject, Strategy) else Path(subject.path)

    def close(self) -> None:
        """Build and measure nothing more."""
        self._memory.close()
        self._builder.close()
        self.meter.close()

    def evaluate(self, task: Task) -> Outcome:
        """Return what came of one model, see `evaluate_all`."""
        return self.evaluate_all([task])[0]

    def evaluate_all(self, tasks: Sequence[Task], settle: Settle = _settle_nothing, first: int = 0) -> list[Outcome]:
        """Return what came of each model; faults of a candidate are a `Failure`.

        Kernels that were not timed before are timed in one round, against the same bursts of the baseline. Then each model is
        validated, while the next announced ones are built.

        Args:
            tasks: to evaluate.
            settle: told each outcome with the place of its task as soon as it is known.
            first: place of the first task.

        Raises:
            OvquantError: the float model itself cannot be evaluated.
        """
        if not tasks:
            return []
        n_at_once = max(1, _COMPILED_BYTES // max(1, runtime.size_bytes(Path(self.spec.model))))
        if len(tasks) > n_at_once:
            rest = first + n_at_once
            return [*self.evaluate_all(tasks[:n_at_once], settle, first), *self.evaluate_all(tasks[n_at_once:], settle, rest)]
        for split in dict.fromkeys(task.split for task in tasks):
            self.reference(split)
        hopeless = self._screen(tasks)
        outcomes: dict[int, Outcome] = dict(hopeless)
        for index, outcome in hopeless.items():
            settle(first + index, outcome)
        candidates = {index: self._ready(task) for index, task in enumerate(tasks) if index not in hopeless}
        self._time_new([candidate for candidate in candidates.values() if candidate.compiled is not None])
        for index, candidate in candidates.items():
            outcomes[index] = self._finish(candidate)
            settle(first + index, outcomes[index])
            candidate.compiled = candidate.model = None  # as large as the model, each
        return [outcomes[index] for index in range(len(tasks))]

    def compare(self, task: ComparisonTask) -> Comparison | Failure:
        """Return the latencies of several models measured in turns; the first one is the baseline.

        Those that run the same kernels are timed once: between them, timings would differ by chance only.

        Raises:
            DeviceError: the machine that measures cannot be reached.
        """
        stages = Stages(self._watch, SHARED)
        try:
            models = []
            for subject in task.subjects:
                with stages.stage("quantize"):
                    path = self.build(subject)
                with stages.stage("compile"):
                    models.append(self.ready(path, runtime.read_model(path), subject.inference_precision))
            with stages.stage("verdict"):
                keys = [self.meter.structure(model) for model in models]
                first: dict[str, Ready] = {}
                for key, model in zip(keys, models, strict=True):
                    first.setdefault(key, model)
                latencies = dict(zip(first, self._time([*first.values()], self.spec.target.measurement.verdict), strict=True))
                return Comparison(latencies=tuple(latencies[key] for key in keys), sharing_fault=self.sharing_fault)
        except DeviceError:
            raise
        except Exception as error:
            return Failure(stage=stages.current, error=type(error).__name__, message=first_line(error))

    def _screen(self, tasks: Sequence[Task]) -> dict[int, Evaluation]:
        """Return the outcomes of strategies whose accurate bias correction is not worth running, by place."""
        places = [index for index, task in enumerate(tasks) if needs_screening(task)]
        screened = self.evaluate_all([dataclasses.replace(tasks[i], subject=screening(tasks[i].subject)) for i in places])
        found = {index: if_hopeless(outcome) for index, outcome in zip(places, screened, strict=True)}
        return {index: outcome for index, outcome in found.items() if outcome is not None}

    def make(self, task: Task) -> Made | Failure:
        """Return a task's model file, which is all that is done."""
        candidate = self._made(task)
        seconds = candidate.stages.seconds
        return candidate.failure or Made(path=candidate.path, graph_digest=candidate.graph_digest, seconds=seconds)

    def structure(self, task: Task) -> str | Failure:
        """Return the key of the kernels that run of a task's model."""
        candidate = self._ready(task)
        return candidate.failure or str(candidate.structure)

    def time(self, task: Task) -> Latency | Failure:
        """Return the latency of a task's model by the ranking plan: that of its kernels, if it is known."""
        candidate = self._ready(task)
        if candidate.failure is None:
            self._time_new([candidate])
        return candidate.failure or self._memory.latencies[str(candidate.structure)]

    def _made(self, task: Task) -> Candidate:
        """Build and read a task's model."""
        who = task.subject.digest if isinstance(task.subject, Strategy) else SHARED
        candidate = Candidate(task=task, stages=Stages(self._watch, who))
        with self._faults(candidate):
            with candidate.stages.stage("quantize"):
                candidate.path = self.build(task.subject)
            with candidate.stages.stage("compile"):
                candidate.model = runtime.read_model(candidate.path)
                candidate.graph_digest = runtime.graph_digest(candidate.model)
        return candidate

    def _ready(self, task: Task) -> Candidate:
        """Build and compile a task's model; it has a structure unless an equal one was evaluated before."""
        candidate = self._made(task)
        stages = candidate.stages
        is_known = isinstance(task.subject, Strategy) and self._memory.knows(candidate.known_as, is_raced=task.is_raced)
        if candidate.failure is not None or is_known:
            return candidate
        with self._faults(candidate):
            with stages.stage("compile"):
                self._check_interface(candidate.model, candidate.path)
                candidate.compiled = self._compile(candidate.model, task.subject.inference_precision)
            if task.timed is not None:
                candidate.structure, candidate.latency = task.timed.structure, task.timed.latency
            elif task.is_timed:
                with stages.stage("compile" if self.meter.is_here else "latency"):
                    candidate.structure = self.meter.structure(candidate.ready)
        return candidate

    @contextlib.contextmanager
    def _faults(self, candidate: Candidate) -> Iterator[None]:
        """Turn a candidate's fault into its failure; models that the user gave are faults of the user's."""
        try:
            yield
        except Exception as error:
            if isinstance(error, OvquantError) and not isinstance(candidate.task.subject, Strategy):
                raise
            candidate.failure = Failure(stage=candidate.stages.current, error=type(error).__name__, message=first_line(error))
            candidate.compiled = None

    def _time_new(self, candidates: Sequence[Candidate]) -> None:
        """Time the kernels that are new, one candidate for each, in one round; give every candidate its latency."""
        timed = [candidate for candidate in candidates if candidate.structure is not None and candidate.latency is None]
        new = {c.structure: c for c in timed if c.structure not in self._memory.latencies and c.compiled is not None}
        if new:
            start = time.perf_counter()
            models = [candidate.ready for candidate in new.values()]
            try:
                with contextlib.ExitStack() as stack:
                    for candidate in new.values():
                        stack.enter_context(watched(self._watch, candidate.stages.who, "latency"))
                    measured = self._time([self._baseline, *models], self.spec.target.measurement.ranking)[1:]
            except Exception:
                for candidate in new.values():
                    candidate.stages.current = "latency"
                    with self._faults(candidate):
                        raise
                return
            each = round((time.perf_counter() - start) / len(new), 4)
            for candidate, latency in zip(new.values(), measured, strict=True):
                seconds = candidate.stages.seconds
                seconds["latency"] = round(seconds.get("latency", 0.0) + each, 4)
                self._memory.latencies[str(candidate.structure)] = latency
        for candidate in timed:
            candidate.latency = self._memory.latencies[str(candidate.structure)]

    def _finish(self, candidate: Candidate) -> Outcome:
        """Validate a candidate, or take over what is known of an equal model."""
        if candidate.failure is not None:
            return candidate.failure
        subject, is_raced = candidate.task.subject, candidate.task.is_raced
        if isinstance(subject, Strategy):
            again = self._memory.again(candidate.known_as, subject.digest, candidate.stages.seconds, is_raced=is_raced)
            if again is not None:
                return again
        outcome: Evaluation | None = None
        with self._faults(candidate):
            outcome = self._validated(candidate)
        if candidate.failure is not None or outcome is None:
            return candidate.failure or Failure(stage="validate", error="RuntimeError", message="no outcome")
        if isinstance(subject, Strategy):
            self._memory.learn(candidate.known_as, subject.digest, outcome)
        return outcome

    def _validated(self, candidate: Candidate) -> Evaluation:
        task, model, compiled = candidate.task, candidate.model, candidate.compiled
        if compiled is None:
            raise ValueError("not compiled")
        reference = self.reference(task.split)
        with candidate.stages.stage("validate"):
            found = self._validator.validate(
                compiled,
                lambda: self._compile_quick(model, task.subject.inference_precision, task.split),
                task.split,
                reference,
                self.output_kinds(),
                self._constraints(candidate, reference),
                f"{candidate.path}: " if isinstance(task.subject, ModelFile) else "",
            )
            metrics = self._validator.results(found.outputs, reference, task.split, has_intervals=task.has_intervals)
        items, stop = found.divergences, found.stop
        if stop is None and task.split == "validation" and isinstance(task.subject, Strategy):
            self._kept.put({task.subject.digest: [items]})
        value = float(items.mean())
        n_all = len(self.samples.items(task.split))
        return Evaluation(
            split=task.split,
            n_items=len(items),
            divergence=intervals.mean(items) if task.has_intervals else Interval(value=value, low=value, high=value),
            metrics=metrics,
            latency=candidate.latency,
            size_bytes=runtime.size_bytes(candidate.path),
            n_fake_quantize=runtime.count_fake_quantize(model),
            graph_digest=candidate.graph_digest,
            outputs_digest=outputs_digest(found.outputs),
            seconds=candidate.stages.seconds,
            structure=candidate.structure,
            divergences=tuple(items.tolist()) if task.has_intervals else None,
            raced=None
            if stop is None
            else Raced(reason=stop.reason, name=self._value_name(stop.name), bound=stop.bound, limit=stop.limit, n_items=n_all),
        )

    def _value_name(self, name: str) -> str:
        return self.metrics[int(name)].name if name.isdecimal() else "divergence"

    def _constraints(self, candidate: Candidate, reference: Reference) -> list[Constraint]:
        """Return what a candidate is watched for while it is validated."""
        race = candidate.task.race
        if race is None or candidate.task.split != "validation":
            return []
        found = []
        for index, (spec, metric, scores) in enumerate(zip(race.rules.metrics, self.metrics, reference.items, strict=True)):
            if spec.max_drop is not None and scores is not None:
                limit = spec.max_drop.limit(reference.values[index])
                found.append(Constraint(name=str(index), kind="drop", limit=limit, other=scores, direction=metric.direction))
        if race.rules.max_divergence is not None:
            found.append(Constraint(name="divergence", kind="divergence", limit=race.rules.max_divergence))
        rival = best_rival(race.rivals, candidate.latency)
        if rival is not None:
            other = self._divergences_of(rival.digest)
            found.append(Constraint(name="rival", kind="rival", limit=rival.divergence, other=other))
        return found

    def _divergences_of(self, digest: str) -> NDArray[np.float64] | None:
        """Return what a candidate diverged by on each validation item, of this process or one before."""
        if digest not in self._divergences and (kept := self._kept.get(digest)) is not None:
            self._divergences[digest] = kept[0]
        return self._divergences.get(digest)

    def _check_interface(self, model: Any, path: Path) -> None:
        names = [info.name for info in runtime.input_infos(model)]
        shapes = [str(port.get_partial_shape()) for port in model.outputs]
        if names != [info.name for info in self.inputs] or shapes != [str(p.get_partial_shape()) for p in self.model.outputs]:
            raise ModelError(f"{path}: its inputs and outputs differ from those of {self.spec.model}; they cannot be compared")

    def _compile(self, model: Any, precision: InferencePrecision | None) -> CompiledModel:
        return CompiledModel(model, self.spec.device, self.spec.properties, precision)

    def _compile_quick(self, model: Any, precision: InferencePrecision | None, split: Split) -> CompiledModel:
        """Compile for throughput; where all items have one shape, for that one: dynamic shapes are run one at a time."""
        properties = {**self.spec.properties, "PERFORMANCE_HINT": "THROUGHPUT"}
        if any(port.get_partial_shape().is_dynamic for port in model.inputs):
            shapes = self.samples.shapes(split)
            model = model if shapes is None else runtime.with_shapes(model, shapes)
        return CompiledModel(model, self.spec.device, properties, precision)

    def ready(self, path: Path, model: Any, precision: InferencePrecision | None) -> Ready:
        """Return a model that is to be measured, compiled if that is done here."""
        compiled = self._compile(model, precision) if self.meter.is_here else None
        return Ready(path=path, model=model, precision=precision, compiled=compiled)

    def _timed_sample(self) -> Sample:
        return self.samples.sample(self.samples.items("validation")[0])

    def _time(self, models: Sequence[Ready], plan: MeasurementPlan) -> list[Latency]:
        with self._builder.paused() if self.meter.is_here else contextlib.nullcontext():
            turns, n_threads = self.meter.turns(models, plan)
        return [summarize(turns, str(index), n) for index, n in enumerate(n_threads)]


_open_benches: dict[str, Workbench] = {}


def open_bench(spec: BenchSpec) -> Workbench:
    """Return this process's workbench for a job; it stays open until another job's is asked for."""
    key = repr(spec)
    if key not in _open_benches:
        close_benches()
        _open_benches[key] = Workbench(spec)
    return _open_benches[key]


def close_benches() -> None:
    """Close what is open in this process."""
    for bench in _open_benches.values():
        bench.close()
    _open_benches.clear()
