"""What other ways to quantize a model come to, beside ovquant: the same data, limit and time, measured together on the holdout.

    python tests/benchmarks/peers_benchmark.py JOB.yaml ... [--budget 180] [--peers NAME ...] [--splits 1] [--json FILE]

The peers, each on the job's calibration and validation items, stopped after the budget where they have steps to stop between:

- NNCF default: `nncf.quantize` with model and data;
- NNCF transformer: the same with the model type that it has for transformers;
- accuracy control: `nncf.quantize_with_accuracy_control` with the job's first metric and its limit;
- best preset: `nncf.quantize` with each preset and model type, all validation items, ``benchmark_app -t 2``;
- TPE: Optuna's TPESampler on the genes of the job's target but for those of layers, measured likewise;
- ovquant: ``ovquant search`` with the budget; its two minutes of final timing come on top.

Of what the latter two tried, the one counts that a search would name: of those within the limit and at most 3 % slower than the
fastest, that of least divergence, or a faster one that diverges by at most 3 % more. The models are then timed in turns over two
minutes, those that run the same kernels once, and run on the holdout. "Dominates": less divergence, item by item, at no more
latency, burst by burst, both by point estimates: two speed-ups over the float model tell less of two models than bursts of them
side by side. Brackets hold 95 % intervals.
``--splits N`` repeats all with N divisions of the items, and tells means. Let nothing else run meanwhile.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import optuna

sys.path.insert(0, str(Path(__file__).parent))

from engine_benchmark import benchmark_app

from ovquant import runtime
from ovquant.choices import build_space
from ovquant.evaluation import Workbench
from ovquant.job import Job, load_job
from ovquant.latency import relative_speedup
from ovquant.quantization import quantize
from ovquant.records import Evaluation, Failure, FloatModel, ModelFile
from ovquant.selection import preferred
from ovquant.session import open_workbench
from ovquant.strategy import Strategy
from ovquant.tasks import ComparisonTask, Task
from ovquant.verdict import less_divergence


@dataclasses.dataclass
class Tried:
    """A model that a peer made: where it is, its drop of the metric and divergence on validation items, its latency in ms."""

    path: Path
    drop: float
    divergence: float
    latency_ms: float
    precision: str


class Case:
    """A job as a user with a script of his own would have it."""

    def __init__(self, job: Job, folder: Path, budget_s: float) -> None:
        self.job = job
        self.folder = folder
        self.budget_s = budget_s
        _, self.bench = open_workbench(job, folder / "work")
        self.samples = [dict(sample) for sample in self.bench.samples.samples("calibration")]
        self.items = [dict(sample) for sample in self.bench.samples.samples("validation")]
        self.labels = list(self.bench.samples.labels("validation") or [])
        limit = job.metrics[0].max_drop
        self.limit = 0.01 if limit is None else limit.limit(self.bench.reference("validation").values[0])

    @property
    def calibration(self) -> nncf.Dataset:
        """All calibration samples, as NNCF takes them."""
        return nncf.Dataset(self.samples)

    def scores(self, compiled: Any, indices: list[int] | None = None) -> np.ndarray:
        """Return the score of each validation item, of all or of some."""
        chosen = range(len(self.items)) if indices is None else indices
        name = self.bench.output_names[0]
        outputs = [np.array(compiled(self.items[index])[compiled.output(0)]) for index in chosen]
        scores = self.bench.metrics[0].per_item({name: outputs}, [self.labels[index] for index in chosen])
        assert scores is not None
        return scores

    def save(self, model: Any, name: str) -> Path:
        """Write a model as a user does."""
        path = self.folder / f"{name}.xml"
        runtime.save_model(model, path)
        return path

    def tried(self, model: Any, name: str, precision: str) -> Tried:
        """Return what all validation items and benchmark_app say of a model."""
        path = self.save(model, name)
        subject = ModelFile(path=str(path), inference_precision=precision)
        found = self.bench.evaluate(Task(bench=self.bench.spec, subject=subject, is_timed=False))
        assert isinstance(found, Evaluation), found
        latency_ms = benchmark_app(path, precision, self.items[0], seconds=2)
        return Tried(path, found.metrics[0].drop.value, found.divergence.value, latency_ms, precision)

    def best(self, tried: list[Tried]) -> Tried:
        """Return the model that ovquant's rule prefers, or the one of least drop where none is within the limit."""
        fitting = [one for one in tried if one.drop <= self.limit]
        if not fitting:
            return min(tried, key=lambda one: one.drop)
        return fitting[preferred([one.latency_ms for one in fitting], [one.divergence for one in fitting])]


def default(case: Case, model_type: nncf.ModelType | None = None) -> Tried:
    """NNCF's default, or that for a model type."""
    model = nncf.quantize(case.bench.model, case.calibration, model_type=model_type)
    name = "default" if model_type is None else model_type.value
    return Tried(case.save(model, name), np.nan, np.nan, np.nan, case.bench.own_precision)


def accuracy_control(case: Case) -> Tried:
    """NNCF's loop that gives layers back until the metric is within the limit."""
    whole = nncf.Dataset(list(range(len(case.items))), lambda index: case.items[index])

    def validate(compiled: Any, data: Any) -> tuple[float, list[float]]:
        scores = case.scores(compiled, list(data))  # NNCF hands over what the dataset was made of, not what it makes
        return float(scores.mean()), scores.tolist()

    model = nncf.quantize_with_accuracy_control(
        case.bench.model,
        case.calibration,
        whole,
        validate,
        max_drop=case.limit,
        drop_type=nncf.DropType.ABSOLUTE,
    )
    return Tried(case.save(model, "accuracy_control"), np.nan, np.nan, np.nan, case.bench.own_precision)


def best_preset(case: Case) -> Tried:
    """The best of NNCF's presets and model types."""
    start, tried = time.perf_counter(), []
    for model_type in (None, nncf.ModelType.TRANSFORMER):
        for preset in (nncf.QuantizationPreset.PERFORMANCE, nncf.QuantizationPreset.MIXED):
            if tried and time.perf_counter() - start > case.budget_s:
                break
            model = nncf.quantize(case.bench.model, case.calibration, preset=preset, model_type=model_type)
            tried.append(case.tried(model, f"preset{len(tried)}", case.bench.own_precision))
    return case.best(tried)


def tpe(case: Case) -> Tried:
    """Optuna's TPE on the target's genes; the layers' ones are left out, which are ovquant's own."""
    target = case.bench.spec.target
    space = build_space(target.model_copy(update={"genes": target.genes.model_copy(update={"layers": None})}), case.bench.facts())
    sampler = optuna.samplers.TPESampler(seed=case.job.seed, constraints_func=lambda trial: [trial.user_attrs["excess"]])
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    start = time.perf_counter()
    tried: dict[Strategy, Tried] = {}
    while not tried or time.perf_counter() - start < case.budget_s:
        trial = study.ask()
        labels = {gene.name: trial.suggest_categorical(gene.name, gene.labels) for gene in space.genes}
        strategy = space.strategy_from_genome(space.genome_from_labels(labels))
        if strategy not in tried:
            try:
                model = quantize(case.bench.model, strategy, case.samples[: strategy.subset_size], case.bench.operations)
                tried[strategy] = case.tried(model, f"tpe{len(tried)}", strategy.inference_precision)
            except Exception as error:  # outputs that are not finite, for one
                print(f"TPE: {type(error).__name__}: {error}", flush=True)
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                continue
        found = tried[strategy]
        trial.set_user_attr("excess", found.drop - case.limit)
        study.tell(trial, [found.divergence, found.latency_ms])
    print(f"TPE: {len(tried)} strategies", flush=True)
    return case.best(list(tried.values()))


def ovquant(case: Case, job: Path) -> Tried:
    """The search, from the command line."""
    output = case.folder / "ovquant"
    options = ["--budget", f"{case.budget_s:g}", "--seed", str(case.job.seed), "-o", str(output), "-q"]
    command = [sys.executable, "-m", "ovquant", "search", str(job), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not (output / "best").exists():
        raise RuntimeError(done.stderr)
    print(done.stdout, flush=True)
    path = output / "best" / "model.xml"
    precision = runtime.noted_precision(runtime.read_model(path)) or case.bench.own_precision
    return Tried(path, np.nan, np.nan, np.nan, precision)


PEERS: dict[str, Callable[[Case], Tried]] = {
    "NNCF default": default,
    "NNCF transformer": lambda case: default(case, nncf.ModelType.TRANSFORMER),
    "accuracy control": accuracy_control,
    "best preset": best_preset,
    "TPE": tpe,
}


def measured(bench: Workbench, models: dict[str, Tried], used_s: dict[str, float]) -> list[dict[str, Any]]:
    """Return the figures of all models, measured together; the last one is ovquant's, which each is compared with."""
    spec = bench.spec
    subjects = [FloatModel(inference_precision=bench.own_precision)]
    subjects += [ModelFile(path=str(tried.path), inference_precision=tried.precision) for tried in models.values()]
    comparison = bench.compare(ComparisonTask(bench=spec, subjects=tuple(subjects)))
    assert not isinstance(comparison, Failure), comparison
    tasks = [Task(bench=spec, subject=s, split="holdout", is_timed=False, has_intervals=True) for s in subjects]
    outcomes = bench.evaluate_all(tasks)
    mine = outcomes[-1]
    assert isinstance(mine, Evaluation), mine
    rows = []
    for name, outcome, latency in zip(["float", *models], outcomes, comparison.latencies, strict=True):
        assert isinstance(outcome, Evaluation), outcome
        less = less_divergence(mine, outcome)
        assert less is not None
        speedup = relative_speedup(latency, comparison.latencies[0])
        rows.append(
            {
                "name": name,
                "metric": outcome.metrics[0].value,
                "drop": dataclasses.asdict(outcome.metrics[0].drop),
                "divergence": dataclasses.asdict(outcome.divergence),
                "speedup": dataclasses.asdict(speedup),
                "less_divergence": dataclasses.asdict(less),
                "relative_speed": dataclasses.asdict(relative_speedup(comparison.latencies[-1], latency)),
                "used_s": used_s.get(name, 0.0),
            }
        )
    return rows


def told(rows: list[dict[str, Any]]) -> None:
    """Print a table, and who dominates whom."""
    print(f"{'':20s}{'metric':>8s}{'drop [95 %]':>28s}{'divergence [95 %]':>32s}{'speed-up [95 %]':>24s}{'used s':>8s}")
    for row in rows:
        drop, divergence, speedup = (row[name] for name in ("drop", "divergence", "speedup"))
        print(
            f"{row['name']:20s}{row['metric']:8.4f}"
            + f"{drop['value']:+.4f} [{drop['low']:+.4f}, {drop['high']:+.4f}]".rjust(28)
            + f"{divergence['value']:.4g} [{divergence['low']:.4g}, {divergence['high']:.4g}]".rjust(32)
            + f"{speedup['value']:.2f} [{speedup['low']:.2f}, {speedup['high']:.2f}]".rjust(24)
            + f"{row['used_s']:8.0f}"
        )
    mine = rows[-1]["name"]
    for row in rows[1:-1]:
        less, speed = row["less_divergence"], row["relative_speed"]
        words = f"{row['name']}: neither dominates"
        if less["value"] > 0 and speed["value"] >= 1:
            words = f"{mine} dominates {row['name']}"
        elif less["value"] < 0 and speed["value"] <= 1:
            words = f"{row['name']} dominates {mine}"
        print(
            f"{words}; {mine}'s diverges by {less['value']:.2g} [{less['low']:.2g}, {less['high']:.2g}] less, "
            f"at {speed['value']:.3f}x [{speed['low']:.3f}, {speed['high']:.3f}] its speed"
        )


def compared(path: Path, budget_s: float, names: list[str], seed: int | None) -> list[dict[str, Any]]:
    """Run peers and ovquant on a job, print and return their figures."""
    ways = {name: PEERS[name] for name in names} | {"ovquant": lambda case: ovquant(case, path)}
    with tempfile.TemporaryDirectory() as folder:
        case = Case(load_job(path, {"seed": seed}), Path(folder), budget_s)
        models, used_s = {}, {}
        for name, way in ways.items():
            start = time.perf_counter()
            try:
                models[name] = way(case)
            except Exception as error:  # a peer that fails is a result
                print(f"{name} failed: {type(error).__name__}: {error}", flush=True)
            used_s[name] = time.perf_counter() - start
            print(f"{name}: {used_s[name]:.0f} s", flush=True)
        print(f"{path.name}: {case.job.model}, seed {case.job.seed}, limit {case.limit:.4f}")
        if "ovquant" not in models:
            raise SystemExit("there is no model of ovquant's to compare with")
        rows = measured(case.bench, models, used_s)
        told(rows)
        case.bench.close()
    return rows


def told_means(splits: list[list[dict[str, Any]]]) -> None:
    """Print means over splits."""
    for name in dict.fromkeys(row["name"] for rows in splits for row in rows):
        mine = [row for rows in splits for row in rows if row["name"] == name]
        means = {key: np.mean([row[key]["value"] for row in mine]) for key in ("drop", "divergence", "speedup", "relative_speed")}
        print(f"{name:20s}mean of {len(mine)}: " + ", ".join(f"{key} {value:.4g}" for key, value in means.items()))


def main() -> None:
    """Run all peers on all jobs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", type=Path, nargs="+")
    parser.add_argument("--budget", type=float, default=180.0, help="seconds for each peer")
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--splits", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    figures: dict[str, list[list[dict[str, Any]]]] = {}
    for path in arguments.jobs:
        seeds = [None] if arguments.splits == 1 else list(range(arguments.splits))
        figures[path.name] = []
        for seed in seeds:
            figures[path.name].append(compared(path, arguments.budget, arguments.peers, seed))
            if arguments.json is not None:
                arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
        if arguments.splits > 1:
            told_means(figures[path.name])


if __name__ == "__main__":
    main()
