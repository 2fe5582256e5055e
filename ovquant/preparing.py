"""The use cases before a search: a job file from what a model shows, and a job checked by trying NNCF's default once."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovquant import export, runtime
from ovquant.console import Console
from ovquant.contained import ContainedExecutor
from ovquant.drafting import Draft, guessed_task, image_options, is_image
from ovquant.errors import DeviceError, ModelError, OutputError, UsageError
from ovquant.job import Job, load_job
from ovquant.progress import measured
from ovquant.records import Evaluation, Failure, FloatModel, Outcome
from ovquant.session import Session, open_session
from ovquant.tasks import Task
from ovquant.trying import Trial, source_of

_SHARED = 0.2  # of the first candidate's quantization is what later ones take, which share its statistics


def init_job(
    model: Path,
    data: str | None,
    target: str,
    path: Path,
    console: Console,
    annotations: str | None = None,
    masks: str | None = None,
) -> dict[str, Any]:
    """Write a commented job file from what can be read off a model and, if given, its data.

    Some items are run through the float model, and the metrics that fit them are tried: those that can be computed are written
    down, with what they came to. What only the user knows is left as a comment.

    Args:
        model: float model.
        data: samples, see `DataSpec.path`; None leaves a place to fill in.
        target: shipped profile or YAML file.
        path: new file.
        console: for people.
        annotations: COCO JSON or CSV that lists images of the folder `data`.
        masks: folder with a PNG for each of them.

    Raises:
        OutputError: the file is there already, or cannot be written.
        OvquantError: model or data cannot be used.
    """
    if path.exists():
        raise OutputError(f"{path}: is there already; nothing was overwritten. Give another file (-o)")
    if data is None and (annotations or masks):
        raise UsageError("--annotations and --masks say more of images: name their folder by --data")
    float_model = runtime.read_model(model)
    runtime.require_quantizable(float_model, model)
    inputs, outputs = runtime.input_infos(float_model), runtime.output_infos(float_model)
    draft = Draft(
        model=model,
        target=target,
        inputs=inputs,
        outputs=outputs,
        data={},
        preprocessing=image_options(inputs[0]) if is_image(inputs) else None,
        findings={},
        guess=guessed_task(inputs, outputs),
    )
    if data is not None:
        draft = Trial(float_model, draft, source_of(data, annotations, masks)).drafted()
    text = draft.text()
    _require_readable(text)
    try:
        export.write_text(path, text)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    console.result(text.rstrip())
    console.result("")
    console.result(f"Wrote {path}. Fill in what is marked, then: ovquant check {path}")
    return {"output": str(path), "task": draft.task, "metrics": draft.metrics}


def _require_readable(text: str) -> None:
    """Check that what is written can be read again.

    Raises:
        ConfigError: it cannot.
    """
    with tempfile.TemporaryDirectory(prefix="ovquant-") as folder:
        path = Path(folder) / "job.yaml"
        path.write_text(text, encoding="utf-8")
        load_job(path, {})


def check_job(job: Job, console: Console) -> dict[str, Any]:
    """Check all that a search needs, try NNCF's default once, and tell what a search will take.

    Raises:
        OvquantError: what a search would end with at its start.
    """
    with tempfile.TemporaryDirectory(prefix="ovquant-") as folder:
        executor = ContainedExecutor(Path(folder), job.memory_limit, tell=console.under_way)
        try:
            session = open_session(job, Path(folder), Path(job.output), executor)
            console.result(f"model: {Path(job.model).name} for target {session.target.name} on {session.device.where}")
            console.result("data: " + ", ".join(f"{count} {name}" for name, count in session.opened.n_items.items()) + " items")
            for name, value in zip(session.opened.metric_names, session.opened.reference_values, strict=True):
                console.result(f"{name} of the float model at f32: {value:.4f} on validation items")
            for note in (*session.space.notes, *session.device.notes):
                console.warn(note)
            subjects = (FloatModel(inference_precision=session.opened.own_precision), session.default)
            outcomes = [executor.submit([Task(bench=session.bench, subject=subject)])[0] for subject in subjects]
        finally:
            executor.close()
    return _tell(session, outcomes, console)


def _tell(session: Session, outcomes: Sequence[Outcome], console: Console) -> dict[str, Any]:
    default = outcomes[1]
    if isinstance(default, Failure):
        if default.error == DeviceError.__name__:
            raise DeviceError(f"{session.job.model}: NNCF's default cannot be measured: {default.message}")
        raise ModelError(
            f"{session.job.model}: NNCF's default cannot be evaluated: {default.stage}: {default.message}. Strategies that leave "
            "more in float may work all the same; a search tells"
        )
    console.result(f"NNCF's default: {measured(default)}")
    n_trials = min(session.job.max_trials or session.space.n_genomes, session.space.n_genomes)
    estimate_s = _estimate_s(default, n_trials, session.target.measurement.verdict.spread)
    budget = session.job.budget
    within = "" if budget is None else f"; the budget is {budget:g} s"
    console.result(
        f"A search of {n_trials} strategies takes about {estimate_s / 60:.0f} min, by what this one took on the machine as it is "
        f"now{within}. Accurate bias correction and large ignored scopes take longer."
    )
    return {
        "n_genomes": session.space.n_genomes,
        "seconds": default.seconds,
        "estimate_s": round(estimate_s, 1),
        "n_items": session.opened.n_items,
        "reference": dict(zip(session.opened.metric_names, session.opened.reference_values, strict=True)),
        "notes": [*session.space.notes, *session.device.notes],
    }


def _estimate_s(first: Evaluation, n_trials: int, spread_s: float) -> float:
    """Return the seconds that a search takes: the first candidate pays for what the others share, and half are stopped early."""
    later = {stage: seconds * (_SHARED if stage == "quantize" else 1.0) for stage, seconds in first.seconds.items()}
    later["validate"] = later.get("validate", 0.0) / 2
    return sum(first.seconds.values()) + (n_trials - 1) * sum(later.values()) + spread_s
