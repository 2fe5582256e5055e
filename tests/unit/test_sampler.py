"""What the sampler hands on to the operators; what it proposes is tested with loop and study."""

from __future__ import annotations

import optuna
from fakes.spaces import LAYERS, space_of

from ovquant.sampler import CODE, VIOLATION, GeneticSampler


def test_operators_know_the_order_of_amounts() -> None:
    space = space_of({"smooth_quant_alphas": {"matmul": [0.9, 0.1, -1, 0.5]}, "layers": {"top": 3}}, layers=LAYERS)
    sampler = GeneticSampler(space=space, seeds=[], neighbours=[], seed=0, population_size=4, minimized=tuple)
    breeding = sampler._breeding([])
    assert breeding.orders == ((2, 0, None, 1), (None, None), (None, None), (None, None))


def test_neighbours_that_the_first_generation_had_no_room_for_are_among_the_later_candidates() -> None:
    space = space_of({"subset_size": [30, 100, 300], "layers": {"top": 3}}, layers=LAYERS)
    every = [genome for genome in space.genomes() if any(genome)]
    sampler = GeneticSampler(
        space=space, seeds=[(0,) * len(space.sizes)], neighbours=every, seed=0, population_size=2, minimized=tuple
    )
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    for number in range(3):
        trial = study.ask()
        for gene in space.genes:
            trial.suggest_categorical(gene.name, gene.labels)
        trial.set_user_attr(CODE, space.code_from_genome(sampler.last_child.genome))
        trial.set_user_attr(VIOLATION, 0.0)
        study.tell(trial, (float(number), 1.0))
    assert sampler._brood is not None
    assert {child.genome for child in sampler._brood.children} >= set(every)
