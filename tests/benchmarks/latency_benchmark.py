"""How far ratios of latencies can be trusted.

    python tests/benchmarks/latency_benchmark.py spread FLOAT.xml QUANTIZED.xml [--repeats 12] [--seconds 0.25 0.5 1 2 4]
    python tests/benchmarks/latency_benchmark.py verdicts FLOAT.xml QUANTIZED.xml [--verdicts 20] [--busy]

``spread`` measures the ratio of both models again and again, in turns and one model after the other, with nothing else running
and with one core kept busy, and prints how much the ratios of equal effort differ. ``verdicts`` measures it as the final
timing of a search does, with runs of ``benchmark_app -hint latency`` in between, and counts how many of the intervals hold the
ratio of all those runs together: 20 of them take about an hour. Both models must have one input with a static shape.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from benchmark_app_agreement import PROPERTIES, benchmark_app

from ovquant import runtime
from ovquant.inference import CompiledModel
from ovquant.latency import summarize
from ovquant.records import Latency
from ovquant.targets import MeasurementPlan, load_target
from ovquant.turns import SystemClock, measure

BENCHMARK_APP_S = 5.0


def runners_of(models: Mapping[str, Path]) -> dict[str, Callable[[], None]]:
    """Return one inference of each model, on the same random input."""
    found = {}
    for name, path in models.items():
        model = runtime.read_model(path)
        (info,) = runtime.input_infos(model)
        shape = [side for side in info.shape or () if side is not None]
        sample = {info.name: np.random.default_rng(0).normal(size=shape).astype(info.dtype)}
        found[name] = CompiledModel(model, "CPU", PROPERTIES).runner(sample)
    return found


def _spin() -> None:
    while True:
        pass


@contextlib.contextmanager
def busy_core(is_wanted: bool) -> Iterator[None]:
    """Keep one core busy meanwhile."""
    process = multiprocessing.get_context("spawn").Process(target=_spin, daemon=True)
    if is_wanted:
        process.start()
    try:
        yield
    finally:
        if is_wanted:
            process.kill()


def paired(runners: Mapping[str, Callable[[], None]], plan: MeasurementPlan) -> Latency:
    """Return the latency of the quantized model over the float one's, in turns."""
    return summarize(measure(runners, plan, SystemClock()), "quantized", 0)


def unpaired(runners: Mapping[str, Callable[[], None]], plan: MeasurementPlan) -> float:
    """Return the ratio of latencies that were measured one model after the other."""
    alone = {name: measure({name: run}, plan, SystemClock()).medians_s(name) for name, run in runners.items()}
    return float(np.median(alone["quantized"]) / np.median(alone["float"]))


def spread(runners: Mapping[str, Callable[[], None]], seconds: list[float], repeats: int) -> None:
    """Print how ratios of equal effort differ: the distance of their quartiles, and of their extremes, over their median."""
    print(f"{'':10s}{'s per model':>12s}{'paired':>20s}{'unpaired':>20s}   (quartiles, extremes)")
    for is_busy in (False, True):
        with busy_core(is_busy):
            for effort in seconds:
                plan = MeasurementPlan(visits=12, burst=max(4, int(effort * 100)), discard=3, seconds=effort, tolerance=1e-9)
                pairs = [(paired(runners, plan).ratio.value, unpaired(runners, plan)) for _ in range(repeats)]
                cells = []
                for column in np.array(pairs).T:
                    low, middle, high = np.percentile(column, [25, 50, 75])
                    cells.append(f"{(high - low) / middle:8.1%} {np.ptp(column) / middle:8.1%}")
                print(
                    f"{'busy core' if is_busy else 'idle':10s}{effort:12.2f}" + "".join(f"{cell:>20s}" for cell in cells),
                    flush=True,
                )


def verdicts(models: Mapping[str, Path], n_verdicts: int) -> None:
    """Print each verdict's interval and how many hold the pooled ratio of benchmark_app."""
    runners = runners_of(models)
    plan = load_target("cpu").measurement.verdict
    runs: list[dict[str, float]] = []
    found = []
    for index in range(n_verdicts):
        runs.append({name: benchmark_app(path, BENCHMARK_APP_S) for name, path in models.items()})
        latency = paired(runners, plan)
        found.append(latency.speedup)
        app = runs[-1]["float"] / runs[-1]["quantized"]
        interval = f"{latency.speedup.value:.3f} [{latency.speedup.low:.3f}, {latency.speedup.high:.3f}]"
        print(f"{index + 1:3d}  verdict {interval}  benchmark_app {app:.3f}  {latency.unstable or ''}", flush=True)
    pooled = float(np.median([run["float"] for run in runs]) / np.median([run["quantized"] for run in runs]))
    n_held = sum(interval.low <= pooled <= interval.high for interval in found)
    half = [(interval.high - interval.low) / 2 / interval.value for interval in found]
    print(f"pooled ratio of benchmark_app {pooled:.3f}; {n_held} of {n_verdicts} intervals hold it")
    print(f"half-widths: median {np.median(half):.1%}, from {min(half):.1%} to {max(half):.1%}")


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["spread", "verdicts"])
    parser.add_argument("float_model", type=Path)
    parser.add_argument("quantized_model", type=Path)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--seconds", type=float, nargs="+", default=[0.25, 0.5, 1.0, 2.0, 4.0])
    parser.add_argument("--verdicts", type=int, default=20)
    parser.add_argument("--busy", action="store_true")
    arguments = parser.parse_args()
    models = {"float": arguments.float_model, "quantized": arguments.quantized_model}
    if arguments.what == "spread":
        spread(runners_of(models), arguments.seconds, arguments.repeats)
        return
    with busy_core(arguments.busy):
        verdicts(models, arguments.verdicts)


if __name__ == "__main__":
    main()
