"""The benchmarks' own files are valid, and on a table that is made up our sampler finds more than chance."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
from benchmarks.search_benchmark import Table, replay

from ovquant.records import strategy_from_json
from ovquant.space import Genome
from ovquant.targets import load_target

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_the_target_of_the_table_is_valid() -> None:
    assert load_target(str(BENCHMARKS / "table_target.yaml")).genes.layers is not None


def test_the_strategies_of_the_engine_benchmark_are_distinct() -> None:
    strategies = [strategy_from_json(entry) for entry in json.loads((BENCHMARKS / "strategies.json").read_text())]
    assert len({strategy.digest for strategy in strategies}) == len(strategies) >= 40


def made_up(sizes: tuple[int, ...] = (4, 3, 3, 2, 2, 2, 2)) -> Table:
    """A trade-off in the later genes, of which one breaks the limit beside another; the first one ruins a model or mends it."""
    every: list[Genome] = list(itertools.product(*map(range, sizes)))

    def objectives(genome: Genome) -> tuple[float, float]:
        ruin, *saving = genome
        divergence = 0.03 * (1.0, 0.4, 30.0, 60.0)[ruin] * 0.6 ** sum(saving[1:]) * 3.0 ** saving[0]
        return divergence, 0.6 + 0.01 * saving[0] + 0.03 * saving[1] + 0.05 * sum(saving[2:])

    return Table(
        name="made up",
        sizes=sizes,
        orders=[tuple(range(size)) for size in sizes],
        objectives={genome: objectives(genome) for genome in every},
        violations={genome: float(genome[5] and genome[6]) for genome in every},
        rows=np.arange(len(every)),
        genomes=every,
        seeds=[(0,) * len(sizes)],
        neighbours=[],
        reference=np.array([0.03, 1.0]),
    )


def test_our_sampler_finds_more_than_chance_and_sooner() -> None:
    table = made_up()
    ours, chance = (
        np.mean([replay(table, name, seed, has_repeats=False, noise=0.0) for seed in range(6)], axis=0)
        for name in ("ovquant", "random")
    )
    for n_evaluations in (20, 40, 60):
        assert ours[n_evaluations - 1] > chance[n_evaluations - 1] + 0.1
    assert ours[59] > 0.95
