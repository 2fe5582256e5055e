"""What the sampler hands on to the operators; what it proposes is tested with loop and study."""

from __future__ import annotations

import optuna
import pytest
from fakes.spaces import LAYERS, space_of

from ovquant.sampler import CODE, VIOLATION, GeneticSampler
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
DEFAULT = (0,) * len(SPACE.sizes)


def test_operators_know_the_order_of_amounts() -> None:
    space = space_of({"smooth_quant_alphas": {"matmul": [0.9, 0.1, -1, 0.5]}, "layers": {"top": 3}}, layers=LAYERS)
    sampler = GeneticSampler(space=space, seeds=[], neighbours=[], seed=0, population_size=4, minimized=tuple)
    breeding = sampler._breeding([])
    assert breeding.orders == ((2, 0, None, 1), (None, None), (None, None), (None, None))


@pytest.mark.parametrize(("size", "n_draws"), [(2, 24), (3, 16), (6, 8), (48, 1)])
def test_draws_are_spread_over_a_generation(size: int, n_draws: int) -> None:
    sampler, _ = begun(size, [], size + 1)
    assert sampler._brood is not None
    assert sampler._brood.n_draws == n_draws


def test_later_generations_begin_with_the_neighbours_that_the_first_one_had_no_room_for() -> None:
    near = SPACE.neighbours(DEFAULT, "subset_size") + SPACE.neighbours(DEFAULT, "preset")
    _, proposed = begun(2, near, 9)
    # The first generation holds the seed and what is far from it; each of these is worse than the trials before.
    assert [proposed[place] for place in (2, 4, 6)] == near
    assert not {*near} & {proposed[place] for place in (0, 1, 3, 5, 7, 8)}


def begun(size: int, neighbours: list[Genome], n_trials: int) -> tuple[GeneticSampler, list[Genome]]:
    """Return a sampler that proposed so many trials, of which each was worse than the one before, and what it proposed."""
    sampler = GeneticSampler(space=SPACE, seeds=[DEFAULT], neighbours=neighbours, seed=0, population_size=size, minimized=tuple)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    proposed = []
    for number in range(n_trials):
        trial = study.ask()
        for gene in SPACE.genes:
            trial.suggest_categorical(gene.name, gene.labels)
        proposed.append(sampler.last_child.genome)
        trial.set_user_attr(CODE, SPACE.code_from_genome(proposed[-1]))
        trial.set_user_attr(VIOLATION, 0.0)
        study.tell(trial, (float(number), 1.0))
    return sampler, proposed
