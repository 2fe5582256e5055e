from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ovquant.configfile import load
from ovquant.datasets.readers import Part
from ovquant.errors import ConfigError
from ovquant.job import DataSpec, Preprocessing, Source
from ovquant.operations import Operation
from ovquant.recipe import Made, Recipe, by_places, differences, fitted, made, recipe_from
from ovquant.scopes import resolve
from ovquant.selectors import ScopeSelector
from ovquant.strategy import Strategy, StrategySpec
from ovquant.targets import Target, to_yaml

MADE = Made(model_sha256="0" * 64, graph_digest="1" * 64, versions={"nncf": "3.4.0", "openvino": "2026.4.1"})
STRATEGY = Strategy(
    preset="mixed",
    model_type="transformer",
    subset_size=30,
    fast_bias_correction=False,
    ignored_scope=ScopeSelector(types=("Add",), patterns=("a.*", "b: c"), names=("x/y#1",), roles=("last_matmul",)),
    overflow_fix="disable",
    activations_range_estimator="MEAN_QUANTILE",
    smooth_quant_alpha_matmul=0.1 + 0.2,
    inference_precision="bf16",
    target_device="CPU_SPR",
)
DATA = DataSpec(
    path="data.npz",
    inputs={"x": "pixels"},
    calibration_items=12,
    preprocessing=Preprocessing(resize=(9,), mean=(1.0, 2.0, 3.0), channels="BGR"),
    class_names=("no", "yes"),
    arguments={"split": "train"},
)
OWN = Source(path="calibration.npz", inputs={"x": "other"})


def recipe_of(strategy: Strategy = STRATEGY, data: DataSpec = DATA) -> Recipe:
    properties = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": True, "INFERENCE_PRECISION_HINT": "f16"}
    target = Target(version=1, name="t", device="CPU", compile_properties=properties)
    part: Part = "main" if data.calibration is None else "calibration"
    items = [(part, index) for index in (5, 3, 8, 1)]
    return recipe_from(strategy, target=target, data=data, calibration=items, made=MADE)


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("strategy", [STRATEGY, Strategy(), Strategy().canonical()])
@pytest.mark.parametrize("data", [DATA, DATA.model_copy(update={"calibration": OWN}), DataSpec(path="images")])
def test_a_recipe_survives_its_file(tmp_path: Path, strategy: Strategy, data: DataSpec) -> None:
    recipe = recipe_of(strategy, data)
    read = load(Recipe, write(tmp_path, to_yaml(recipe)), "recipe")
    assert read == recipe
    assert read.strategy.strategy() == strategy
    assert [type(value) for value in read.compile_properties.values()] == [str, int, bool, str]


@given(st.floats(-1, 1), st.booleans(), st.sampled_from([None, "performance", "mixed"]))
def test_a_strategy_is_replayed_to_the_last_digit(alpha: float, is_disabled: bool, preset: Any) -> None:
    strategy = Strategy(smooth_quant_alpha_convolution=alpha, disable_bias_correction=is_disabled, preset=preset)
    content = yaml.safe_load(to_yaml(recipe_of(strategy)))
    assert Recipe.model_validate(content).strategy.strategy() == strategy


def test_the_strategy_decides_the_inference_precision() -> None:
    assert recipe_of().compile_properties["INFERENCE_PRECISION_HINT"] == "bf16"


def test_calibration_is_read_as_before_from_another_path() -> None:
    calibration = recipe_of().calibration
    assert calibration.items == (5, 3, 8, 1)
    assert calibration.part == "main"
    assert calibration.data("new.npz") == DATA.model_copy(update={"path": "new.npz", "calibration_items": None})


def test_calibration_that_had_a_source_of_its_own_is_replayed_from_one() -> None:
    calibration = recipe_of(data=DATA.model_copy(update={"calibration": OWN})).calibration
    assert calibration.part == "calibration"
    assert calibration.data("new.npz").inputs == {"x": "other"}


def test_only_the_items_that_the_strategy_uses_are_kept() -> None:
    assert recipe_of(Strategy(subset_size=2)).calibration.items == (5, 3)


def test_a_dry_run_keeps_the_profiles_precision_and_says_what_it_is() -> None:
    target = Target(version=1, name="t", device="GPU", compile_properties={"INFERENCE_PRECISION_HINT": "f16"})
    strategy = Strategy(inference_precision="bf16")
    arguments: dict[str, Any] = {"target": target, "data": DATA, "calibration": [("main", 0)], "made": MADE}
    assert recipe_from(strategy, **arguments).compile_properties == {"INFERENCE_PRECISION_HINT": "bf16"}
    dry = recipe_from(strategy, notes=["DRY RUN"], **arguments)
    assert dry.compile_properties == {"INFERENCE_PRECISION_HINT": "f16"}
    assert dry.notes == ("DRY RUN",)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"name": 1}, "name: unknown key; accepted: calibration, compile_properties, device, made, notes, strategy, version"),
        ({"divice": "CPU"}, "divice: unknown key (did you mean 'device'?)"),
        ({"version": 2}, "version: input should be 1, found 2"),
    ],
)
def test_faults_of_a_recipe_are_told_where_they_are(tmp_path: Path, change: dict[str, Any], line: str) -> None:
    path = write(tmp_path, yaml.safe_dump({**yaml.safe_load(to_yaml(recipe_of())), **change}))
    with pytest.raises(ConfigError) as caught:
        load(Recipe, path, "recipe")
    assert str(caught.value).startswith(f"{path}: {line}")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"presett": "mixed"}, "strategy.presett: unknown key (did you mean 'preset'?)"),
        ({"preset": "fast"}, "strategy.preset: input should be 'performance' or 'mixed', found 'fast'"),
        (
            {"ignored_scope": {"patterns": ["conv("]}},
            "strategy.ignored_scope.patterns: 'conv(' is no regular expression: missing ), unterminated subpattern at position 4",
        ),
        ({"subset_size": 0}, "strategy.subset_size: input should be greater than or equal to 1, found 0"),
    ],
)
def test_faults_of_a_strategy_are_told_where_they_are(tmp_path: Path, change: dict[str, Any], line: str) -> None:
    content = yaml.safe_load(to_yaml(recipe_of()))
    content["strategy"].update(change)
    path = write(tmp_path, yaml.safe_dump(content))
    with pytest.raises(ConfigError) as caught:
        load(Recipe, path, "recipe")
    assert str(caught.value).startswith(f"{path}: {line}")


def test_a_recipe_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(Recipe, write(tmp_path, "version: 1\n"), "recipe")
    missing = {line.split(": ")[1] for line in str(caught.value).splitlines()}
    assert missing == {"strategy", "device", "compile_properties", "calibration", "made"}


def test_a_recipe_has_a_key_for_each_part_of_a_strategy() -> None:
    assert set(StrategySpec.model_fields) == set(STRATEGY.as_dict())


def operations_of(*types: str) -> list[Operation]:
    """A chain of operations, named after type and place in it."""
    found = [Operation(name="x", type="Parameter", inputs=())]
    for index, kind in enumerate(types):
        found.append(Operation(name=f"{kind}_{index}", type=kind, inputs=(found[-1].name,)))
    return found


def made_on(operations: list[Operation], strategy: Strategy, **changes: Any) -> Made:
    facts = {"model_sha256": "0" * 64, "graph_digest": "1" * 64, "versions": {"nncf": "3.4.0"}, **changes}
    return made(strategy, operations, **facts)


CHAIN = operations_of("MatMul", "Relu", "MatMul", "Relu", "MatMul")
BY_NAME = Strategy(ignored_scope=ScopeSelector(names=("MatMul_2",), patterns=("Relu_3",)))


def test_what_a_recipe_was_found_with_is_told_without_names() -> None:
    found = made_on(CHAIN, BY_NAME)
    assert found.left_in_float == ("MatMul[1]", "Relu[1]")
    assert found.n_operations == {"MatMul": 3, "Relu": 2}
    assert found.strategy_digest == BY_NAME.digest


def test_nothing_differs_from_itself_and_what_differs_is_listed() -> None:
    was = made_on(CHAIN, BY_NAME)
    assert differences(was, was) == []
    other = operations_of("MatMul", "Relu", "MatMul", "Gelu", "MatMul", "MatMul")
    now = made_on(other, BY_NAME, model_sha256="2" * 64, versions={"nncf": "3.4.1", "numpy": "2.0"})
    assert differences(was, now) == [
        "the model's file is another one: other weights, or another export",
        "operations of type Gelu: 0 there, 1 here",
        "operations of type MatMul: 3 there, 4 here",
        "operations of type Relu: 2 there, 1 here",
        "left in float there only: Relu[1]",
        "nncf: 3.4.0 there, 3.4.1 here",
    ]


def test_what_an_earlier_version_did_not_record_is_not_compared() -> None:
    assert differences(MADE, MADE.model_copy(update={"n_operations": {"Add": 1}, "left_in_float": ("Add[0]",)})) == []


def renamed(operations: list[Operation]) -> list[Operation]:
    return [dataclasses.replace(o, name=f"new {o.name}", inputs=tuple(f"new {name}" for name in o.inputs)) for o in operations]


def test_layers_of_other_names_are_found_by_their_places() -> None:
    strategy, note = fitted(BY_NAME, made_on(CHAIN, BY_NAME), renamed(CHAIN), "here")
    assert resolve(strategy.ignored_scope, renamed(CHAIN)) == ("new MatMul_2", "new Relu_3")
    assert note is not None
    assert "is found by the places that the recipe recorded" in note


def test_a_strategy_whose_layers_are_there_is_left_as_it_is() -> None:
    assert fitted(BY_NAME, None, CHAIN, "here") == (BY_NAME, None)


def test_a_strategy_whose_layers_are_not_to_be_found_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^here: names .* matches nothing in this model"):
        fitted(BY_NAME, None, renamed(CHAIN), "here")


@pytest.mark.parametrize(
    ("changes", "other"),
    [
        ({"left_in_float": None}, CHAIN),
        ({"left_in_float": ()}, CHAIN),
        ({"strategy_digest": None}, CHAIN),
        ({"strategy_digest": Strategy().digest}, CHAIN),  # the file was changed by hand: places are those of another strategy
        ({}, operations_of("MatMul", "Relu", "MatMul", "Relu")),
        ({}, operations_of("MatMul", "Relu", "MatMul", "Relu", "Relu", "MatMul")),
        ({}, operations_of("MatMul")),
    ],
)
def test_places_are_not_trusted_where_they_may_be_those_of_other_layers(changes: dict[str, Any], other: list[Operation]) -> None:
    assert by_places(BY_NAME, made_on(CHAIN, BY_NAME).model_copy(update=changes), renamed(other)) is None
