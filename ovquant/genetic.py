"""Genetic operators on genomes (tuples of value indices). Pure functions: all chance comes from the generator given."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set

import numpy as np
from numpy.typing import NDArray

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
        orders: per gene, the place of each value in their order; None for values that have none.
        canonical: maps a genome to the representative of its strategy.
        known: canonical genomes that were tried before.
    """

    sizes: tuple[int, ...]
    orders: tuple[tuple[int | None, ...], ...]
    canonical: Callable[[Genome], Genome]
    known: Set[Genome]

    def usage(self) -> list[Counter[int]]:
        """Return per gene how often each value was tried."""
        return [Counter(genome[gene] for genome in self.known) for gene in range(len(self.sizes))]


def random_genome(sizes: Sequence[int], rng: np.random.Generator) -> Genome:
    """Return a genome drawn evenly from all."""
    return tuple(int(rng.integers(size)) for size in sizes)


def nearest(genomes: Sequence[Genome], known: Iterable[Genome]) -> NDArray[np.int64]:
    """Return by how many genes each genome differs from the one of `known` that is most like it (Hamming distance)."""
    others = np.array([*known], dtype=np.int64).reshape(-1, len(genomes[0]))
    differing = (np.array(genomes)[:, np.newaxis] != others).sum(axis=2)
    found: NDArray[np.int64] = differing.min(axis=1, initial=len(genomes[0]))
    return found


def crossover(first: Genome, second: Genome, rng: np.random.Generator) -> Genome:
    """Return a child with each gene from either parent, evenly (uniform crossover, Syswerda 1989)."""
    picks = rng.random(len(first)) < _CROSSOVER_RATE
    return tuple(a if pick else b for a, b, pick in zip(first, second, picks, strict=True))


def mutation_rates(sizes: Sequence[int], strength: float) -> list[float]:
    """Return per gene the chance to be mutated, in proportion to the bits that its values are worth.

    Args:
        sizes: number of values per gene.
        strength: genes mutated on average (fewer where that would take a chance above 1).
    """
    bits = np.log2(np.maximum(sizes, 1))
    total = float(bits.sum())
    return [min(1.0, strength * float(bit) / total) if total > 0 else 0.0 for bit in bits]


def mutate(
    genome: Genome,
    breeding: Breeding,
    rates: Sequence[float],
    rng: np.random.Generator,
    usage: Sequence[Mapping[int, int]] | None = None,
) -> Genome:
    """Return `genome` with genes replaced by another of their values.

    A value k places away in the order of a gene is drawn with weight 1 / k, one without a place with weight 1.

    Args:
        genome: to start from.
        breeding: the space.
        rates: chance to be mutated per gene.
        rng: source of chance.
        usage: per gene, how often each value was tried: the weights of values tried n times are divided by 1 + n, so that each
            is tried early; None leaves them.
    """

    def other(gene: int, index: int) -> int:
        values = [value for value in range(breeding.sizes[gene]) if value != index]
        near = [_nearness(breeding.orders[gene][value], breeding.orders[gene][index]) for value in values]
        seldom = [1 / (1 + (usage[gene].get(value, 0) if usage is not None else 0)) for value in values]
        weights = np.array(near) * np.array(seldom)
        return values[int(rng.choice(len(values), p=weights / weights.sum()))]

    return tuple(
        other(gene, index) if breeding.sizes[gene] > 1 and rng.random() < rates[gene] else index
        for gene, index in enumerate(genome)
    )


def _nearness(first: int | None, second: int | None) -> float:
    return 1.0 if first is None or second is None else 1 / max(1, abs(first - second))


def tournament(ranks: Sequence[tuple[float, ...]], rng: np.random.Generator) -> int:
    """Return the position of the better of two members drawn evenly; the smaller rank is better."""
    first, second = int(rng.integers(len(ranks))), int(rng.integers(len(ranks)))
    return first if ranks[first] <= ranks[second] else second


def seed_member(
    seeds: Sequence[Genome], breeding: Breeding, rng: np.random.Generator, neighbours: Sequence[Genome] = ()
) -> Child | None:
    """Return the next member of the first generation.

    The seeds come first. Then members near a seed (the given neighbours in order, after them mutants about two genes away)
    and members far from all that was tried take turns: what is known to be good is varied, and the whole space is looked at.

    Args:
        seeds: genomes to begin with.
        breeding: the space.
        rng: source of chance.
        neighbours: genomes near the seeds that are worth a try.

    Returns:
        None if the space holds nothing that was not tried.
    """
    fresh_seed = first_fresh(seeds, breeding)
    if fresh_seed is not None:
        return fresh_seed
    if seeds and len(breeding.known) % 2 == 0:
        child = first_fresh(neighbours, breeding) or _near(seeds, breeding, rng)
        if child is not None:
            return child
    drawn = [breeding.canonical(random_genome(breeding.sizes, rng)) for _ in range(_MAX_TRIES)]
    fresh = [genome for genome in drawn if genome not in breeding.known]
    if not fresh:
        return _any_left(breeding, rng)
    return Child(genome=fresh[int(np.argmax(nearest(fresh, breeding.known)))])


def first_fresh(genomes: Sequence[Genome], breeding: Breeding) -> Child | None:
    """Return the first of these genomes that was not tried; None if all were."""
    canonical = (breeding.canonical(genome) for genome in genomes)
    return next((Child(genome=genome) for genome in canonical if genome not in breeding.known), None)


def _near(seeds: Sequence[Genome], breeding: Breeding, rng: np.random.Generator) -> Child | None:
    usage, rates = breeding.usage(), mutation_rates(breeding.sizes, 2.0)
    for _ in range(_MAX_TRIES):
        seed = seeds[int(rng.integers(len(seeds)))]
        genome = breeding.canonical(mutate(seed, breeding, rates, rng, usage))
        if genome not in breeding.known:
            return Child(genome=genome)
    return None


def breed(
    parents: Sequence[Genome], ranks: Sequence[tuple[float, ...]], breeding: Breeding, rng: np.random.Generator
) -> Child | None:
    """Return a new child of two parents: tournament, uniform crossover, mutation of one gene on average.

    A child that was tried before is bred again, with a mutation rate that rises with each try.

    Args:
        parents: the mating pool.
        ranks: one per parent, smaller is better.
        breeding: the space.
        rng: source of chance.

    Returns:
        None if the space holds nothing that was not tried.
    """
    return _bred(parents, ranks, breeding, breeding.usage(), rng) or _any_left(breeding, rng)


def _bred(
    parents: Sequence[Genome],
    ranks: Sequence[tuple[float, ...]],
    breeding: Breeding,
    usage: Sequence[Mapping[int, int]],
    rng: np.random.Generator,
) -> Child | None:
    for attempt in range(_MAX_TRIES):
        first = tournament(ranks, rng)
        second = _other_parent(parents, ranks, first, rng)
        rates = mutation_rates(breeding.sizes, 1 + attempt / 8)
        child = mutate(crossover(parents[first], parents[second], rng), breeding, rates, rng, usage)
        genome = breeding.canonical(child)
        if genome not in breeding.known:
            return Child(genome=genome, parents=(first, second) if first != second else (first,))
    return None


def litter(
    parents: Sequence[Genome], ranks: Sequence[tuple[float, ...]], breeding: Breeding, rng: np.random.Generator, n_children: int
) -> list[Child]:
    """Return different children, see `breed`: as many as asked for, or those that as many attempts gave.

    Returns:
        An empty list if the space holds nothing that was not tried.
    """
    found: dict[Genome, Child] = {}
    usage = breeding.usage()
    for _ in range(n_children):
        child = _bred(parents, ranks, breeding, usage, rng)
        if child is None:  # hardly anything is left near the parents: the rest is looked for at once, which takes a while
            for other in _left_over(breeding, rng, n_children):
                found.setdefault(other.genome, other)
            break
        found.setdefault(child.genome, child)
    return list(found.values())[:n_children]


def _other_parent(parents: Sequence[Genome], ranks: Sequence[tuple[float, ...]], first: int, rng: np.random.Generator) -> int:
    for _ in range(8):
        second = tournament(ranks, rng)
        if parents[second] != parents[first]:
            return second
    others = [index for index, genome in enumerate(parents) if genome != parents[first]]
    return others[int(rng.integers(len(others)))] if others else first


def _any_left(breeding: Breeding, rng: np.random.Generator) -> Child | None:
    return next(iter(_left_over(breeding, rng, 1)), None)


def _left_over(breeding: Breeding, rng: np.random.Generator, n: int) -> list[Child]:
    """Return at most n different genomes that were not tried, from a list of all if the space is small, else by chance."""
    n_genomes = int(np.prod([float(size) for size in breeding.sizes]))
    if n_genomes <= _MAX_ENUMERATED:
        every = itertools.product(*(range(size) for size in breeding.sizes))
        fresh = [genome for genome in every if breeding.canonical(genome) == genome and genome not in breeding.known]
        return [Child(genome=fresh[int(index)]) for index in rng.permutation(len(fresh))[:n]]
    found: dict[Genome, Child] = {}
    for _ in range(100 * _MAX_TRIES):
        genome = breeding.canonical(random_genome(breeding.sizes, rng))
        if genome not in breeding.known:
            found.setdefault(genome, Child(genome=genome))
        if len(found) == n:
            break
    return list(found.values())
