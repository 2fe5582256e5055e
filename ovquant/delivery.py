"""The use case behind `ovquant export`: a trial of a search as a package that is ready to be served."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ovquant import embedding, export, runtime, selection
from ovquant.checks import N_ITEMS, Checks, checks_from, relative_errors
from ovquant.console import Console
from ovquant.errors import ModelError, NoFeasibleStrategyError, OutputError, UsageError
from ovquant.evaluation import open_bench
from ovquant.executor import InProcessExecutor
from ovquant.inference import CompiledModel
from ovquant.job import load_job
from ovquant.layouts import Layout, hub_files, served_name
from ovquant.progress import measured
from ovquant.protocols import Array, Executor, Sample
from ovquant.records import Failure, Trial, outcome_to_json
from ovquant.selection import Pick
from ovquant.session import JOB_FILE, Session, open_session
from ovquant.strategy import InferencePrecision, Strategy
from ovquant.study import read_trials
from ovquant.studyfile import STUDY_FILE

RESULT_FILE = "result.json"
TRIALS_FILE = "trials.csv"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How a package is made.

    Attributes:
        layout: see `ovquant.layouts`.
        is_embedding: pre-processing becomes part of the model.
        has_checks: a few items with their outputs go into the package.
        config_from: folder with ``config.json``, for the layout ``optimum``; None takes that of the model.
    """

    layout: Layout = "ir"
    is_embedding: bool = False
    has_checks: bool = False
    config_from: Path | None = None

    def copied(self, model: Path) -> dict[str, bytes]:
        """Return the files that go with a model as they are: name -> content.

        Raises:
            UsageError: they cannot be had, or do not go with the layout.
        """
        if self.layout != "optimum":
            if self.config_from is not None:
                raise UsageError(f"--config-from: is for --layout optimum, found {self.layout}")
            return {}
        if self.is_embedding:
            raise UsageError(
                "--embed-preprocessing: with --layout optimum, transformers' processors prepare the images; leave it out"
            )
        return hub_files(self.config_from or model.parent)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """What was written.

    Attributes:
        names: of the files.
        weights: element type -> bytes of constants.
        embedded: what was embedded, see `ovquant.embedding.described`; None for nothing.
    """

    names: tuple[str, ...]
    weights: dict[str, int]
    embedded: dict[str, Any] | None = None


def package(
    session: Session,
    executor: Executor,
    trial: Trial,
    directory: Path,
    extra: dict[str, Any],
    *,
    is_ours: bool = False,
    form: Form | None = None,
    copied: Mapping[str, bytes] | None = None,
) -> Packed:
    """Build a trial's model, check that it is the one that was measured, write its package."""
    form = form or Form()
    strategy, model, digest = _built(session, executor, trial)
    recipe = session.recipe(strategy, digest)
    manifest = {
        **session.manifest(),
        "metrics": [metric.model_dump(mode="json") for metric in session.job.metrics],
        "trial": {
            "number": trial.number,
            "code": trial.code,
            "digest": strategy.digest,
            "graph_digest": digest,
            "during_search": outcome_to_json(trial.evaluation),
        },
        "weights": runtime.weight_bytes(model),
        **extra,
    }
    manifest["measured"] = _measured(manifest)
    checks: Checks | None = None
    if form.is_embedding:
        model, checks, manifest["embedded"] = _embedded(session, strategy, model)
    elif form.has_checks:
        checks = _checks(session, strategy, model)
    runtime.note_deployment(model, recipe.device, recipe.compile_properties)
    path = Path(session.bench.model_dir) / "export" / "model.xml"
    runtime.save_model(model, path, strategy.inference_precision)
    names = export.write_package(
        directory,
        path,
        recipe,
        manifest,
        is_ours=is_ours,
        layout=form.layout,
        name=served_name(session.job.model),
        checks=checks if form.has_checks else None,
        copied=copied,
    )
    return Packed(names=tuple(names), weights=manifest["weights"], embedded=manifest.get("embedded"))


def _built(session: Session, executor: Executor, trial: Trial) -> tuple[Strategy, Any, str]:
    """Return a trial's strategy, its model, and the digest of that.

    Raises:
        UsageError: it has no model of its own.
        ModelError: the model is not the one that was measured, or not what it should be.
    """
    if trial.strategy is None:
        raise UsageError(f"trial {trial.number} is the float model; there is nothing to export")
    measured = trial.evaluation
    if measured.raced is not None and measured.raced.reason == "screened":
        raise UsageError(f"trial {trial.number} was never built: it was screened by its fast bias correction")
    model = runtime.read_model(executor.build(session.bench, trial.strategy))
    digest = runtime.graph_digest(model)
    if digest != measured.graph_digest:
        raise ModelError(
            f"trial {trial.number}: the model built now differs from the one that was measured; "
            "are model, data and versions still the same? Nothing was written"
        )
    if loose := runtime.loose_weights(model):
        raise ModelError(
            f"trial {trial.number}: weights are quantized and stored as floats all the same: {', '.join(loose[:5])}. Nothing was "
            "written; this is a fault of NNCF or of ovquant"
        )
    return trial.strategy, model, digest


def _measured(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return what others can compare with: of the verdict where the trial won it, else during the search."""
    rows = manifest.get("verdict", {}).get("rows", ())
    row = next((row for row in rows if row["name"] == "winner" and row["trial"] == manifest["trial"]["number"]), None)
    evaluation = manifest["trial"]["during_search"] if row is None else row["evaluation"]
    latency = evaluation["latency"] if row is None else row["latency"]
    return {
        "split": "validation" if row is None else "holdout",
        "n_items": evaluation["n_items"],
        "metrics": {metric["name"]: metric["value"] for metric in evaluation["metrics"]},
        "latency_ms": None if latency is None else latency["median_ms"],
    }


def _outputs(session: Session, model: Any, samples: Sequence[Sample], precision: InferencePrecision) -> list[dict[str, Array]]:
    compiled = CompiledModel(model, session.bench.device, session.bench.properties, precision)
    return [compiled.infer(sample) for sample in samples]


def _checks(session: Session, strategy: Strategy, model: Any) -> Checks:
    """Return a few validation items with what a strategy's model, as deployed, makes of them."""
    bench = open_bench(session.bench)
    inputs = list(bench.samples.samples("validation", N_ITEMS))
    floats = _outputs(session, bench.model, inputs, "f32")
    return checks_from(inputs, floats, _outputs(session, model, inputs, strategy.inference_precision))


def _embedded(session: Session, strategy: Strategy, model: Any) -> tuple[Any, Checks, dict[str, Any]]:
    """Return a strategy's model with its pre-processing, items that it takes, and how far its outputs are from the measured."""
    bench = open_bench(session.bench)
    options = session.job.data.preprocessing
    made = embedding.embed(model, options)
    (info,) = bench.inputs
    images = embedding.images_of(list(bench.samples.samples("validation", N_ITEMS)), options, info)
    pairs = embedding.pairs(images, options, info, is_resizing=made.is_resizing)
    stored, prepared = ([pair[side] for pair in pairs] for side in (0, 1))
    now = _outputs(session, made.model, stored, strategy.inference_precision)
    was = _outputs(session, model, prepared, strategy.inference_precision)
    told = embedding.described(made, relative_errors(was, now), len(images))
    return made.model, checks_from(stored, _outputs(session, bench.model, prepared, "f32"), now), told


def export_trial(
    output: Path, number: int | None, pick: Pick | None, directory: Path, console: Console, form: Form | None = None
) -> dict[str, Any]:
    """Export a trial of a finished or interrupted search; where none is named, the winner of a finished one.

    Raises:
        OvquantError: no such study or trial, or it cannot be built as it was.
    """
    form = form or Form(has_checks=True)
    if number is not None and pick is not None:
        raise UsageError("give either --trial N or --pick fastest|accurate|knee, not both")
    if form.layout == "zip" and directory.suffix != ".zip":
        raise UsageError(f"--layout zip writes one file; give a name that ends in .zip, found {directory}")
    export.require_free(directory)
    trials = read_trials(output / STUDY_FILE)
    result = _result(output)
    winner = None if result is None else result["verdict"]["winner"]
    if number is None and pick is None:
        number = winner
        if number is None:
            raise UsageError(f"{output}: the search has no winner yet; give --trial N or --pick fastest|accurate|knee")
    trial = _choose(trials, number, pick, output)
    extra: dict[str, Any] = {"note": "measured during the search, on validation items that it was selected by"}
    if result is not None and trial.number == winner:
        extra = {"verdict": result["verdict"], "stop_reason": result["stop_reason"]}
    job = load_job(output / JOB_FILE, {})
    copied = form.copied(Path(job.model))
    with tempfile.TemporaryDirectory(prefix="ovquant-") as models:
        executor = InProcessExecutor()
        session = open_session(job, Path(models), output, executor)
        packed = package(session, executor, trial, directory, extra, form=form, copied=copied)
    for dry_run in session.device.notes:
        console.warn(dry_run)
    console.result(f"Trial {trial.number}: {measured(trial.evaluation)} (on validation items, during the search)")
    _tell(packed, form, console)
    console.result(f"Wrote {directory}: {', '.join(packed.names)}")
    return {
        "trial": trial.number,
        "output": str(directory),
        "layout": form.layout,
        "files": list(packed.names),
        "weights": packed.weights,
        "embedded": packed.embedded,
        "evaluation": outcome_to_json(trial.evaluation),
        "notes": list(session.device.notes),
    }


def _tell(packed: Packed, form: Form, console: Console) -> None:
    sizes = ", ".join(f"{kind} {n_bytes / 1000:.1f} kB" for kind, n_bytes in packed.weights.items())
    console.result(f"Constants: {sizes}; no quantized weight is stored as float")
    if packed.embedded is not None:
        embedded = packed.embedded
        far = ", ".join(f"{name} by {error:.2g}" for name, error in embedded["relative_error"].items())
        console.result(f"Takes {embedded['takes']}; embedded: {'; '.join(embedded['steps'])}")
        console.result(
            f"Outputs differ from the measured model's by, relative to their size: {far} ({embedded['n_items']} items). "
            "Accuracy, divergence and latency were measured without it."
        )
        if embedded["to_be_done_before"]:
            console.warn(f"not embedded, do it before: {', '.join(embedded['to_be_done_before'])}")
    if form.has_checks:
        console.result(
            "checks.npz holds a few of your validation items with their outputs, for ovquant verify; --no-checks leaves it out"
        )


def _result(output: Path) -> dict[str, Any] | None:
    """Return what a search ended with; None where it has not.

    Raises:
        OutputError: the file is broken.
    """
    path = output / RESULT_FILE
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        int(content["verdict"]["winner"]), str(content["stop_reason"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{path}: cannot be read as the result of a search: {error}") from error
    return content


def _choose(trials: Sequence[Trial], number: int | None, pick: Pick | None, output: Path) -> Trial:
    if pick is not None:
        chosen = selection.pick(trials, pick)
        if chosen is None:
            raise NoFeasibleStrategyError(
                f"{output}: no strategy of the search space meets the constraints; name a trial with --trial N, see {TRIALS_FILE}"
            )
        return chosen
    chosen = next((trial for trial in trials if trial.number == number), None)
    if chosen is None:
        last = max((trial.number for trial in trials), default=0)
        raise UsageError(f"{output}: no trial {number}; there are 0..{last}, see {TRIALS_FILE}")
    if isinstance(chosen.outcome, Failure):
        raise UsageError(f"{output}: trial {number} failed at {chosen.outcome.stage}: {chosen.outcome.message}")
    return chosen
