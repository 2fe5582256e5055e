from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
from fakes.spaces import LAYERS, space_of
from hypothesis import given
from hypothesis import strategies as st

from ovquant.selectors import NO_SCOPE, ScopeSelector
from ovquant.space import Gene, Genome, SearchSpace
from ovquant.strategy import NncfTargetDevice, Strategy
from ovquant.targets import Genes

EVERY_GENE = Genes.model_validate(
    {
        "preset": [None, "mixed", "performance"],
        "model_type": [None, "transformer"],
        "subset_size": [100, 10, 300],
        "fast_bias_correction": [True, False],
        "disable_bias_correction": [True, False],
        "overflow_fix": ["disable", "first_layer_only", None],
        "activations_range_estimator": [None, "MINMAX"],
        "weights_range_estimator": ["MEAN_QUANTILE", None, "MINMAX"],
        "activations_per_channel": [None, False],
        "disable_channel_alignment": [True, False],
        "quantizer_propagation_rule": [None, "DO_NOT_MERGE_BRANCHES", "MERGE_ALL_IN_ONE"],
        "target_device": ["CPU", "CPU_SPR"],
        "smooth_quant_alphas": {"matmul": [0.5, -1, 0.95], "convolution": [-1, 0.5]},
        "inference_precision": ["f32", "bf16"],
        "ignored_scope": {"stem": {"names": ["stem"]}, "none": {}, "sums": {"types": ["Add"]}},
        "layers": {"top": 2},
    }
)
FEW_GENES = Genes.model_validate(
    {
        "preset": [None, "mixed", "performance"],
        "model_type": [None, "transformer"],
        "fast_bias_correction": [False, True],
        "disable_bias_correction": [False, True],
        "smooth_quant_alphas": {"matmul": [0.5, -1]},
    }
)


LARGE = space_of(EVERY_GENE, layers=("Convolution[0]", "depthwise[0]", "MatMul[0]"))
SMALL = space_of(FEW_GENES)
GENOMES = st.tuples(*(st.integers(0, size - 1) for size in LARGE.sizes))


@given(GENOMES)
def test_a_code_names_one_genome(genome: Genome) -> None:
    code = LARGE.code_from_genome(genome)
    assert len(code) == len(LARGE.genes)
    assert LARGE.genome_from_code(code) == genome


@given(GENOMES)
def test_bits_name_one_genome(genome: Genome) -> None:
    bits = LARGE.bits_from_genome(genome)
    assert len(bits) == sum(gene.n_bits for gene in LARGE.genes)
    assert LARGE.genome_from_bits(bits) == genome


@given(GENOMES)
def test_labels_name_one_genome(genome: Genome) -> None:
    assert LARGE.genome_from_labels(LARGE.labels(genome)) == genome


@given(GENOMES)
def test_a_strategy_of_the_space_is_encoded_and_decoded_to_itself(genome: Genome) -> None:
    strategy = LARGE.strategy_from_genome(genome)
    assert LARGE.decode(LARGE.encode(strategy)) == strategy


@given(GENOMES)
def test_genomes_decode_to_canonical_strategies(genome: Genome) -> None:
    strategy = LARGE.strategy_from_genome(genome)
    assert strategy == strategy.canonical()


@given(GENOMES)
def test_canonical_genome_is_idempotent_and_keeps_the_strategy(genome: Genome) -> None:
    canonical = LARGE.canonical_genome(genome)
    assert LARGE.canonical_genome(canonical) == canonical
    assert LARGE.strategy_from_genome(canonical) == LARGE.strategy_from_genome(genome)


@given(GENOMES)
def test_no_index_of_a_canonical_genome_is_larger_than_it_has_to_be(genome: Genome) -> None:
    canonical = LARGE.canonical_genome(genome)
    assert all(small <= index for small, index in zip(canonical, genome, strict=True))


@given(GENOMES, st.sampled_from(["ANY", "CPU", "GPU", "NPU"]), st.floats(-1, 1))
def test_a_strategy_has_one_code_however_it_is_written(genome: Genome, device: NncfTargetDevice, alpha: float) -> None:
    strategy = LARGE.strategy_from_genome(genome)
    is_transformer = strategy.model_type == "transformer"
    written = dataclasses.replace(
        strategy,
        target_device=device if strategy.target_device == "ANY" else strategy.target_device,
        preset=None if strategy.preset == ("mixed" if is_transformer else "performance") else strategy.preset,
        overflow_fix=None if strategy.overflow_fix == "first_layer_only" else strategy.overflow_fix,
        fast_bias_correction=strategy.fast_bias_correction and not strategy.disable_bias_correction,
        smooth_quant_alpha_matmul=strategy.smooth_quant_alpha_matmul if is_transformer else alpha,
    )
    assert LARGE.encode(written) == LARGE.encode(strategy)


def test_genomes_yields_each_strategy_once() -> None:
    every = [SMALL.strategy_from_genome(genome) for genome in itertools.product(*(range(size) for size in SMALL.sizes))]
    found = [SMALL.strategy_from_genome(genome) for genome in SMALL.genomes()]
    assert len({strategy.digest for strategy in found}) == len(found)
    assert {strategy.digest for strategy in found} == {strategy.digest for strategy in every}
    assert len(found) < SMALL.n_genomes == len(every)


def test_genomes_come_canonical_and_in_order() -> None:
    found = list(SMALL.genomes())
    assert found == sorted(found)
    assert all(SMALL.canonical_genome(genome) == genome for genome in found)


def test_the_canonical_genome_is_the_smallest_of_its_strategy() -> None:
    smallest: dict[str, Genome] = {}
    for genome in itertools.product(*(range(size) for size in SMALL.sizes)):
        smallest.setdefault(SMALL.strategy_from_genome(genome).digest, genome)
    assert set(smallest.values()) == set(SMALL.genomes())


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("0000", "expected 5 genes, found 4"),
        ("000000", "expected 5 genes, found 6"),
        ("", "expected 5 genes, found 0"),
        ("-", "expected 5 genes, found 0"),
        ("0002A", "only the digits 0-9 and a-z"),
        ("00 00", "only the digits 0-9 and a-z"),
        ("02000", r"model_type: index 2 is not in 0\.\.1"),
        ("z0000", r"preset: index 35 is not in 0\.\.2"),
    ],
)
def test_a_code_of_another_space_is_refused(code: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SMALL.decode(code)


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        ("00000", "expected 6 bits, found '00000'"),
        ("0000000", "expected 6 bits"),
        ("00000x", "expected 6 bits, found '00000x'"),
        ("110000", r"preset: index 3 is not in 0\.\.2"),
    ],
)
def test_bits_that_no_genome_has_are_refused(bits: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SMALL.genome_from_bits(bits)


def test_genomes_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 5 genes, found 1"):
        SMALL.strategy_from_genome((0,))
    with pytest.raises(ValueError, match=r"preset: index -1 is not in 0\.\.2"):
        SMALL.code_from_genome((-1, 0, 0, 0, 0))


def test_a_strategy_with_a_value_that_its_gene_lacks_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"smooth_quant_alphas\.matmul=0\.3 is not in this search space"):
        SMALL.encode(Strategy(model_type="transformer", smooth_quant_alpha_matmul=0.3))


def test_a_strategy_that_differs_in_a_gene_that_is_not_free_is_refused_by_name() -> None:
    message = "activations_range_estimator='MINMAX' is not in this search space, which has None only"
    with pytest.raises(ValueError, match=f"^{message}$"):
        SMALL.encode(Strategy(activations_range_estimator="MINMAX"))


@given(GENOMES)
def test_what_is_nearest_to_a_strategy_of_the_space_is_itself(genome: Genome) -> None:
    strategy = LARGE.strategy_from_genome(genome)
    assert LARGE.nearest(strategy) == (strategy, [])


@given(GENOMES, st.sampled_from([SMALL, space_of({}), space_of({"model_type": "transformer", "disable_bias_correction": True})]))
def test_what_is_nearest_is_in_the_space_and_told_where_it_differs(genome: Genome, space: SearchSpace) -> None:
    wanted = dataclasses.replace(LARGE.strategy_from_genome(genome), ignored_scope=NO_SCOPE)
    near, changes = space.nearest(wanted)
    assert space.strategy_from_genome(space.genome_from_strategy(near)) == near
    assert bool(changes) == (near != wanted.canonical())
    assert len({change.gene for change in changes}) == len(changes)


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"subset_size": 190}, "subset_size 190 is not among the values searched here; 100 in its place"),
        (
            {"smooth_quant_alpha_matmul": 0.6},
            "smooth_quant_alphas.matmul 0.6 is not among the values searched here; 0.5 in its place",
        ),
        (
            {"activations_range_estimator": "MEAN_QUANTILE"},
            "activations_range_estimator MEAN_QUANTILE is not among the values searched here; null in its place",
        ),
        ({"inference_precision": "f16"}, "inference_precision f16 is not among the values searched here; f32 in its place"),
        ({"disable_channel_alignment": False}, ""),
    ],
)
def test_numbers_go_to_the_nearest_value_and_all_else_to_the_default(wanted: dict[str, Any], told: str) -> None:
    strategy = Strategy(**{"model_type": "transformer", **wanted})
    assert "".join(map(str, LARGE.nearest(strategy)[1])) == told


def test_nothing_is_near_to_what_is_off() -> None:
    space = space_of({"model_type": "transformer", "smooth_quant_alphas": {"matmul": [0.1, 0.95]}})
    (change,) = space.nearest(Strategy(model_type="transformer", smooth_quant_alpha_matmul=-1.0))[1]
    assert change.taken == 0.95  # NNCF's default
    space = space_of({"model_type": "transformer", "smooth_quant_alphas": {"matmul": [-1.0, 0.95]}})
    (change,) = space.nearest(Strategy(model_type="transformer", smooth_quant_alpha_matmul=0.0))[1]
    assert change.taken == 0.95


def test_without_the_default_the_first_value_is_taken() -> None:
    space = space_of({"activations_range_estimator": ["HISTOGRAM", "MEAN_MINMAX"]})
    near, (change,) = space.nearest(Strategy(activations_range_estimator="MINMAX"))
    assert near.activations_range_estimator == change.taken == "HISTOGRAM"


def test_thirty_six_values_fit_into_one_digit() -> None:
    space = space_of({"subset_size": list(range(1, 37))})
    codes = [space.code_from_genome(genome) for genome in space.genomes()]
    assert codes == list("0123456789abcdefghijklmnopqrstuvwxyz")
    assert space.decode("z").subset_size == 36


@pytest.mark.parametrize(("n_values", "n_bits"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (36, 6)])
def test_a_gene_takes_as_many_bits_as_its_largest_index(n_values: int, n_bits: int) -> None:
    labels = tuple(map(str, range(n_values)))
    assert Gene(name="g", field="subset_size", values=tuple(range(n_values)), labels=labels).n_bits == n_bits


def test_a_space_without_free_genes_holds_its_base_only() -> None:
    space = space_of({})
    assert (space.genes, space.n_genomes, list(space.genomes())) == ((), 1, [()])
    assert space.encode(space.base) == "-"
    assert space.decode("-") == space.base.canonical()


def test_a_layer_that_a_choice_leaves_in_float_anyway_makes_no_other_strategy() -> None:
    choices = {"none": {}, "first": {"roles": ["first_convolution"]}, "sums": {"types": ["Add", "Convolution"]}}
    space = space_of({"ignored_scope": choices, "layers": {"top": 3}}, layers=LAYERS)
    assert space.decode("1001") == space.decode("1000") == space.decode("0001")
    assert space.decode("2000").ignored_scope == ScopeSelector(types=("Add", "Convolution"))
    assert space.decode("2001") == space.decode("2000") != space.decode("2010")
    assert len(list(space.genomes())) == len({space.strategy_from_genome(genome) for genome in space.genomes()}) == 12


def test_the_first_layer_and_the_first_four_are_left_in_float_together() -> None:
    space = space_of({"preset": ["performance", "mixed"], "layers": {"top": 3}}, layers=LAYERS)
    assert [space.code_from_genome(genome) for genome in space.leading((1, 0, 0, 0))] == ["1100"]
    preset, layer, *_ = space.genes
    more = dataclasses.replace(space, genes=(preset, *(dataclasses.replace(layer, name=f"layer {i}") for i in range(5))))
    assert [more.code_from_genome(genome) for genome in more.leading((1, 0, 0, 0, 0, 0))] == ["110000", "111110"]


@pytest.mark.parametrize("gene", LARGE.genes, ids=lambda gene: gene.name)
def test_labels_of_a_gene_differ(gene: Gene) -> None:
    assert len(set(gene.labels)) == len(gene.values)


def test_labels_of_alphas_that_differ_late_differ() -> None:
    space = space_of({"model_type": "transformer", "smooth_quant_alphas": {"matmul": [0.1234561, 0.1234562]}})
    assert space.genes[0].labels == ("0.1234561", "0.1234562")


def test_the_digest_of_a_space_tells_values_order_and_base_apart() -> None:
    spaces = [
        space_of({"subset_size": [10, 300]}),
        space_of({"subset_size": [10, 200]}),
        space_of({"subset_size": [10, 300]}, own="bf16"),
        space_of({"preset": ["mixed", "performance"]}),
        space_of({"preset": ["performance", "mixed"]}),
    ]
    assert len({space.digest for space in spaces}) == len(spaces)
    assert space_of({"subset_size": [300, 10]}).digest == spaces[0].digest


def test_propagation_rules_and_estimators_of_weights_that_are_the_default_have_its_code() -> None:
    space = space_of(
        {"weights_range_estimator": ["MINMAX", "MEAN_QUANTILE"], "quantizer_propagation_rule": ["MERGE_ALL_IN_ONE", None]}
    )
    assert space.encode(Strategy()) == space.encode(Strategy(weights_range_estimator="MINMAX")) == "00"


def test_amounts_have_a_place_in_their_order_and_nothing_else_has() -> None:
    genes = {gene.name: gene.order for gene in LARGE.genes}
    assert genes["subset_size"] == (0, 1, 2)
    assert genes["smooth_quant_alphas.matmul"] == (0, None, 1)
    assert genes["preset"] == (None, None, None)
    assert genes["fast_bias_correction"] == (None, None)
