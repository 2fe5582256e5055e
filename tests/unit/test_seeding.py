"""What earlier searches found, as the beginning of another one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from fakes.operations import OPERATIONS
from fakes.records import trial

from ovquant import seeding
from ovquant.choices import ModelFacts
from ovquant.errors import ConfigError
from ovquant.job import DataSpec, RecipeSource
from ovquant.operations import Operation
from ovquant.recipe import made, recipe_from
from ovquant.scopes import resolve
from ovquant.seeding import Known, WarmStart, known, warm_start
from ovquant.selectors import NO_SCOPE, ScopeSelector
from ovquant.strategy import Strategy
from ovquant.targets import Target, to_yaml

RENAMED = tuple(
    dataclasses.replace(one, name=f"new {one.name}", inputs=tuple(f"new {name}" for name in one.inputs)) for one in OPERATIONS
)
GENES: dict[str, Any] = {
    "model_type": [None, "transformer"],
    "preset": ["performance", "mixed"],
    "ignored_scope": {"none": {}, "first": {"roles": ["first_convolution"]}, "sums": {"types": ["Add"]}},
}
SUMS = ScopeSelector(types=("Add",))
HEAD = ScopeSelector(names=("head",))


def target(genes: dict[str, Any] = GENES) -> Target:
    return Target.model_validate({"version": 1, "name": "test", "device": "CPU", "genes": genes})


def facts(operations: tuple[Operation, ...] = OPERATIONS, layers: tuple[str, ...] = ()) -> ModelFacts:
    return ModelFacts(
        operations=operations,
        n_calibration=300,
        own_precision="f32",
        device_precisions=frozenset({"f32"}),
        layers=layers,
    )


def started(*strategies: Strategy, genes: dict[str, Any] = GENES, layers: tuple[str, ...] = ()) -> WarmStart:
    found = [Known(name=f"r{number}", strategy=strategy) for number, strategy in enumerate(strategies)]
    return warm_start(found, target(genes), facts(layers=layers))


def seeds(start: WarmStart) -> list[Strategy]:
    return [start.space.strategy_from_genome(genome) for genome in start.seeds]


def write_recipe(path: Path, strategy: Strategy) -> Path:
    was = made(strategy, OPERATIONS, model_sha256="0" * 64, graph_digest="1" * 64, versions={})
    recipe = recipe_from(strategy, target=target(), data=DataSpec(path="d"), calibration=[("main", 0)], made=was)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_yaml(recipe))
    return path


def test_without_recipes_the_space_is_that_of_the_target() -> None:
    start = started()
    assert (start.seeds, start.sources, start.space.notes) == ({}, (), ())


def test_what_the_target_allows_becomes_a_seed_as_it_is() -> None:
    strategies = [Strategy(model_type="transformer", ignored_scope=SUMS).canonical(), Strategy(preset="mixed").canonical()]
    start = started(*strategies)
    assert seeds(start) == strategies
    assert list(start.seeds.values()) == ["r0", "r1"]
    assert start.space.digest == started().space.digest
    assert start.space.notes == ()


def test_a_scope_that_selects_what_a_choice_does_is_that_choice() -> None:
    start = started(Strategy(ignored_scope=ScopeSelector(names=("stem",))))
    assert seeds(start)[0].ignored_scope == ScopeSelector(roles=("first_convolution",))
    assert start.space.digest == started().space.digest


def test_a_scope_of_a_choice_and_of_searched_layers_is_made_of_them() -> None:
    genes = {**GENES, "layers": {"top": 1}}
    start = started(Strategy(ignored_scope=SUMS | HEAD), genes=genes, layers=("MatMul[0]",))
    assert seeds(start)[0].ignored_scope == SUMS | ScopeSelector(places=("MatMul[0]",))
    assert start.space.digest == started(genes=genes, layers=("MatMul[0]",)).space.digest


def test_any_other_scope_is_one_more_choice() -> None:
    start = started(
        Strategy(ignored_scope=HEAD), Strategy(preset="mixed", ignored_scope=HEAD), Strategy(ignored_scope=HEAD | SUMS)
    )
    gene = next(gene for gene in start.space.genes if gene.name == "ignored_scope")
    assert gene.labels == ("none", "first", "sums", "recipe", "recipe2")
    assert [seed.ignored_scope for seed in seeds(start)] == [HEAD, HEAD, HEAD | SUMS]
    assert start.space.notes == (
        "r0: what it leaves in float is no choice of the target's, and is added to them as 'recipe'",
        "r2: what it leaves in float is no choice of the target's, and is added to them as 'recipe2'",
    )


@pytest.mark.parametrize("scopes", [None, {"none": {}}, {"recipe": {"types": ["Add"]}}])
def test_a_choice_is_added_whatever_the_target_has(scopes: dict[str, Any] | None) -> None:
    start = started(Strategy(ignored_scope=HEAD), Strategy(), genes={"ignored_scope": scopes})
    assert [seed.ignored_scope for seed in seeds(start)] == [HEAD, NO_SCOPE]


def test_choices_beyond_the_most_that_a_gene_takes_are_refused() -> None:
    every = ["stem", "depthwise", "plus", "head"]
    names = [[name for bit, name in enumerate(every) if number >> bit & 1] for number in range(16)]
    scopes = [ScopeSelector(names=tuple(chosen)) for chosen in names]
    assert len(started(*map(of_scope, scopes)).seeds) == 16
    more = tuple(Operation(name=f"more {number}", type="Relu", inputs=("head",)) for number in range(40))
    found = [Known(name="r", strategy=of_scope(ScopeSelector(names=(one.name,)))) for one in more]
    with pytest.raises(ConfigError, match="36 choices are the most, and recipes bring 40 more"):
        warm_start(found, target(), facts((*OPERATIONS, *more)))


def of_scope(scope: ScopeSelector) -> Strategy:
    return Strategy(ignored_scope=scope)


def test_other_values_become_the_nearest_ones_and_recipes_that_share_a_note_are_told_together() -> None:
    strategy = Strategy(activations_range_estimator="MEAN_QUANTILE")
    start = started(strategy, dataclasses.replace(strategy, preset="mixed"))
    assert [seed.activations_range_estimator for seed in seeds(start)] == [None, None]
    assert start.space.notes == (
        "r0, r1: activations_range_estimator MEAN_QUANTILE is not among the values searched here; null in its place",
    )


def test_recipes_that_come_to_the_same_are_one_seed() -> None:
    start = started(Strategy(), Strategy(weights_range_estimator="MEAN_QUANTILE"))
    assert list(start.seeds.values()) == ["r0"]


def test_the_sources_of_a_start_give_the_same_start_again() -> None:
    start = started(Strategy(ignored_scope=HEAD, preset="mixed"), Strategy(activations_range_estimator="MINMAX"))
    again = warm_start(known(start.sources), target(), facts())
    assert again == start


def test_a_recipe_of_a_model_with_other_names_is_fitted_once_and_for_all(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "recipe.yaml", of_scope(HEAD))
    start = warm_start(known([RecipeSource(name=str(path))]), target(), facts(RENAMED))
    (seed,) = seeds(start)
    assert resolve(seed.ignored_scope, RENAMED) == ("new head",)
    assert "found by the places that the recipe recorded" in start.space.notes[0]
    path.unlink()
    assert warm_start(known(start.sources), target(), facts(RENAMED)).seeds == start.seeds


def test_a_recipe_that_matches_nothing_is_refused_with_what_is_nearest() -> None:
    with pytest.raises(ConfigError, match=r"^r0: strategy.ignored_scope: places 'Add\[7\]' matches .* \(nearest: Add\[0\]\)"):
        started(of_scope(ScopeSelector(places=("Add[7]",))))


def test_one_of_several_strategies_of_a_search_is_left_out_where_it_matches_nothing() -> None:
    lost = Known(name="OUT trial 3", strategy=of_scope(ScopeSelector(names=("gone",))), is_optional=True)
    start = warm_start([Known(name="r0", strategy=of_scope(SUMS)), lost], target(), facts())
    assert list(start.seeds.values()) == [source.name for source in start.sources] == ["r0"]
    assert start.space.notes[0].startswith("left out: OUT trial 3: strategy.ignored_scope: names 'gone' matches nothing")
    with pytest.raises(ConfigError, match="OUT trial 3"):
        warm_start([lost], target(), facts())


def test_of_a_search_come_the_winner_and_what_an_export_can_pick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "study.db").write_bytes(b"")
    trials = [
        trial(1, strategy=Strategy(), divergence=0.1, ratio=0.2),
        trial(2, strategy=Strategy(preset="mixed"), divergence=0.05, ratio=0.9),
        trial(3, strategy=of_scope(SUMS), divergence=0.001, ratio=1.0),
        trial(4, strategy=of_scope(HEAD), divergence=0.01, ratio=0.3),
        trial(5, strategy=Strategy(subset_size=7), divergence=0.0001, ratio=0.1, violation=1.0),
    ]
    monkeypatch.setattr(seeding, "read_trials", lambda _: trials)
    names = [f"{tmp_path} trial {number}" for number in (1, 3, 4)]  # fastest, accurate, knee
    assert [one.name for one in known([RecipeSource(name=str(tmp_path))])] == names
    winner = write_recipe(tmp_path / "best" / "recipe.yaml", of_scope(SUMS))
    found = known([RecipeSource(name=str(tmp_path))])
    assert [one.name for one in found] == [str(winner), names[0], names[2]]
    assert all(one.is_optional for one in found)


def test_a_search_without_a_feasible_trial_gives_nothing_to_begin_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "study.db").write_bytes(b"")
    monkeypatch.setattr(seeding, "read_trials", lambda _: [trial(1, violation=1.0)])
    with pytest.raises(ConfigError, match="no trial of that search meets its limits"):
        known([RecipeSource(name=str(tmp_path))])


def test_a_package_is_its_recipe(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "best" / "recipe.yaml", of_scope(SUMS))
    assert known([RecipeSource(name=str(path.parent))]) == known([RecipeSource(name=str(path))])


def test_what_is_neither_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds neither recipe.yaml nor a search"):
        known([RecipeSource(name=str(tmp_path))])
    with pytest.raises(ConfigError, match="no such recipe file"):
        known([RecipeSource(name=str(tmp_path / "gone.yaml"))])
