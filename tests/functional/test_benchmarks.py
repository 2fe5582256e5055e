"""The benchmarks of the search run, on a few strategies; what they measure is not tested."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "tests" / "benchmarks"


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, BENCHMARKS / script, *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_samplers_are_replayed_on_a_table(tmp_path: Path) -> None:
    target, job, table = tmp_path / "target.yaml", tmp_path / "job.yaml", tmp_path / "table.npz"
    quick = {"visits": 12, "burst": 4, "discard": 1, "seconds": 0.1, "spread": 1}
    measurement = {"ranking": quick | {"spread": 0}, "verdict": quick}
    content = {"version": 1, "name": "quick", "extends": str(BENCHMARKS / "table_target.yaml"), "measurement": measurement}
    target.write_text(yaml.safe_dump(content))
    example = ROOT / "examples" / "digits"
    metrics = [{"name": "accuracy", "max_drop": 0.05}]
    content = {
        "version": 1, "model": str(example / "digits.onnx"), "target": str(target), "data": f"{example}/data.py:digits",
        "metrics": metrics,
    }  # fmt: skip
    job.write_text(yaml.safe_dump(content))
    run("search_table.py", job, table, "--limit", 6)
    with np.load(table) as made:
        assert (made["kernels"] >= 0).all()
        assert np.isfinite(made["scores"]).all() and np.isfinite(made["divergences"]).all()
        assert (made["ratios"] > 0).all()
    told = run("search_benchmark.py", table, "--seeds", 2, "--max-drop", 0.05, "--plot", tmp_path / "plot.html")
    assert all(name in told for name in ("ovquant", "random", "NSGA-II", "TPE", "coordinate descent"))
    assert (tmp_path / "plot.html").stat().st_size > 0
    assert "intervals hold the truth" in run("claims_benchmark.py", table, "--searches", 4, "--trials", 5, "--max-drop", 0.05)
