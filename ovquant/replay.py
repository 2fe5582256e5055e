"""The use case behind `ovquant quantize`: a recipe replayed on a model, without a search, and measured where labels are given."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ovquant import export, quantization, runtime
from ovquant.configfile import load
from ovquant.console import Console
from ovquant.datasets.readers import Part, open_source
from ovquant.devices import Device, resolve_device
from ovquant.environment import versions
from ovquant.errors import DataError, ModelError, RefutedError, UsageError, first_line
from ovquant.evaluation import Workbench
from ovquant.job import DataSpec, Job
from ovquant.objectives import Rules
from ovquant.operations import Operation
from ovquant.protocols import Dataset, Sample
from ovquant.recipe import CalibrationSpec, Made, Recipe, differences, fitted, made
from ovquant.records import Evaluation, ModelFile, outcome_to_json
from ovquant.scopes import resolve
from ovquant.strategy import Strategy, StrategySpec
from ovquant.targets import Target
from ovquant.tasks import BenchSpec, Task
from ovquant.verdict import Judgement, judge


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a replayed model is held to.

    Attributes:
        job: its metrics with their limits, and the device that is used instead of the recipe's.
        data: labelled samples; None are those of the calibration source that were not calibrated on.
        annotations: file that lists the items of the calibration source.
    """

    job: Job
    data: str | None
    annotations: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """What came of it.

    Attributes:
        evaluation: of the quantized model.
        limits: of the metrics' drops, in their own units.
        judgement: whether they are kept.
        device: that was measured on.
        notes: what must be said beside it.
    """

    evaluation: Evaluation
    limits: tuple[float | None, ...]
    judgement: Judgement
    device: str
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "evaluation": outcome_to_json(self.evaluation),
            "limits": list(self.limits),
            "judgement": self.judgement,
            "device": self.device,
            "notes": list(self.notes),
        }

    def manifest(self, limits: Limits) -> dict[str, Any]:
        """Return what the manifest says of it; ``measured`` is what `ovquant.verification` compares with."""
        return {
            "metrics": [metric.model_dump(mode="json") for metric in limits.job.metrics],
            "measured": {
                "split": self.evaluation.split,
                "n_items": self.evaluation.n_items,
                "metrics": {metric.name: metric.value for metric in self.evaluation.metrics},
                "latency_ms": None,  # was not measured
            },
            "replayed": self.to_json(),
        }


def quantize(
    model: Path,
    recipe_path: Path,
    data: str,
    directory: Path,
    console: Console,
    limits: Limits | None = None,
    annotations: str | None = None,
) -> dict[str, Any]:
    """Replay a recipe on a model: the one that it was found on, trained again, or exported again.

    Args:
        model: float model.
        recipe_path: the recipe.
        data: samples to calibrate on.
        directory: for the package.
        console: for people.
        limits: what to measure; None measures nothing.
        annotations: file that lists the items of `data`, where it did so for the search.

    Raises:
        RefutedError: the model breaks a limit for certain; it is written all the same.
        OvquantError: recipe, model or data cannot be used.
    """
    export.require_free(directory)
    recipe = load(Recipe, recipe_path, "recipe")
    float_model = runtime.read_model(model)
    runtime.require_quantizable(float_model, model)
    operations = runtime.operations(float_model)
    strategy, note = fitted(recipe.strategy.strategy(), recipe.made, operations, f"{recipe_path}: strategy.ignored_scope")
    if note is not None:
        console.warn(f"{model}: {note}")
    ignored = resolve(strategy.ignored_scope, operations)
    samples, items = _calibration_samples(recipe.calibration, data, annotations, runtime.input_infos(float_model), console)
    with tempfile.TemporaryDirectory(prefix="ovquant-") as folder, contextlib.ExitStack() as stack:
        gauge = None if limits is None else stack.enter_context(_opened(limits, recipe, model, data, items, Path(folder)))
        path = Path(folder) / "model.xml"
        digest = _replay(model, float_model, operations, samples, recipe, strategy, path)
        hashes = runtime.model_sha256(model)
        now = made(strategy, operations, model_sha256=hashes[model.name], graph_digest=digest, versions=versions())
        is_same = digest == recipe.made.graph_digest
        told = differences(recipe.made, now)
        measured = None if gauge is None else gauge.measure(path, strategy)
        manifest = {
            "model": {"name": model.name, "sha256": hashes},
            "recipe": {"path": recipe_path.name, "is_identical_to_recipe": is_same, "differences": told},
            "strategy": strategy.as_dict(),
            "ignored_operations": list(ignored),
            "graph_digest": digest,
            "versions": versions(),
        }
        if limits is not None and measured is not None:
            manifest |= measured.manifest(limits)
        changes = {"made": now, "strategy": StrategySpec.model_validate(strategy.as_dict())}
        names = export.write_package(directory, path, recipe.model_copy(update=changes), manifest)
    console.result(f"Strategy: {strategy.describe()}; {len(samples)} calibration items")
    if ignored:
        console.result(f"Left in float: {', '.join(ignored)}")
    _tell(is_same, told, recipe.made, now, measured, console)
    console.result(f"Wrote {directory}: {', '.join(names)}")
    _require_kept(measured, model, directory)
    return {
        "output": str(directory),
        "graph_digest": digest,
        "is_identical_to_recipe": is_same,
        "differences": told,
        "left_in_float": list(now.left_in_float or ()),
        "measured": None if measured is None else measured.to_json(),
    }


def _require_kept(measured: _Measured | None, model: Path, directory: Path) -> None:
    if measured is not None and measured.judgement == "refuted":
        raise RefutedError(
            f"{model}: the recipe's model breaks its limit, see above; it is in {directory} all the same. Search anew with "
            f"ovquant search {model}, or allow a larger --max-drop"
        )


def _replay(
    name: Path,
    model: Any,
    operations: Sequence[Operation],
    samples: Sequence[Sample],
    recipe: Recipe,
    strategy: Strategy,
    path: Path,
) -> str:
    """Quantize a model by a strategy, save it and return the digest of its graph.

    Raises:
        ModelError: NNCF cannot do so.
    """
    try:
        quantized = quantization.quantize(model, strategy, samples, operations)
    except Exception as error:
        raise ModelError(f"{name}: the recipe cannot be replayed: {first_line(error)}") from error
    runtime.note_deployment(quantized, recipe.device, recipe.compile_properties)
    runtime.save_model(quantized, path, strategy.inference_precision)
    return runtime.graph_digest(runtime.read_model(path))


def _tell(is_same: bool, told: Sequence[str], was: Made, now: Made, measured: _Measured | None, console: Console) -> None:
    if is_same:
        console.result("Same structure, ranges, weights and biases as the recipe's model.")
    else:
        measure = "; measure it with --metric, or ovquant evaluate" if measured is None else ""
        console.result(f"Differs from the recipe's model (other weights, data or versions){measure}.")
    for difference in told:
        console.result(f"  {difference}")
    if was.left_in_float is not None and was.left_in_float == now.left_in_float and not is_same:
        console.result(f"  left in float as there: {len(was.left_in_float)} operations")
    if measured is None:
        return
    for note in measured.notes:
        console.warn(note)
    evaluation = measured.evaluation
    for result, limit in zip(evaluation.metrics, measured.limits, strict=True):
        interval = f" [{result.drop.low:+.4f}, {result.drop.high:+.4f}]" if result.has_interval else ""
        limited = "" if limit is None else f"; limit {limit:.4f}"
        console.result(
            f"{result.name} {result.value:.4f}, drops by {result.drop.value:+.4f}{interval} from the float model at f32, on "
            f"{evaluation.n_items} items that were not calibrated on{limited}"
        )
    console.result(f"Divergence {evaluation.divergence.value:.4g}. The limits are {_WORDS[measured.judgement]}.")


_WORDS: dict[Judgement, str] = {
    "confirmed": "kept: confirmed",
    "inconclusive": "inside the interval: inconclusive, more data would tell",
    "refuted": "broken: refuted",
    "no limit": "none",
}


def _calibration_samples(
    calibration: CalibrationSpec, data: str, annotations: str | None, inputs: Sequence[runtime.InputInfo], console: Console
) -> tuple[list[Sample], Sequence[int]]:
    """Return the items that a recipe calibrates on, and their indices; of other, smaller data the first ones.

    Raises:
        UsageError: the items are those that a file lists, and it is not given.
    """
    if annotations is None and calibration.annotations is not None:
        raise UsageError(f"the recipe's items are those that {calibration.annotations} lists; name it by --annotations")
    spec = calibration.data(data, annotations)
    source = _calibration_source(spec, calibration.part, inputs)
    items: Sequence[int] = calibration.items
    if max(items) >= len(source):
        items = range(min(len(items), len(source)))
        console.warn(f"{data} holds {len(source)} items, not those of the recipe; the first {len(items)} are used")
    return [source.sample(index) for index in items], items


def _calibration_source(spec: DataSpec, part: Part, inputs: Sequence[runtime.InputInfo]) -> Dataset:
    """Return the source that a recipe calibrates on; it needs no labels, and those of the job only to be told from others."""
    try:
        return open_source(spec.main.model_copy(update={"labels": None}), part, spec, inputs)
    except DataError:
        if spec.labels is None:
            raise
        return open_source(spec.main, part, spec, inputs)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Gauge:
    """What measures a replayed model."""

    bench: Workbench
    device: Device
    job: Job

    def measure(self, quantized: Path, strategy: Strategy) -> _Measured:
        """Return the metrics of the quantized model beside those of the float one at f32.

        Raises:
            ModelError: it cannot be run.
        """
        subject = ModelFile(path=str(quantized), inference_precision=strategy.inference_precision)
        outcome = self.bench.evaluate(Task(bench=self.bench.spec, subject=subject, is_timed=False, has_intervals=True))
        if not isinstance(outcome, Evaluation):
            raise ModelError(f"the recipe's model cannot be measured ({outcome.stage}): {outcome.message}")
        directions = tuple(metric.direction for metric in self.bench.metrics)
        rules = Rules(objective=self.job.objective, metrics=self.job.metrics, metric_directions=directions, max_divergence=None)
        return _Measured(
            evaluation=outcome,
            limits=tuple(rules.limit(index, result) for index, result in enumerate(outcome.metrics)),
            judgement=judge(outcome, rules),
            device=self.device.where,
            notes=self.device.notes,
        )


@contextlib.contextmanager
def _opened(limits: Limits, recipe: Recipe, model: Path, data: str, items: Sequence[int], folder: Path) -> Iterator[_Gauge]:
    """Open what a replayed model is measured with; faults are found before it is made.

    Raises:
        OvquantError: device, data or metrics cannot be used, or all items were calibrated on.
    """
    properties = {key: value for key, value in recipe.compile_properties.items() if key != "INFERENCE_PRECISION_HINT"}
    target = Target(version=1, name="recipe", device=recipe.device, compile_properties=properties)
    device = resolve_device(target, limits.job.device)
    _require_apart(limits, recipe, model, data)
    bench = Workbench(
        BenchSpec(
            model=str(model),
            target=target,
            device=device.name,
            data=recipe.calibration.data(limits.data or data, limits.annotations if limits.data is None else None),
            seed=0,
            metrics=limits.job.metrics,
            output_kinds={},
            model_dir=str(folder / "bench"),
            is_divided=False,
            left_out=tuple(items) if limits.data is None and not recipe.calibration.has_own_source else (),
        )
    )
    try:
        if len(bench.samples.items("validation")) < _LEAST_ITEMS:
            raise DataError(f"{data}: all items were calibrated on; name labelled samples of their own with --holdout-data")
        bench.reference("validation")
        yield _Gauge(bench=bench, device=device, job=limits.job)
    finally:
        bench.close()


def _require_apart(limits: Limits, recipe: Recipe, model: Path, data: str) -> None:
    """Check that what is measured on is not what the recipe calibrates on.

    Raises:
        UsageError: `--data` names what is for calibration alone.
    """
    if limits.data is not None or not recipe.calibration.has_own_source:
        return
    spec, inputs = recipe.calibration.data(data, limits.annotations), runtime.input_infos(runtime.read_model(model))
    main, calibration = (open_source(spec.main, part, spec, inputs).identity for part in _PARTS)
    if main == calibration:
        raise UsageError(f"{data}: is what the recipe calibrates on; name labelled samples of their own with --holdout-data")


_PARTS: tuple[Part, Part] = ("main", "calibration")
_LEAST_ITEMS = 2
