"""How busy a search keeps many workers: real loop, study, sampler, scheduler and messages, and evaluations that are sleeps.

    python tests/benchmarks/cluster_benchmark.py [--workers 64] [--population 512 2048] [--mean 6] [--generations 1]

The workers are Dask workers in threads of this process, which is enough, since they sleep; sleeps are lognormal with sigma 0.5.
Busy is the share of all workers' time, from the first proposal to the last outcome, that was spent on evaluations. A generation
ends with its slowest members, for which the others wait. Beside it, therefore, stands what was possible: the same sleeps in the
same order, handed to whoever is free without any delay.
"""

from __future__ import annotations

import argparse
import heapq
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import clusters
import small
from fakes import sleepers

from ovquant.choices import ModelFacts, build_space, nncf_default
from ovquant.cluster import ClusterExecutor
from ovquant.job import DataSpec, Drop, MetricSpec, Objective
from ovquant.loop import Plan, run_search
from ovquant.objectives import Rules
from ovquant.records import Trial
from ovquant.study import Study
from ovquant.targets import Genes, Target
from ovquant.tasks import BenchSpec
from ovquant.turns import SystemClock

GENES = {
    "preset": ["performance", "mixed"],
    "model_type": [None, "transformer"],
    "subset_size": list(range(20, 301, 8)),
    "fast_bias_correction": [True],
    "disable_bias_correction": [True, False],
    "activations_range_estimator": [None, "MINMAX", "MEAN_MINMAX", "MEDIAN_MINMAX", "MEAN_NO_OUTLIERS_MINMAX", "MEAN_QUANTILE"],
    "weights_range_estimator": [None, "MEAN_QUANTILE"],
}
FACTS = ModelFacts(operations=(), n_calibration=300, own_precision="f32", device_precisions=frozenset({"f32"}))


def possible(sleeps: Sequence[float], n_workers: int) -> float:
    """Return the seconds that sleeps take if each goes at once to the first worker that is free."""
    ends = [0.0] * n_workers
    for seconds in sleeps:
        heapq.heappush(ends, heapq.heappop(ends) + seconds)
    return max(ends)


def run(address: str, folder: Path, population: int, n_generations: int) -> tuple[list[Trial], float]:
    """Return the trials of a search, and how long it took."""
    model, data = small.conv_case(folder)
    target = Target(version=1, name="cpu", device="CPU", genes=Genes.model_validate(GENES))
    metrics = (MetricSpec(name="accuracy", max_drop=Drop(amount=0.03)),)
    rules = Rules(objective=Objective(), metrics=metrics, metric_directions=("maximize",), max_divergence=None)
    space, default = build_space(target, FACTS), nncf_default(target, FACTS)
    seeds = (space.genome_from_strategy(default),)
    study = Study(folder / "study.db", rules=rules, space=space, seeds=seeds, seed=0, population=population)
    bench = BenchSpec(
        model=str(model), target=target, device="CPU", data=DataSpec(path=str(data)), seed=0, metrics=metrics, output_kinds={},
        model_dir=str(folder / "work"),
    )  # fmt: skip
    plan = Plan(
        bench=bench, rules=rules, default=default, is_default_in_space=True, own_precision="f32",
        max_trials=population * n_generations, budget_s=None, stop_at=None,
    )  # fmt: skip
    executor = ClusterExecutor(address, target.name, "CPU", make=sleepers.sleeping)
    try:
        executor.announce(bench, ())
        begun = time.monotonic()
        run_search(plan, study, executor, SystemClock(), lambda progress: None)
        took_s = time.monotonic() - begun
    finally:
        executor.close()
    return study.trials(), took_s


def main() -> None:
    """Search with each population, and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--population", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--generations", type=int, default=1)
    parser.add_argument("--mean", type=float, default=6.0, help="of the sleeps, in seconds")
    arguments = parser.parse_args()
    sleepers.mean_s = arguments.mean
    with tempfile.TemporaryDirectory() as temporary:
        resources = {"ovquant-target-cpu": 1}
        with clusters.cluster(Path(temporary) / "dask", arguments.workers, resources, processes=False) as running:
            for population in arguments.population:
                folder = Path(temporary) / str(population)
                folder.mkdir()
                trials, took_s = run(running.scheduler_address, folder, population, arguments.generations)
                candidates = [trial for trial in trials if trial.strategy is not None]
                generations: dict[int | None, list[float]] = {}
                for trial in candidates:
                    assert trial.strategy is not None
                    generations.setdefault(trial.generation, []).append(sleepers.slept_s[trial.strategy.digest])
                slept_s = sum(map(sum, generations.values()))
                best_s = sum(possible(sleeps, arguments.workers) for sleeps in generations.values())
                share, best = (100 * slept_s / arguments.workers / seconds for seconds in (took_s, best_s))
                print(
                    f"{arguments.workers} workers, population {population}: {len(candidates)} candidates of {arguments.mean:g} s "
                    f"took {took_s:.1f} s, {share:.1f} % busy; possible: {best_s:.1f} s, {best:.1f} %",
                    flush=True,
                )


if __name__ == "__main__":
    main()
