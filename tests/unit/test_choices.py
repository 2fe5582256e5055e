"""What of a profile's genes makes the space of a model, and what is dropped."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from fakes.operations import OPERATIONS
from fakes.spaces import LAYERS, facts, space_of, target

from ovquant.choices import build_space, nncf_default
from ovquant.errors import ConfigError
from ovquant.selectors import NO_SCOPE, ScopeSelector
from ovquant.strategy import DEFAULT_ALPHA_MATMUL, InferencePrecision, Strategy
from ovquant.targets import load_target, shipped_names

WITHOUT_MATMUL = tuple(operation for operation in OPERATIONS if operation.type != "MatMul")


def test_a_single_value_pins_its_gene() -> None:
    space = space_of({"preset": "mixed", "fast_bias_correction": [False], "model_type": [None, "transformer"]})
    assert [gene.name for gene in space.genes] == ["model_type"]
    assert all(space.decode(code).preset == "mixed" for code in "01")
    assert all(not space.decode(code).fast_bias_correction for code in "01")


def test_genes_that_a_profile_does_not_list_stay_at_nncf_default() -> None:
    profile = target({"subset_size": [10, 300]}, nncf_target_device="CPU_SPR")
    space = build_space(profile, facts(own="bf16"))
    expected = Strategy(inference_precision="bf16", target_device="CPU_SPR").canonical()
    assert space.decode(space.encode(expected)) == expected
    assert [dataclasses.replace(space.decode(code), subset_size=300) for code in "01"] == [expected, expected]


def test_a_choice_that_matches_nothing_is_dropped_with_a_note() -> None:
    space = space_of({"ignored_scope": {"none": {}, "norms": {"roles": ["normalization"]}, "sums": {"types": ["Add"]}}})
    assert space.notes == ("ignored_scope 'norms' dropped: it matches nothing in this model",)
    assert space.genes[0].labels == ("none", "sums")
    assert space.genes[0].values == (NO_SCOPE, ScopeSelector(types=("Add",)))


def test_what_matches_nothing_in_a_choice_that_matches_something_is_told_where_it_looks_like_a_slip() -> None:
    scope = {"types": ["Addd", "Add", "LSTMCell"], "places": ["Add[99]"], "roles": ["first_convolution", "normalization"]}
    space = space_of({"ignored_scope": {"none": {}, "mixed": scope}})
    assert len(space.notes) == 2
    assert space.notes[0] == (
        "ignored_scope 'mixed': types 'Addd' matches nothing in this model (nearest: Add); the rest of it is searched"
    )
    assert "places 'Add[99]' matches nothing" in space.notes[1]
    assert space.genes[0].values[1] == ScopeSelector(types=("Add",), roles=("first_convolution",))


def test_a_choice_that_matches_the_same_as_another_is_dropped_with_a_note() -> None:
    space = space_of({"ignored_scope": {"none": {}, "first": {"names": ["stem"]}, "again": {"roles": ["first_convolution"]}}})
    assert space.notes == ("ignored_scope 'again' dropped: same operations as 'first'",)
    assert space.genes[0].labels == ("none", "first")


def test_a_choice_keeps_only_what_matches_so_that_recipes_name_nothing_else() -> None:
    space = space_of(
        {"ignored_scope": {"none": {}, "ends": {"roles": ["first_convolution", "normalization"], "types": ["Gelu"]}}}
    )
    assert space.notes == ()
    assert space.genes[0].values == (NO_SCOPE, ScopeSelector(roles=("first_convolution",)))


def test_a_dropped_choice_is_told_with_what_is_nearest() -> None:
    space = space_of({"ignored_scope": {"none": {}, "sum": {"types": ["Ad"]}, "sums": {"types": ["Add"]}}})
    assert space.notes == ("ignored_scope 'sum' dropped: types 'Ad' matches nothing in this model (nearest: Add)",)


def test_names_that_the_model_does_not_have_are_an_error() -> None:
    choices = {"none": {}, "one": {"names": ["stem", "sten"]}, "other": {"names": ["xyz"]}}
    with pytest.raises(ConfigError) as raised:
        space_of({"ignored_scope": choices})
    next_step = "take it out, or name what this model has"
    assert str(raised.value).splitlines() == [
        f"target genes.ignored_scope.one: names 'sten' matches nothing in this model (nearest: stem); {next_step}",
        f"target genes.ignored_scope.other: names 'xyz' matches nothing in this model; {next_step}",
    ]


def test_no_choice_left_says_how_to_allow_ignoring_nothing() -> None:
    with pytest.raises(ConfigError, match=r"genes\.ignored_scope: no choice matches.*empty mapping \{\}"):
        space_of({"ignored_scope": {"norms": {"roles": ["normalization"]}}})


def test_the_most_promising_layers_have_a_gene_each() -> None:
    space = space_of({"layers": {"top": 2}}, layers=LAYERS)
    assert [(gene.name, gene.labels) for gene in space.genes] == [(place, ("int8", "float")) for place in LAYERS[:2]]
    assert space.decode("00").ignored_scope == NO_SCOPE
    assert space.decode("11").ignored_scope == ScopeSelector(places=("MatMul[0]", "depthwise[0]"))


def test_layers_come_on_top_of_a_scope_that_is_pinned() -> None:
    space = space_of({"ignored_scope": {"sums": {"types": ["Add"]}}, "layers": {"top": 1}}, layers=LAYERS)
    assert space.decode("0").ignored_scope == ScopeSelector(types=("Add",))
    assert space.decode("1").ignored_scope == ScopeSelector(types=("Add",), places=("depthwise[0]",))


def test_subset_sizes_beyond_the_data_are_clipped_with_a_note() -> None:
    space = space_of({"subset_size": [300, 30, 100]}, n_calibration=50)
    assert space.genes[0].values == (30, 50)
    assert space.notes == ("subset_size 300, 100 -> 50: that many calibration items are at hand",)


def test_subset_sizes_that_all_exceed_the_data_pin_the_number_at_hand() -> None:
    space = space_of({"subset_size": [300, 100]}, n_calibration=20)
    assert (space.genes, space.base.subset_size) == ((), 20)


def test_a_subset_size_that_is_not_listed_is_clipped_to_the_data() -> None:
    assert space_of({}, n_calibration=20).base.subset_size == 20


def test_subset_sizes_within_the_data_give_no_note() -> None:
    assert space_of({"subset_size": [30, 300]}).notes == ()


def test_precisions_that_the_device_lacks_are_dropped_with_a_note() -> None:
    space = space_of({"inference_precision": ["f16", "f32", "bf16"]})
    assert space.genes[0].values == ("f32", "bf16")
    assert space.notes == ("inference_precision f16 dropped: the device does not offer it",)


def test_one_precision_that_is_left_is_pinned_even_if_the_device_prefers_another() -> None:
    space = space_of({"inference_precision": ["f16", "f32"]}, own="bf16")
    assert (space.genes, space.base.inference_precision) == ((), "f32")


def test_no_precision_left_names_what_the_device_offers() -> None:
    with pytest.raises(ConfigError, match=r"genes\.inference_precision: the device offers bf16, f32, the target allows f16"):
        space_of({"inference_precision": ["f16"]})


def test_the_overflow_fix_is_dropped_where_nothing_overflows() -> None:
    genes = {"overflow_fix": ["first_layer_only", "enable", "disable"]}
    assert space_of(genes).genes[0].values == ("first_layer_only", "enable", "disable")
    without = space_of(genes, may_saturate=False)
    assert without.genes[0].values == ("first_layer_only", "disable")
    assert without.notes == ("overflow_fix enable dropped: sums of 8-bit products do not saturate on this device",)
    assert space_of({"overflow_fix": "enable"}, may_saturate=False).base.overflow_fix == "enable"


def test_alphas_are_dropped_with_a_note_where_nothing_takes_them() -> None:
    space = space_of({"smooth_quant_alphas": {"matmul": [0.1, 0.5], "convolution": [0.1, 0.5]}}, operations=WITHOUT_MATMUL)
    assert [gene.name for gene in space.genes] == ["smooth_quant_alphas.convolution"]
    assert space.notes == ("smooth_quant_alphas.matmul dropped: the model has no MatMul",)
    assert space.base.smooth_quant_alpha_matmul == DEFAULT_ALPHA_MATMUL


def test_negative_alphas_are_one_value() -> None:
    space = space_of({"model_type": "transformer", "smooth_quant_alphas": {"matmul": [-1, 0.5, -0.3]}})
    assert space.genes[0].values == (-1.0, 0.5)


@pytest.mark.parametrize("model_type", [None, "transformer"])
@pytest.mark.parametrize("name", shipped_names())
def test_shipped_profiles_can_express_nncf_default(name: str, model_type: str | None) -> None:
    profile = load_target(name)
    own: dict[str, InferencePrecision] = {"cpu-amx": "bf16", "igpu": "f16"}
    known = facts(own=own.get(name, "f32"), offered=("f32", "bf16", "f16"))
    default = nncf_default(profile, known, model_type=model_type)
    space = build_space(profile, known)
    assert space.decode(space.encode(default)) == default


def test_nncf_default_takes_the_precision_and_the_items_at_hand() -> None:
    default = nncf_default(target({}, nncf_target_device="CPU_SPR"), facts(own="bf16", n_calibration=7))
    assert default == Strategy(inference_precision="bf16", subset_size=7, target_device="CPU_SPR").canonical()


@pytest.mark.parametrize(
    ("genes", "given_facts", "dropped"),
    [
        (
            {"disable_channel_alignment": [True, False]},
            {"can_align_channels": False},
            "disable_channel_alignment false dropped: channel alignment fails in this version of NNCF",
        ),
        (
            {"disable_channel_alignment": [False, True]},
            {"operations": OPERATIONS[:2]},
            "disable_channel_alignment false dropped: the model has no two convolutions whose channels could be aligned",
        ),
        (
            {"activations_per_channel": [None, False]},
            {"operations": tuple(operation for operation in OPERATIONS if operation.type != "GroupConvolution")},
            "activations_per_channel dropped: the model has no depthwise convolution, and NNCF allows it for no other",
        ),
        (
            {"target_device": ["CPU", "GPU"]},
            {},
            "target_device GPU dropped: NNCF quantizes to 8 bits for it as for CPU",
        ),
    ],
)
def test_genes_that_cannot_matter_are_dropped_with_the_reason(
    genes: dict[str, Any], given_facts: dict[str, Any], dropped: str
) -> None:
    space = space_of(genes, **given_facts)
    assert dropped in space.notes
    assert space.genes == ()
    assert space.base == Strategy(target_device=space.base.target_device)


def test_genes_that_can_matter_are_kept() -> None:
    genes = {
        "activations_per_channel": [None, False],
        "disable_channel_alignment": [True, False],
        "target_device": ["CPU", "CPU_SPR"],
    }
    assert space_of(genes).sizes == (2, 2, 2)
