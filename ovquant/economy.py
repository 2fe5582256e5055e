"""What a search did not have to do, read off its records."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

from ovquant.records import Evaluation, Trial


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Economy:
    """Counts over the quantized trials that did not fail.

    Attributes:
        n_models: trials.
        n_stopped: stopped before all validation items were run.
        n_screened: accurate bias corrections that were not run, as the fast one came out hopelessly.
        screened_s: seconds that these would have taken, by the median of those that were run; None if none was.
        n_same: models equal bit for bit to an earlier one, which were not evaluated again.
        n_structures: different kernels, each timed once.
        items_run: validation items that were run.
        items_all: that running every model on all items would have taken.
    """

    n_models: int
    n_stopped: int
    n_screened: int
    screened_s: float | None
    n_same: int
    n_structures: int
    items_run: int
    items_all: int

    @property
    def items_saved(self) -> float:
        """Share of validation items that were not run, 0..1."""
        return 1 - self.items_run / self.items_all if self.items_all else 0.0

    def words(self) -> str:
        """Return it as a line for people."""
        parts = [f"{self.n_models} candidates run {self.n_structures} different sets of kernels, each timed once"]
        if self.n_same:
            parts.append(
                "1 model equals an earlier one and was not run"
                if self.n_same == 1
                else f"{self.n_same} models equal an earlier one and were not run"
            )
        if self.n_stopped:
            parts.append(f"{self.n_stopped} were stopped early; {self.items_saved:.0%} of validation items saved")
        if self.n_screened:
            saved = "" if self.screened_s is None else f", about {self.screened_s:.0f} s saved"
            parts.append(f"{self.n_screened} accurate bias corrections screened out{saved}")
        return "; ".join(parts)


def economy(trials: Sequence[Trial]) -> Economy:
    """Return what the trials of a study tell."""
    pairs = [
        (trial.strategy, trial.outcome)
        for trial in trials
        if trial.strategy is not None and isinstance(trial.outcome, Evaluation)
    ]
    models = [evaluation for _, evaluation in pairs]
    screened = [e for e in models if e.raced is not None and e.raced.reason == "screened"]
    accurate_s = [
        evaluation.seconds.get("quantize", 0.0)
        for strategy, evaluation in pairs
        if not strategy.canonical().fast_bias_correction and evaluation not in screened and evaluation.same_as is None
    ]
    return Economy(
        n_models=len(models),
        n_stopped=sum(e.raced is not None and e.raced.reason != "screened" for e in models),
        n_screened=len(screened),
        screened_s=len(screened) * statistics.median(accurate_s) if accurate_s else None,
        n_same=sum(e.same_as is not None for e in models),
        n_structures=len({e.structure for e in models if e.structure is not None}),
        items_run=sum(e.n_items for e in models if e.same_as is None),
        items_all=sum(e.n_items if e.raced is None else e.raced.n_items for e in models),
    )
