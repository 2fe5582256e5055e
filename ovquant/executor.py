"""Where candidates run."""

from __future__ import annotations

from ovquant.evaluation import ComparisonTask, Task, run_comparison, run_task
from ovquant.records import Comparison, Failure, Outcome


class InProcessExecutor:
    """Runs every task at once, in this process."""

    def submit(self, task: Task) -> Outcome:
        """Evaluate a task; a fault of the candidate is returned, not raised."""
        return run_task(task)

    def compare(self, task: ComparisonTask) -> Comparison | Failure:
        """Measure the latencies of several models in turns."""
        return run_comparison(task)
