"""A search of thousands of real candidates: memory, time per trial, and how long the study takes to open at the end.

    python tests/benchmarks/long_benchmark.py [--trials 3000] [--job examples/digits/job.yaml] [--keep FOLDER]

The search runs through the command line in a process of its own. Every few seconds the memory of that process and of its worker
is noted (resident, less files mapped into it); times per trial are read off OUT/log.jsonl. Both are fitted by a line over the
second half of the trials, when everything that is loaded once has been loaded; slopes come with 95 % intervals from blocks of
trials (neighbouring values are alike). The space is that of `WIDE`, which has far more strategies than are tried.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import psutil
import yaml
from scipy import stats

from ovquant.study import read_trials
from ovquant.studyfile import STUDY_FILE

ROOT = Path(__file__).parents[2]
N_BLOCKS = 10  # of the second half
WIDE = {
    "overflow_fix": ["first_layer_only", "enable", "disable"],
    "subset_size": [10, 20, 30, 50, 75, 100, 150, 200, 300],
    "activations_range_estimator": [None, "MINMAX", "MEAN_MINMAX", "MEDIAN_MINMAX", "MEAN_NO_OUTLIERS_MINMAX", "MEAN_QUANTILE"],
}


def memory_mb(process: psutil.Process) -> float:
    """Return what a process holds that is its own."""
    held = process.memory_info()
    return (held.rss - held.shared) / 2**20


def watch(process: subprocess.Popen[bytes], output: Path) -> list[tuple[int, float, float]]:
    """Return number of trials, and memory of parent and worker in MB, every few seconds until the search ends."""
    parent, seen = psutil.Process(process.pid), []
    while process.poll() is None:
        time.sleep(5)
        try:
            below = [child for child in parent.children(recursive=True) if child.memory_info().rss > 100 << 20]
            worker = max((memory_mb(child) for child in below), default=0.0)
            seen.append((len(trial_times(output)), memory_mb(parent), worker))
        except psutil.Error:
            continue
    return seen


def trial_times(output: Path) -> list[float]:
    """Return when each trial was recorded, in seconds."""
    log = output / "log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    events = [json.loads(line) for line in lines if '"event": "trial"' in line]
    return [datetime.fromisoformat(event["time"]).timestamp() for event in events]


def slope(at: np.ndarray, values: np.ndarray) -> str:
    """Return the slope per 1,000 trials of the second half, with its interval."""
    half = at > at.max() / 2
    blocks = [block for block in np.array_split(np.flatnonzero(half), N_BLOCKS) if len(block)]
    fit = stats.linregress([at[block].mean() for block in blocks], [values[block].mean() for block in blocks])
    margin = stats.t.ppf(0.975, len(blocks) - 2) * fit.stderr
    return f"{1000 * fit.slope:+.4g} [{1000 * (fit.slope - margin):+.4g}, {1000 * (fit.slope + margin):+.4g}] per 1,000 trials"


def main() -> None:
    """Search, then tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=3000)
    parser.add_argument("--job", type=Path, default=ROOT / "examples" / "digits" / "job.yaml")
    parser.add_argument("--keep", type=Path, help="folder for the search's output, which is kept")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        profile = yaml.safe_load((ROOT / "targets" / "cpu.yaml").read_text())
        profile["genes"] |= WIDE
        (folder / "wide.yaml").write_text(yaml.safe_dump(profile))
        output = folder / "out"
        options = ["--target", folder / "wide.yaml", "--max-trials", arguments.trials, "-o", output, "-q"]
        command = [sys.executable, "-m", "ovquant", "search", arguments.job, *options]
        seen = np.array(watch(subprocess.Popen(list(map(str, command))), output))
        times = np.array(trial_times(output))
        took = np.diff(times)
        seen = seen[seen[:, 0] < len(times)]  # what comes after the search reads all of it
        print(f"{len(times)} trials in {times[-1] - times[0]:.0f} s")
        for first in range(0, len(took), 250):
            near = seen[(seen[:, 0] >= first) & (seen[:, 0] < first + 250)]
            middle = np.median(near[:, 1:], axis=0) if len(near) else (np.nan, np.nan)
            pace = took[first : first + 250].mean()
            print(f"from {first:5}: {pace:6.2f} s/trial, {middle[0]:6.0f} MB, worker {middle[1]:6.0f} MB")
        print("memory of the parent, MB:", slope(seen[:, 0], seen[:, 1]))
        print("memory of the worker, MB:", slope(seen[:, 0], seen[:, 2]))
        print("time per trial, s:       ", slope(np.arange(len(took)).astype(float), took))
        for _ in range(3):
            start, cpu = time.perf_counter(), time.process_time()
            n_trials = len(read_trials(output / STUDY_FILE))
            spent = time.process_time() - cpu
            print(
                f"the study of {n_trials} trials is read in {time.perf_counter() - start:.2f} s, {spent:.2f} s of them CPU time"
            )


if __name__ == "__main__":
    main()
