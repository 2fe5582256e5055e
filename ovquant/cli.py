"""The command line: parse, dispatch, exit codes. Heavy imports happen inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovquant.cli_targets import targets_app
from ovquant.errors import UsageError
from ovquant.options import (
    Annotations,
    Budget,
    CalibrationData,
    CalibrationItems,
    Channels,
    Cluster,
    Crop,
    Data,
    DeviceName,
    Fitness,
    HoldoutData,
    IsDebug,
    IsJson,
    IsPlain,
    IsQuiet,
    IsVerbose,
    Layout,
    Masks,
    MaxDrop,
    MaxItems,
    Mean,
    MeasureOn,
    MemoryLimit,
    Metrics,
    PackageLayout,
    Picked,
    Recipes,
    RemotePython,
    ReportFormat,
    Resize,
    Scale,
    TargetName,
    data_options,
    job_of,
)
from ovquant.shell import run_command

if TYPE_CHECKING:
    from ovquant.console import Console

app = typer.Typer(
    name="ovquant",
    help="Search post-training quantization strategies for an OpenVINO target with a genetic algorithm.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(targets_app, name="targets")


@app.command()
def search(
    model: Annotated[str, typer.Argument(help="Model (ONNX, OpenVINO IR ...), or a job file (YAML).")],
    data: Data = None,
    annotations: Annotations = None,
    masks: Masks = None,
    target: TargetName = None,
    metric: Metrics = None,
    max_drop: MaxDrop = None,
    max_divergence: Annotated[float | None, typer.Option(help="Largest divergence from the float model.")] = None,
    fitness: Annotated[Fitness | None, typer.Option(help="What is optimized. [default: pareto]")] = None,
    recipe: Recipes = None,
    budget: Budget = None,
    max_trials: Annotated[int | None, typer.Option(help="Strategies to try at most. [default: 40 without a budget]")] = None,
    population: Annotated[
        int | None, typer.Option(help="Strategies per generation. [default: a fifth of the trials, at most 3, on a cluster 6]")
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
    measure_on: MeasureOn = None,
    remote_python: RemotePython = None,
    cluster: Cluster = None,
    is_json: IsJson = False,
    is_quiet: IsQuiet = False,
    is_plain: IsPlain = False,
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
            annotations=annotations,
            masks=masks,
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
        "recipes": recipe,
        "output": output,
        "device": device,
        "measure_on": measure_on,
        "remote_python": remote_python,
        "cluster": cluster,
    }

    def run(console: Console) -> dict[str, Any]:
        from ovquant import commands

        options["metrics"] = [{"name": name} for name in metric] if metric else None
        return commands.search(job_of(model, options, max_drop or ()), console)

    run_command(run, is_json=is_json, is_quiet=is_quiet, is_plain=is_plain, is_verbose=is_verbose, is_debug=is_debug)


@app.command()
def init(
    model: Annotated[Path, typer.Argument(help="Float model (ONNX, OpenVINO IR ...).")],
    data: Data = None,
    annotations: Annotations = None,
    masks: Masks = None,
    target: Annotated[str, typer.Option(help="Shipped profile or YAML file.")] = "cpu",
    output: Annotated[Path, typer.Option("-o", "--output", help="New job file.")] = Path("job.yaml"),
    is_json: IsJson = False,
    is_debug: IsDebug = False,
) -> None:
    """Write a commented job file from what can be read off a model and its data."""

    def run(console: Console) -> dict[str, Any]:
        from ovquant import preparing

        return preparing.init_job(model, data, target, output, console, annotations, masks)

    run_command(run, is_json=is_json, is_debug=is_debug)


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

    run_command(run, is_json=is_json, is_debug=is_debug)


@app.command()
def resume(
    output: Annotated[Path, typer.Argument(help="Output directory of a search that was stopped.")],
    budget: Budget = None,
    max_trials: Annotated[int | None, typer.Option(help="Strategies to try at most, those tried before included.")] = None,
    memory_limit: MemoryLimit = None,
    cluster: Cluster = None,
    is_json: IsJson = False,
    is_quiet: IsQuiet = False,
    is_plain: IsPlain = False,
    is_verbose: IsVerbose = False,
    is_debug: IsDebug = False,
) -> None:
    """Go on with a search that was stopped, by what its output directory holds."""

    def run(console: Console) -> dict[str, Any]:
        from ovquant import commands

        changes = {"budget": budget, "max_trials": max_trials, "memory_limit": memory_limit, "cluster": cluster}
        return commands.resume(output, changes, console)

    run_command(run, is_json=is_json, is_quiet=is_quiet, is_plain=is_plain, is_verbose=is_verbose, is_debug=is_debug)


@app.command()
def quantize(
    model: Annotated[Path, typer.Argument(help="Float model.")],
    recipe: Annotated[Path, typer.Option(help="recipe.yaml of an exported model.")],
    data: Annotated[str, typer.Option(help="Samples to calibrate on, as for search.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="New directory for the quantized model.")],
    annotations: Annotations = None,
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
        limits = None
        if metric or max_drop:
            options = {"data": {"path": data}, "metrics": [{"name": name} for name in metric or ()], "device": device}
            limits = replay.Limits(job=job_of(str(model), options, max_drop or ()), data=holdout_data, annotations=annotations)
        return replay.quantize(model, recipe, data, output, console, limits, annotations)

    run_command(run, is_json=is_json, is_debug=is_debug)


@app.command()
def evaluate(
    models: Annotated[
        list[Path],
        typer.Argument(help="Models; the first one is the float model, or a job file (YAML) that names it."),
    ],
    data: Data = None,
    annotations: Annotations = None,
    masks: Masks = None,
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
    measure_on: MeasureOn = None,
    remote_python: RemotePython = None,
    is_json: IsJson = False,
    is_debug: IsDebug = False,
) -> None:
    """Measure models side by side: metrics, divergence, latency, throughput, memory, size.

    All samples are used, or --max-items of them. The first model at f32 is the reference, and at the target's precision the
    baseline.
    """

    def run(console: Console) -> dict[str, Any]:
        from ovquant import commands

        options = {
            "data": data_options(
                data,
                None,
                None,
                None,
                max_items,
                resize,
                crop,
                mean,
                scale,
                layout,
                channels,
                annotations=annotations,
                masks=masks,
            ),
            "target": target,
            "metrics": [{"name": name} for name in metric] if metric else None,
            "device": device,
            "measure_on": measure_on,
            "remote_python": remote_python,
        }
        job = job_of(str(models[0]), options)
        return commands.evaluate([Path(job.model), *models[1:]], job, console)

    run_command(run, is_json=is_json, is_debug=is_debug)


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
        return overview.inspect(job_of(model, options), output, console)

    run_command(run, is_json=is_json, is_debug=is_debug)


@app.command()
def export(
    output: Annotated[Path, typer.Argument(help="Output directory of a search.")],
    directory: Annotated[Path, typer.Option("-o", "--output", help="New directory for the exported model.")],
    trial: Annotated[int | None, typer.Option(help="Number of the trial, see trials.csv. [default: the winner]")] = None,
    pick: Annotated[Picked | None, typer.Option(help="Choose among the feasible trials.")] = None,
    layout: Annotated[
        PackageLayout, typer.Option(help="IR directory, OpenVINO Model Server repository, Optimum Intel directory, zip.")
    ] = PackageLayout.IR,
    is_embedding: Annotated[
        bool, typer.Option("--embed-preprocessing", help="Let the model take u8 images [1, H, W, C].")
    ] = False,
    config_from: Annotated[
        Path | None, typer.Option(help="Folder of config.json and tokenizer, for the layout optimum. [default: the model's]")
    ] = None,
    has_checks: Annotated[bool, typer.Option("--checks/--no-checks", help="Put a few validation items in, for verify.")] = True,
    is_json: IsJson = False,
    is_debug: IsDebug = False,
) -> None:
    """Export a trial of a search as a package that is ready to be served."""

    def run(console: Console) -> dict[str, Any]:
        from ovquant import delivery

        form = delivery.Form(layout=layout.value, is_embedding=is_embedding, has_checks=has_checks, config_from=config_from)
        return delivery.export_trial(output, trial, None if pick is None else pick.value, directory, console, form)

    run_command(run, is_json=is_json, is_debug=is_debug)


@app.command()
def verify(
    package: Annotated[Path, typer.Argument(help="Directory or zip file that ovquant wrote.")],
    data: Annotated[str | None, typer.Option(help="Samples with labels, to measure the metrics of the search on.")] = None,
    annotations: Annotations = None,
    masks: Masks = None,
    is_timed: Annotated[bool, typer.Option("--latency", help="Measure the latency on this machine.")] = False,
    device: Annotated[str | None, typer.Option(help="Run on this device instead of the package's own.")] = None,
    is_json: IsJson = False,
    is_debug: IsDebug = False,
) -> None:
    """Check that a package is what was exported, and does on this machine what was recorded."""

    def run(console: Console) -> dict[str, Any]:
        from ovquant import verification

        return verification.verify(package, data, device, console, is_timed=is_timed, annotations=annotations, masks=masks)

    run_command(run, is_json=is_json, is_debug=is_debug)


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

    run_command(run, is_json=is_json, is_debug=is_debug)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
