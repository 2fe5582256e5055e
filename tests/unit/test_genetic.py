from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovquant.genetic import (
    Breeding,
    breed,
    crossover,
    litter,
    mutate,
    mutation_rates,
    nearest,
    random_genome,
    seed_member,
    tournament,
)
from ovquant.space import Genome

SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=8).map(tuple)
SMALL_SIZES = st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple)
SEEDS = st.integers(0, 2**32 - 1)


def genomes_of(sizes: tuple[int, ...]) -> st.SearchStrategy[Genome]:
    return st.tuples(*(st.integers(0, size - 1) for size in sizes))


def distance(first: Genome, second: Genome) -> int:
    return int(nearest([first], [second])[0])


def same(genome: Genome) -> Genome:
    return genome


def last_gene_is_dead_without_the_first(genome: Genome) -> Genome:
    return (*genome[:-1], 0) if len(genome) > 1 and genome[0] == 0 else genome


def every(sizes: tuple[int, ...], canonical: Callable[[Genome], Genome] = same) -> set[Genome]:
    return {canonical(genome) for genome in itertools.product(*(range(size) for size in sizes))}


def breeding(sizes: tuple[int, ...], known: set[Genome], canonical: Callable[[Genome], Genome] = same) -> Breeding:
    unordered = tuple((None,) * size for size in sizes)
    return Breeding(sizes=sizes, orders=unordered, canonical=canonical, known=known)


def space_of(*sizes: int) -> Breeding:
    return breeding(sizes, set())


def flat(genomes: list[Genome]) -> list[tuple[float, ...]]:
    """Ranks that prefer nobody."""
    return [(0.0, 0.0)] * len(genomes)


@given(st.data(), SIZES, SEEDS)
def test_crossover_takes_each_gene_from_a_parent(data: st.DataObject, sizes: tuple[int, ...], seed: int) -> None:
    first, second = data.draw(genomes_of(sizes)), data.draw(genomes_of(sizes))
    child = crossover(first, second, np.random.default_rng(seed))
    assert len(child) == len(sizes)
    assert all(gene in pair for gene, pair in zip(child, zip(first, second, strict=True), strict=True))


def test_crossover_takes_about_half_from_each_parent() -> None:
    child = crossover((0,) * 2000, (1,) * 2000, np.random.default_rng(0))
    assert 900 < sum(child) < 1100


@given(st.data(), SIZES, SEEDS, st.floats(0, 1))
def test_mutate_stays_in_range(data: st.DataObject, sizes: tuple[int, ...], seed: int, rate: float) -> None:
    mutant = mutate(data.draw(genomes_of(sizes)), space_of(*sizes), [rate] * len(sizes), np.random.default_rng(seed))
    assert len(mutant) == len(sizes)
    assert all(0 <= gene < size for gene, size in zip(mutant, sizes, strict=True))


@given(st.data(), SIZES, SEEDS)
def test_mutate_at_rate_zero_changes_nothing(data: st.DataObject, sizes: tuple[int, ...], seed: int) -> None:
    genome = data.draw(genomes_of(sizes))
    assert mutate(genome, space_of(*sizes), [0.0] * len(sizes), np.random.default_rng(seed)) == genome


@given(st.data(), SIZES, SEEDS)
def test_mutate_at_rate_one_changes_every_free_gene(data: st.DataObject, sizes: tuple[int, ...], seed: int) -> None:
    genome = data.draw(genomes_of(sizes))
    mutant = mutate(genome, space_of(*sizes), [1.0] * len(sizes), np.random.default_rng(seed))
    assert [a != b for a, b in zip(genome, mutant, strict=True)] == [size > 1 for size in sizes]


def test_mutate_reaches_every_other_value() -> None:
    rng = np.random.default_rng(0)
    assert {mutate((2,), space_of(5), [1.0], rng) for _ in range(200)} == {(0,), (1,), (3,), (4,)}


def test_mutate_changes_the_share_of_genes_that_the_rate_says() -> None:
    mutant = mutate((0,) * 5000, space_of(*[4] * 5000), [0.2] * 5000, np.random.default_rng(0))
    assert 900 < sum(gene != 0 for gene in mutant) < 1100


@given(st.data(), SIZES)
def test_distance_counts_the_genes_that_differ(data: st.DataObject, sizes: tuple[int, ...]) -> None:
    first, second = data.draw(genomes_of(sizes)), data.draw(genomes_of(sizes))
    assert distance(first, second) == distance(second, first) == len(sizes) - sum(map(int.__eq__, first, second))


@given(SIZES, SEEDS)
def test_random_genomes_are_in_range(sizes: tuple[int, ...], seed: int) -> None:
    genome = random_genome(sizes, np.random.default_rng(seed))
    assert all(0 <= gene < size for gene, size in zip(genome, sizes, strict=True))


def test_random_genomes_cover_the_space() -> None:
    rng = np.random.default_rng(0)
    assert {random_genome((2, 3), rng) for _ in range(300)} == every((2, 3))


def test_a_tournament_prefers_the_smaller_rank_and_compares_the_second_key_only_on_a_tie() -> None:
    rng = np.random.default_rng(0)
    ranks = [(1.0, -9.0), (0.0, -1.0), (0.0, -5.0)]
    wins = np.bincount([tournament(ranks, rng) for _ in range(900)], minlength=3)
    assert wins[2] > wins[1] > wins[0] > 0


@given(st.data(), SIZES, SEEDS)
def test_breed_returns_a_canonical_genome_that_is_not_known(data: st.DataObject, sizes: tuple[int, ...], seed: int) -> None:
    canonical = last_gene_is_dead_without_the_first
    pool = [canonical(genome) for genome in data.draw(st.lists(genomes_of(sizes), min_size=1, max_size=6))]
    child = breed(pool, flat(pool), breeding(sizes, set(pool), canonical), np.random.default_rng(seed))
    if child is None:
        assert set(pool) == every(sizes, canonical)
    else:
        assert child.genome not in pool
        assert canonical(child.genome) == child.genome
        assert all(0 <= gene < size for gene, size in zip(child.genome, sizes, strict=True))


@settings(max_examples=25)
@given(st.data(), SMALL_SIZES, SEEDS)
def test_breed_finds_every_genome_of_a_small_space_before_it_gives_up(
    data: st.DataObject, sizes: tuple[int, ...], seed: int
) -> None:
    canonical = last_gene_is_dead_without_the_first
    pool = [canonical(data.draw(genomes_of(sizes)))]
    known, rng = set(pool), np.random.default_rng(seed)
    while (child := breed(pool, flat(pool), breeding(sizes, known, canonical), rng)) is not None:
        assert child.genome not in known
        known.add(child.genome)
        pool.append(child.genome)
    assert known == every(sizes, canonical)


@settings(max_examples=25)
@given(SMALL_SIZES, SEEDS)
def test_seed_member_finds_every_genome_of_a_small_space_before_it_gives_up(sizes: tuple[int, ...], seed: int) -> None:
    canonical = last_gene_is_dead_without_the_first
    known: set[Genome] = set()
    rng = np.random.default_rng(seed)
    while (child := seed_member([], breeding(sizes, known, canonical), rng)) is not None:
        assert child.genome not in known
        assert child.parents == ()
        known.add(child.genome)
    assert known == every(sizes, canonical)


def test_the_last_genome_of_a_large_space_is_found() -> None:
    sizes = (6, 6, 6, 6)
    missing = (3, 1, 4, 1)
    known = every(sizes) - {missing}
    pool = sorted(known)[:10]
    child = breed(pool, flat(pool), breeding(sizes, known), np.random.default_rng(0))
    assert child is not None
    assert child.genome == missing


@given(st.data(), SIZES, SEEDS)
def test_seeds_come_first_in_order_and_in_canonical_form(data: st.DataObject, sizes: tuple[int, ...], seed: int) -> None:
    canonical = last_gene_is_dead_without_the_first
    seeds = data.draw(st.lists(genomes_of(sizes), max_size=4))
    known: set[Genome] = set()
    rng = np.random.default_rng(seed)
    expected = list(dict.fromkeys(canonical(genome) for genome in seeds))
    found = []
    for _ in expected:
        child = seed_member(seeds, breeding(sizes, known, canonical), rng)
        assert child is not None
        known.add(child.genome)
        found.append(child.genome)
    assert found == expected


def test_members_after_the_seeds_are_far_from_what_is_there() -> None:
    sizes = (4,) * 6
    tried = [(0,) * 6, (1,) * 6]
    child = seed_member([], breeding(sizes, set(tried)), np.random.default_rng(0))
    assert child is not None
    assert min(distance(child.genome, other) for other in tried) >= 5


@given(st.data(), SIZES, SEEDS)
def test_equal_generators_breed_equal_children(data: st.DataObject, sizes: tuple[int, ...], seed: int) -> None:
    pool = data.draw(st.lists(genomes_of(sizes), min_size=2, max_size=6))
    space = breeding(sizes, set(pool))
    first, second = (breed(pool, flat(pool), space, np.random.default_rng(seed)) for _ in range(2))
    assert first == second


@given(st.data(), SIZES, SEEDS)
def test_equal_generators_give_equal_first_members(data: st.DataObject, sizes: tuple[int, ...], seed: int) -> None:
    tried = data.draw(st.lists(genomes_of(sizes), max_size=6))
    space = breeding(sizes, set(tried))
    first, second = (seed_member([], space, np.random.default_rng(seed)) for _ in range(2))
    assert first == second


@given(st.data(), SIZES, SEEDS)
def test_parents_are_positions_in_the_pool(data: st.DataObject, sizes: tuple[int, ...], seed: int) -> None:
    pool = data.draw(st.lists(genomes_of(sizes), min_size=1, max_size=6))
    child = breed(pool, flat(pool), breeding(sizes, set(pool)), np.random.default_rng(seed))
    if child is not None:
        assert len(set(child.parents)) == len(child.parents) <= 2
        assert all(0 <= parent < len(pool) for parent in child.parents)


def test_children_have_two_parents_that_differ() -> None:
    pool = [(i % 4, i // 4, 0, 0, 0) for i in range(12)]
    space = breeding((4,) * 5, set(pool))
    rng = np.random.default_rng(0)
    children = [breed(pool, flat(pool), space, rng) for _ in range(200)]
    assert all(child is not None and len(child.parents) == 2 for child in children)


def test_a_pool_of_one_genome_gives_children_of_one_parent() -> None:
    pool = [(0, 0, 0)] * 3
    child = breed(pool, flat(pool), breeding((4, 4, 4), set(pool)), np.random.default_rng(0))
    assert child is not None
    assert len(child.parents) == 1


def test_better_parents_breed_more_often() -> None:
    pool = [(i, 0, 0, 0) for i in range(6)]
    ranks = [(float(i), 0.0) for i in range(6)]
    rng = np.random.default_rng(0)
    space = breeding((6,) * 4, set(pool))
    children = [breed(pool, ranks, space, rng) for _ in range(300)]
    counts = np.bincount([parent for child in children if child is not None for parent in child.parents], minlength=6)
    assert counts[0] > counts[2] > counts[5]


def test_children_have_one_mutated_gene_on_average() -> None:
    n_values = 5
    pool = [(0,) * 10, (1,) * 10]
    rng = np.random.default_rng(0)
    space = breeding((n_values,) * 10, set(pool))
    children = [breed(pool, flat(pool), space, rng) for _ in range(200)]
    foreign = np.mean([sum(gene > 1 for gene in child.genome) for child in children if child is not None])
    share_of_foreign_values = 3 / 3.5  # of four other values one was tried, by the other parent: it weighs half
    assert foreign == pytest.approx(share_of_foreign_values, abs=0.2)


def test_members_near_a_seed_and_far_ones_take_turns() -> None:
    sizes, seed = (4,) * 8, (0,) * 8
    known = {seed, (1,) * 8}
    rng = np.random.default_rng(0)
    distances = []
    for _ in range(10):
        child = seed_member([seed], breeding(sizes, known), rng)
        assert child is not None
        known.add(child.genome)
        distances.append(distance(child.genome, seed))
    assert max(distances[::2]) < min(distances[1::2])


@given(SIZES, st.floats(0, 3))
def test_genes_with_more_values_mutate_more_often(sizes: tuple[int, ...], strength: float) -> None:
    rates = mutation_rates(sizes, strength)
    assert all(0 <= rate <= 1 for rate in rates)
    assert sum(rates) <= strength + 1e-9
    for first, second in itertools.combinations(range(len(sizes)), 2):
        assert sizes[first] > sizes[second] or rates[first] <= rates[second]
    assert all(rate == 0 for rate, size in zip(rates, sizes, strict=True) if size == 1)


def test_mutation_prefers_what_is_near_in_the_order_of_a_gene() -> None:
    ordered = dataclasses.replace(space_of(5), orders=((0, 1, 3, 2, None),))
    rng = np.random.default_rng(0)
    drawn = [mutate((0,), ordered, [1.0], rng)[0] for _ in range(2000)]
    expected = np.array([1, 1 / 3, 1 / 2, 1])  # the last one has no place in the order
    shares = [drawn.count(value) / 2000 for value in (1, 2, 3, 4)]
    assert shares == pytest.approx(expected / expected.sum(), abs=0.04)


def test_values_that_were_not_tried_are_drawn_more_often() -> None:
    rng = np.random.default_rng(0)
    drawn = [mutate((0,), space_of(3), [1.0], rng, [{0: 5, 1: 9}])[0] for _ in range(400)]
    assert drawn.count(2) / 400 == pytest.approx(10 / 11, abs=0.05)


@settings(max_examples=50, deadline=None)
@given(st.data(), SIZES, SEEDS)
def test_a_litter_holds_different_children_that_were_not_tried(data: st.DataObject, sizes: tuple[int, ...], seed: int) -> None:
    parents = data.draw(st.lists(genomes_of(sizes), min_size=1, max_size=5))
    known = set(parents)
    children = litter(parents, flat(parents), breeding(sizes, known), np.random.default_rng(seed), 8)
    genomes = [child.genome for child in children]
    assert len(genomes) == len(set(genomes)) <= 8
    assert not known.intersection(genomes)
    assert bool(children) == (int(np.prod(sizes)) > len(known))


def test_where_little_is_left_all_of_it_is_found_by_one_look_at_the_whole_space() -> None:
    sizes = (6, 6, 6, 6)
    every = [tuple(genome) for genome in np.ndindex(*sizes)]
    left = {every[3], every[500], every[-1]}
    n_asked = 0

    def canonical(genome: Genome) -> Genome:
        nonlocal n_asked
        n_asked += 1
        return genome

    known = set(every) - left
    parents = [(0, 0, 0, 0), (1, 1, 1, 1)]
    scarce = breeding(sizes, known, canonical)
    children = litter(parents, flat(parents), scarce, np.random.default_rng(0), 512)
    assert {child.genome for child in children} == left
    assert n_asked < 3 * len(every)
