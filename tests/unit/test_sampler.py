"""What the sampler hands on to the operators; what it proposes is tested with loop and study."""

from __future__ import annotations

from fakes.spaces import LAYERS, space_of

from ovquant.sampler import GeneticSampler


def test_operators_know_the_order_of_amounts() -> None:
    space = space_of({"smooth_quant_alphas": {"matmul": [0.9, 0.1, -1, 0.5]}, "layers": {"top": 3}}, layers=LAYERS)
    sampler = GeneticSampler(space=space, seeds=[], neighbours=[], seed=0, population_size=4, minimized=tuple)
    breeding = sampler._breeding([])
    assert breeding.orders == ((2, 0, None, 1), (None, None), (None, None), (None, None))
