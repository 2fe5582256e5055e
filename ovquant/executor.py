"""Where models are evaluated: in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ovquant import inspection
from ovquant.audit import Audit
from ovquant.evaluation import close_benches, open_bench
from ovquant.inspection import Inspection
from ovquant.records import Comparison, Evaluation, Failure, Latency, Outcome, Subject
from ovquant.strategy import Strategy
from ovquant.tasks import Bench, BenchSpec, ComparisonTask, Made, Task


class InProcessExecutor:
    """Does everything in this process; the next models are built by a thread beside it."""

    n_together = 4

    def open(self, bench: BenchSpec) -> Bench:
        """Open model and data, and return what there is to know of them."""
        return open_bench(bench).describe()

    def inspect(self, bench: BenchSpec) -> Inspection:
        """Return which layers lose most by being quantized."""
        return inspection.inspect(open_bench(bench))

    def recall(self, bench: BenchSpec, known: Sequence[tuple[Strategy, Evaluation]]) -> None:
        """Take over what was measured before."""
        open_bench(bench).recall(known)

    def build(self, bench: BenchSpec, strategy: Strategy) -> Path:
        """Return the IR of a strategy."""
        return open_bench(bench).build(strategy)

    def announce(self, bench: BenchSpec, tasks: Sequence[Task]) -> None:
        """Say what will be submitted next, so that work can be shared and begun."""
        open_bench(bench).announce([task.subject for task in tasks])

    def submit(self, tasks: Sequence[Task]) -> list[Outcome]:
        """Evaluate tasks of one bench; a fault of a candidate is returned, not raised."""
        return open_bench(tasks[0].bench).evaluate_all(tasks) if tasks else []

    def make(self, task: Task) -> Made | Failure:
        """Return a task's model file."""
        return open_bench(task.bench).make(task)

    def structure(self, task: Task) -> str | Failure:
        """Return the key of the kernels that run of a task's model."""
        return open_bench(task.bench).structure(task)

    def time(self, task: Task) -> Latency | Failure:
        """Return the latency of a task's model."""
        return open_bench(task.bench).time(task)

    def compare(self, task: ComparisonTask) -> Comparison | Failure:
        """Measure the latencies of several models in turns."""
        return open_bench(task.bench).compare(task)

    def profile(self, bench: BenchSpec, subjects: Sequence[Subject]) -> tuple[Audit, ...] | None:
        """Return the kernels of each model."""
        return inspection.profile(open_bench(bench), subjects)

    def close(self) -> None:
        """Stop what is under way."""
        close_benches()
