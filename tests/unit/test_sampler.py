"""What the sampler hands on to the operators; what it proposes is tested with loop and study."""

from __future__ import annotations

import optuna
import pytest
from fakes.spaces import LAYERS, space_of

from ovquant.sampler import CODE, VIOLATION, GeneticSampler, _Brood
from ovquant.space import Genome

SPACE = space_of(
    {
        "subset_size": [30, 100, 300],
        "preset": ["performance", "mixed"],
        "disable_bias_correction": [False, True],
        "layers": {"top": 8},
    },
    layers=LAYERS,
)


def test_operators_know_the_order_of_amounts() -> None:
    space = space_of({"smooth_quant_alphas": {"matmul": [0.9, 0.1, -1, 0.5]}, "layers": {"top": 3}}, layers=LAYERS)
    sampler = GeneticSampler(space=space, seeds=[], neighbours=[], seed=0, population_size=4, minimized=tuple)
    breeding = sampler._breeding([])
    assert breeding.orders == ((2, 0, None, 1), (None, None), (None, None), (None, None))


@pytest.mark.parametrize(("size", "n_draws"), [(2, 24), (3, 16), (6, 8), (48, 1)])
def test_draws_are_spread_over_a_generation(size: int, n_draws: int) -> None:
    assert begun(size, []).n_draws == n_draws


def test_neighbours_that_the_first_generation_had_no_room_for_are_among_the_later_candidates() -> None:
    every = [genome for genome in SPACE.genomes() if any(genome)]
    bred, with_neighbours = begun(2, []).children, begun(2, every).children
    genomes = [child.genome for child in with_neighbours]
    assert len(genomes) == len(set(genomes)) > len(bred)
    assert all(child.parents for child in with_neighbours[: len(bred)])


def begun(size: int, neighbours: list[Genome]) -> _Brood:
    """Return what the second generation is chosen from."""
    seeds = [(0,) * len(SPACE.sizes)]
    sampler = GeneticSampler(space=SPACE, seeds=seeds, neighbours=neighbours, seed=0, population_size=size, minimized=tuple)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    for number in range(size + 1):
        trial = study.ask()
        for gene in SPACE.genes:
            trial.suggest_categorical(gene.name, gene.labels)
        trial.set_user_attr(CODE, SPACE.code_from_genome(sampler.last_child.genome))
        trial.set_user_attr(VIOLATION, 0.0)
        study.tell(trial, (float(number), 1.0))
    assert sampler._brood is not None
    return sampler._brood
