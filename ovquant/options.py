"""The options of the command line, each described once, and what becomes of them in a job."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ovquant.job import Job


class Fitness(StrEnum):
    """Values of --fitness."""

    PARETO = "pareto"
    ACCURACY = "accuracy"
    DIVERGENCE = "divergence"
    WEIGHTED = "weighted"


class Picked(StrEnum):
    """Values of --pick."""

    FASTEST = "fastest"
    ACCURATE = "accurate"
    KNEE = "knee"


class PackageLayout(StrEnum):
    """Values of --layout."""

    IR = "ir"
    OVMS = "ovms"
    OPTIMUM = "optimum"
    ZIP = "zip"


class ReportFormat(StrEnum):
    """Values of --format."""

    HTML = "html"
    MD = "md"
    JSON = "json"


Data = Annotated[
    str | None,
    typer.Option("--data", help="Image folder, .csv, COCO .json or .npz file, saved Hugging Face data set, or file.py:function."),
]
Annotations = Annotated[str | None, typer.Option(help="COCO .json or .csv file that lists images of the folder --data.")]
Masks = Annotated[str | None, typer.Option(help="Folder with a .png of class numbers for each image of the folder --data.")]
CalibrationData = Annotated[str | None, typer.Option(help="Samples of their own for calibration.")]
HoldoutData = Annotated[str | None, typer.Option(help="Samples of their own for the holdout.")]
CalibrationItems = Annotated[int | None, typer.Option(help="Calibration items to set aside. [default: 300, at most a third]")]
MaxItems = Annotated[int | None, typer.Option(help="Use at most this many items for validation and holdout together.")]
Resize = Annotated[str | None, typer.Option(help="Shorter side, or HEIGHTxWIDTH.")]
Crop = Annotated[str | None, typer.Option(help="Centre crop: side, or HEIGHTxWIDTH.")]
Mean = Annotated[str | None, typer.Option(help="Subtracted from pixels (0..255); one value, or one per channel: 124,116,104.")]
Scale = Annotated[str | None, typer.Option(help="Divides pixels after --mean; likewise.")]
Layout = Annotated[str | None, typer.Option(help="Layout of the model's input: NCHW or NHWC. [default: read off its shape]")]
Channels = Annotated[str | None, typer.Option(help="RGB, BGR or GRAY. [default: RGB]")]
TargetName = Annotated[str | None, typer.Option("--target", help="Shipped profile (see `ovquant targets list`) or YAML file.")]
DeviceName = Annotated[str | None, typer.Option("--device", help="Measure on this device instead of the target's: a dry run.")]
MeasureOn = Annotated[
    str | None,
    typer.Option("--measure-on", help="Measure latency on another machine: ssh://user@host:port. [default: this one]"),
]
RemotePython = Annotated[str | None, typer.Option(help="Python on that machine that has OpenVINO. [default: python3]")]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster", help="Evaluate on the workers of a Dask scheduler: tcp://host:port, or its scheduler file. [default: here]"
    ),
]
Recipes = Annotated[
    list[str] | None,
    typer.Option(
        "--recipe", help="recipe.yaml, or output directory, of an earlier search, whose strategies are tried first. Repeatable."
    ),
]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric", help="accuracy, top5, miou, spearman, cosine ..., a scikit-learn scorer, or file.py:function. Repeatable."
    ),
]
Budget = Annotated[str | None, typer.Option(help="Wall time of the search: 90s, 10m, 1h30m.")]
MemoryLimit = Annotated[
    str | None,
    typer.Option(help="Memory that the process of the candidates may take: 8G. [default: 80 % of what is free at the start]"),
]
MaxDrop = Annotated[
    list[str] | None, typer.Option(help="Largest drop of the metric: 0.01 (its unit) or 1%. Repeat for several metrics.")
]
IsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object to standard output.")]
IsQuiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and warnings only.")]
IsPlain = Annotated[bool, typer.Option("--plain", help="Print lines only, also on a terminal.")]
IsVerbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print the log as well, see OUTPUT/log.jsonl.")]
IsDebug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


def job_of(model: str, options: dict[str, Any], max_drop: Sequence[str] = ()) -> Job:
    """Return the job in a YAML file, or that of a model; options win."""
    from ovquant.job import load_job

    if model.endswith((".yaml", ".yml")):
        return load_job(Path(model), options, max_drop)
    return load_job(None, {**options, "model": model}, max_drop)


def data_options(
    path: str | None,
    calibration: str | None,
    holdout: str | None,
    calibration_items: int | None,
    max_items: int | None,
    resize: str | None,
    crop: str | None,
    mean: str | None,
    scale: str | None,
    layout: str | None,
    channels: str | None,
    *,
    annotations: str | None = None,
    masks: str | None = None,
) -> dict[str, Any]:
    """Return the data section of a job from options."""
    return {
        "path": path,
        "annotations": annotations,
        "masks": masks,
        "calibration": calibration,
        "holdout": holdout,
        "calibration_items": calibration_items,
        "max_items": max_items,
        "preprocessing": {
            "resize": _sides(resize, "--resize"),
            "crop": _sides(crop, "--crop"),
            "mean": _numbers(mean, "--mean"),
            "scale": _numbers(scale, "--scale"),
            "layout": layout,
            "channels": channels,
        },
    }


def _sides(text: str | None, option: str) -> list[int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if not all(part.isdecimal() for part in parts) or len(parts) > 2:
        raise typer.BadParameter(f"a side or HEIGHTxWIDTH, found {text!r}", param_hint=option)
    return [int(part) for part in parts]


def _numbers(text: str | None, option: str) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.replace(" ", "").split(",")]
    except ValueError:
        raise typer.BadParameter(f"numbers separated by commas, found {text!r}", param_hint=option) from None
