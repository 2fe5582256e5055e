"""Searches whose candidates fail in every way: each failure is found and explained, and the right one of the others wins.

    python tests/benchmarks/fault_benchmark.py [--faults 200] [--trials 60] [--seed 0]

Before most trials a fault is ordered by chance, see `fakes.faults`: crashes, hangs, memory that runs out, exceptions
in NNCF, in compiling, in reading data, in the metric, NaN, a process killed while it calibrates. What was done is written down.
After each search, what is recorded as failed must be what was made to fail, of the kind that it was made to; the winner must be
one of the finalists of the others.
"""

from __future__ import annotations

import argparse
import collections
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]

import small
import yaml
from fakes import faults

from ovquant import commands, selection, targets
from ovquant.console import Console
from ovquant.contained import ContainedExecutor, Limits
from ovquant.job import load_job
from ovquant.loop import Progress
from ovquant.records import Failure
from ovquant.study import read_trials
from ovquant.studyfile import STUDY_FILE

_SHARE = 0.8  # of the trials after which a fault is ordered; some are taken up two trials later


class Ordering(Console):
    """Orders faults after NNCF's default, one at a time, and none after the last trial: then no candidate is left to fail."""

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(is_quiet=True)
        self._order, self._rng, self._is_begun = folder / faults.ORDER, random.Random(seed), False

    def trial(self, progress: Progress) -> None:
        """Order a fault, or take one back."""
        self._is_begun = self._is_begun or progress.trial.role == "default"
        if progress.n_candidates == progress.max_trials:
            self._order.unlink(missing_ok=True)
        elif self._is_begun and not self._order.exists() and self._rng.random() < _SHARE:
            self._order.write_text(self._rng.choice(list(faults.FAULTS)))

    def result(self, text: str) -> None:
        """Say nothing."""

    def warn(self, text: str) -> None:
        """Say nothing."""

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], n_words: int = 2) -> None:
        """Show nothing."""


def search(folder: Path, n_trials: int, seed: int) -> collections.Counter[str]:
    """Search once; return what was made to fail."""
    model, data = small.conv_case(folder)
    profile = yaml.safe_load((targets.profiles_dir() / "cpu.yaml").read_text())
    profile["measurement"]["verdict"] |= {"spread": 0, "seconds": 1.0}
    (folder / "quick.yaml").write_text(yaml.safe_dump(profile))
    source = faults.install(folder, data)
    options = {
        "model": str(model),
        "data": {"path": f"{source}:data"},
        "target": str(folder / "quick.yaml"),
        "metrics": [{"name": f"{source}:score", "max_drop": 0.5}],
        "max_trials": n_trials,
        "seed": seed,
        "output": str(folder / "out"),
    }
    limits = Limits(memory_bytes=1 << 30, first_s=60.0, factor=10.0, least_s=20.0)
    executor = ContainedExecutor(folder / "work", limits=limits)
    result = commands.search(load_job(None, options), Ordering(folder, seed), executor)
    done = folder / faults.DONE
    made = done.read_text().split() if done.exists() else []
    trials = read_trials(folder / "out" / STUDY_FILE)
    failures = [trial.outcome for trial in trials if isinstance(trial.outcome, Failure)]
    found = collections.Counter((failure.stage, failure.error) for failure in failures)
    expected = collections.Counter(kind for fault in made if (kind := faults.FAULTS[fault]) is not None)
    # One that is killed while it calibrates for itself alone has failed; one that did for several has not.
    alone = found - expected
    assert found >= expected, f"{found} of {made}"
    assert set(alone) <= {("quantize", "Crash"), ("build", "Crash")}, f"{found} of {made}"
    assert alone.total() <= made.count("calibrate"), f"{found} of {made}"
    assert all(failure.message for failure in failures)
    healthy = {trial.number for trial in trials if not isinstance(trial.outcome, Failure)}
    assert result["verdict"]["winner"] in healthy
    assert result["verdict"]["winner"] in {
        trial.number for trial in selection.finalists(selection.eligible(trials), _rules(folder))
    }
    return collections.Counter(made)


def _rules(folder: Path):
    from ovquant.job import Objective
    from ovquant.objectives import Rules

    job = load_job(folder / "out" / "job.yaml", {})
    return Rules(objective=Objective(), metrics=job.metrics, metric_directions=("maximize",), max_divergence=None)


def main() -> None:
    """Search until enough was made to fail."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    total: collections.Counter[str] = collections.Counter()
    seed = arguments.seed
    while total.total() < arguments.faults:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            made = search(Path(folder), arguments.trials, seed)
        total += made
        print(f"search {seed}: {made.total()} failures, {time.perf_counter() - start:.0f} s, all found and explained", flush=True)
        seed += 1
    print(dict(total))


if __name__ == "__main__":
    main()
