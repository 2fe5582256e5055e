"""Genetic operators on genomes (tuples of value indices). Pure functions: all chance comes from the generator given."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ovquant.space import Genome

_MAX_TRIES = 64
_MAX_ENUMERATED = 50_000
_CROSSOVER_RATE = 0.5  # uniform crossover: each gene comes from either parent with equal chance


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A proposed genome.

    Attributes:
        genome: canonical and not tried before.
        parents: positions in the parent list of the one or two genomes it descends from; empty for a seed, a random
            member, or one taken from what is left of a nearly exhausted space.
    """

    genome: Genome
    parents: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Breeding:
    """What the operators need to know of a space.

    Attributes:
        sizes: number of values per gene.
        canonical: maps a genome to the representative of its strategy.
        is_known: True for canonical genomes that were tried before.
    """

    sizes: tuple[int, ...]
    canonical: Callable[[Genome], Genome]
    is_known: Callable[[Genome], bool]


def random_genome(sizes: Sequence[int], rng: np.random.Generator) -> Genome:
    """Return a genome drawn evenly from all."""
    return tuple(int(rng.integers(size)) for size in sizes)


def distance(first: Genome, second: Genome) -> int:
    """Return the number of genes in which two genomes differ (Hamming distance)."""
    return sum(a != b for a, b in zip(first, second, strict=True))


def crossover(first: Genome, second: Genome, rng: np.random.Generator) -> Genome:
    """Return a child with each gene from either parent, evenly (uniform crossover, Syswerda 1989)."""
    picks = rng.random(len(first)) < _CROSSOVER_RATE
    return tuple(a if pick else b for a, b, pick in zip(first, second, picks, strict=True))


def mutate(genome: Genome, sizes: Sequence[int], rate: float, rng: np.random.Generator) -> Genome:
    """Return `genome` with each gene replaced by another of its values with chance `rate`."""

    def other(index: int, size: int) -> int:
        return (index + 1 + int(rng.integers(size - 1))) % size

    return tuple(
        other(index, size) if size > 1 and rng.random() < rate else index for index, size in zip(genome, sizes, strict=True)
    )


def tournament(ranks: Sequence[tuple[float, ...]], rng: np.random.Generator) -> int:
    """Return the position of the better of two members drawn evenly; the smaller rank is better."""
    first, second = int(rng.integers(len(ranks))), int(rng.integers(len(ranks)))
    return first if ranks[first] <= ranks[second] else second


def seed_member(seeds: Iterable[Genome], tried: Sequence[Genome], breeding: Breeding, rng: np.random.Generator) -> Child | None:
    """Return the next member of the first generation: the seeds in order, then the most different of random genomes.

    Args:
        seeds: genomes to begin with.
        tried: genomes that are in the population already.
        breeding: the space.
        rng: source of chance.

    Returns:
        None if the space holds nothing that was not tried.
    """
    for seed in seeds:
        genome = breeding.canonical(seed)
        if not breeding.is_known(genome):
            return Child(genome=genome)
    best: Genome | None = None
    best_distance = -1
    for _ in range(_MAX_TRIES):
        genome = breeding.canonical(random_genome(breeding.sizes, rng))
        if breeding.is_known(genome):
            continue
        nearest = min((distance(genome, other) for other in tried), default=len(genome))
        if nearest > best_distance:
            best, best_distance = genome, nearest
    if best is not None:
        return Child(genome=best)
    return _left_over(breeding, rng)


def breed(
    parents: Sequence[Genome], ranks: Sequence[tuple[float, ...]], breeding: Breeding, rng: np.random.Generator
) -> Child | None:
    """Return a new child of two parents: tournament, uniform crossover, mutation at one gene on average.

    A child that was tried before is bred again, with a mutation rate that rises with each try.

    Args:
        parents: the mating pool.
        ranks: one per parent, smaller is better.
        breeding: the space.
        rng: source of chance.

    Returns:
        None if the space holds nothing that was not tried.
    """
    n_free = max(1, sum(size > 1 for size in breeding.sizes))
    for attempt in range(_MAX_TRIES):
        first = tournament(ranks, rng)
        second = _other_parent(parents, ranks, first, rng)
        rate = min(0.5, (1 + attempt / 8) / n_free)
        child = mutate(crossover(parents[first], parents[second], rng), breeding.sizes, rate, rng)
        genome = breeding.canonical(child)
        if not breeding.is_known(genome):
            return Child(genome=genome, parents=(first, second) if first != second else (first,))
    return _left_over(breeding, rng)


def _other_parent(parents: Sequence[Genome], ranks: Sequence[tuple[float, ...]], first: int, rng: np.random.Generator) -> int:
    for _ in range(8):
        second = tournament(ranks, rng)
        if parents[second] != parents[first]:
            return second
    others = [index for index, genome in enumerate(parents) if genome != parents[first]]
    return others[int(rng.integers(len(others)))] if others else first


def _left_over(breeding: Breeding, rng: np.random.Generator) -> Child | None:
    """Return a genome that was not tried, drawn from a list of all if the space is small, else by chance."""
    n_genomes = int(np.prod([float(size) for size in breeding.sizes]))
    if n_genomes <= _MAX_ENUMERATED:
        every = itertools.product(*(range(size) for size in breeding.sizes))
        fresh = [genome for genome in every if breeding.canonical(genome) == genome and not breeding.is_known(genome)]
        return Child(genome=fresh[int(rng.integers(len(fresh)))]) if fresh else None
    for _ in range(100 * _MAX_TRIES):
        genome = breeding.canonical(random_genome(breeding.sizes, rng))
        if not breeding.is_known(genome):
            return Child(genome=genome)
    return None
