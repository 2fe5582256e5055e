"""Whether the number that a search ends with holds: searches replayed on a table of `search_table.py`, with items drawn again.

    python tests/benchmarks/claims_benchmark.py TABLE.npz [--searches 1000] [--trials 60] [--max-drop 0.01] [--noise 0.02]

Each search draws validation and holdout items from the table's with replacement, measures latencies with some noise, lets
ovquant's sampler propose, chooses finalists as a search does, and names the first that its holdout does not refute. The truth is
the drop on all items of the table. Printed are how often the winner's 95 % interval holds it: that of the holdout, which ovquant
claims, and that of the validation items, which the winner was chosen by; and how wide the former is beside a paired bootstrap, on
the same items, of one candidate that is fixed beforehand: the one that the whole table, without noise, makes the winner. The two
draws are independent of each other.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import multiprocessing
import sys
from pathlib import Path

import numpy as np
import optuna

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from fakes.records import evaluation, trial
from search_benchmark import Table, ours

from ovquant import selection, verdict
from ovquant.job import Drop, MetricSpec, Objective
from ovquant.metrics import intervals
from ovquant.objectives import Rules
from ovquant.records import Evaluation, Interval, MetricResult
from ovquant.space import Genome


@dataclasses.dataclass(frozen=True)
class Items:
    """What a table knows of single items: scores and divergences, shape [rows, N], and the reference's scores, shape [N]."""

    rows: dict[Genome, int]
    scores: np.ndarray
    divergences: np.ndarray
    reference: np.ndarray

    @classmethod
    def of(cls, path: Path) -> Items:
        """Read a table."""
        with np.load(path) as content:
            genomes = [tuple(int(digit, 36) for digit in code) for code in content["codes"]]
            known = content["kernels"] >= 0
            rows = {genome: row for row, genome in enumerate(genomes) if known[row]}
            columns = [content[name].astype(np.float64) for name in ("scores", "divergences")]
            return cls(rows, *columns, content["reference"][0].astype(np.float64))

    def measured(self, genome: Genome, picks: np.ndarray, ratio: float) -> Evaluation:
        """Return what a search would have measured on these items."""
        row = self.rows[genome]
        mine, theirs = self.scores[row][picks], self.reference[picks]
        drop = intervals.paired_drop(theirs, mine) or exactly(float(theirs.mean() - mine.mean()))
        result = MetricResult(name="accuracy", value=float(mine.mean()), drop=drop, has_interval=True)
        found = evaluation(
            divergence=float(self.divergences[row][picks].mean()), metrics=[result], ratio=ratio, graph=str(genome)
        )
        return dataclasses.replace(found, n_items=len(picks))


def exactly(value: float) -> Interval:
    """Return an interval without width."""
    return Interval(value=value, low=value, high=value)


@dataclasses.dataclass(frozen=True)
class Claim:
    """The end of one search: the winner's true drop, its intervals, and that of a fixed candidate on the holdout items."""

    truth: float
    validation: Interval
    holdout: Interval
    fixed: Interval
    n_refuted: int


def winner_of(table: Table) -> Genome:
    """Return the genome that a search of the whole table would name, by objectives without noise."""
    feasible = [(genome, *values) for genome, values in table.objectives.items() if table.violations[genome] == 0]
    trials = [trial(number, ratio=ratio, divergence=value) for number, (_, value, ratio) in enumerate(feasible)]
    return feasible[selection.fastest(trials, [selection.latency_of(one) for one in trials]).number][0]


def search(number: int, table: Table, items: Items, fixed: Genome, n_trials: int, max_drop: float, noise: float) -> Claim | None:
    """Replay one search; None where nothing was feasible."""
    rng = np.random.default_rng([number, 1])
    n_items = len(items.reference)
    seen, unseen = rng.integers(n_items, size=n_items), rng.integers(n_items, size=n_items)
    timed = table.with_noise(noise, rng)
    rules = Rules(
        objective=Objective(),
        metrics=(MetricSpec(name="accuracy", max_drop=Drop(amount=max_drop)),),
        metric_directions=("maximize",),
        max_divergence=None,
    )
    rows = [items.rows[genome] for genome in table.objectives]
    divergences = items.divergences[rows][:, seen].mean(axis=1)
    drops = items.reference[seen].mean() - items.scores[rows][:, seen].mean(axis=1)
    ratios = [ratio for _, ratio in timed.objectives.values()]
    drawn = dataclasses.replace(
        table,
        objectives=dict(zip(table.objectives, zip(divergences.tolist(), ratios, strict=True), strict=True)),
        violations=dict(zip(table.objectives, np.maximum(0.0, drops - max_drop) / max(max_drop, 1e-9), strict=True)),
    )
    trials = []
    for genome, _ in zip(ours(drawn, number), range(n_trials), strict=False):
        measured = items.measured(genome, seen, drawn.objectives[genome][1])
        trials.append((trial(len(trials), measured, violation=rules.violation(measured)), genome))
    genomes = [genome for _, genome in trials]
    finalists = selection.finalists([found for found, _ in trials], rules)
    if not finalists:
        return None
    again = {t.number: items.measured(genomes[t.number], unseen, table.objectives[genomes[t.number]][1]) for t in finalists}
    latencies = [latency for t in finalists if (latency := again[t.number].latency) is not None]
    ordered = selection.order(finalists, latencies, rules)
    judged = [verdict.judge(again[t.number], rules) for t in ordered]
    place = next((place for place, judgement in enumerate(judged) if judgement != "refuted"), 0)
    winner = ordered[place]
    row = items.rows[genomes[winner.number]]
    return Claim(
        truth=float(items.reference.mean() - items.scores[row].mean()),
        validation=winner.evaluation.metrics[0].drop,
        holdout=again[winner.number].metrics[0].drop,
        fixed=intervals.mean((items.reference - items.scores[items.rows[fixed]])[unseen]),
        n_refuted=sum(judgement == "refuted" for judgement in judged),
    )


def main() -> None:
    """Replay and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--searches", type=int, default=1000)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--max-drop", type=float, default=0.01)
    parser.add_argument("--noise", type=float, default=0.02, help="of a latency, as a share of it")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    table = Table.of(arguments.table, arguments.max_drop)
    replay = functools.partial(
        search,
        table=table,
        fixed=winner_of(table),
        items=Items.of(arguments.table),
        n_trials=arguments.trials,
        max_drop=arguments.max_drop,
        noise=arguments.noise,
    )
    with multiprocessing.Pool() as pool:
        found = [claim for claim in pool.imap(replay, range(arguments.searches)) if claim is not None]

    def held(name: str) -> str:
        inside = [getattr(c, name).low <= c.truth <= getattr(c, name).high for c in found]
        bias = np.mean([getattr(c, name).value - c.truth for c in found])
        return f"{np.mean(inside):.1%} of {len(found)} intervals hold the truth; estimate less truth {bias:+.5f} on average"

    widths = [np.mean([getattr(c, name).high - getattr(c, name).low for c in found]) for name in ("holdout", "fixed")]
    print(f"holdout, as claimed: {held('holdout')}")
    print(f"validation, that it was chosen by: {held('validation')}")
    print(
        f"width of the former: {widths[0]:.5f}, {widths[0] / widths[1]:.2f} times that of a paired bootstrap of a fixed candidate"
    )
    print(f"{np.mean([c.n_refuted > 0 for c in found]):.1%} of the searches had a finalist refuted")


if __name__ == "__main__":
    main()
