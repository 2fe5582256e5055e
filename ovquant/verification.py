"""The use case behind `ovquant verify`: is a package what was exported, and does it still do here what was recorded?"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from ovquant import checks as recorded
from ovquant import loading, runtime
from ovquant.configfile import validate
from ovquant.console import Console
from ovquant.datasets.splits import Samples
from ovquant.errors import DataError, OutputError, OvquantError, UsageError, VerificationError
from ovquant.inference import CompiledModel
from ovquant.job import DataSpec, MetricSpec
from ovquant.latency import median_interval
from ovquant.metrics import intervals
from ovquant.metrics.scores import build_metric
from ovquant.protocols import Metric, Outputs
from ovquant.recipe import Recipe
from ovquant.records import Interval
from ovquant.targets import MeasurementPlan
from ovquant.turns import SystemClock, measure
from ovquant.validation import column_of

PLAN = MeasurementPlan(visits=24, burst=50, discard=5, seconds=5.0)


def verify(
    path: Path,
    data: str | None,
    device: str | None,
    console: Console,
    *,
    is_timed: bool = False,
    annotations: str | None = None,
    masks: str | None = None,
) -> dict[str, Any]:
    """Check a package and say what was found.

    Args:
        path: of the package, in any layout.
        data: samples with labels to measure the metrics of the search on; None measures none.
        device: to run on; None takes the one that the package was made for.
        console: where to.
        is_timed: measure the latency here.
        annotations: file that lists the images of the folder `data`, as for a search.
        masks: folder with a mask for each of them.

    Raises:
        VerificationError: something is not as it was recorded; all of it is in the message.
        OvquantError: it cannot be read, or not be checked here.
    """
    if data is None and (annotations or masks):
        raise UsageError("--annotations and --masks say more of images: name their folder by --data")
    package = loading.Package(path)
    manifest = package.read_json(loading.MANIFEST)
    for key, kind in (("deployment", dict), ("measured", dict), ("device", dict), ("metrics", list)):
        if not isinstance(manifest.get(key, kind()), kind):
            raise OutputError(f"{path}: {loading.MANIFEST}: {key} is not what ovquant writes")
    faults, notes = _changed(package, manifest)
    result: dict[str, Any] = {"package": str(path), "files": len(manifest.get("files") or ()), "notes": notes}
    if not faults:
        console.result(f"Files: all {result['files']} are as they were exported")
        made_for = manifest.get("deployment", {}).get("device", "?")
        model = package.model(runtime.core())
        compiled, used = _compiled(model, device, path)
        console.result(f"Model: reads, and compiles for {used} at {compiled.precision} (made for {made_for})")
        result["outputs"] = _check_outputs(package, compiled, faults, notes, console)
        if data is not None:
            spec = _data_of(package, data, annotations, masks)
            result["metrics"] = _check_metrics(package, manifest, model, compiled, spec, faults, notes, console)
        if is_timed:
            result["latency"] = _time(package, manifest, compiled, used, notes, console)
    for note in notes:
        console.warn(note)
    if faults:
        raise VerificationError("\n".join(f"{path}: {fault}" for fault in faults))
    console.result(f"{path}: verified")
    return {**result, "is_verified": True}


def _compiled(model: Any, device: str | None, path: Path) -> tuple[CompiledModel, str]:
    """Return a package's model compiled as a loader does, and the device."""
    chosen, properties = loading.deployment(model, runtime.core(), device, str(path))
    return CompiledModel(model, chosen, properties), chosen


def _changed(package: loading.Package, manifest: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return faults and notes on the files of a package."""
    files = manifest.get("files")
    if not isinstance(files, dict) or not files:
        raise OutputError(f"{package.path}: {loading.MANIFEST} lists no files; is it what ovquant wrote?")
    faults = []
    for name, digest in files.items():
        if not package.has(name):
            faults.append(f"{name} is missing")
        elif hashlib.sha256(package.read(name)).hexdigest() != digest:
            faults.append(f"{name} was changed: its SHA-256 is not the one in {loading.MANIFEST}")
    if (name := package.model_name()) not in files or str(PurePosixPath(name).with_suffix(".bin")) not in files:
        faults.append(f"{name} is what a loader takes, and is not among the files of {loading.MANIFEST}")
    extra = [name for name in package.names() if name not in files and name != loading.MANIFEST]
    return faults, [f"not from the export, and not checked: {', '.join(extra)}"] if extra else []


def _check_outputs(
    package: loading.Package, compiled: CompiledModel, faults: list[str], notes: list[str], console: Console
) -> dict[str, Any] | None:
    if not package.has(recorded.CHECKS_FILE):
        notes.append("the package was made without checks, so outputs were not compared")
        return None
    kept = recorded.from_bytes(package.read(recorded.CHECKS_FILE), str(package.path))
    try:
        found = [compiled.infer(sample) for sample in kept.inputs]
    except OvquantError as fault:
        faults.append(f"the recorded inputs cannot be run: {fault}")
        return None
    errors = recorded.relative_errors(kept.outputs, found)
    for name, error in errors.items():
        limit = kept.limits[name]
        if not error <= limit:
            faults.append(f"output {name!r} differs from what was recorded by {error:.3g} of its size; {limit:.3g} are let pass")
    told = ", ".join(f"{name} by {error:.2g} of {kept.limits[name]:.2g} let pass" for name, error in errors.items())
    console.result(f"Outputs of {len(kept.inputs)} recorded items differ, relative to their size: {told}")
    return {name: {"relative_error": error, "limit": kept.limits[name]} for name, error in errors.items()}


def _check_metrics(
    package: loading.Package,
    manifest: dict[str, Any],
    model: Any,
    compiled: CompiledModel,
    data: DataSpec,
    faults: list[str],
    notes: list[str],
    console: Console,
) -> list[dict[str, Any]]:
    """Measure the metrics of the search on all items of a source, whose labels are those of the search's job."""
    if manifest.get("embedded") is not None:
        raise OutputError(
            f"{package.path}: has its pre-processing within, and --data is read as the search read it; leave it out"
        )
    specs = [validate(MetricSpec, one, f"{package.path}: metrics") for one in manifest.get("metrics") or ()]
    if not specs:
        raise OutputError(f"{package.path}: the search had no metric, so there is none to measure; leave out --data")
    samples = Samples(data, runtime.input_infos(model), 0, is_divided=False)
    labels = samples.labels("validation")
    metrics = [build_metric(spec, runtime.output_names(model)) for spec in specs]
    unlabelled = next((metric.name for metric in metrics if metric.truth == "labels" and labels is None), None)
    if unlabelled is not None:
        raise DataError(f"{data.path}: has no labels, which metric {unlabelled!r} needs (also: --annotations, --masks)")
    outputs: dict[str, list[Any]] = {name: [] for name in runtime.output_names(model)}
    for sample in samples.samples("validation"):
        for name, array in compiled.infer(sample).items():
            outputs[name].append(array)
    told = []
    for metric in metrics:
        if metric.truth == "reference":
            notes.append(f"{metric.name} compares with the float model, which is not in the package; it was not measured")
            continue
        truth = column_of(labels or (), metric)
        was = _recorded_value(manifest, metric.name)
        value = metric.value(outputs, truth)
        interval = _interval(metric, outputs, truth)
        console.result(_metric_words(metric.name, value, interval, len(truth), was))
        if was is not None and interval is not None and _is_worse(metric, interval, was[0]):
            faults.append(
                f"{metric.name} is {value:.4f} on {data.path}, worse than the recorded {was[0]:.4f} beyond its interval"
            )
        told.append(
            {
                "name": metric.name,
                "value": value,
                "interval": None if interval is None else [interval.low, interval.high],
                "n_items": len(truth),
                "recorded": None if was is None else was[0],
            }
        )
    return told


def _data_of(package: loading.Package, path: str, annotations: str | None, masks: str | None) -> DataSpec:
    """Return how the search read its data, of other data.

    Raises:
        UsageError: its items were those that a file listed, and it is not given.
    """
    content = yaml.safe_load(package.read("recipe.yaml"))
    recipe = validate(Recipe, content if isinstance(content, dict) else {}, f"{package.path}: recipe.yaml")
    listing = recipe.calibration.annotations
    if listing is not None and annotations is None:
        raise UsageError(f"the items of the search were those that {listing} lists; name it, or another one, by --annotations")
    return recipe.calibration.data(path, annotations, masks)


def _recorded_value(manifest: dict[str, Any], name: str) -> tuple[float, int] | None:
    measured = manifest.get("measured", {})
    value = measured.get("metrics", {}).get(name)
    return None if value is None else (float(value), int(measured.get("n_items", 0)))


def _interval(metric: Metric, outputs: Outputs, labels: Sequence[Any]) -> Interval | None:
    scores = metric.per_item(outputs, labels)
    return None if scores is None else intervals.mean(scores)


def _is_worse(metric: Metric, interval: Interval, was: float) -> bool:
    return interval.high < was if metric.direction == "maximize" else interval.low > was


def _metric_words(name: str, value: float, interval: Interval | None, n_items: int, was: tuple[float, int] | None) -> str:
    spread = "" if interval is None else f" [{interval.low:.4f}, {interval.high:.4f}]"
    before = "" if was is None else f"; recorded {was[0]:.4f} on {was[1]} items"
    return f"{name}: {value:.4f}{spread} on {n_items} items{before}"


def _time(
    package: loading.Package, manifest: dict[str, Any], compiled: CompiledModel, device: str, notes: list[str], console: Console
) -> dict[str, Any] | None:
    """Measure the latency on the first recorded item; it is told beside what was recorded, and never a fault."""
    if not package.has(recorded.CHECKS_FILE):
        notes.append("the package was made without checks, so there is no input to time it with")
        return None
    sample = recorded.from_bytes(package.read(recorded.CHECKS_FILE), str(package.path)).inputs[0]
    turns = measure({"model": compiled.runner(sample)}, PLAN, SystemClock())
    median = median_interval((turns.medians_s("model") * 1e3).tolist())
    was = manifest.get("measured", {}).get("latency_ms")
    where = manifest.get("device", {}).get("full_name", "another machine")
    before = "" if was is None else f"; recorded {was:.3f} ms on {where}"
    console.result(
        f"Latency: {median.value:.3f} ms [{median.low:.3f}, {median.high:.3f}] on {device} "
        f"({runtime.device_name(device)}, {compiled.n_threads} threads){before}"
    )
    return {"median_ms": median.value, "interval_ms": [median.low, median.high], "recorded_ms": was}
