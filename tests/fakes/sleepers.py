"""Candidates whose evaluation is a sleep: what a cluster loses between them shows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from fakes.executor import TableExecutor, latency, number
from ovquant.records import Failure, Latency, Outcome
from ovquant.strategy import Strategy
from ovquant.tasks import Made, Task

SIGMA = 0.5
mean_s = 1.0  # set by who shares the process with the workers
slept_s: dict[str, float] = {}


def seconds(digest: str) -> float:
    """Return how long a strategy takes: lognormal, with the mean `mean_s`."""
    quantile = float(np.clip(number(digest, "sleep"), 1e-6, 1 - 1e-6))
    return mean_s * float(stats.lognorm.ppf(quantile, SIGMA, scale=np.exp(-(SIGMA**2) / 2)))


class SleepingExecutor(TableExecutor):
    """Sleeps where another one would validate; all models have the same kernels, which are timed once."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def make(self, task: Task) -> Made | Failure:
        assert isinstance(task.subject, Strategy)
        path = self._folder / f"{task.subject.digest}.xml"
        path.write_text("<net/>")
        return Made(path=path, graph_digest=task.subject.digest, seconds={"quantize": 0.0})

    def structure(self, task: Task) -> str | Failure:
        return "kernels"

    def time(self, task: Task) -> Latency | Failure:
        return latency(0.5)

    def submit(self, tasks: Sequence[Task]) -> list[Outcome]:
        for task in tasks:
            if isinstance(task.subject, Strategy):
                slept_s[task.subject.digest] = seconds(task.subject.digest)
                time.sleep(slept_s[task.subject.digest])
        return super().submit(tasks)


def sleeping(folder: Path, memory_bytes: int | None) -> SleepingExecutor:
    """Make what "evaluates" on a worker."""
    return SleepingExecutor(folder)
