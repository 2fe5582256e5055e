"""Candidates per hour of ovquant's engine against a loop of `nncf.quantize` as a competent user would write it.

    python tests/benchmarks/engine_benchmark.py JOB.yaml [--strategies 40] [--accurate 0] [--plain] [--contained] [--profile]

Both evaluate the strategies of ``strategies.json`` that apply to the job's model, in the same order, group by group in turns,
each in a process of its own. The loop calls `nncf.quantize`, runs all validation items one after the other and times the
model by ``benchmark_app -hint latency -t 5``. ``--accurate N`` adds N of them once more with accurate bias correction;
``--plain`` runs the engine once more without racing and without the reuse of equal models, ``--contained`` once more in a worker
process, as a search does; ``--profile`` repeats some of the
strategies under a profiler and tells how much of the time is ovquant's own Python code; ``--no-loop`` leaves the loop out, for
what has nothing to do with it; ``--json FILE`` writes the figures. Let nothing else run meanwhile.
"""

from __future__ import annotations

import argparse
import cProfile
import dataclasses
import json
import multiprocessing
import pstats
import re
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmark_app_agreement import benchmark_app as median_ms

from ovquant import quantization, runtime, selection
from ovquant.candidate import Memory
from ovquant.contained import ContainedExecutor
from ovquant.evaluation import Workbench, open_bench
from ovquant.executor import InProcessExecutor
from ovquant.inference import CompiledModel
from ovquant.job import Job, load_job, with_absolute_paths
from ovquant.objectives import Rules
from ovquant.protocols import Executor, Sample
from ovquant.records import Evaluation, Trial, strategy_from_json
from ovquant.scopes import resolve
from ovquant.strategy import Strategy
from ovquant.targets import load_target
from ovquant.tasks import BenchSpec, Race, Rival, Task, rival_of
from ovquant.worker import share_arenas

STRATEGIES = Path(__file__).with_name("strategies.json")
GROUP = 10
TOGETHER = 4
PROFILED = 12
# Attributes of OpenVINO's objects are made when they are read, and booked on who reads them: these do nothing else.
READING = {("inference.py", "_outputs")}


def bench_spec(job: Job, folder: Path) -> BenchSpec:
    """Return what both sides evaluate on."""
    absolute = with_absolute_paths(job, Path.cwd())
    return BenchSpec(
        model=absolute.model, target=load_target(job.target), device="CPU", data=absolute.data, seed=job.seed,
        metrics=absolute.metrics, output_kinds=dict(job.output_kinds), model_dir=str(folder),
    )  # fmt: skip


def rules_of(job: Job) -> Rules:
    """Return what the job asks for."""
    return Rules(
        objective=job.objective, metrics=job.metrics, metric_directions=("maximize",) * len(job.metrics),
        max_divergence=job.max_divergence,
    )  # fmt: skip


class Naive:
    """The loop."""

    def __init__(self, spec: BenchSpec, rules: Rules) -> None:
        self.bench = Workbench(spec)
        self.folder = Path(spec.model_dir)
        self.samples = list(self.bench.samples.samples("calibration"))
        self.items = list(self.bench.samples.samples("validation"))
        self.seconds: dict[str, float] = {}

    def run(self, strategies: Sequence[Strategy]) -> list[dict[str, Any]]:
        """Evaluate strategies one by one."""
        return [self._evaluate(strategy) for strategy in strategies]

    def _evaluate(self, strategy: Strategy) -> dict[str, Any]:
        path = self.folder / "model.xml"

        def quantize() -> str:
            model = quantization.quantize(self.bench.model, strategy, self.samples[: strategy.subset_size], self.bench.operations)
            runtime.save_model(model, path)
            return runtime.graph_digest(runtime.read_model(path))

        digest = self._timed("quantize", quantize)
        self._timed("validate", lambda: self._validate(path, strategy))
        self._timed("latency", lambda: benchmark_app(path, strategy.inference_precision, self.items[0]))
        return {"digest": strategy.digest, "graph": digest, "items": len(self.items)}

    def _validate(self, path: Path, strategy: Strategy) -> None:
        properties = {"PERFORMANCE_HINT": "LATENCY"}
        compiled = CompiledModel(runtime.read_model(path), "CPU", properties, strategy.inference_precision)
        outputs = [compiled.infer(sample) for sample in self.items]
        np.array([output[self.bench.output_names[0]].argmax() for output in outputs])

    def _timed(self, stage: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
        return result


def benchmark_app(path: Path, precision: str, sample: Sample, seconds: int = 5) -> float:
    """Return the median latency in ms that benchmark_app prints of a model of any shape."""
    extra = ["-infer_precision", precision]
    if any(None in (info.shape or (None,)) for info in runtime.input_infos(runtime.read_model(path))):
        shapes = (f"{name}[{','.join(map(str, array.shape))}]" for name, array in sample.items())
        extra += ["-data_shape", ",".join(shapes)]
    return median_ms(path, seconds, extra)


class Engine:
    """The engine, fed as the search does it."""

    def __init__(
        self, spec: BenchSpec, rules: Rules, executor: Executor, *, is_plain: bool = False, is_threaded: bool = True
    ) -> None:
        self.spec = spec
        self.executor = executor
        self.rules = rules
        self.is_plain = is_plain
        self.is_threaded = is_threaded
        self.rivals: list[Rival] = []
        self.seconds: dict[str, float] = {}
        self.structures: set[str | None] = set()

    def run(self, strategies: Sequence[Strategy]) -> list[dict[str, Any]]:
        """Evaluate a generation."""
        if self.is_threaded:
            self.executor.announce(self.spec, [Task(bench=self.spec, subject=strategy) for strategy in strategies])
        found = []
        for start in range(0, len(strategies), TOGETHER):
            race = None if self.is_plain else Race(rules=self.rules, rivals=tuple(self.rivals))
            members = strategies[start : start + TOGETHER]
            outcomes = self.executor.submit([Task(bench=self.spec, subject=s, race=race) for s in members])
            for strategy, outcome in zip(members, outcomes, strict=True):
                found.append(self._settled(strategy, outcome))
            if self.is_plain:
                open_bench(self.spec)._memory = Memory()
        return found

    def _settled(self, strategy: Strategy, outcome: Any) -> dict[str, Any]:
        if not isinstance(outcome, Evaluation):
            return {"digest": strategy.digest, "graph": None, "items": 0, "failure": outcome.message}
        for stage, seconds in outcome.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        self.structures.add(outcome.structure)
        self.rivals.extend(filter(None, [rival_of(strategy, outcome, self.rules)]))
        is_built = outcome.raced is None or outcome.raced.reason != "screened"
        items = 0 if outcome.same_as is not None else outcome.n_items
        return {
            "digest": strategy.digest,
            "graph": outcome.graph_digest if is_built else None,
            "outcome": outcome,
            "items": items,
            "stopped": None if outcome.raced is None else outcome.raced.reason,
            "same": outcome.same_as is not None,
        }


def serve(pipe: Any, kind: str, job: Job, folder: Path, is_profiled: bool) -> None:
    """Run in a process of its own: evaluate what comes through the pipe, answer with results and figures."""
    spec = bench_spec(job, folder)
    rules = rules_of(job)
    # Profiled without the thread that builds ahead: time that a thread waits for the other one would count as its own.
    if kind == "naive":
        side: Any = Naive(spec, rules)
    else:
        share_arenas()  # as in the process that a search evaluates in
        executor: Executor = ContainedExecutor(folder) if kind == "contained" else InProcessExecutor()
        executor.open(spec)
        side = Engine(spec, rules, executor, is_plain=kind == "plain", is_threaded=not is_profiled)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pipe.send(None)
    profiles: list[cProfile.Profile] = []
    if is_profiled:
        profile_all(profiles)
    while (strategies := pipe.recv()) is not None:
        start = time.perf_counter()
        results = side.run(strategies)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        pipe.send((results, time.perf_counter() - start, dict(side.seconds), base, peak, shares(profiles), longest(profiles)))
    if kind != "naive":
        side.executor.close()


def profile_all(profiles: list[cProfile.Profile]) -> None:
    """Profile this thread and all that begin after it."""

    def begin(*_: Any) -> None:
        profile = cProfile.Profile()
        profiles.append(profile)
        profile.enable()

    threading.setprofile(begin)
    begin()


def shares(profiles: Sequence[cProfile.Profile]) -> dict[str, float]:
    """Return seconds of Python code by package (what functions take themselves, calls of others not counted)."""
    found: dict[str, float] = {}
    for profile in profiles:
        entries: Any = pstats.Stats(profile).stats  # type: ignore[attr-defined]
        for (path, _, function), (_, _, own_s, _, _) in entries.items():
            match = re.search(r"/(ovquant|nncf|openvino|numpy|networkx)/", path)
            name = match[1] if match else ("native calls" if path == "~" else "other Python")
            name = "openvino" if (Path(path).name, function) in READING else name
            found[name] = found.get(name, 0.0) + own_s
    return found


def longest(profiles: Sequence[cProfile.Profile], n: int = 10) -> dict[str, str]:
    """Return ovquant's own functions that take most: seconds of themselves, and calls."""
    found: dict[str, tuple[float, int]] = {}
    for profile in profiles:
        entries: Any = pstats.Stats(profile).stats  # type: ignore[attr-defined]
        for (path, line, function), (_, n_calls, own_s, _, _) in entries.items():
            if "/ovquant/" in path:
                name = f"{Path(path).stem}:{line} {function}"
                before = found.get(name, (0.0, 0))
                found[name] = (before[0] + own_s, before[1] + n_calls)
    ordered = sorted(found.items(), key=lambda pair: -pair[1][0])[:n]
    return {name: f"{seconds:.2f} s in {n_calls} calls" for name, (seconds, n_calls) in ordered}


class Side:
    """A process that evaluates."""

    def __init__(self, kind: str, job: Job, folder: Path, *, is_profiled: bool = False) -> None:
        context = multiprocessing.get_context("spawn")
        self.kind = kind
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=serve, args=(theirs, kind, job, folder / kind, is_profiled), daemon=kind != "contained"
        )
        self._process.start()
        self._pipe.recv()
        self.wall_s = 0.0
        self.results: list[dict[str, Any]] = []
        self.seconds: dict[str, float] = {}
        self.memory_kb = (0, 0)
        self.shares: dict[str, float] = {}
        self.longest: dict[str, str] = {}

    def run(self, strategies: Sequence[Strategy]) -> None:
        """Evaluate a group."""
        self._pipe.send(list(strategies))
        results, wall_s, self.seconds, base, peak, self.shares, self.longest = self._pipe.recv()
        self.results += results
        self.wall_s += wall_s
        self.memory_kb = (base, peak)
        print(f"{self.kind}: {len(strategies)} in {wall_s:.1f} s", flush=True)

    def close(self) -> None:
        """End the process."""
        self._pipe.send(None)
        self._process.join()

    def report(self, n_items: int) -> dict[str, Any]:
        """Return figures, and print them."""
        run = sum(result["items"] for result in self.results)
        figures = {
            "candidates per hour": round(len(self.results) / self.wall_s * 3600, 1),
            "wall s": round(self.wall_s, 1),
            "stages s": {name: round(seconds, 1) for name, seconds in self.seconds.items()},
            "peak MB": round(self.memory_kb[1] / 1024),
            "peak MB before": round(self.memory_kb[0] / 1024),
            "validation items run": f"{run / max(1, n_items * len(self.results)):.0%}",
            "stopped": sum(result.get("stopped") is not None for result in self.results),
            "equal models": sum(bool(result.get("same")) for result in self.results),
        }
        print(self.kind, json.dumps(figures), flush=True)
        return figures


def winner(side: Side, timed: Side, strategies: Sequence[Strategy], rules: Rules) -> str:
    """Return the strategy that a search would name by the latencies of one side, which differ from run to run in any case."""
    measured = [result.get("outcome") for result in timed.results]
    latencies = {outcome.structure: outcome.latency for outcome in measured if outcome is not None}
    trials = []
    for number, (strategy, result) in enumerate(zip(strategies, side.results, strict=True)):
        if (outcome := result.get("outcome")) is not None:
            outcome = dataclasses.replace(outcome, latency=latencies.get(outcome.structure, outcome.latency))
            trials.append(
                Trial(
                    number=number,
                    role="candidate",
                    generation=0,
                    parents=(),
                    code=None,
                    strategy=strategy,
                    outcome=outcome,
                    objectives=None,
                    violation=rules.violation(outcome),
                    fitness=rules.fitness(outcome),
                )
            )
    found = selection.best(trials, rules)
    return "none that is feasible" if found is None or found.strategy is None else found.strategy.describe()


def chosen(job: Job, n_strategies: int, n_accurate: int) -> list[Strategy]:
    """Return the strategies that apply to the job's model."""
    operations = runtime.operations(runtime.read_model(Path(job.model)))
    every = [strategy_from_json(entry) for entry in json.loads(STRATEGIES.read_text())]
    fitting = [s for s in every if s.ignored_scope.is_empty or resolve(s.ignored_scope, operations)][:n_strategies]
    spread = fitting[:: max(1, len(fitting) // max(1, n_accurate))][:n_accurate]
    return [*fitting, *(dataclasses.replace(s, fast_bias_correction=False, disable_bias_correction=False) for s in spread)]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path)
    parser.add_argument("--strategies", type=int, default=40)
    parser.add_argument("--accurate", type=int, default=0)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--contained", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--no-loop", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    job = load_job(arguments.job, {})
    strategies = chosen(job, arguments.strategies, arguments.accurate)
    print(f"{len(strategies)} strategies, {len({s.digest for s in strategies})} digests", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        kinds = [*([] if arguments.no_loop else ["naive"]), "engine", *(["plain"] if arguments.plain else [])]
        kinds += ["contained"] if arguments.contained else []
        sides = [Side(kind, job, Path(folder)) for kind in kinds]
        for start in range(0, len(strategies), GROUP):
            for side in sides:
                side.run(strategies[start : start + GROUP])
            ratios = {side.kind: round(sides[0].wall_s / side.wall_s, 2) for side in sides[1:]}
            print(f"after {len(sides[0].results)}: time of {sides[0].kind} over that of others {ratios}", flush=True)
        for side in sides:
            side.close()
        profiled = None
        if arguments.profile:
            profiled = Side("engine", job, Path(folder) / "profiled", is_profiled=True)
            profiled.run(strategies[:PROFILED])
            profiled.close()
    first = sides[0]
    n_items = max(result["items"] for side in sides for result in side.results)
    figures = {side.kind: side.report(n_items) for side in sides}
    graphs = {result["digest"]: result["graph"] for result in first.results}
    for side in sides[1:]:
        built = [result for result in side.results if result["graph"] is not None and graphs[result["digest"]] is not None]
        equal = sum(result["graph"] == graphs[result["digest"]] for result in built)
        ratio = first.wall_s / side.wall_s
        print(
            f"{side.kind}: {ratio:.2f}x the candidates per hour of {first.kind}; {equal} of {len(built)} models equal bit for bit"
        )
        figures[side.kind] |= {"ratio": round(ratio, 2), "equal": equal, "built": len(built)}
    for side in sides[0 if arguments.no_loop else 1 :]:
        print(f"{side.kind}: winner {winner(side, sides[-1], strategies, rules_of(job))}")
    if profiled is not None:
        own = profiled.shares.get("ovquant", 0.0) / profiled.wall_s
        print(f"profile of {PROFILED} strategies, {profiled.wall_s:.1f} s: ovquant's own Python code {own:.1%} of the wall time")
        print({name: round(seconds, 2) for name, seconds in sorted(profiled.shares.items(), key=lambda pair: -pair[1])})
        print(profiled.longest)
        figures["profile"] = profiled.shares | {"wall": profiled.wall_s}
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
