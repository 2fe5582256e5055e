"""What a search keeps in mind of its trials: counts, and those that may still win. All else is in the study."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from ovquant import selection
from ovquant.job import StopAt
from ovquant.objectives import Rules
from ovquant.records import Failure, Trial

N_ALIKE = 8  # failures of one kind in a row that end a search: the next one would fail as well


class Tally:
    """The settled trials of a search, as far as what it does next depends on them.

    Attributes:
        n_candidates: strategies, failures included.
        n_failures: of these.
        has_baseline: the float model was evaluated.
        has_default: NNCF's default was.
        is_met: a trial meets all that `stop_at` asks for.
    """

    def __init__(self, stop_at: StopAt | None) -> None:
        """Know of no trial."""
        self._stop_at = stop_at
        self.n_candidates = 0
        self.n_failures = 0
        self.has_baseline = False
        self.has_default = False
        self.is_met = False
        self._contenders: list[Trial] = []
        self._generation = -1  # the last one that has members
        self._before: tuple[Trial, ...] = ()
        self._latest: deque[Trial] = deque(maxlen=N_ALIKE)

    def add(self, trial: Trial, rules: Rules) -> None:
        """Count a trial in; they come in the order of their numbers."""
        self.has_baseline |= trial.role == "baseline"
        self.has_default |= trial.role == "default"
        if trial.strategy is not None:
            self.n_candidates += 1
            self.n_failures += isinstance(trial.outcome, Failure)
            self._latest.append(trial)
        if trial.generation is not None and trial.generation > self._generation:
            self._generation, self._before = trial.generation, tuple(self._contenders)
        if trial.code is not None:
            self.is_met |= bool(meeting([trial], self._stop_at, rules))
            self._contenders = selection.contenders(self._contenders, trial, rules)

    def best(self, rules: Rules) -> Trial | None:
        """Return the trial that would win now."""
        return selection.best(self._contenders, rules)

    def before(self, generation: int) -> Sequence[Trial]:
        """Return those that might have won before a generation, the last one or the next."""
        return self._before if generation == self._generation else tuple(self._contenders)

    def forget_failures(self) -> None:
        """Let failures in a row be counted from here: what made them may have been put right."""
        self._latest.clear()

    @property
    def repeated_failure(self) -> Failure | None:
        """The last failure, see the function."""
        return repeated_failure(list(self._latest))


def repeated_failure(trials: Sequence[Trial]) -> Failure | None:
    """Return the last failure if that many candidates in a row failed at the same stage with the same kind of error."""
    outcomes = [trial.outcome for trial in trials if trial.strategy is not None][-N_ALIKE:]
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    is_alike = len(failures) == N_ALIKE and len({(failure.stage, failure.error) for failure in failures}) == 1
    return failures[-1] if is_alike else None


def meeting(trials: list[Trial], stop_at: StopAt | None, rules: Rules) -> list[Trial]:
    """Return the feasible trials that meet all that `stop_at` asks for, by point estimates; none if it is None."""
    return [trial for trial in trials if stop_at is not None and trial.is_feasible and _meets(trial, stop_at, rules)]


def _meets(trial: Trial, stop_at: StopAt, rules: Rules) -> bool:
    if stop_at.max_drop is not None:
        result = trial.evaluation.metrics[0]
        if result.drop.value > stop_at.max_drop.limit(rules.reference(0, result)):
            return False
    if stop_at.min_speedup is not None and selection.latency_of(trial).speedup.value < stop_at.min_speedup:
        return False
    return stop_at.fitness is None or (trial.fitness is not None and trial.fitness >= stop_at.fitness)
