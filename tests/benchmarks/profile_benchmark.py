"""Compare what searches find by two target profiles, seed by seed: is a probed profile as good as a shipped one?

    python tests/benchmarks/profile_benchmark.py JOB.yaml PROFILE OTHER [--seeds 5] [--trials 40] [--json FILE]

Searches by the two profiles take turns. They differ in genes only: both measure as the first one does, and the verdict, which
comes after the search, is cut short. A front is what is feasible and not dominated, in divergence and latency over the float
model's on validation items; what it is worth is its hypervolume up to NNCF's default divergence and the float model's latency,
of which the median over seeds is told, and how the best divergences and latencies compare. Let nothing else run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import yaml

from ovquant import pareto, selection
from ovquant.records import Trial
from ovquant.study import read_trials
from ovquant.studyfile import STUDY_FILE
from ovquant.targets import load_target

SHORT = {"visits": 6, "burst": 4, "discard": 1, "seconds": 0.1, "spread": 0, "tolerance": 0.5}


def profile(name: str, measuring: str, folder: Path) -> Path:
    """Write a profile with another one's ranking, and a verdict that takes no time; return its file."""
    content = load_target(name).model_dump(mode="json", exclude_none=True)
    ranking = load_target(measuring).measurement.ranking.model_dump(mode="json")
    content["measurement"] = {"ranking": ranking, "verdict": SHORT}
    path = folder / f"{Path(name).stem}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def searched(job: Path, target: Path, seed: int, n_trials: int, output: Path) -> list[Trial]:
    """Return the trials of a search."""
    options = ["--target", target, "--seed", seed, "--max-trials", n_trials, "-o", output, "-q"]
    done = subprocess.run(
        list(map(str, [sys.executable, "-m", "ovquant", "search", job, *options])), capture_output=True, text=True, check=False
    )
    if not (output / STUDY_FILE).exists():
        raise RuntimeError(done.stdout + done.stderr)
    return read_trials(output / STUDY_FILE)


def points(trials: list[Trial]) -> np.ndarray:
    """Return divergence and latency over the baseline's of the feasible strategies, shape [N, 2]."""
    found = selection.feasible(selection.eligible(trials))
    pairs = [(trial.evaluation.divergence.value, 1 / selection.latency_of(trial).speedup.value) for trial in found]
    return np.array(pairs).reshape(-1, 2)


def main() -> None:
    """Search by both, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path)
    parser.add_argument("profiles", nargs=2)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results: list[dict[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = {name: profile(name, arguments.profiles[0], folder) for name in arguments.profiles}
        for seed in range(arguments.seeds):
            fronts = {}
            reference = None
            for name in arguments.profiles if seed % 2 == 0 else arguments.profiles[::-1]:
                trials = searched(arguments.job, files[name], seed, arguments.trials, folder / f"{Path(name).stem}-{seed}")
                fronts[name] = points(trials)
                if reference is None:
                    default = next(trial for trial in trials if trial.role == "default")
                    reference = np.array([default.evaluation.divergence.value, 1.0])
            assert reference is not None
            row = {
                name: {
                    "hypervolume": pareto.hypervolume(front / reference, np.ones(2)),
                    "least divergence": float(front[:, 0].min()),
                    "least latency": float(front[:, 1].min()),
                }
                for name, front in fronts.items()
            }
            results.append(row)
            print(f"seed {seed}: " + "; ".join(f"{name} {told}" for name, told in row.items()), flush=True)
            if arguments.json is not None:
                arguments.json.write_text(json.dumps(results, indent=1))
    for key in ("hypervolume", "least divergence", "least latency"):
        medians = {name: float(np.median([row[name][key] for row in results])) for name in arguments.profiles}
        print(f"median {key}: " + ", ".join(f"{name} {value:.4g}" for name, value in medians.items()))


if __name__ == "__main__":
    main()
