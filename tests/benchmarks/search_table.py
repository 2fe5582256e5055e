"""Every strategy of a small search space, evaluated once and without racing, for samplers to be replayed on.

    python tests/benchmarks/search_table.py JOB.yaml TABLE.npz [--limit N] [--time-again]

The table holds, for each canonical genome in lexicographic order: code, divergence and score of each validation item (float32;
NaN where it failed) and the index of its kernels; one latency over the baseline's for each set of kernels; and for every genome
which row is its canonical one. In the end all sets of kernels and the baseline are timed in one run, in turns, by the target's
verdict plan: a search's own short measurements drift by more than kernels differ. Let nothing else run then. The table is
written after every group, and the same command goes on with what is there; ``--time-again`` times anew. ``--limit`` takes genomes
spread evenly.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from ovquant.choices import build_space, nncf_default
from ovquant.evaluation import Workbench
from ovquant.inspection import inspect
from ovquant.job import load_job
from ovquant.latency import relative_speedup
from ovquant.records import Comparison, Evaluation, FloatModel
from ovquant.session import open_workbench
from ovquant.space import Genome, SearchSpace
from ovquant.strategy import Strategy
from ovquant.tasks import ComparisonTask, Task

GROUP = 20


class Recorder:
    """Evaluates strategies and keeps the scores of each item, which outcomes do not hold."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._scores: dict[str, np.ndarray] = {}
        self._last: np.ndarray | None = None
        score = bench._validator.score

        def kept(outputs: Any, theirs: Any, split: Any) -> Any:
            values, items = score(outputs, theirs, split)
            self._last = items[0] if items else None
            return values, items

        bench._validator.score = kept  # type: ignore[method-assign]

    def run(self, strategies: list[Strategy]) -> list[tuple[Evaluation | None, np.ndarray | None]]:
        """Return the outcome and the scores of each."""
        self._bench.announce(strategies)
        found = []
        for strategy in strategies:
            self._last = None
            outcome = self._bench.evaluate(Task(bench=self._bench.spec, subject=strategy, has_intervals=True))
            if isinstance(outcome, Evaluation):
                known = outcome.same_as or strategy.digest
                if self._last is not None:
                    self._scores[known] = self._last
                found.append((outcome, self._scores.get(known)))
            else:
                print(f"{strategy.describe()}: {outcome.message}", flush=True)
                found.append((None, None))
        return found


def chosen(space: SearchSpace, default: Strategy, limit: int | None) -> list[Genome]:
    """Return the genomes of the table, NNCF's default among them."""
    every = list(space.genomes())
    picked = every if limit is None else every[:: max(1, len(every) // limit)][:limit]
    own = space.genome_from_strategy(default)
    return picked if own in picked else [own, *picked]


def layers(bench: Workbench, kept: Path) -> tuple[str, ...]:
    """Return the layers that have a gene; the same as before where a table is gone on with."""
    if not kept.exists():
        kept.write_text(json.dumps(inspect(bench).promising()))
    return tuple(json.loads(kept.read_text()))


def canonical_rows(space: SearchSpace, genomes: list[Genome]) -> np.ndarray:
    """Return for each genome, in lexicographic order, the row of the canonical one; -1 if the table has none."""
    rows = {genome: row for row, genome in enumerate(genomes)}
    every = itertools.product(*(range(size) for size in space.sizes))
    return np.array([rows.get(space.canonical_genome(genome), -1) for genome in every])


def main() -> None:
    """Fill the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path)
    parser.add_argument("table", type=Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--time-again", action="store_true")
    arguments = parser.parse_args()
    job = load_job(arguments.job, {})
    with tempfile.TemporaryDirectory() as folder:
        _, bench = open_workbench(job, Path(folder))
        facts = bench.facts()
        if bench.spec.target.genes.layers is not None:
            facts = dataclasses.replace(facts, layers=layers(bench, arguments.table.with_suffix(".layers.json")))
        space = build_space(bench.spec.target, facts)
        default = nncf_default(bench.spec.target, facts)
        genomes = chosen(space, default, arguments.limit)
        n_items = len(bench.samples.items("validation"))
        table: dict[str, Any] = {
            "codes": np.array([space.code_from_genome(genome) for genome in genomes]),
            "sizes": np.array(space.sizes),
            "orders": np.array(json.dumps([gene.order for gene in space.genes])),
            "canonical": canonical_rows(space, genomes),
            "default": np.array(space.encode(default)),
            "reference": np.array([np.nan if scores is None else scores for scores in bench.reference("validation").items[:1]]),
            "divergences": np.full((len(genomes), n_items), np.nan, np.float32),
            "scores": np.full((len(genomes), n_items), np.nan, np.float32),
            "kernels": np.full(len(genomes), -1),
            "ratios": np.zeros(0),
            "keys": np.zeros(0, dtype="<U64"),
            "n_done": np.array(0),
            "is_timed": np.array(False),
        }
        if arguments.table.exists():
            with np.load(arguments.table) as kept:
                if kept["codes"].tolist() != table["codes"].tolist():
                    raise SystemExit(f"{arguments.table}: is of another space")
                table = dict(kept)
        fill(table, Recorder(bench), space, genomes, arguments.table)
        if arguments.time_again or not table["is_timed"]:
            table["ratios"] = timed(table, bench, space, genomes)
            table["is_timed"] = np.array(True)
            save(table, arguments.table)
        bench.close()


def fill(table: dict[str, Any], recorder: Recorder, space: SearchSpace, genomes: list[Genome], path: Path) -> None:
    """Evaluate what is missing, group by group."""
    ratios = dict(zip(table["keys"].tolist(), table["ratios"].tolist(), strict=True))
    start, n_before = time.perf_counter(), int(table["n_done"])
    for first in range(n_before, len(genomes), GROUP):
        group = genomes[first : first + GROUP]
        outcomes = recorder.run([space.strategy_from_genome(genome) for genome in group])
        for row, (outcome, scores) in enumerate(outcomes, start=first):
            if outcome is None or outcome.latency is None or outcome.divergences is None:
                continue
            table["divergences"][row] = outcome.divergences
            if scores is not None:
                table["scores"][row] = scores
            ratios.setdefault(str(outcome.structure), outcome.latency.ratio.value)
            table["kernels"][row] = list(ratios).index(str(outcome.structure))
        table |= {
            "keys": np.array(list(ratios)),
            "ratios": np.array(list(ratios.values())),
            "n_done": np.array(first + len(group)),
            "is_timed": np.array(False),
        }
        save(table, path)
        each_s = (time.perf_counter() - start) / (first + len(group) - n_before)
        left_s = each_s * (len(genomes) - first - len(group))
        print(f"{first + len(group)} of {len(genomes)}, {len(ratios)} kernels, {left_s / 60:.0f} min left", flush=True)


def timed(table: dict[str, Any], bench: Workbench, space: SearchSpace, genomes: list[Genome]) -> np.ndarray:
    """Return the latency of each set of kernels over the baseline's, all timed in turns."""
    rows = [int(np.flatnonzero(table["kernels"] == index)[0]) for index in range(len(table["keys"]))]
    print(f"timing {len(rows)} sets of kernels", flush=True)
    subjects = (FloatModel(inference_precision=bench.own_precision), *(space.strategy_from_genome(genomes[row]) for row in rows))
    found = bench.compare(ComparisonTask(bench=bench.spec, subjects=subjects))
    if not isinstance(found, Comparison):
        raise SystemExit(f"{found.stage}: {found.message}")
    baseline, *others = found.latencies
    speedups = [relative_speedup(latency, baseline) for latency in others]
    widths = [speedup.high / speedup.low - 1 for speedup in speedups]
    print(f"intervals are {np.median(widths):.1%} wide in the median, {np.max(widths):.1%} at most", flush=True)
    return np.array([1 / speedup.value for speedup in speedups])


def save(table: dict[str, Any], path: Path) -> None:
    """Write the table."""
    with path.open("wb") as stream:
        np.savez_compressed(stream, **table)


if __name__ == "__main__":
    main()
