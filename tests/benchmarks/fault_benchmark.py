"""Searches whose candidates fail in every way: each failure is found and explained, and the right one of the others wins.

    python tests/benchmarks/fault_benchmark.py [--faults 200] [--trials 60] [--seed 0]

The metric of the search crashes its process, aborts, is killed, hangs, eats memory, raises, or gives NaN for about half of the
candidates, by chance, and writes down what it did. After each search, what is recorded as failed must be what was made to fail,
of the kind that it was made to; the winner must be one of the finalists of the others.
"""

from __future__ import annotations

import argparse
import collections
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]

import small
import yaml

from ovquant import commands, selection, targets
from ovquant.console import Console
from ovquant.contained import ContainedExecutor, Limits
from ovquant.job import load_job
from ovquant.loop import Progress
from ovquant.records import Failure
from ovquant.session import STUDY_FILE
from ovquant.study import read_trials

KINDS = {
    "segfault": "Crash", "abort": "Crash", "kill": "Crash", "exit": "Crash", "hang": "Hang", "memory": "OutOfMemory",
    "raise": "DataError", "nan": "DataError",
}  # fmt: skip
METRIC = """
import os, random, signal, time
from pathlib import Path
import numpy as np

HERE = Path(__file__).parent
is_first = True  # in each process that is the reference, which is no candidate

def score(outputs, labels):
    global is_first
    fault, was_first, is_first = "", is_first, False
    if (HERE / "armed").exists() and not was_first:
        n_calls = len((HERE / "calls").read_text()) if (HERE / "calls").exists() else 0
        (HERE / "calls").write_text("x" * (n_calls + 1))
        rng = random.Random(f"{(HERE / 'armed').read_text()} {n_calls}")
        fault = rng.choice(KINDS) if rng.random() < 0.5 else ""
    if fault:
        with (HERE / "done").open("a") as stream:
            stream.write(fault + "\\n")
    if fault == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "abort":
        os.abort()
    if fault == "exit":
        os._exit(3)
    if fault == "hang":
        time.sleep(1000)
    if fault == "memory":
        eaten = []
        while True:
            eaten.append(np.ones(1 << 24))
            time.sleep(0.01)
    if fault == "raise":
        raise RuntimeError("made to fail")
    scores = np.array([float(np.argmax(output) == label) for output, label in zip(outputs["logits"], labels)])
    return scores * np.nan if fault == "nan" else scores
"""


class Arming(Console):
    """Lets faults begin after NNCF's default, and end with the last trial: what is measured at the end is no candidate."""

    def __init__(self, armed: Path, seed: str) -> None:
        super().__init__(is_quiet=True)
        self._armed, self._seed = armed, seed

    def trial(self, progress: Progress) -> None:
        """Arm or disarm."""
        if progress.n_candidates == progress.max_trials:
            self._armed.unlink(missing_ok=True)
        elif progress.trial.role == "default":
            self._armed.write_text(self._seed)

    def result(self, text: str) -> None:
        """Say nothing."""

    def warn(self, text: str) -> None:
        """Say nothing."""


def search(folder: Path, n_trials: int, seed: int) -> collections.Counter[str]:
    """Search once; return what was made to fail."""
    model, data = small.conv_case(folder)
    profile = yaml.safe_load((targets.profiles_dir() / "cpu.yaml").read_text())
    profile["measurement"]["verdict"] |= {"spread": 0, "seconds": 1.0}
    (folder / "quick.yaml").write_text(yaml.safe_dump(profile))
    (folder / "metric.py").write_text(METRIC.replace("KINDS", repr(list(KINDS)), 1))
    options = {
        "model": str(model),
        "data": {"path": str(data)},
        "target": str(folder / "quick.yaml"),
        "metrics": [{"name": f"{folder / 'metric.py'}:score", "max_drop": 0.5}],
        "max_trials": n_trials,
        "seed": seed,
        "output": str(folder / "out"),
    }
    limits = Limits(memory_bytes=1 << 30, first_s=60.0, factor=10.0, least_s=20.0)
    executor = ContainedExecutor(folder / "work", limits=limits)
    result = commands.search(load_job(None, options), Arming(folder / "armed", str(seed)), executor)
    made = (folder / "done").read_text().split() if (folder / "done").exists() else []
    trials = read_trials(folder / "out" / STUDY_FILE)
    failures = [trial.outcome for trial in trials if isinstance(trial.outcome, Failure)]
    found = collections.Counter(failure.error for failure in failures)
    assert found == collections.Counter(KINDS[fault] for fault in made), f"{found} of {made}"
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
