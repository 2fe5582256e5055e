"""Which genes mattered: how much worse a model of the trials guesses trials it has not seen when a gene's values are shuffled."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ovquant.records import Evaluation, Trial

Objective: TypeAlias = Literal["divergence", "latency"]
LEAST_TRIALS = 12
_FEW_PER_GENE = 3
_WEAK = 0.5
_N_FOLDS, _N_TREES, _N_SHUFFLES = 4, 40, 5
_LEAST = 1e-12


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """How much a gene mattered.

    Attributes:
        gene: its name.
        value: by how much R2 on unseen trials falls when the values of this gene are shuffled; mean over folds and shuffles.
        low, high: the smallest and the largest of them over folds: how far the answer depends on which trials are seen.
    """

    gene: str
    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """What mattered for one objective.

    Attributes:
        objective: log10 of the divergence, or the latency ratio.
        n_trials: that it is read off.
        r2: share of the variance of unseen trials that the model of the genes explains; median over folds.
        weights: one per gene that varied, the largest first.
        doubt: why it is not to be relied on, None where nothing speaks against it.
    """

    objective: Objective
    n_trials: int
    r2: float
    weights: tuple[Weight, ...]
    doubt: str | None


def importances(trials: Sequence[Trial], genes: Mapping[int, Mapping[str, str]]) -> list[Importance]:
    """Return what mattered for divergence and for latency; nothing where there are too few trials to tell.

    A forest of extremely randomized trees learns from three quarters of the trials, in turn, and guesses the last quarter;
    importance is by permutation (Breiman, Random Forests, 2001, section 10) on what it has not seen.

    Args:
        trials: of a study.
        genes: number -> gene -> label, of members of the population.
    """
    measured = [
        (genes[trial.number], trial.outcome)
        for trial in trials
        if trial.number in genes and isinstance(trial.outcome, Evaluation) and not _is_screened(trial.outcome)
    ]
    if len(measured) < LEAST_TRIALS:
        return []
    names = [name for name in measured[0][0] if len({labels.get(name) for labels, _ in measured}) > 1]
    if not names:
        return []
    columns = [[labels.get(name, "") for labels, _ in measured] for name in names]
    codes = np.column_stack([np.unique(column, return_inverse=True)[1] for column in columns])
    found = []
    divergences = [np.log10(max(outcome.divergence.value, _LEAST)) for _, outcome in measured]
    ratios = [np.nan if outcome.latency is None else outcome.latency.ratio.value for _, outcome in measured]
    targets: dict[Objective, NDArray[np.float64]] = {"divergence": np.array(divergences), "latency": np.array(ratios)}
    for objective, values in targets.items():
        is_known = np.isfinite(values)
        if is_known.sum() >= LEAST_TRIALS and np.ptp(values[is_known]) > 0:
            found.append(_importance(objective, codes[is_known], values[is_known], names))
    return found


def _is_screened(evaluation: Evaluation) -> bool:
    return evaluation.raced is not None and evaluation.raced.reason == "screened"


def _importance(objective: Objective, codes: NDArray[np.int64], values: NDArray[np.float64], names: Sequence[str]) -> Importance:
    from sklearn.ensemble import ExtraTreesRegressor
    from sklearn.model_selection import KFold

    rng = np.random.default_rng(0)
    scores, drops = [], []
    for seen, unseen in KFold(_N_FOLDS, shuffle=True, random_state=0).split(codes):
        forest = ExtraTreesRegressor(_N_TREES, random_state=0).fit(codes[seen], values[seen])
        scores.append(forest.score(codes[unseen], values[unseen]))
        drops.append(_drops(forest, codes[unseen], values[unseen], rng))
    by_fold = np.array(drops)
    weights = [
        Weight(gene=name, value=float(column.mean()), low=float(column.min()), high=float(column.max()))
        for name, column in zip(names, by_fold.T, strict=True)
    ]
    r2 = float(np.median(scores))
    return Importance(
        objective=objective,
        n_trials=len(values),
        r2=r2,
        weights=tuple(sorted(weights, key=lambda weight: -weight.value)),
        doubt=_doubt(len(values), len(names), r2, weights),
    )


def _drops(forest: Any, codes: NDArray[np.int64], values: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return by how much R2 falls when each gene is shuffled, mean over shuffles.

    That is `sklearn.inspection.permutation_importance`, which asks the forest for each shuffle by itself and takes seconds;
    here it is asked once.
    """
    n_trials, n_genes = codes.shape
    shuffled = np.tile(codes, (n_genes, _N_SHUFFLES, 1, 1))
    for gene in range(n_genes):
        for shuffle in shuffled[gene]:
            shuffle[:, gene] = rng.permutation(codes[:, gene])
    guesses = forest.predict(shuffled.reshape(-1, n_genes)).reshape(n_genes, _N_SHUFFLES, n_trials)
    losses = ((guesses - values) ** 2).sum(axis=-1).mean(axis=-1) - ((forest.predict(codes) - values) ** 2).sum()
    drops: NDArray[np.float64] = losses / (((values - values.mean()) ** 2).sum() or np.inf)
    return drops


def _doubt(n_trials: int, n_genes: int, r2: float, weights: Sequence[Weight]) -> str | None:
    """Return what speaks against relying on weights, in words."""
    said = []
    if r2 < _WEAK:
        said.append(f"a model of the genes explains {max(r2, 0):.0%} only of what it has not seen")
    if n_trials < _FEW_PER_GENE * n_genes:
        said.append(f"{n_trials} trials are few for {n_genes} genes")
    top = max(weights, key=lambda weight: weight.value)
    if top.low <= 0:
        said.append(f"even the first gene, {top.gene}, does not matter in every part of the trials")
    return "; ".join(said) or None
