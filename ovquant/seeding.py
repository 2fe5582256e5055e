"""Warm starts: what earlier searches found, brought into the space of a new one, whose first trials they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import get_args

from ovquant import selection
from ovquant.choices import ModelFacts, build_space
from ovquant.configfile import load
from ovquant.errors import ConfigError
from ovquant.job import RecipeSource
from ovquant.recipe import Made, Recipe, fitted
from ovquant.scopes import resolve
from ovquant.selection import Pick
from ovquant.selectors import NO_SCOPE, ScopeSelector
from ovquant.space import Genome, SearchSpace
from ovquant.strategy import Strategy, StrategySpec
from ovquant.study import read_trials
from ovquant.studyfile import STUDY_FILE
from ovquant.targets import MAX_VALUES_PER_GENE, Target

_RECIPE = "recipe.yaml"
_WINNER = f"best/{_RECIPE}"
_CHOICE = "recipe{}"  # name of a choice of the ignored scope


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A strategy that an earlier search found.

    Attributes:
        name: where it comes from, for people.
        strategy: as it was there.
        made: what it was found with; None where that was not recorded.
        is_optional: it is one of several of a search, and left out where the model has no such layers.
    """

    name: str
    strategy: Strategy
    made: Made | None = None
    is_optional: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WarmStart:
    """What a search begins with.

    Attributes:
        space: of the target, with choices for what recipes leave in float; its notes tell what became of them.
        seeds: genome -> where it comes from, in the order given.
        sources: the strategies as they are for this model, to go on with in place of the files.
    """

    space: SearchSpace
    seeds: dict[Genome, str]
    sources: tuple[RecipeSource, ...]


def known(sources: Iterable[RecipeSource]) -> list[Known]:
    """Return the strategies of recipes, packages and output directories of searches.

    Raises:
        ConfigError: one is missing, has faults, or holds nothing to begin with.
        OutputError: the study of a search cannot be read.
    """
    return [found for source in sources for found in _known(source)]


def _known(source: RecipeSource) -> list[Known]:
    if source.strategy is not None:
        return [Known(name=source.name, strategy=source.strategy.strategy())]
    path = Path(source.name)
    if (path / STUDY_FILE).is_file():
        return _of_search(path)
    if (path / _RECIPE).is_file():
        return [_of_file(path / _RECIPE)]
    if path.is_dir():
        raise ConfigError(
            f"{path}: holds neither {_RECIPE} nor a search; give a recipe, a package's directory, or a search's output"
        )
    return [_of_file(path)]


def _of_file(path: Path) -> Known:
    recipe = load(Recipe, path, "recipe")
    return Known(name=str(path), strategy=recipe.strategy.strategy(), made=recipe.made)


def _of_search(output: Path) -> list[Known]:
    """Return the winner of a search, if it has one, and the trials that ``ovquant export --pick`` offers."""
    winner = output / _WINNER
    found = [dataclasses.replace(_of_file(winner), is_optional=True)] if winner.is_file() else []
    trials = read_trials(output / STUDY_FILE)
    for trial in filter(None, (selection.pick(trials, how) for how in get_args(Pick))):
        if trial.strategy is not None and trial.strategy.digest not in {one.strategy.digest for one in found}:
            found.append(Known(name=f"{output} trial {trial.number}", strategy=trial.strategy, is_optional=True))
    if not found:
        raise ConfigError(
            f"{output}: no trial of that search meets its limits. Export one to begin with by "
            f"ovquant export {output} --trial N -o DIR, and give DIR"
        )
    return found


def warm_start(found: Sequence[Known], target: Target, facts: ModelFacts) -> WarmStart:
    """Return the space of a target and what of it a search begins with.

    What a strategy leaves in float becomes one more choice of the ignored scope, if the target has none for it; other values
    that are not allowed become the nearest ones that are, and notes say so.

    Args:
        found: strategies; none for a search that begins from nothing.
        target: profile.
        facts: of model, data and device.

    Raises:
        ConfigError: the model has no such layers, or the target's genes have no room.
    """
    notes: list[str] = []
    fitting = _fitting(found, facts, notes)
    space = _space(fitting, target, facts, notes)
    seeds: dict[Genome, str] = {}
    changed: dict[str, list[str]] = {}
    for name, strategy in fitting:
        held = space.scopes.holding(_left_in_float(strategy, facts))
        assert held is not None, "the space was made to hold it"
        near, changes = space.nearest(dataclasses.replace(strategy, ignored_scope=space.scopes.selector(*held)))
        for change in changes:
            changed.setdefault(str(change), []).append(name)
        seeds.setdefault(space.genome_from_strategy(near), name)
    notes += [f"{', '.join(names)}: {change}" for change, names in changed.items()]
    return WarmStart(
        space=dataclasses.replace(space, notes=(*space.notes, *notes)),
        seeds=seeds,
        sources=tuple(
            RecipeSource(name=name, strategy=StrategySpec.model_validate(strategy.as_dict())) for name, strategy in fitting
        ),
    )


def _fitting(found: Sequence[Known], facts: ModelFacts, notes: list[str]) -> list[tuple[str, Strategy]]:
    """Return names and strategies, with scopes that this model has.

    Raises:
        ConfigError: it has not those of a recipe, or of no strategy of a search.
    """
    fitting: list[tuple[str, Strategy]] = []
    faults: list[str] = []
    for one in found:
        where = f"{one.name}: strategy.ignored_scope"
        try:
            strategy, note = fitted(one.strategy, one.made, facts.operations, where)
        except ConfigError as error:
            if not one.is_optional:
                raise
            faults.append(str(error))
            notes.append(f"left out: {str(error).splitlines()[0]}")
            continue
        fitting.append((one.name, strategy))
        notes += [] if note is None else [f"{one.name}: {note}"]
    if faults and not fitting:
        raise ConfigError("\n".join(faults))
    return fitting


def _space(fitting: Sequence[tuple[str, Strategy]], target: Target, facts: ModelFacts, notes: list[str]) -> SearchSpace:
    """Return the space of a target that holds what strategies leave in float, whatever the target's choices are."""
    space = build_space(target, facts)
    choices = dict(target.genes.ignored_scope or {"none": NO_SCOPE})
    added: dict[frozenset[str], ScopeSelector] = {}
    for name, strategy in fitting:
        left = _left_in_float(strategy, facts)
        if left in added or space.scopes.holding(left) is not None:
            continue
        added[left] = strategy.ignored_scope
        choice = next(word for word in map(_CHOICE.format, ("", *range(2, len(choices) + 3))) if word not in choices)
        choices[choice] = strategy.ignored_scope
        notes.append(f"{name}: what it leaves in float is no choice of the target's, and is added to them as {choice!r}")
    if not added:
        return space
    if len(space.scopes.choices) + len(added) > MAX_VALUES_PER_GENE:
        raise ConfigError(
            f"target genes.ignored_scope: {MAX_VALUES_PER_GENE} choices are the most, and recipes bring {len(added)} more. "
            "Give fewer recipes, or take choices out"
        )
    genes = target.genes.model_copy(update={"ignored_scope": choices})
    return build_space(target.model_copy(update={"genes": genes}), facts)


def _left_in_float(strategy: Strategy, facts: ModelFacts) -> frozenset[str]:
    return frozenset(resolve(strategy.ignored_scope, facts.operations))
