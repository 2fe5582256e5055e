"""Searches killed at random moments and taken up again: nothing is lost, nothing is done twice, the proposals are the same.

    python tests/benchmarks/kill_benchmark.py [--kills 100] [--trials 60] [--seed 0]

Searches on examples/digits in processes of their own, with made-up measurements that are the same for the same strategy and take
a few hundredths of a second. They get SIGKILL at random moments, from the start on, and are begun again until they end; then the
next one begins, until the kills are used up. Each must hold the trials of one that nobody killed: same codes, generations,
parents and values, none twice.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1])]

from fakes.executor import TableExecutor

from ovquant import commands
from ovquant.console import Console
from ovquant.job import load_job
from ovquant.records import Trial
from ovquant.study import read_trials
from ovquant.studyfile import STUDY_FILE

JOB = Path(__file__).parents[2] / "examples" / "digits" / "job.yaml"


class Slow(TableExecutor):
    """Takes its time, so that there is something to be killed in."""

    def submit(self, tasks: Any) -> Any:
        """Wait, then answer."""
        time.sleep(0.03 * len(tasks))
        return super().submit(tasks)


def serve(output: Path, n_trials: int) -> None:
    """Search; the model is not packaged, since what was measured is made up."""
    commands.package = lambda *arguments, **options: None  # type: ignore[assignment]
    job = load_job(JOB, {"output": str(output), "max_trials": n_trials})
    commands.search(job, Console(is_quiet=True), Slow())


def proposals(output: Path) -> list[tuple[Any, ...]]:
    """Return what was proposed, by trial, without the numbers of trials that a kill left without an outcome."""
    trials = read_trials(output / STUDY_FILE)
    place = {trial.number: index for index, trial in enumerate(trials)}
    return [(t.code, t.generation, tuple(place[number] for number in t.parents), values(t)) for t in trials]


def values(trial: Trial) -> tuple[float, ...] | None:
    """Return the objectives of a trial."""
    return trial.objectives


def killed(output: Path, n_trials: int, most: int, longest_s: float, rng: random.Random) -> int:
    """Search until the end, killed up to so many times on the way; returns how often it was."""
    command = [sys.executable, __file__, "--serve", str(output), "--trials", str(n_trials)]
    for n_kills in range(most + 1):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            process.wait(timeout=rng.uniform(0, longest_s) if n_kills < most else 600)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            continue
        if process.returncode != 0:
            raise RuntimeError((process.stderr or sys.stderr).read())
        return n_kills
    return most


def check(folder: Path, n_kills: int, n_trials: int, seed: int) -> int:
    """Return how many searches it took; raises AssertionError where one differs from the search that nobody killed."""
    rng = random.Random(seed)
    start = time.perf_counter()
    killed(folder / "whole", n_trials, 0, 0.0, rng)
    longest_s = time.perf_counter() - start
    expected = proposals(folder / "whole")
    n_searches = 0
    while n_kills > 0:
        output = folder / f"killed-{n_searches}"
        n_kills -= max(1, killed(output, n_trials, n_kills, longest_s, rng))
        found = proposals(output)
        assert found == expected, f"{output.name}: {len(found)} trials, not the {len(expected)} of a search that nobody killed"
        codes = [code for code, *_ in found if code is not None]
        assert len(set(codes)) == len(codes), f"{output.name}: a strategy was tried twice"
        n_searches += 1
    return n_searches


def main() -> None:
    """Kill and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        serve(arguments.serve, arguments.trials)
        return
    with tempfile.TemporaryDirectory() as folder:
        n_searches = check(Path(folder), arguments.kills, arguments.trials, arguments.seed)
    print(f"{arguments.kills} kills over {n_searches} searches of {arguments.trials} trials: every one holds the same trials")


if __name__ == "__main__":
    main()
