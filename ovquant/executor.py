"""Where candidates run."""

from __future__ import annotations

from collections.abc import Sequence

from ovquant.evaluation import close_benches, open_bench, run_comparison, run_tasks
from ovquant.records import Comparison, Failure, Outcome, Subject
from ovquant.tasks import BenchSpec, ComparisonTask, Task


class InProcessExecutor:
    """Runs every task in this process; the next models are built by a thread beside it."""

    n_together = 4

    def announce(self, bench: BenchSpec, subjects: Sequence[Subject]) -> None:
        """Say what will be submitted next, so that work can be shared and begun."""
        open_bench(bench).announce(subjects)

    def submit(self, tasks: Sequence[Task]) -> list[Outcome]:
        """Evaluate tasks of one bench; a fault of a candidate is returned, not raised."""
        return run_tasks(tasks)

    def compare(self, task: ComparisonTask) -> Comparison | Failure:
        """Measure the latencies of several models in turns."""
        return run_comparison(task)

    def close(self) -> None:
        """Stop what is under way."""
        close_benches()
