"""What a search leaves behind: the IR package with recipe and manifest, the table of trials. Written beside, then renamed."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ovquant import runtime
from ovquant.checks import CHECKS_FILE, Checks
from ovquant.errors import OutputError
from ovquant.layouts import Layout, companions, model_file, zip_folder
from ovquant.loading import MANIFEST
from ovquant.recipe import Recipe
from ovquant.records import Failure, Trial
from ovquant.space import SearchSpace
from ovquant.strategy import Strategy
from ovquant.targets import to_yaml

MANIFEST_VERSION = 1
PARTIAL = ".partial"
_SHORT = 12  # digits of a key that tell it from others


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all, also where two processes write it."""
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_json(path: Path, content: Any) -> None:
    """Write JSON, as `write_text` does."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def require_free(directory: Path) -> None:
    """Check that nothing would be overwritten.

    Raises:
        OutputError: `directory` is a file, or holds something.
    """
    if directory.exists() and not directory.is_dir():
        raise OutputError(f"{directory}: is a file; give a directory that does not exist yet, or an empty one")
    if directory.is_dir() and any(directory.iterdir()):
        raise OutputError(f"{directory}: is not empty; nothing was written. Give a new directory")


def write_package(
    directory: Path,
    model: Path,
    recipe: Recipe,
    manifest: dict[str, Any],
    *,
    is_ours: bool = False,
    layout: Layout = "ir",
    name: str = "model",
    checks: Checks | None = None,
    copied: Mapping[str, bytes] | None = None,
) -> list[str]:
    """Write model, weights, recipe and manifest into a new directory or zip file, and return the names of the files.

    Args:
        directory: where to; must be free unless `is_ours`. A file for the layout ``zip``.
        model: IR to copy.
        recipe: of the model.
        manifest: completed here with the hashes of the files written.
        is_ours: replace what an earlier run of the same search wrote there.
        layout: see `ovquant.layouts`.
        name: of the model, for servers.
        checks: items for others to check the model with.
        copied: files that are put in as they are: name -> content.

    Raises:
        OutputError: something is there, or it cannot be written.
    """
    if not is_ours:
        require_free(directory)
    directory = directory.resolve()
    partial: Path | None = None
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}{PARTIAL}-", dir=directory.parent))
        partial.chmod(0o755)
        if layout == "zip":
            names = _fill(partial / "files", model, recipe, manifest, layout, name, checks, copied or {})
            zip_folder(partial / "files", partial / "package.zip")
            _move_new(partial / "package.zip", directory)
            shutil.rmtree(partial)
            return names
        names = _fill(partial, model, recipe, manifest, layout, name, checks, copied or {})
        if directory.exists():
            shutil.rmtree(directory)
        partial.replace(directory)
    except OSError as error:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        raise OutputError(f"{directory}: cannot be written: {error.strerror or error}") from error
    return names


def _move_new(source: Path, target: Path) -> None:
    """Give a file another name, never that of one that somebody has put there meanwhile.

    Raises:
        OSError: something is there.
    """
    try:
        target.hardlink_to(source)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if target.exists():
            raise
        source.rename(target)


def _fill(
    folder: Path,
    model: Path,
    recipe: Recipe,
    manifest: dict[str, Any],
    layout: Layout,
    name: str,
    checks: Checks | None,
    copied: Mapping[str, bytes],
) -> list[str]:
    """Write the files of a package into an empty folder and return their names, the manifest last."""
    graph = model_file(layout, name)
    weights = graph.with_suffix(".bin")
    (folder / graph).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model, folder / graph)
    shutil.copyfile(model.with_suffix(".bin"), folder / weights)
    (folder / "recipe.yaml").write_text(to_yaml(recipe), encoding="utf-8")
    names = [graph.as_posix(), weights.as_posix(), "recipe.yaml"]
    for file, file_content in {**companions(layout, name, recipe.device, recipe.compile_properties), **copied}.items():
        (folder / file).write_bytes(file_content)
        names.append(file)
    if checks is not None:
        (folder / CHECKS_FILE).write_bytes(checks.to_bytes())
        names.append(CHECKS_FILE)
    files = {file: runtime.file_sha256(folder / file) for file in names}
    deployment = {"device": recipe.device, "compile_properties": dict(recipe.compile_properties)}
    content = {"version": MANIFEST_VERSION, "layout": layout, "files": files, "deployment": deployment, **manifest}
    (folder / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return [*names, MANIFEST]


_STRATEGY_COLUMNS = [field.name for field in dataclasses.fields(Strategy)]
_COLUMNS = [
    "trial", "role", "generation", "parents", "recipe", "code", "bits", "digest", "feasible", "violation", "fitness",
    "divergence", "latency_ms", "latency_ratio", "latency_ratio_low", "latency_ratio_high", "speedup", "size_bytes",
    "fake_quantizes", "seconds", "items", "stopped", "same_as", "structure", "failure",
]  # fmt: skip


def trials_csv(trials: Sequence[Trial], space: SearchSpace | None) -> str:
    """Return one line per trial: where it comes from, what it is, what was measured.

    Args:
        trials: of a study.
        space: for the bit strings; None leaves them out.
    """
    metric_names = next((_metric_names(trial) for trial in trials if _metric_names(trial)), [])
    metric_columns = [column for name in metric_names for column in (name, f"{name}_drop")]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [*_COLUMNS, *metric_columns, *_STRATEGY_COLUMNS], lineterminator="\n", restval="")
    writer.writeheader()
    for trial in trials:
        writer.writerow(_csv_row(trial, space))
    return stream.getvalue()


def _metric_names(trial: Trial) -> list[str]:
    return [] if isinstance(trial.outcome, Failure) else [result.name for result in trial.outcome.metrics]


def _csv_row(trial: Trial, space: SearchSpace | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "trial": trial.number,
        "role": trial.role,
        "generation": trial.generation,
        "parents": " ".join(map(str, trial.parents)),
        "recipe": trial.recipe,
        "code": trial.code,
        "feasible": trial.is_feasible,
        "violation": trial.violation,
        "fitness": trial.fitness,
    }
    if trial.code is not None and space is not None:
        row["bits"] = space.bits_from_genome(space.genome_from_code(trial.code))
    if trial.strategy is not None:
        row["digest"] = trial.strategy.digest
        content = trial.strategy.as_dict()
        row.update({key: json.dumps(value) if isinstance(value, dict) else value for key, value in content.items()})
    if isinstance(trial.outcome, Failure):
        row["failure"] = f"{trial.outcome.stage}: {trial.outcome.error}: {trial.outcome.message}"
        return row
    evaluation = trial.outcome
    row.update(
        divergence=evaluation.divergence.value,
        size_bytes=evaluation.size_bytes,
        fake_quantizes=evaluation.n_fake_quantize,
        seconds=round(sum(evaluation.seconds.values()), 3),
        items=evaluation.n_items,
        structure=(evaluation.structure or "")[:_SHORT],
        same_as=evaluation.same_as,
    )
    if evaluation.raced is not None:
        raced = evaluation.raced
        row["stopped"] = f"{raced.reason}: {raced.name} {raced.bound:.4g} > {raced.limit:.4g}"
    if evaluation.latency is not None:
        ratio = evaluation.latency.ratio
        row.update(
            latency_ms=evaluation.latency.median_ms,
            latency_ratio=ratio.value,
            latency_ratio_low=ratio.low,
            latency_ratio_high=ratio.high,
            speedup=evaluation.latency.speedup.value,
        )
    for result in evaluation.metrics:
        row[result.name] = result.value
        row[f"{result.name}_drop"] = result.drop.value
    return row
