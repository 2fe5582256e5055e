"""What untried genomes are likely to measure, learnt from the tried ones: which of many children is worth its evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ovquant import pareto
from ovquant.pareto import Array
from ovquant.space import Genome

_BOUND = 0.75  # quantile; of 0.75, 0.9, 1 and multiples of the first value the best on a table of 1,024 strategies
_TIE_BREAK = 1e-9  # of the value itself, where nothing is thought to be better than the best
_PAIR_SCALE = 0.5  # features of pairs of genes are held to be smaller than those of single ones
_MAX_PAIRED = 32  # with more features of single genes, pairs would be too many to be learnt or computed


def most_promising(
    candidates: Sequence[Genome],
    tried: Sequence[Genome],
    objectives: Array,
    violations: Array,
    sizes: Sequence[int],
    rng: np.random.Generator,
) -> int:
    """Return the position of the candidate that would add most to what was found, if a random model of it were true.

    The model is a Bayesian linear regression of each objective, and of the violation, on genes and pairs of genes; one draw
    from its posterior is taken for the truth (Thompson sampling), so that genes of which little is known get their turn. A
    candidate adds the hypervolume that it dominates beyond the feasible ones tried, up to the third quartile of all values tried.

    Args:
        candidates: at least one.
        tried: with what they measured.
        objectives: of the tried ones, less is better, shape [N, M], M = 1 or 2.
        violations: likewise, shape [N], 0 if feasible.
        sizes: number of values per gene.
        rng: source of chance.
    """
    known, wanted = features(tried, sizes), features(candidates, sizes)
    is_feasible = violations <= 0
    columns = [_learnable(column) for column in objectives.T]
    drawn = np.stack([back(_draw(known, values, wanted, rng)) for values, back in columns], axis=1)
    excess = _draw(known, np.minimum(violations, 1.0), wanted, rng) if not is_feasible.all() else np.zeros(len(candidates))
    if not is_feasible.any():
        return int(np.argmin(excess))
    found = objectives[is_feasible]
    # A model that is far off, tried once, must not make all others count as equal.
    bounds = np.quantile(objectives, _BOUND, axis=0)
    gains = _gains(drawn, found, bounds)
    # A candidate that is thought to be infeasible counts for less, the further it is thought to be.
    return int(np.argmax(gains * np.exp(-4.0 * np.clip(excess - 0.25, 0.0, None))))


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
    """Return values on the scale on which genes add up, and the way back: logarithms, where none is negative."""
    if (values < 0).any() or not (values > 0).any():
        return values, np.positive
    least = values[values > 0].min()
    return np.log(np.maximum(values, least / 2)), np.exp


def _draw(known: Array, values: Array, wanted: Array, rng: np.random.Generator) -> Array:
    """Return the values of `wanted` under one model drawn from the posterior."""
    from sklearn.linear_model import BayesianRidge

    model = BayesianRidge().fit(known, values)
    weights = rng.multivariate_normal(model.coef_, model.sigma_, method="eigh")
    return np.asarray(wanted @ weights + model.intercept_, dtype=np.float64)


def _gains(points: Array, found: Array, worst: Array) -> NDArray[np.float64]:
    """Return what each point adds to the hypervolume (with one objective: how far it is below the best)."""
    if points.shape[1] == 1:
        return np.asarray(np.clip(found.min() - points[:, 0], 0.0, None) + _TIE_BREAK * (worst[0] - points[:, 0]))
    whole = pareto.hypervolume(found, worst)
    return np.array([pareto.hypervolume(np.vstack([found, point]), worst) - whole for point in points])
