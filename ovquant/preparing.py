"""The use cases before a search: a job file from what a model shows, and a job checked by trying NNCF's default once."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ovquant import export, runtime
from ovquant.console import Console
from ovquant.contained import ContainedExecutor
from ovquant.datasets.splits import Samples
from ovquant.errors import DataError, ModelError, OutputError, printable
from ovquant.job import Job, load_job
from ovquant.progress import measured
from ovquant.records import Evaluation, Failure, FloatModel, Outcome
from ovquant.runtime import InputInfo
from ovquant.session import Session, open_session
from ovquant.tasks import Task

_CHANNELS = (1, 3, 4)
_SHARED = 0.2  # of the first candidate's quantization is what later ones take, which share its statistics


def init_job(model: Path, data: str | None, target: str, path: Path, console: Console) -> dict[str, Any]:
    """Write a commented job file from what can be read off a model; check the data against it, if given.

    Args:
        model: float model.
        data: samples, see `DataSpec.path`; None leaves a place to fill in.
        target: shipped profile or YAML file.
        path: new file.
        console: for people.

    Raises:
        OutputError: the file is there already, or cannot be written.
        OvquantError: model or data cannot be used.
    """
    if path.exists():
        raise OutputError(f"{path}: is there already; nothing was overwritten. Give another file (-o)")
    float_model = runtime.read_model(model)
    runtime.require_quantizable(float_model, model)
    inputs, outputs = runtime.input_infos(float_model), runtime.output_infos(float_model)
    text = _fitting(model, data, target, inputs, outputs)
    try:
        export.write_text(path, text)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    console.result(text.rstrip())
    console.result("")
    console.result(f"Wrote {path}. Fill in what is marked, then: ovquant check {path}")
    return {"output": str(path), "task": _task(inputs, outputs)}


def _fitting(model: Path, data: str | None, target: str, inputs: Sequence[InputInfo], outputs: Sequence[InputInfo]) -> str:
    """Return the text of a job by which the data can be read.

    Raises:
        DataError: there is none.
    """
    is_folder = data is None or Path(data).is_dir()
    text = _job_text(model, data, target, inputs, outputs, has_labels=True, is_raw=is_folder)
    if data is None:
        _job_of(text)
        return text
    try:
        has_labels = _has_labels(_job_of(text), inputs)
    except DataError:
        if is_folder or not _is_image(inputs):
            raise
        is_folder = True  # an array of uint8 images is preprocessed as well
        has_labels = _has_labels(_job_of(_job_text(model, data, target, inputs, outputs, has_labels=True, is_raw=True)), inputs)
    return _job_text(model, data, target, inputs, outputs, has_labels=has_labels, is_raw=is_folder)


def _has_labels(job: Job, inputs: Sequence[InputInfo]) -> bool:
    """Read one item; return whether items have labels.

    Raises:
        DataError: it cannot be read, or does not fit the model.
    """
    samples = Samples(job.data, inputs, job.seed)
    samples.sample(samples.items("validation")[0])
    return samples.labels("validation") is not None


def _job_of(text: str) -> Job:
    """Return the job that a text describes; what is written can be read again.

    Raises:
        ConfigError: it cannot.
    """
    with tempfile.TemporaryDirectory(prefix="ovquant-") as folder:
        path = Path(folder) / "job.yaml"
        path.write_text(text, encoding="utf-8")
        return load_job(path, {})


def _job_text(
    model: Path,
    data: str | None,
    target: str,
    inputs: Sequence[InputInfo],
    outputs: Sequence[InputInfo],
    *,
    has_labels: bool,
    is_raw: bool,
) -> str:
    lines = [f'# A search for {printable(model.name)}; every key is explained in the README, section "Job file".', "version: 1"]
    lines += [f"model: {_scalar(str(model.resolve()))}", f"target: {_scalar(target)}    # see: ovquant targets list"]
    lines += [f"# input  {_told(info)}" for info in inputs] + [f"# output {_told(info)}" for info in outputs]
    lines.append("data:")
    where = data if data is None or ".py:" in data else str(Path(data).resolve())
    fill_in = "    # FILL IN: image folder, .npz with an array per input, or file.py:function" if where is None else ""
    lines.append(f"  path: {_scalar(where or _placeholder(inputs))}{fill_in}")
    if _is_image(inputs) and is_raw:
        layout = "NHWC" if (inputs[0].shape or ())[-1] in _CHANNELS else "NCHW"
        sides = [side for side in (inputs[0].shape or ())[1:] if side not in _CHANNELS]
        lines += ["  preprocessing:", f"    layout: {layout}"]
        if len(sides) == 2 and None not in sides:
            lines.append(f"    resize: [{sides[0]}, {sides[1]}]    # CHECK: or a shorter side and a crop, as it was trained")
        lines += [
            "    # CHECK: what the model was trained with, in units of pixels 0..255; these are ImageNet's",
            "    # mean: [123.675, 116.28, 103.53]",
            "    # scale: [58.395, 57.12, 57.375]",
        ]
    lines += _metric_lines(_task(inputs, outputs), has_labels)
    lines += ["max_trials: 40", "# budget: 20m", "# seed: 0", "# output: ovquant-out"]
    return "\n".join(lines) + "\n"


def _metric_lines(task: str, has_labels: bool) -> list[str]:
    if task != "classification" or not has_labels:
        why = "the data has no labels" if not has_labels else f"the outputs look like {task}"
        return [
            f"# No metric: {why}. The search goes by divergence from the float model, and allows what NNCF's default has.",
            "# metrics:",
            "#   - {name: metric.py:function, max_drop: 1%}    # f(outputs, labels): a number, or one per item",
        ]
    return ["metrics:    # the outputs look like classification", "  - {name: accuracy, max_drop: 0.01}    # at most one point"]


def _task(inputs: Sequence[InputInfo], outputs: Sequence[InputInfo]) -> str:
    """Return what the outputs look like: one row of scores is a classification."""
    if len(outputs) == 1:
        shape = outputs[0].shape
        if shape is not None and len(shape) == 2 and (shape[1] is None or shape[1] > 1):
            return "classification"
        if shape is not None and len(shape) == 2:
            return "regression"
        if shape is not None and len(shape) == 4 and _is_image(inputs):
            return "maps (segmentation or detection)"
        if shape is not None and len(shape) == 3:
            return "sequences or boxes"
    return "something else"


def _is_image(inputs: Sequence[InputInfo]) -> bool:
    shape = inputs[0].shape
    return len(inputs) == 1 and shape is not None and len(shape) == 4 and (shape[1] in _CHANNELS or shape[-1] in _CHANNELS)


def _placeholder(inputs: Sequence[InputInfo]) -> str:
    return "images/" if _is_image(inputs) else "data.npz"


def _told(info: InputInfo) -> str:
    shape = "any rank" if info.shape is None else "x".join("?" if side is None else str(side) for side in info.shape)
    return printable(f"{info.name}: {info.dtype} {shape}").replace("\n", " ")


def _scalar(value: str) -> str:
    """Return a string as a YAML scalar, quoted where that is needed."""
    text: str = yaml.safe_dump(value, allow_unicode=True, width=10_000)
    return text.removesuffix("\n...\n").rstrip("\n")


def check_job(job: Job, console: Console) -> dict[str, Any]:
    """Check all that a search needs, try NNCF's default once, and tell what a search will take.

    Raises:
        OvquantError: what a search would end with at its start.
    """
    with tempfile.TemporaryDirectory(prefix="ovquant-") as folder:
        executor = ContainedExecutor(Path(folder), job.memory_limit)
        try:
            session = open_session(job, Path(folder), Path(job.output), executor)
            console.result(f"model: {Path(job.model).name} for target {session.target.name} on {session.device.full_name}")
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
        f"A search of {n_trials} strategies takes about {estimate_s / 60:.0f} min, by what this one took{within}. "
        "Accurate bias correction and large ignored scopes take longer."
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
