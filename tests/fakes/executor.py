"""An executor that replays made-up measurements, the same for the same strategy: searches in milliseconds."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from ovquant.audit import Audit
from ovquant.executor import InProcessExecutor
from ovquant.inspection import Inspection
from ovquant.records import (
    Comparison,
    Evaluation,
    Failure,
    FloatModel,
    Interval,
    Latency,
    MetricResult,
    ModelFile,
    Outcome,
    Subject,
)
from ovquant.strategy import Strategy
from ovquant.tasks import Bench, BenchSpec, ComparisonTask, Task


def number(text: str, salt: str) -> float:
    """Return a number in 0..1 that depends on the texts only."""
    return int(hashlib.sha256((salt + text).encode()).hexdigest()[:8], 16) / 0xFFFFFFFF


def exactly(value: float) -> Interval:
    """Return an interval without width."""
    return Interval(value=value, low=value, high=value)


def latency(ratio: float) -> Latency:
    """Return a latency of `ratio` milliseconds over a baseline of one."""
    return Latency(
        median_ms=ratio,
        ratio=exactly(ratio),
        n_visits=6,
        n_inferences=18,
        samples_ms=((ratio,) * 3,) * 6,
        visited_s=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5),
        is_spread=False,
        n_threads=2,
    )


class TableExecutor:
    """Answers every task from hashes of the subject's name; `failing` digests fail."""

    n_together = 1

    def __init__(self, *, failing: frozenset[str] = frozenset(), max_drop: float = 0.05) -> None:
        self.failing = failing
        self.max_drop = max_drop
        self.asked: list[str] = []

    def open(self, bench: BenchSpec) -> Bench:
        return InProcessExecutor().open(bench)

    def inspect(self, bench: BenchSpec) -> Inspection:
        return InProcessExecutor().inspect(bench)

    def build(self, bench: BenchSpec, strategy: Strategy) -> Path:
        return InProcessExecutor().build(bench, strategy)

    def recall(self, bench: BenchSpec, known: Sequence[tuple[Strategy, Evaluation]]) -> None:
        pass

    def announce(self, bench: BenchSpec, tasks: Sequence[Task]) -> None:
        pass

    def submit(self, tasks: Sequence[Task]) -> list[Outcome]:
        return [self._outcome(task) for task in tasks]

    def profile(self, bench: BenchSpec, subjects: Sequence[Subject]) -> tuple[Audit, ...] | None:
        return None

    def close(self) -> None:
        pass

    def _outcome(self, task: Task) -> Outcome:
        name = _name(task.subject)
        self.asked.append(name)
        if name in self.failing:
            return Failure(stage="quantize", error="RuntimeError", message="made to fail")
        is_float = isinstance(task.subject, FloatModel)
        drop = 0.0 if is_float else self.max_drop * number(name, "drop")
        return Evaluation(
            split=task.split,
            n_items=100,
            divergence=exactly(0.0 if is_float else number(name, "divergence")),
            metrics=tuple(
                MetricResult(name=spec.name, value=0.9 - drop, drop=exactly(drop), has_interval=True)
                for spec in task.bench.metrics
            ),
            latency=latency(_ratio(task.subject)) if task.is_timed else None,
            size_bytes=1000,
            n_fake_quantize=0 if is_float else 5,
            graph_digest=name,
            outputs_digest=name,
            seconds={"quantize": 0.1},
        )

    def compare(self, task: ComparisonTask) -> Comparison | Failure:
        return Comparison(latencies=tuple(latency(_ratio(subject)) for subject in task.subjects))


def _name(subject: Subject) -> str:
    if isinstance(subject, FloatModel):
        return f"float {subject.inference_precision}"
    return subject.path if isinstance(subject, ModelFile) else subject.digest


def _ratio(subject: Subject) -> float:
    return 1.0 if isinstance(subject, FloatModel) else 0.4 + 0.5 * number(_name(subject), "latency")
