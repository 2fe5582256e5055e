"""The command line: parse, dispatch, exit codes. Heavy imports happen inside the commands."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovquant.errors import InterruptedSearchError, OvquantError, UsageError, first_line, printable
from ovquant.options import data_options

if TYPE_CHECKING:
    from ovquant.console import Console
    from ovquant.job import Job

app = typer.Typer(
    name="ovquant",
    help="Search post-training quantization strategies for an OpenVINO target with a genetic algorithm.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
targets_app = typer.Typer(help="Target profiles: list, show, check, probe, schema.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(targets_app, name="targets")


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
    ZIP = "zip"


class ReportFormat(StrEnum):
    """Values of --format."""

    HTML = "html"
    MD = "md"
    JSON = "json"


Data = Annotated[str | None, typer.Option("--data", help="Image folder, .npz file, or file.py:function.")]
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
Metrics = Annotated[
    list[str] | None,
    typer.Option("--metric", help="accuracy, top5, a scikit-learn scorer, or file.py:function. Repeatable."),
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
IsVerbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print the log as well, see OUTPUT/log.jsonl.")]
IsDebug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


@app.command()
def search(
    model: Annotated[str, typer.Argument(help="Model (ONNX, OpenVINO IR ...), or a job file (YAML).")],
    data: Data = None,
    target: TargetName = None,
    metric: Metrics = None,
    max_drop: MaxDrop = None,
    max_divergence: Annotated[float | None, typer.Option(help="Largest divergence from the float model.")] = None,
    fitness: Annotated[Fitness | None, typer.Option(help="What is optimized. [default: pareto]")] = None,
    budget: Budget = None,
    max_trials: Annotated[int | None, typer.Option(help="Strategies to try at most. [default: 40 without a budget]")] = None,
    population: Annotated[
        int | None, typer.Option(help="Strategies per generation. [default: a fifth of the trials, at most 6]")
    ] = None,
    memory_limit: MemoryLimit = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every choice. [default: 0]")] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="Directory for the results. [default: ovquant-out]")
    ] = None,
    calibration_data: CalibrationData = None,
    holdout_data: HoldoutData = None,
    calibration_items: CalibrationItems = None,
    max_items: MaxItems = None,
    resize: Resize = None,
    crop: Crop = None,
    mean: Mean = None,
    scale: Scale = None,
    layout: Layout = None,
    channels: Channels = None,
    device: DeviceName = None,
    is_json: IsJson = False,
    is_quiet: IsQuiet = False,
    is_verbose: IsVerbose = False,
    is_debug: IsDebug = False,
) -> None:
    """Search the best quantization strategy and export it to OUTPUT/best.

    Options win over a job file. The same command on the same output continues a stopped search.
    """
    options: dict[str, Any] = {
        "data": data_options(
            data,
            calibration_data,
            holdout_data,
            calibration_items,
            max_items,
            resize,
            crop,
            mean,
            scale,
            layout,
            channels,
        ),
        "target": target,
        "metrics": None,
        "max_divergence": max_divergence,
        "objective": {"fitness": None if fitness is None else fitness.value},
        "budget": budget,
        "max_trials": max_trials,
        "memory_limit": memory_limit,
        "population": population,
        "seed": seed,
        "output": output,
        "device": device,
    }

    def run(console: Console) -> dict[str, Any]:
        from ovquant import commands

        options["metrics"] = [{"name": name} for name in metric] if metric else None
        return commands.search(_job(model, options, max_drop or ()), console)

    _run(run, is_json=is_json, is_quiet=is_quiet, is_verbose=is_verbose, is_debug=is_debug)


@app.command()
def init(
    model: Annotated[Path, typer.Argument(help="Float model (ONNX, OpenVINO IR ...).")],
    data: Data = None,
    target: Annotated[str, typer.Option(help="Shipped profile or YAML file.")] = "cpu",
    output: Annotated[Path, typer.Option("-o", "--output", help="New job file.")] = Path("job.yaml"),
    is_json: IsJson = False,
    is_debug: IsDebug = False,
) -> None:
    """Write a commented job file from what can be read off a model."""

    def run(console: Console) -> dict[str, Any]:
        from ovquant import preparing

        return preparing.init_job(model, data, target, output, console)

    _run(run, is_json=is_json, is_debug=is_debug)


@app.command()
def check(
    job: Annotated[Path, typer.Argument(help="Job file (YAML).")],
    is_json: IsJson = False,
    is_debug: IsDebug = False,
) -> None:
    """Check a job: model, data, target, metrics; try NNCF's default once; estimate what a search takes."""

    def run(console: Console) -> dict[str, Any]:
        from ovquant import preparing
        from ovquant.job import load_job

        return preparing.check_job(load_job(job, {}), console)

    _run(run, is_json=is_json, is_debug=is_debug)


@app.command()
def resume(
    output: Annotated[Path, typer.Argument(help="Output directory of a search that was stopped.")],
    budget: Budget = None,
    max_trials: Annotated[int | None, typer.Option(help="Strategies to try at most, those tried before included.")] = None,
    memory_limit: MemoryLimit = None,
    is_json: IsJson = False,
    is_quiet: IsQuiet = False,
    is_verbose: IsVerbose = False,
    is_debug: IsDebug = False,
) -> None:
    """Go on with a search that was stopped, by what its output directory holds."""

    def run(console: Console) -> dict[str, Any]:
        from ovquant import commands

        changes = {"budget": budget, "max_trials": max_trials, "memory_limit": memory_limit}
        return commands.resume(output, changes, console)

    _run(run, is_json=is_json, is_quiet=is_quiet, is_verbose=is_verbose, is_debug=is_debug)


@app.command()
def quantize(
    model: Annotated[Path, typer.Argument(help="Float model.")],
    recipe: Annotated[Path, typer.Option(help="recipe.yaml of an exported model.")],
    data: Annotated[str, typer.Option(help="Samples to calibrate on: image folder, .npz file, or file.py:function.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="New directory for the quantized model.")],
    metric: Metrics = None,
    max_drop: MaxDrop = None,
    holdout_data: Annotated[
        str | None, typer.Option(help="Labelled samples for --metric. [default: those of --data that are not calibrated on]")
    ] = None,
    device: DeviceName = None,
    is_json: IsJson = False,
    is_debug: IsDebug = False,
) -> None:
    """Replay a recipe without a search, also on a model that was trained or exported again; with --metric, measure the result."""

    def run(console: Console) -> dict[str, Any]:
        from ovquant import replay

        if not metric and (holdout_data is not None or device is not None):
            raise UsageError("--holdout-data and --device are for measuring the result: give --metric, too")
        checks = None
        if metric or max_drop:
            options = {"data": {"path": data}, "metrics": [{"name": name} for name in metric or ()], "device": device}
            checks = replay.Checks(job=_job(str(model), options, max_drop or ()), data=holdout_data)
        return replay.quantize(model, recipe, data, output, console, checks)

    _run(run, is_json=is_json, is_debug=is_debug)


@app.command()
def evaluate(
    models: Annotated[list[Path], typer.Argument(help="Models to compare; the first one is the float model.")],
    data: Data = None,
    target: TargetName = None,
    metric: Metrics = None,
    max_items: MaxItems = None,
    resize: Resize = None,
    crop: Crop = None,
    mean: Mean = None,
    scale: Scale = None,
    layout: Layout = None,
    channels: Channels = None,
    device: DeviceName = None,
    is_json: IsJson = False,
    is_debug: IsDebug = False,
) -> None:
    """Measure models side by side: metrics, divergence, latency, size.

    All samples are used. The first model at f32 is the reference, and at the target's precision the baseline.
    """

    def run(console: Console) -> dict[str, Any]:
        from ovquant import commands
        from ovquant.job import load_job

        options = {
            "model": str(models[0]),
            "data": data_options(data, None, None, None, max_items, resize, crop, mean, scale, layout, channels),
            "target": target,
            "metrics": [{"name": name} for name in metric] if metric else None,
            "device": device,
        }
        return commands.evaluate(models, load_job(None, options), console)

    _run(run, is_json=is_json, is_debug=is_debug)


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="Float model (ONNX, OpenVINO IR ...), or a job file (YAML).")],
    data: Data = None,
    target: TargetName = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="New JSON file for all of it.")] = None,
    calibration_data: CalibrationData = None,
    calibration_items: CalibrationItems = None,
    resize: Resize = None,
    crop: Crop = None,
    mean: Mean = None,
    scale: Scale = None,
    layout: Layout = None,
    channels: Channels = None,
    device: DeviceName = None,
    is_json: IsJson = False,
    is_debug: IsDebug = False,
) -> None:
    """Show where quantization loses: what each layer would save in float, its time, and the precision its kernel takes."""

    def run(console: Console) -> dict[str, Any]:
        from ovquant import overview

        options: dict[str, Any] = {
            "data": data_options(
                data, calibration_data, None, calibration_items, None, resize, crop, mean, scale, layout, channels
            ),
            "target": target,
            "device": device,
        }
        return overview.inspect(_job(model, options), output, console)

    _run(run, is_json=is_json, is_debug=is_debug)


@app.command()
def export(
    output: Annotated[Path, typer.Argument(help="Output directory of a search.")],
    directory: Annotated[Path, typer.Option("-o", "--output", help="New directory for the exported model.")],
    trial: Annotated[int | None, typer.Option(help="Number of the trial, see trials.csv. [default: the winner]")] = None,
    pick: Annotated[Picked | None, typer.Option(help="Choose among the feasible trials.")] = None,
    layout: Annotated[
        PackageLayout, typer.Option(help="IR directory, OpenVINO Model Server repository, zip.")
    ] = PackageLayout.IR,
    is_embedding: Annotated[
        bool, typer.Option("--embed-preprocessing", help="Let the model take u8 images [1, H, W, C].")
    ] = False,
    has_checks: Annotated[bool, typer.Option("--checks/--no-checks", help="Put a few validation items in, for verify.")] = True,
    is_json: IsJson = False,
    is_debug: IsDebug = False,
) -> None:
    """Export a trial of a search as a package that is ready to be served."""

    def run(console: Console) -> dict[str, Any]:
        from ovquant import delivery

        form = delivery.Form(layout=layout.value, is_embedding=is_embedding, has_checks=has_checks)
        return delivery.export_trial(output, trial, None if pick is None else pick.value, directory, console, form)

    _run(run, is_json=is_json, is_debug=is_debug)


@app.command()
def verify(
    package: Annotated[Path, typer.Argument(help="Directory or zip file that ovquant wrote.")],
    data: Annotated[str | None, typer.Option(help="Samples with labels, to measure the metrics of the search on.")] = None,
    is_timed: Annotated[bool, typer.Option("--latency", help="Measure the latency on this machine.")] = False,
    device: Annotated[str | None, typer.Option(help="Run on this device instead of the package's own.")] = None,
    is_json: IsJson = False,
    is_debug: IsDebug = False,
) -> None:
    """Check that a package is what was exported, and does on this machine what was recorded."""

    def run(console: Console) -> dict[str, Any]:
        from ovquant import verification

        return verification.verify(package, data, device, console, is_timed=is_timed)

    _run(run, is_json=is_json, is_debug=is_debug)


@app.command()
def report(
    output: Annotated[Path, typer.Argument(help="Output directory of a search: finished, running or stopped.")],
    path: Annotated[Path | None, typer.Option("-o", "--output", help="File to write. [default: OUTPUT/report.html]")] = None,
    form: Annotated[ReportFormat, typer.Option("--format", help="A page to look at, Markdown, or JSON.")] = ReportFormat.HTML,
    watch_s: Annotated[
        float | None, typer.Option("--watch", help="While the search runs, write it again: seconds between looks.")
    ] = None,
    is_json: IsJson = False,
    is_debug: IsDebug = False,
) -> None:
    """Write a report on a search: verdict, trade-off, what mattered, layers, latencies, failures.

    The page needs no network and no other file.
    """

    def run(console: Console) -> dict[str, Any]:
        from ovquant.report import writing

        return writing.report(output, path, form.value, watch_s, console)

    _run(run, is_json=is_json, is_debug=is_debug)


@targets_app.command("list")
def list_targets(is_json: IsJson = False) -> None:
    """List the shipped profiles."""

    def run(console: Console) -> dict[str, Any]:
        from ovquant.targets import list_targets

        return list_targets(console.result)

    _run(run, is_json=is_json)


@targets_app.command("show")
def show_target(
    name: Annotated[str, typer.Argument(help="Shipped profile or YAML file.")],
    is_resolved: Annotated[bool, typer.Option("--resolved", help="With all that it extends, in one file.")] = False,
    is_json: IsJson = False,
) -> None:
    """Show a profile."""

    def run(console: Console) -> dict[str, Any]:
        from ovquant.targets import show_target

        return show_target(name, console.result, is_resolved=is_resolved)

    _run(run, is_json=is_json)


@targets_app.command("check")
def check_target(name: Annotated[str, typer.Argument(help="YAML file or shipped profile.")], is_json: IsJson = False) -> None:
    """Check a profile, and whether this machine can measure for it."""

    def run(console: Console) -> dict[str, Any]:
        from ovquant.devices import check_target

        return check_target(name, console)

    _run(run, is_json=is_json)


@targets_app.command("probe")
def probe_target(
    output: Annotated[Path | None, typer.Option("-o", "--output", help="New YAML file. [default: shown only]")] = None,
    device: Annotated[str, typer.Option(help="OpenVINO device to probe.")] = "CPU",
    is_json: IsJson = False,
    is_debug: IsDebug = False,
) -> None:
    """Read what a device offers, time reference kernels on it, and write a profile for it."""

    def run(console: Console) -> dict[str, Any]:
        from ovquant import probing

        return probing.probe_target(output, device, console)

    _run(run, is_json=is_json, is_debug=is_debug)


@targets_app.command("schema")
def schema() -> None:
    """Print the JSON Schema of profiles, for editors."""
    from ovquant.targets import json_schema

    typer.echo(json_schema(), nl=False)


def _run(
    command: Callable[[Console], dict[str, Any]],
    *,
    is_json: bool,
    is_quiet: bool = False,
    is_verbose: bool = False,
    is_debug: bool = False,
) -> None:
    """Run a command, print its JSON if asked for, and turn errors into one message and an exit code."""
    from ovquant.console import Console
    from ovquant.interrupts import terminate_like_interrupt
    from ovquant.log import logging_to

    terminate_like_interrupt()
    console = Console(is_json=is_json, is_quiet=is_quiet)
    try:
        with logging_to(console.warn) if is_verbose else contextlib.nullcontext():
            result = command(console)
    except KeyboardInterrupt:
        _fail(InterruptedSearchError("interrupted"), is_json)
    except OvquantError as error:
        _fail(error, is_json, is_debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except Exception as error:
        told = OvquantError(f"unexpected {type(error).__name__}: {first_line(error)} (--debug shows where)")
        _fail(told, is_json, is_debug)
    else:
        if is_json:
            typer.echo(json.dumps(result, indent=2))


def _fail(error: OvquantError, is_json: bool, is_debug: bool = False) -> None:
    if is_debug:
        traceback.print_exc()
    typer.echo(f"error: {printable(str(error))}", err=True)
    if is_json:
        typer.echo(json.dumps({"error": str(error), "exit_code": error.exit_code}))
    raise typer.Exit(error.exit_code)


def _job(model: str, options: dict[str, Any], max_drop: Sequence[str] = ()) -> Job:
    """Return the job in a YAML file, or that of a model; options win."""
    from ovquant.job import load_job

    if model.endswith((".yaml", ".yml")):
        return load_job(Path(model), options, max_drop)
    return load_job(None, {**options, "model": model}, max_drop)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
