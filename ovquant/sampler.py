"""The genetic algorithm as an Optuna sampler. Its class name is part of stored studies: never rename it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseGASampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from ovquant import pareto
from ovquant.genetic import Breeding, Child, breed, first_fresh, litter, seed_member
from ovquant.space import Genome, SearchSpace
from ovquant.surrogate import Surrogate, learn

# User attributes of a trial, all that proposals depend on beside its values: what was proposed, and what came of it.
CODE = "code"
VIOLATION = "violation"
_REMEMBERED = 10_000  # genomes, those of some generations
_MOST_LEARNT = 500  # the last ones; more would take longer to learn from with every generation
# Of the surrogate for each generation, spread over its places: a few members are best chosen by an average (on two tables of 768
# strategies 16 draws were better than 1), while many of them explore the more if each follows a draw of its own.
_N_DRAWS = 48
_NEIGHBOURS_EVERY = 3  # places of a generation: the first of them goes to a neighbour of the seeds, while there are any
_N_CHILDREN = 32  # bred for each place in a generation; the most promising of them are evaluated


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Brood:
    """What the places of a generation are filled from.

    Attributes:
        generation: its number.
        parents: trial numbers of the mating pool.
        genomes, ranks: of the mating pool.
        children: bred from it.
        surrogate: what earlier generations tell.
        n_draws: from it for each place.
    """

    generation: int
    parents: Sequence[int]
    genomes: Sequence[Genome]
    ranks: Sequence[tuple[float, ...]]
    children: Sequence[Child]
    surrogate: Surrogate
    n_draws: int

    def best(self, breeding: Breeding, rng: np.random.Generator) -> Child | None:
        """Return the most promising child that was not taken yet; another one where all were; None where the space is empty."""
        left = [child for child in self.children if child.genome not in breeding.known]
        if not left:
            return breed(self.genomes, self.ranks, breeding, rng)
        return left[self.surrogate.most_promising([child.genome for child in left], rng, self.n_draws)]


class GeneticSampler(BaseGASampler):
    """NSGA-II on canonical genomes that never proposes a strategy twice, and breeds many children to evaluate the best guess.

    All chance comes from (seed, generation, place in the generation), so that proposals depend on the seed and on what was
    measured, and on nothing else.
    """

    def __init__(
        self,
        *,
        space: SearchSpace,
        seeds: Sequence[Genome],
        neighbours: Sequence[Genome],
        seed: int,
        population_size: int,
        minimized: Callable[[Sequence[float]], Sequence[float]],
    ) -> None:
        """Keep the space and the rules.

        Args:
            space: where genomes come from.
            seeds: proposed first, in the first generation as far as it has room.
            neighbours: near them, tried next as far as the first generation has room, then in the first and each third place of
                later ones.
            seed: of all chance.
            population_size: trials per generation and size of the mating pool.
            minimized: turns objective values into ones where less is better.
        """
        super().__init__(population_size)
        self._space = space
        self._canonical = functools.lru_cache(_REMEMBERED)(space.canonical_genome)  # children come up again and again
        self._seeds = list(seeds)
        self._neighbours = list(neighbours)
        self._seed = seed
        self._minimized = minimized
        self._genomes: dict[int, Genome] = {}  # by trial: all of them are asked for with every proposal
        self._brood: _Brood | None = None
        self.last_child = Child(genome=())
        self.last_parents: list[int] = []
        self.last_generation = 0

    def reseed_rng(self) -> None:
        """Do nothing: chance does not depend on the process."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return one categorical parameter per gene."""
        return {gene.name: CategoricalDistribution(gene.labels) for gene in self._space.genes}

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        """Refuse: a genome is proposed as a whole."""
        raise RuntimeError(f"{param_name} is not a gene of this search space")

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """Propose a genome for a trial; what is not a parameter is left in the ``last_...`` attributes.

        Raises:
            LookupError: every strategy of the space was tried.
        """
        generation = self.get_trial_generation(study, trial)
        # Trials that a killed process left behind have no outcome: as if they had never been asked for.
        settled = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number and not is_abandoned(t)]
        members = [t for t in settled if generation_of(t) == generation]
        rng = np.random.default_rng([self._seed, generation, len(members)])
        breeding = self._breeding(settled)
        if generation == 0:
            child, parents = seed_member(self._seeds, breeding, rng, self._neighbours), []
        else:
            brood = self._brood_of(study, generation, settled)
            # Seeds that the first generation had no room for: recipes may be many, and generations of short searches are small.
            child = first_fresh(self._seeds, breeding)
            if child is None and len(members) % _NEIGHBOURS_EVERY == 0:
                # Each by itself, whatever is expected of it: seen only beside other changes, one that helps may take their blame.
                child = first_fresh(self._neighbours, breeding)
            if child is None:
                child = brood.best(breeding, rng)
            parents = [brood.parents[position] for position in child.parents] if child is not None else []
        if child is None:
            raise LookupError("every strategy of the search space was tried")
        self.last_child, self.last_parents, self.last_generation = child, parents, generation
        return dict(self._space.labels(child.genome))

    def _breeding(self, trials: Sequence[FrozenTrial]) -> Breeding:
        known = {self._genome_of(t) for t in trials if CODE in t.user_attrs}
        space = self._space
        return Breeding(
            sizes=space.sizes,
            orders=tuple(gene.order for gene in space.genes),
            canonical=self._canonical,
            known=known,
        )

    def _brood_of(self, study: Study, generation: int, settled: Sequence[FrozenTrial]) -> _Brood:
        """Return the children bred for a generation.

        Its own members do not count: a search that was stopped amid a generation knows more of them than one that was not.
        """
        if self._brood is None or self._brood.generation != generation:
            earlier = [t for t in settled if generation_of(t) != generation]
            # Sorted, since Optuna returns a stored pool in another order than a new one.
            pool = sorted(self.get_parent_population(study, generation), key=lambda t: t.number)
            genomes, ranks = [self._genome_of(t) for t in pool], self._sort_keys(pool)
            rng = np.random.default_rng([self._seed, generation])
            size = self.population_size or 1
            measured = [t for t in earlier if CODE in t.user_attrs and t.state == TrialState.COMPLETE][-_MOST_LEARNT:]
            self._brood = _Brood(
                generation=generation,
                parents=[t.number for t in pool],
                genomes=genomes,
                ranks=ranks,
                children=litter(genomes, ranks, self._breeding(earlier), rng, _N_CHILDREN * size),
                surrogate=learn([self._genome_of(t) for t in measured], *self._measured(measured), self._space.sizes),
                n_draws=max(1, _N_DRAWS // size),
            )
        return self._brood

    def select_parent(self, study: Study, generation: int) -> list[FrozenTrial]:
        """Return the best of the last generation and of its own mating pool (elitism of NSGA-II)."""
        pool = {t.number: t for t in self.get_population(study, generation - 1)}
        pool.update({t.number: t for t in self.get_parent_population(study, generation - 1)})
        trials = [pool[number] for number in sorted(pool)]
        keys = self._sort_keys(trials)
        ranked = sorted(range(len(trials)), key=lambda position: (keys[position], trials[position].number))
        return [trials[position] for position in ranked[: self.population_size]]

    def _genome_of(self, trial: FrozenTrial) -> Genome:
        if trial.number not in self._genomes:
            self._genomes[trial.number] = self._space.genome_from_code(trial.user_attrs[CODE])
        return self._genomes[trial.number]

    def _sort_keys(self, trials: Sequence[FrozenTrial]) -> list[tuple[float, ...]]:
        return list(pareto.sort_keys(*self._measured(trials)))

    def _measured(self, trials: Sequence[FrozenTrial]) -> tuple[pareto.Array, pareto.Array]:
        """Return objectives and violations."""
        objectives = np.array([self._minimized(t.values) for t in trials], dtype=np.float64)
        return objectives, np.array([t.user_attrs[VIOLATION] for t in trials], dtype=np.float64)


def generation_of(trial: FrozenTrial) -> int | None:
    """Return the generation of a trial; None for one outside of the population."""
    found: int | None = trial.system_attrs.get(GeneticSampler._get_generation_key())
    return found


def is_abandoned(trial: FrozenTrial) -> bool:
    """Return True for a trial that ended without an outcome: its process was stopped."""
    return trial.state == TrialState.FAIL and VIOLATION not in trial.user_attrs
