"""Compare ovquant's latency measurement with OpenVINO's benchmark_app, alternating in one run.

    python tests/benchmarks/benchmark_app_agreement.py FLOAT.xml QUANTIZED.xml [--rounds 6] [--seconds 3]

Both models must have one input with a static shape. Every round runs ``benchmark_app -hint latency`` on each model and
ovquant's measurement of both in turns; medians over rounds and their extremes are printed, in ms, and the ratio of the models.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ovquant import runtime
from ovquant.inference import CompiledModel
from ovquant.targets import MeasurementPlan
from ovquant.turns import SystemClock, measure

PROPERTIES = {"PERFORMANCE_HINT": "LATENCY"}
_UNITS = {"ms": 1.0, "us": 1e-3}


def benchmark_app(model: Path, seconds: float, extra: Sequence[str] = ()) -> float:
    """Return the median latency that benchmark_app prints, in ms."""
    command = ["benchmark_app", "-m", str(model), "-hint", "latency", "-t", str(max(1, round(seconds))), *extra]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Median:\s+([\d.]+)\s+(ms|us)", text)
    if found is None:
        raise RuntimeError(f"no median in the output of {' '.join(command)}")
    return float(found[1]) * _UNITS[found[2]]


def ours(models: Sequence[Path], seconds: float) -> list[float]:
    """Return the median latency of each model, measured in turns, in ms."""
    rng = np.random.default_rng(0)
    runners = {}
    for path in models:
        model = runtime.read_model(path)
        (info,) = runtime.input_infos(model)
        if info.shape is None or None in info.shape:
            raise SystemExit(f"{path}: input {info.name!r} has a dynamic shape")
        shape = [side for side in info.shape if side is not None]
        sample = {info.name: rng.integers(0, 255, size=shape).astype(info.dtype)}
        runners[str(path)] = CompiledModel(model, "CPU", PROPERTIES).runner(sample)
    plan = MeasurementPlan(visits=20, burst=25, discard=5, seconds=seconds)
    turns = measure(runners, plan, SystemClock())
    return [float(np.median(turns.medians_s(str(path)))) * 1e3 for path in models]


def line(name: str, pairs: Sequence[tuple[float, float]]) -> str:
    """Return medians and extremes over rounds."""
    columns = [*np.array(pairs).T, np.array([first / second for first, second in pairs])]
    cells = [f"{np.median(c):8.3f} [{c.min():.3f}, {c.max():.3f}]" for c in columns]
    return f"{name:24s}" + "".join(f"{cell:>28s}" for cell in cells)


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("float_model", type=Path)
    parser.add_argument("quantized_model", type=Path)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    models = [arguments.float_model, arguments.quantized_model]
    results: dict[str, list[tuple[float, float]]] = {"benchmark_app": [], "benchmark_app -api sync": [], "ovquant": []}
    for _ in range(arguments.rounds):
        first, second = (benchmark_app(model, arguments.seconds) for model in models)
        results["benchmark_app"].append((first, second))
        first, second = (benchmark_app(model, arguments.seconds, ["-api", "sync"]) for model in models)
        results["benchmark_app -api sync"].append((first, second))
        first, second = ours(models, arguments.seconds)
        results["ovquant"].append((first, second))
    print(f"{'':24s}" + "".join(f"{head:>28s}" for head in ("float ms", "quantized ms", "float / quantized")))
    for name, pairs in results.items():
        print(line(name, pairs))


if __name__ == "__main__":
    main()
