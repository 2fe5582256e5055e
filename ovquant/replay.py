"""The use case behind `ovquant quantize`: a recipe replayed on a model, without a search."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovquant import export, quantization, runtime
from ovquant.configfile import load
from ovquant.console import Console
from ovquant.datasets.readers import open_source
from ovquant.environment import versions
from ovquant.errors import ConfigError, ModelError, first_line
from ovquant.operations import Operation
from ovquant.protocols import Sample
from ovquant.recipe import CalibrationSpec, Made, Recipe
from ovquant.scopes import misses, resolve
from ovquant.strategy import Strategy


def quantize(model: Path, recipe_path: Path, data: str, directory: Path, console: Console) -> dict[str, Any]:
    """Replay a recipe on a model.

    Raises:
        OvquantError: recipe, model or data cannot be used.
    """
    export.require_free(directory)
    recipe = load(Recipe, recipe_path, "recipe")
    strategy = recipe.strategy.strategy()
    float_model = runtime.read_model(model)
    runtime.require_quantizable(float_model, model)
    operations = runtime.operations(float_model)
    ignored = _ignored(strategy, operations, f"{recipe_path}: strategy.ignored_scope", model)
    samples = _calibration_samples(recipe.calibration, data, runtime.input_infos(float_model), console)
    try:
        quantized = quantization.quantize(float_model, strategy, samples, operations)
    except Exception as error:
        raise ModelError(f"{model}: the recipe cannot be replayed: {first_line(error)}") from error
    with tempfile.TemporaryDirectory(prefix="ovquant-") as folder:
        path = Path(folder) / "model.xml"
        runtime.save_model(quantized, path, strategy.inference_precision)
        digest = runtime.graph_digest(runtime.read_model(path))
        is_same = digest == recipe.made.graph_digest
        hashes = export.model_sha256(model)
        manifest = {
            "model": {"name": model.name, "sha256": hashes},
            "recipe": {"path": recipe_path.name, "is_identical_to_recipe": is_same},
            "strategy": strategy.as_dict(),
            "ignored_operations": list(ignored),
            "graph_digest": digest,
            "versions": versions(),
        }
        made = Made(model_sha256=hashes[model.name], graph_digest=digest, versions=versions())
        export.write_package(directory, path, recipe.model_copy(update={"made": made}), manifest)
    console.result(f"Strategy: {strategy.describe()}; {len(samples)} calibration items")
    if ignored:
        console.result(f"Left in float: {', '.join(ignored)}")
    console.result(
        "Same structure, ranges, weights and biases as the recipe's model."
        if is_same
        else "Differs from the recipe's model (other weights, data or versions); measure it with ovquant evaluate."
    )
    console.result(f"Wrote {directory}: model.xml, model.bin, recipe.yaml, manifest.json")
    return {"output": str(directory), "graph_digest": digest, "is_identical_to_recipe": is_same}


def _ignored(strategy: Strategy, operations: Sequence[Operation], where: str, model: Path) -> tuple[str, ...]:
    """Return the names of what a recipe leaves in float.

    Raises:
        ConfigError: part of it is not in this model, and would be quantized without a word.
    """
    missed = misses(strategy.ignored_scope, operations)
    if missed:
        told = "\n".join(f"{where}: {miss}" for miss in missed)
        raise ConfigError(f"{told}\nName what is to stay in float in {model}, or take the entry out: it would be quantized.")
    return resolve(strategy.ignored_scope, operations)


def _calibration_samples(
    calibration: CalibrationSpec, data: str, inputs: Sequence[runtime.InputInfo], console: Console
) -> list[Sample]:
    """Return the items that a recipe calibrates on; of other, smaller data the first ones."""
    spec = calibration.data(data)
    source = open_source(spec.main, calibration.part, spec, inputs)
    items: Sequence[int] = calibration.items
    if max(items) >= len(source):
        items = range(min(len(items), len(source)))
        console.warn(f"{data} holds {len(source)} items, not those of the recipe; the first {len(items)} are used")
    return [source.sample(index) for index in items]
