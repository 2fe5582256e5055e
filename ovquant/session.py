"""A job made ready: target, device, model, data, space and rules, checked before any work is done."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovquant import inspection, runtime, seeding
from ovquant.choices import nncf_default
from ovquant.cluster import ClusterExecutor
from ovquant.datasets.splits import fingerprint as data_fingerprint
from ovquant.devices import Device, resolve_device
from ovquant.environment import describe_host, versions
from ovquant.evaluation import Workbench, open_bench
from ovquant.inspection import Inspection
from ovquant.job import Job, MetricSpec, split_entry, with_absolute_paths
from ovquant.loop import Plan
from ovquant.objectives import Rules
from ovquant.protocols import Executor
from ovquant.recipe import Recipe, made, recipe_from
from ovquant.runtime import file_sha256, model_sha256
from ovquant.space import Genome, SearchSpace
from ovquant.strategy import Strategy
from ovquant.study import Study
from ovquant.targets import Target, load_target
from ovquant.tasks import Bench, BenchSpec

# Where data lies, which does not matter as long as its contents are the same.
_PLACES = {"path", "calibration", "holdout", "annotations", "masks"}

JOB_FILE = "job.yaml"
TARGET_FILE = "target.yaml"
INSPECTION_FILE = "inspection.json"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What the commands on a job share.

    Attributes:
        job: resolved.
        target: profile.
        device: the one that is used.
        bench: what candidates are evaluated on.
        space: what is searched.
        rules: objectives and constraints.
        default: NNCF's default strategy here.
        seeds: genomes that the first generation begins with.
        recipes: those of them that earlier searches found, and where each comes from.
        neighbours: genomes near the seeds, tried next.
        opened: what there is to know of model and data.
        is_default_in_space: whether the target allows `default`.
        inspected: which layers may be better off in float, where the target asks for genes of layers.
    """

    job: Job
    target: Target
    device: Device
    bench: BenchSpec
    opened: Bench
    space: SearchSpace
    rules: Rules
    default: Strategy
    seeds: tuple[Genome, ...]
    recipes: dict[Genome, str]
    neighbours: tuple[Genome, ...]
    is_default_in_space: bool
    inspected: Inspection | None

    @property
    def measured_on(self) -> dict[str, Any] | None:
        """The machine that latency is measured on, as JSON values; None is this one."""
        site = self.device.site
        return None if site is None else site.identity()

    def plan(self) -> Plan:
        """Return what the search loop needs."""
        return Plan(
            bench=self.bench,
            rules=self.rules,
            default=self.default,
            is_default_in_space=self.is_default_in_space,
            own_precision=self.opened.own_precision,
            max_trials=self.job.max_trials,
            budget_s=self.job.budget,
            stop_at=self.job.stop_at,
        )

    def open_study(self, path: Path) -> Study:
        """Return the study at `path`, new or continued."""
        return Study(
            path,
            rules=self.rules,
            space=self.space,
            seeds=self.seeds,
            recipes=self.recipes,
            neighbours=self.neighbours,
            seed=self.job.seed,
            population=self.job.population_size,
        )

    def fingerprint(self) -> dict[str, Any]:
        """Return what a study is made of; two runs with equal fingerprints continue each other."""
        job = self.job
        content: dict[str, Any] = {
            "model": model_sha256(Path(job.model)),
            "data": data_fingerprint(job.data),
            "data options": job.data.model_dump(mode="json", exclude=_PLACES),
            "target": self.target.model_dump(mode="json"),
            "device": self.device.name,
            "search space": self.space.digest,
            "metrics": [metric.model_dump(mode="json") for metric in job.metrics],
            "code of metrics": _code_of(job.metrics),
            "max_divergence": job.max_divergence,
            "output_kinds": dict(job.output_kinds),
            "objective": job.objective.model_dump(mode="json"),
            "population": job.population,
            "recipes": [source.strategy.model_dump(mode="json") for source in job.recipes if source.strategy] or None,
            "seed": job.seed,
            "versions": {name: version for name, version in versions().items() if name in {"openvino", "nncf"}},
            "measured on": self.measured_on,
        }
        normalized: dict[str, Any] = json.loads(json.dumps(content))
        return normalized

    def recipe(self, strategy: Strategy, graph_digest: str) -> Recipe:
        """Return the recipe of one of the job's strategies."""
        hashes = model_sha256(Path(self.job.model))
        return recipe_from(
            strategy,
            target=self.target,
            data=self.job.data,
            calibration=self.opened.split.calibration,
            made=made(
                strategy,
                self.opened.facts.operations,
                model_sha256=hashes[Path(self.job.model).name],
                graph_digest=graph_digest,
                versions=versions(),
            ),
            notes=self.device.notes,
        )

    def manifest(self) -> dict[str, Any]:
        """Return the part of a manifest that is common to all trials: what the job was run on."""
        return {
            "model": {"name": Path(self.job.model).name, "sha256": model_sha256(Path(self.job.model))},
            "data": {
                "sha256": data_fingerprint(self.job.data),
                "seed": self.job.seed,
                "items": self.opened.n_items,
            },
            "target": self.target.model_dump(mode="json"),
            "device": {"name": self.device.name, "full_name": self.device.full_name, "notes": list(self.device.notes)},
            "own_precision": self.opened.own_precision,
            "output_kinds": dict(self.opened.output_kinds),
            "host": describe_host(),
            "versions": versions(),
            # Without the address: a package goes to other people.
            "measured_on": self.measured_on and {key: told for key, told in self.measured_on.items() if key != "address"},
        }


def open_session(job: Job, model_dir: Path, output: Path, executor: Executor) -> Session:
    """Return a job made ready; model, data and device are opened and checked, the reference is run on both splits.

    Args:
        job: what to do.
        model_dir: a directory for candidate IRs and all that is computed once; the caller removes it.
        output: directory of the study, where an inspection may be kept.
        executor: where to.

    Raises:
        OvquantError: anything that would make the search pointless.
    """
    found = seeding.known(job.recipes)
    device, bench = bench_of(job, model_dir, executor)
    opened, target = executor.open(bench), bench.target
    facts, inspected = opened.facts, None
    if target.genes.layers is not None:
        kept = inspection.stored(output / INSPECTION_FILE, inspected_on(bench, opened))
        inspected = kept or executor.inspect(bench)
        facts = dataclasses.replace(facts, layers=inspected.promising())
    warm = seeding.warm_start(found, target, facts)
    space, default = warm.space, nncf_default(target, facts)
    first, transformer = _held(space, default), _held(space, nncf_default(target, facts, model_type="transformer"))
    unsaturated = _held(space, nncf_default(target, facts, overflow_fix="enable")) if facts.may_saturate else ()
    return Session(
        job=job.model_copy(update={"recipes": warm.sources}),
        target=target,
        device=device,
        bench=bench,
        opened=opened,
        space=space,
        rules=Rules(
            objective=job.objective,
            metrics=job.metrics,
            metric_directions=opened.metric_directions,
            max_divergence=job.max_divergence,
        ),
        default=default,
        seeds=(*first, *warm.seeds, *transformer, *unsaturated),
        recipes=warm.seeds,
        neighbours=_neighbours(space, unsaturated or first),
        is_default_in_space=bool(first),
        inspected=inspected,
    )


def bench_of(job: Job, model_dir: Path, executor: Executor | None = None) -> tuple[Device, BenchSpec]:
    """Return the device of a job, and what candidates are evaluated on; in a cluster, that is the device of its workers.

    Raises:
        OvquantError: target or device cannot be used.
    """
    target = load_target(job.target)
    if isinstance(executor, ClusterExecutor):
        found: Device = executor.on_targets(resolve_device, target, job.device)
        device = dataclasses.replace(found, notes=(*found.notes, f"Evaluated by {executor.describe()}."))
    else:
        device = resolve_device(target, job.device, job.address, model_dir)
    absolute = with_absolute_paths(job, Path.cwd())
    return device, BenchSpec(
        model=absolute.model,
        target=target,
        device=device.here,
        data=absolute.data,
        seed=job.seed,
        metrics=absolute.metrics,
        output_kinds=dict(job.output_kinds),
        model_dir=str(model_dir),
        site=device.site,
    )


def open_workbench(job: Job, model_dir: Path) -> tuple[Device, Workbench]:
    """Return the device of a job, and its model and data, opened in this process and checked; no sample is read yet.

    Raises:
        OvquantError: they cannot be used, or there is nothing to quantize.
    """
    device, bench = bench_of(job, model_dir)
    workbench = open_bench(bench)
    runtime.require_quantizable(workbench.model, Path(job.model))
    return device, workbench


def _code_of(metrics: Sequence[MetricSpec]) -> dict[str, str]:
    """Return file -> SHA-256 of the Python files that metrics name."""
    entries = [split_entry(text) for metric in metrics for text in (metric.name, metric.decode or "")]
    return {str(entry[0]): file_sha256(entry[0]) for entry in entries if entry is not None}


def inspected_on(bench: BenchSpec, opened: Bench) -> dict[str, Any]:
    """Return what an inspection depends on."""
    return {
        "model": model_sha256(Path(bench.model)),
        "data": data_fingerprint(bench.data),
        "data options": bench.data.model_dump(mode="json", exclude=_PLACES),
        "output_kinds": dict(opened.output_kinds),
        "seed": bench.seed,
        "target": bench.target.model_dump(mode="json"),
        "device": bench.device,
        "measured on": None if bench.site is None else bench.site.identity(),
        "versions": {name: version for name, version in versions().items() if name in {"openvino", "nncf"}},
    }


def _neighbours(space: SearchSpace, near: tuple[Genome, ...]) -> tuple[Genome, ...]:
    """Return what is near a seed, if there is one: after the model type, what stays in float decides most.

    The target's own choices, in the order that it lists them in, and the most promising layers take turns.
    """
    if not near:
        return ()
    pairs = itertools.zip_longest(space.neighbours(near[0], "ignored_scope"), space.leading(near[0]))
    return tuple(genome for pair in pairs for genome in pair if genome is not None)


def _held(space: SearchSpace, strategy: Strategy) -> tuple[Genome, ...]:
    """Return the genome of a strategy; none if the space does not hold it."""
    try:
        return (space.genome_from_strategy(strategy),)
    except ValueError:
        return ()
