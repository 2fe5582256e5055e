"""Recipes: a strategy with all that replays it on the same or a similar model, without a search."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ovquant.configfile import FileModel
from ovquant.datasets.readers import Part
from ovquant.errors import ConfigError
from ovquant.job import DataSpec, Labels, Preprocessing
from ovquant.operations import Operation, computed
from ovquant.places import places
from ovquant.scopes import misses, resolve
from ovquant.selectors import ScopeSelector
from ovquant.strategy import Strategy, StrategySpec
from ovquant.targets import Target


class CalibrationSpec(FileModel):
    """Which items of a data set calibration takes, and how they are read.

    Attributes:
        has_own_source: calibration had a source of its own, and that is what ``--data`` names when the recipe is replayed.
        items: indices in the source, in the order they are used; of them the first `subset_size` count.
        preprocessing: as in the data section of the job.
        inputs: likewise.
        class_names: likewise.
        arguments: likewise.
        labels: likewise, of the main source.
        annotations: name of the file that lists the items, where they are those of a folder with such a file.
    """

    has_own_source: bool
    items: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    preprocessing: Preprocessing = Preprocessing()
    inputs: dict[str, str] | None = None
    class_names: tuple[str, ...] | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    labels: Labels = None
    annotations: str | None = None

    @property
    def part(self) -> Part:
        """What the source is to be opened as."""
        return "calibration" if self.has_own_source else "main"

    def data(self, path: str, annotations: str | None = None, masks: str | None = None) -> DataSpec:
        """Return the data section of the source at `path`, and of what lists or labels its items."""
        return DataSpec(
            path=path,
            annotations=annotations,
            masks=masks,
            labels=self.labels,
            inputs=self.inputs,
            preprocessing=self.preprocessing,
            class_names=self.class_names,
            arguments=self.arguments,
        )


class Made(FileModel):
    """What the recipe was found with; for comparison, and to find layers again whose names are others now.

    Attributes:
        model_sha256: of the float model.
        graph_digest: of the quantized model.
        versions: package -> version.
        n_operations: of the float model, by type. Empty in recipes of earlier versions.
        left_in_float: places of the operations that the strategy ignores, see `ovquant.places`. None in recipes of earlier
            versions.
        strategy_digest: of the strategy; where it is another one now, the file was changed by hand.
    """

    model_sha256: str
    graph_digest: str
    versions: dict[str, str]
    n_operations: dict[str, int] = Field(default_factory=dict)
    left_in_float: tuple[str, ...] | None = None
    strategy_digest: str | None = None


class Recipe(FileModel):
    """The file."""

    version: Literal[1]
    strategy: StrategySpec
    device: str
    compile_properties: dict[str, str | int | float | bool]
    calibration: CalibrationSpec
    made: Made
    notes: tuple[str, ...] = ()


def made(
    strategy: Strategy, operations: Sequence[Operation], *, model_sha256: str, graph_digest: str, versions: Mapping[str, str]
) -> Made:
    """Return what a recipe was found with.

    Args:
        strategy: of the recipe.
        operations: of the float model.
        model_sha256: as `Made`.
        graph_digest: likewise.
        versions: likewise.
    """
    found = places(tuple(operations))
    left = [found.place_of(name) for name in resolve(strategy.ignored_scope, operations)]
    return Made(
        model_sha256=model_sha256,
        graph_digest=graph_digest,
        versions=dict(versions),
        n_operations=count_types(operations),
        left_in_float=tuple(sorted(place for place in left if place is not None)),
        strategy_digest=strategy.digest,
    )


def differences(was: Made, now: Made) -> list[str]:
    """Return in words how what a recipe was found with differs from what it is replayed on; empty if it does not.

    What a recipe of an earlier version does not tell is not compared.
    """
    found = []
    if was.model_sha256 != now.model_sha256:
        found.append("the model's file is another one: other weights, or another export")
    there, here = was.n_operations, now.n_operations
    for kind in sorted(there | here) if there else ():
        if there.get(kind, 0) != here.get(kind, 0):
            found.append(f"operations of type {kind}: {there.get(kind, 0)} there, {here.get(kind, 0)} here")
    if was.left_in_float is not None and now.left_in_float is not None:
        left_there, left_here = set(was.left_in_float), set(now.left_in_float)
        for where, only in (("there", left_there - left_here), ("here", left_here - left_there)):
            found += [f"left in float {where} only: {', '.join(sorted(only))}"] if only else []
    for package in sorted(was.versions.keys() & now.versions.keys()):
        if was.versions[package] != now.versions[package]:
            found.append(f"{package}: {was.versions[package]} there, {now.versions[package]} here")
    return found


def fitted(strategy: Strategy, made: Made | None, operations: Sequence[Operation], where: str) -> tuple[Strategy, str | None]:
    """Return a strategy for another model than the one that it was found on, and what must be said of it.

    Layers that have other names there are found by their places.

    Args:
        strategy: of a recipe.
        made: what it was found with; None where that is not known.
        operations: of the model.
        where: the strategy's ignored scope is, for messages.

    Raises:
        ConfigError: part of what it leaves in float is not in this model, and would be quantized without a word.
    """
    missed = misses(strategy.ignored_scope, operations)
    if not missed:
        return strategy, None
    selector = None if made is None else by_places(strategy, made, operations)
    if selector is None or any(miss.field not in {"names", "patterns"} for miss in missed):
        told = "\n".join(f"{where}: {miss}" for miss in missed)
        raise ConfigError(f"{told}\nName what is to stay in float in this model, or take the entry out: it would be quantized.")
    others = ", ".join(miss.entry for miss in missed)
    note = f"nothing in this model is named {others}: what stays in float is found by the places that the recipe recorded"
    return dataclasses.replace(strategy, ignored_scope=selector), note


def by_places(strategy: Strategy, was: Made, operations: Sequence[Operation]) -> ScopeSelector | None:
    """Return what selects in another model the operations that a strategy left in float; None if that is not certain.

    It is, if the strategy is the one that was found, and there are as many operations of the types in question as there were:
    then a place is that of the same layer.

    Args:
        strategy: with names or patterns that the model does not have.
        was: what it was found with.
        operations: of the model.
    """
    if not was.left_in_float or was.strategy_digest != strategy.digest:
        return None
    found, counts = places(tuple(operations)), count_types(operations)
    types = {operation.name: operation.type for operation in operations}
    for place in was.left_in_float:
        names = found.names(place)
        if len(names) != 1 or counts.get(types[names[0]]) != was.n_operations.get(types[names[0]]):
            return None
    return ScopeSelector(places=was.left_in_float)


def count_types(operations: Sequence[Operation]) -> dict[str, int]:
    """Return how many operations of each type compute something, by type; not inputs, outputs and constants."""
    counts = Counter(operation.type for operation in computed(operations) if operation.is_selectable)
    return dict(sorted(counts.items()))


def recipe_from(
    strategy: Strategy,
    *,
    target: Target,
    data: DataSpec,
    calibration: Sequence[tuple[Part, int]],
    made: Made,
    notes: Sequence[str] = (),
) -> Recipe:
    """Return the recipe of a strategy.

    Args:
        strategy: to replay.
        target: profile. Its own precision hint stays where a dry run on another device could only guess it.
        data: section of the job.
        calibration: the items that were set aside, in order.
        made: what it was found with.
        notes: what must be said beside the results.
    """
    used = calibration[: strategy.subset_size]
    own = data.calibration
    listing = data.annotations if own is None else own.annotations
    is_precision_known = target.genes.inference_precision is not None or not notes
    precision = {"INFERENCE_PRECISION_HINT": strategy.inference_precision} if is_precision_known else {}
    return Recipe(
        version=1,
        strategy=StrategySpec.model_validate(strategy.as_dict()),
        device=target.device,
        compile_properties={**target.compile_properties, **precision},
        calibration=CalibrationSpec(
            has_own_source=used[0][0] == "calibration",
            items=tuple(index for _, index in used),
            preprocessing=data.preprocessing,
            inputs=own.inputs if own is not None else data.inputs,
            class_names=data.class_names,
            arguments=data.arguments,
            labels=data.labels,
            annotations=None if listing is None else Path(listing).name,
        ),
        made=made,
        notes=tuple(notes),
    )
