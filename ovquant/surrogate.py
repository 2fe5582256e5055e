"""What untried genomes are likely to measure, learnt from the tried ones: which of many children is worth its evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ovquant import pareto
from ovquant.pareto import Array
from ovquant.space import Genome

_BOUND = 0.75  # quantile; of 0.75, 0.9, 1 and multiples of the first value the best on a table of 1,024 strategies
_TIE_BREAK = 1e-9  # of the value itself, where nothing is thought to be better than the best
_PAIR_SCALE = 0.5  # features of pairs of genes are held to be smaller than those of single ones
_NEXT_TO_NOTHING = 1e-4  # of the median; NNCF's default and the best of a real model were 3,000 times apart
_MAX_PAIRED = 32  # with more features of single genes, pairs would be too many to be learnt or computed


@dataclasses.dataclass(frozen=True, slots=True)
class _Posterior:
    """Linear models of one quantity: mean weights [K], a factor of their covariance [K, K], and the way back to its scale."""

    mean: Array
    factor: Array
    intercept: float
    back: np.ufunc

    def draw(self, wanted: Array, rng: np.random.Generator, n_draws: int) -> Array:
        """Return the quantity for N rows of features under D models drawn from all, shape [D, N]."""
        weights = self.mean + rng.standard_normal((n_draws, len(self.mean))) @ self.factor.T
        return np.asarray(self.back(weights @ wanted.T + self.intercept), dtype=np.float64)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Surrogate:
    """What is believed of untried genomes.

    Attributes:
        sizes: number of values per gene.
        objectives: a posterior for each.
        violation: that of the violation, None where nothing violates a limit.
        found: objectives of the feasible genomes tried, shape [N, M].
        worst: up to where a gain counts, shape [M].
    """

    sizes: tuple[int, ...]
    objectives: tuple[_Posterior, ...]
    violation: _Posterior | None
    found: Array
    worst: Array

    def most_promising(self, candidates: Sequence[Genome], rng: np.random.Generator, n_draws: int) -> int:
        """Return the position of the candidate that adds most to what was found, on average over models drawn by chance.

        With one draw that is Thompson sampling, which gives genes of which little is known their turn; the more draws, the more
        it is the expected improvement of the hypervolume (Emmerich et al. 2006). A candidate adds what it dominates beyond the
        feasible ones tried, up to the third quartile of all values tried. Where none was feasible, the one counts that violates
        least in the first draw.

        Args:
            candidates: at least one.
            rng: source of chance.
            n_draws: at least one.
        """
        wanted = features(candidates, self.sizes)
        drawn = np.stack([posterior.draw(wanted, rng, n_draws) for posterior in self.objectives], axis=2)
        excess = np.zeros(drawn.shape[:2]) if self.violation is None else self.violation.draw(wanted, rng, n_draws)
        if not len(self.found):  # nothing is known to be feasible: a single draw looks further
            return int(np.argmin(excess[0]))
        gains = np.stack([_gains(points, self.found, self.worst) for points in drawn])
        # A candidate that is thought to be infeasible counts for less, the further it is thought to be.
        worth = gains * np.exp(-4.0 * np.clip(excess - 0.25, 0.0, None))
        return int(np.argmax(worth.mean(axis=0)))


def learn(tried: Sequence[Genome], objectives: Array, violations: Array, sizes: Sequence[int]) -> Surrogate:
    """Return what measurements tell: Bayesian linear regressions of objectives and violation on genes and pairs of genes.

    Args:
        tried: at least one.
        objectives: of the tried ones, less is better, shape [N, M], M = 1 or 2.
        violations: likewise, shape [N], 0 if feasible.
        sizes: number of values per gene.
    """
    from threadpoolctl import threadpool_limits

    known, is_feasible = features(tried, sizes), violations <= 0
    # On one core: so small, they take longer on many where something else runs, and the last bits depend on how many.
    with threadpool_limits(1, user_api="blas"):
        fitted = tuple(_fitted(known, *_learnable(column)) for column in objectives.T)
        violation = None if is_feasible.all() else _fitted(known, np.minimum(violations, 1.0), np.positive)
    return Surrogate(
        sizes=tuple(sizes),
        objectives=fitted,
        violation=violation,
        found=objectives[is_feasible],
        # A model that is far off, tried once, must not make all others count as equal.
        worst=np.quantile(objectives, _BOUND, axis=0),
    )


def features(genomes: Sequence[Genome], sizes: Sequence[int]) -> Array:
    """Return one column for each value of a gene but its first, and one for each pair of those of two genes, shape [N, K]."""
    indices = np.array(genomes, dtype=np.int64).reshape(len(genomes), len(sizes))
    gene_of = [gene for gene, size in enumerate(sizes) for _ in range(1, size)]
    values = [value for size in sizes for value in range(1, size)]
    single: Array = (indices[:, gene_of] == np.array(values, dtype=np.int64)).astype(np.float64)
    if len(gene_of) > _MAX_PAIRED:
        return single
    pairs = [(i, j) for i in range(len(gene_of)) for j in range(i) if gene_of[i] != gene_of[j]]
    first, second = [i for i, _ in pairs], [j for _, j in pairs]
    found: Array = np.concatenate([single, _PAIR_SCALE * single[:, first] * single[:, second]], axis=1)
    return found


def _learnable(values: Array) -> tuple[Array, np.ufunc]:
    """Return values on the scale on which genes add up, and the way back: logarithms, unless some are negative.

    What is far below most counts as a small share of them, and so does a divergence that rounding left below zero: on the
    scale of logarithms one nearly exact model would outweigh all others.
    """
    positive = values[values > 0]
    floor = _NEXT_TO_NOTHING * float(np.median(positive)) if len(positive) else 0.0
    if floor == 0 or (values < -floor).any():
        return values, np.positive
    return np.log(np.maximum(values, floor)), np.exp


def _fitted(known: Array, values: Array, back: np.ufunc) -> _Posterior:
    from sklearn.linear_model import BayesianRidge

    model = BayesianRidge().fit(known, values)
    variances, axes = np.linalg.eigh(model.sigma_)
    factor = axes * np.sqrt(np.clip(variances, 0.0, None))
    return _Posterior(mean=model.coef_, factor=factor, intercept=float(model.intercept_), back=back)


def _gains(points: Array, found: Array, worst: Array) -> NDArray[np.float64]:
    """Return what each point adds to the hypervolume (with one objective: how far it is below the best)."""
    if points.shape[1] == 1:
        return np.asarray(np.clip(found.min() - points[:, 0], 0.0, None) + _TIE_BREAK * (worst[0] - points[:, 0]))
    return pareto.gains(points, found, worst)
