"""Samplers replayed on tables of `search_table.py`: how much of the exhaustive front's hypervolume they find, and how soon.

    python tests/benchmarks/search_benchmark.py TABLE.npz ... [--seeds 50] [--max-drop 0.01] [--noise 0.03] [--plot FILE.html]

Objectives are divergence and latency over the baseline's; candidates that drop by more than ``--max-drop`` are infeasible. The
reference point is NNCF default's divergence and the baseline's latency, or the slowest strategy's where none is faster than that.
All samplers get the same genes and begin with NNCF's default. A genome that was tried before is no evaluation, and 20 of them
end a sampler; ``+repeats`` are the same samplers with repeats counted. Printed are medians over seeds of the share of the front's
hypervolume, and the mean of ours less theirs with its 95 % bootstrap interval. With ``--noise``, samplers are told latencies that
are off by that share (one draw for each set of kernels and seed), and are judged by those of the table.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import multiprocessing
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler

from ovquant import pareto
from ovquant.sampler import CODE, VIOLATION, GeneticSampler
from ovquant.space import Genome, leading

LOOKS = (20, 40, 60)
POPULATION = 3  # as a search of 60 trials has
NSGA_SIZE = 6  # of NSGA-II, whose own 50 would be all but its first generation
N_RESAMPLES = 2000
N_LAYERS = 6  # of table_target.yaml; their genes are the last ones
MOST_REPEATS = 20  # one after the other; a sampler that proposes nothing else has come to its end


@dataclasses.dataclass
class Table:
    """A table as samplers see it.

    Attributes:
        sizes: values per gene.
        orders: of values, see `ovquant.genetic.Breeding`.
        objectives: genome -> (divergence, latency ratio), for what could be evaluated.
        violations: genome -> how far the drop exceeds the limit.
        rows: of the table by genome in lexicographic order, -1 for those that it lacks.
        genomes: by row.
        seeds: what all begin with.
        neighbours: of the seed: the layers of most promise in float, as a search tries them between what it breeds.
        reference: point that hypervolume is up to.
    """

    name: str
    sizes: tuple[int, ...]
    orders: list[tuple[int | None, ...]]
    objectives: dict[Genome, tuple[float, float]]
    violations: dict[Genome, float]
    rows: np.ndarray
    genomes: list[Genome]
    seeds: list[Genome]
    neighbours: list[Genome]
    reference: np.ndarray

    @classmethod
    def of(cls, path: Path, max_drop: float) -> Table:
        """Read a table."""
        with np.load(path) as content:
            digits = "0123456789abcdefghijklmnopqrstuvwxyz"
            genomes = [tuple(digits.index(digit) for digit in code) for code in content["codes"]]
            default = tuple(digits.index(digit) for digit in str(content["default"]))
            is_known = content["kernels"] >= 0
            divergences = content["divergences"].astype(np.float64).mean(axis=1)
            ratios = content["ratios"][content["kernels"]]
            drops = content["reference"][0].mean() - content["scores"].astype(np.float64).mean(axis=1)
            sizes = tuple(int(size) for size in content["sizes"])
            orders = [tuple(places) for places in json.loads(str(content["orders"]))]
            canonical = content["canonical"]
        rows = [index for index, known in enumerate(is_known) if known]
        objectives = {genomes[i]: (float(divergences[i]), float(ratios[i])) for i in rows}
        violations = {genomes[i]: max(0.0, float(drops[i]) - max_drop) / max(max_drop, 1e-9) for i in rows}
        latencies = [ratio for _, ratio in objectives.values()]
        reference = np.array([objectives[default][0], 1.0 if min(latencies) < 1 else max(latencies)])
        near = leading(default, range(len(sizes) - N_LAYERS, len(sizes)))
        return cls(path.stem, sizes, orders, objectives, violations, canonical, genomes, [default], near, reference)

    def canonical(self, genome: Genome) -> Genome:
        """Return the genome that stands for the same strategy; in a table with gaps, for one that is near it."""
        row = int(self.rows[int(np.ravel_multi_index(genome, self.sizes))])
        if row >= 0 and self.genomes[row] in self.objectives:
            return self.genomes[row]
        others = np.array(list(self.objectives))
        return tuple(int(value) for value in others[int((others != np.array(genome)).sum(axis=1).argmin())])

    def with_noise(self, noise: float, rng: np.random.Generator) -> Table:
        """Return the table as measured with latencies that are off by a share, each set of kernels' by a draw of its own."""
        ratios = sorted({ratio for _, ratio in self.objectives.values()})
        told = {ratio: ratio * float(np.exp(noise * rng.standard_normal())) for ratio in ratios}
        return dataclasses.replace(self, objectives={g: (value, told[ratio]) for g, (value, ratio) in self.objectives.items()})

    def hypervolume(self, genomes: list[Genome]) -> float:
        """Return the hypervolume of the feasible ones."""
        points = np.array([self.objectives[g] for g in genomes if self.violations[g] == 0]).reshape(-1, 2)
        return pareto.hypervolume(points, self.reference)


@dataclasses.dataclass(frozen=True)
class _Gene:
    name: str
    labels: tuple[str, ...]
    order: tuple[int | None, ...]


class _Space:
    """A table in the place of a search space."""

    def __init__(self, table: Table) -> None:
        self.sizes = table.sizes
        self.genes = [
            _Gene(f"g{index}", tuple(map(str, range(size))), order)
            for index, (size, order) in enumerate(zip(table.sizes, table.orders, strict=True))
        ]
        self.canonical_genome = table.canonical

    def genome_from_code(self, code: Sequence[int]) -> Genome:
        return tuple(code)

    def labels(self, genome: Genome) -> dict[str, str]:
        return {gene.name: gene.labels[index] for gene, index in zip(self.genes, genome, strict=True)}


def ours(table: Table, seed: int) -> Iterator[Genome]:
    """Yield what ovquant's sampler proposes, a whole generation before the first of it is evaluated, as in a search."""
    space: Any = _Space(table)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler = GeneticSampler(
            space=space, seeds=table.seeds, neighbours=table.neighbours, seed=seed, population_size=POPULATION, minimized=tuple
        )
        study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    is_exhausted = False
    while not is_exhausted:
        generation: list[tuple[optuna.Trial, Genome]] = []
        while len(generation) < POPULATION and not is_exhausted:
            try:
                trial = study.ask()
                for gene in space.genes:
                    trial.suggest_categorical(gene.name, gene.labels)
            except LookupError:
                is_exhausted = True
            else:
                trial.set_user_attr(CODE, list(sampler.last_child.genome))
                generation.append((trial, sampler.last_child.genome))
        for trial, genome in generation:
            yield genome
            trial.set_user_attr(VIOLATION, table.violations[genome])
            study.tell(trial, table.objectives[genome])


def random(table: Table, seed: int) -> Iterator[Genome]:
    """Yield genomes drawn evenly."""
    rng = np.random.default_rng(seed)
    yield from table.seeds
    every = list(table.objectives)
    while True:
        yield every[int(rng.integers(len(every)))]


def optuna_sampler(make: Callable[[int], BaseSampler]) -> Callable[[Table, int], Iterator[Genome]]:
    """Return a sampler of Optuna's as one of ours."""

    def propose(table: Table, seed: int) -> Iterator[Genome]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            study = optuna.create_study(directions=["minimize", "minimize"], sampler=make(seed))
        for genome in table.seeds:
            study.enqueue_trial({f"g{index}": value for index, value in enumerate(genome)})
        while True:
            trial = study.ask()
            genome = tuple(trial.suggest_categorical(f"g{index}", list(range(size))) for index, size in enumerate(table.sizes))
            genome = table.canonical(genome)
            trial.set_user_attr("violation", table.violations[genome])
            yield genome
            study.tell(trial, table.objectives[genome])

    return propose


def _constraints(trial: optuna.trial.FrozenTrial) -> list[float]:
    return [trial.user_attrs["violation"]]


def coordinate_descent(table: Table, seed: int) -> Iterator[Genome]:
    """Yield what NNCF's tuner does: one gene after the other, all its values, the best one is kept."""
    rng = np.random.default_rng(seed)
    best = table.seeds[0]

    def worth(genome: Genome) -> tuple[float, float]:
        return table.violations[genome], float(np.prod(table.objectives[genome]))

    while True:
        for gene in rng.permutation(len(table.sizes)):
            for value in range(table.sizes[gene]):
                genome = table.canonical((*best[:gene], value, *best[gene + 1 :]))
                yield genome
                best = min(best, genome, key=worth)


SAMPLERS: dict[str, Callable[[Table, int], Iterator[Genome]]] = {
    "ovquant": ours,
    "random": random,
    "NSGA-II": optuna_sampler(lambda seed: NSGAIISampler(population_size=NSGA_SIZE, seed=seed, constraints_func=_constraints)),
    "TPE": optuna_sampler(lambda seed: TPESampler(seed=seed, constraints_func=_constraints)),
    "coordinate descent": coordinate_descent,
}


def curve(table: Table, proposals: Iterator[Genome], n_evaluations: int, *, has_repeats: bool) -> list[float]:
    """Return the hypervolume after each evaluation, as a share of the whole table's."""
    whole = table.hypervolume(list(table.objectives)) or 1.0  # a table of a few strategies may hold none that is better
    tried: list[Genome] = []
    shares: list[float] = []
    n_repeats = 0
    for genome in proposals:
        is_new = genome not in tried
        n_repeats = 0 if is_new else n_repeats + 1
        if is_new:
            tried.append(genome)
        if is_new or has_repeats:
            shares.append(table.hypervolume(tried) / whole)
        if len(shares) >= n_evaluations or n_repeats > MOST_REPEATS:
            break
    return shares + [shares[-1]] * (n_evaluations - len(shares))


def replay(table: Table, name: str, seed: int, *, has_repeats: bool, noise: float) -> list[float]:
    """Return the curve of one sampler from one seed."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    told = table.with_noise(noise, np.random.default_rng([seed, 1]))
    return curve(table, SAMPLERS[name](told, seed), max(LOOKS), has_repeats=has_repeats)


def main() -> None:
    """Replay and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="+")
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--max-drop", type=float, default=0.01)
    parser.add_argument("--noise", type=float, default=0.0, help="of latencies that samplers are told, as a share of them")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--samplers", nargs="+", choices=list(SAMPLERS), default=list(SAMPLERS), help="ovquant first")
    arguments = parser.parse_args()
    curves: dict[str, dict[str, np.ndarray]] = {}
    for path in arguments.tables:
        table = Table.of(path, arguments.max_drop)
        n_front = len(pareto.front(np.array(list(table.objectives.values())), np.array(list(table.violations.values()))))
        print(
            f"{table.name}: {len(table.objectives)} strategies, {sum(v == 0 for v in table.violations.values())} feasible, "
            f"{len({ratio for _, ratio in table.objectives.values()})} kernels, {n_front} on the front"
        )
        curves[table.name] = {}
        with multiprocessing.Pool() as pool:
            for has_repeats in (False, True):
                for name in arguments.samplers:
                    label = f"{name}+repeats" if has_repeats else name
                    run = functools.partial(replay, table, name, has_repeats=has_repeats, noise=arguments.noise)
                    curves[table.name][label] = np.array(pool.map(run, range(arguments.seeds), chunksize=1))
        report(curves[table.name])
    if arguments.plot is not None:
        plot(curves, arguments.plot)


def report(curves: dict[str, np.ndarray]) -> None:
    """Print medians and differences."""
    rng = np.random.default_rng(0)
    mine = curves["ovquant"]
    print(f"{'':28s}" + "".join(f"{f'after {look}':>12s}{'ours less it [95 %]':>26s}" for look in LOOKS))
    for name, runs in curves.items():
        cells = ""
        for look in LOOKS:
            difference = mine[:, look - 1] - runs[:, look - 1]
            picks = rng.integers(len(difference), size=(N_RESAMPLES, len(difference)))
            low, high = np.percentile(difference[picks].mean(axis=1), [2.5, 97.5])
            told = "" if name == "ovquant" else f"{difference.mean():+.3f} [{low:+.3f}, {high:+.3f}]"
            cells += f"{np.median(runs[:, look - 1]):12.1%}{told:>26s}"
        print(f"{name:28s}{cells}")


def plot(curves: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """Write median hypervolume against evaluations."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=len(curves), cols=1, subplot_titles=list(curves))
    for row, (_, by_sampler) in enumerate(curves.items(), start=1):
        for name, runs in by_sampler.items():
            line = go.Scatter(x=list(range(1, runs.shape[1] + 1)), y=np.median(runs, axis=0), name=name)
            figure.add_trace(line, row=row, col=1)
    figure.write_html(path)


if __name__ == "__main__":
    main()
