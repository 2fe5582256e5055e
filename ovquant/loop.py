"""The loop: ask for a generation, evaluate it, tell; until a target is met, the budget is used up or the space is empty."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

from ovquant import selection
from ovquant.errors import ConfigError, ModelError
from ovquant.job import StopAt
from ovquant.objectives import Rules
from ovquant.protocols import Clock, Executor
from ovquant.records import Evaluation, Failure, FloatModel, Trial
from ovquant.strategy import InferencePrecision, Strategy
from ovquant.study import Proposal, Study
from ovquant.tasks import BenchSpec, Race, Task, rival_of

StopReason: TypeAlias = Literal[
    "stop_at met", "max_trials reached", "budget used up", "search space exhausted", "one failure after the other"
]
_ANNOUNCED = 64  # proposals that are announced together: asking for thousands takes a while
N_ALIKE = 8  # failures of one kind in a row that end a search: the next one would fail as well


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The state of a search after a trial.

    Attributes:
        trial: that was just settled.
        best: the trial that would win now, None if none is feasible.
        n_candidates: strategies evaluated so far, failures included.
        max_trials: limit of that, None without one.
        elapsed_s: since the search (this run of it) began.
        remaining_s: estimate until it ends, None if there is no telling.
    """

    trial: Trial
    best: Trial | None
    n_candidates: int
    max_trials: int | None
    elapsed_s: float
    remaining_s: float | None


Listener: TypeAlias = Callable[[Progress], None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a search needs beside study and executor.

    Attributes:
        bench: what candidates are evaluated on.
        rules: objectives and constraints. Without metrics and without a limit on divergence, NNCF's default sets the limit.
        default: NNCF's default strategy, always evaluated.
        is_default_in_space: False if the target does not allow it; it is evaluated all the same, for comparison.
        own_precision: of the baseline.
        max_trials: candidates at most, None without limit.
        budget_s: wall time at most, None without limit.
        stop_at: ends the search as soon as it is met.
    """

    bench: BenchSpec
    rules: Rules
    default: Strategy
    is_default_in_space: bool
    own_precision: InferencePrecision
    max_trials: int | None
    budget_s: float | None
    stop_at: StopAt | None


def run_search(plan: Plan, study: Study, executor: Executor, clock: Clock, listen: Listener) -> StopReason:
    """Search until a stopping rule holds; trials that the study already holds count.

    Returns:
        Why it ended.
    """
    return _Search(plan, study, executor, clock, listen).run()


class _Search:
    def __init__(self, plan: Plan, study: Study, executor: Executor, clock: Clock, listen: Listener) -> None:
        self._plan = plan
        self._study = study
        self._executor = executor
        self._clock = clock
        self._listen = listen
        self._start = clock.now()
        self._trials = study.trials()
        self._n_before = self._n_candidates()
        self._n_stored = len(self._trials)
        self._rules = plan.rules
        self._raced: tuple[int, Race] | None = None
        self._restore_limit()

    def run(self) -> StopReason:
        if not any(trial.role == "baseline" for trial in self._trials):
            self._add_baseline()
        if not self._plan.is_default_in_space and not any(trial.role == "default" for trial in self._trials):
            self._add_default()
        reason = self._stop_reason()
        while reason is None:
            reason = self._run_generation()
        return reason

    def _run_generation(self) -> StopReason | None:
        """Evaluate what the current generation lacks, in turn; for a candidate that fails another one is asked for at once."""
        waiting: list[Proposal] = []
        self._ask(waiting, self._study.n_missing())
        if not waiting:
            return "search space exhausted"
        while waiting:
            n_together = self._executor.n_together
            together, waiting[:] = waiting[:n_together], waiting[n_together:]
            reason = self._run_together(together)
            if reason is not None:
                self._executor.announce(self._plan.bench, ())
                return reason
            self._ask(waiting, sum(isinstance(trial.outcome, Failure) for trial in self._trials[-len(together) :]))
        return None

    def _ask(self, waiting: list[Proposal], n_wanted: int) -> None:
        """Ask for members of the current generation, and announce those that wait: the first ones while others are asked for."""
        if self._plan.max_trials is not None:
            n_wanted = min(n_wanted, self._plan.max_trials - self._n_candidates() - len(waiting))
        for n_asked in range(n_wanted):
            if n_asked and n_asked % _ANNOUNCED == 0:
                self._executor.announce(self._plan.bench, self._tasks(waiting))
            try:
                waiting.append(self._study.ask())
            except LookupError:
                break
        if n_wanted > 0:
            self._executor.announce(self._plan.bench, self._tasks(waiting))

    def _run_together(self, proposals: Sequence[Proposal]) -> StopReason | None:
        """Evaluate some members of a generation and settle one after the other."""
        for proposal, outcome in zip(proposals, self._executor.submit(self._tasks(proposals)), strict=True):
            is_default = proposal.strategy == self._plan.default
            if is_default:
                self._set_limit(outcome)
            self._settle(self._study.tell(proposal, outcome, "default" if is_default else "candidate"))
            reason = self._stop_reason()
            if reason is not None:
                return reason
        return None

    def _tasks(self, proposals: Sequence[Proposal]) -> list[Task]:
        """Return the tasks of some members of a generation."""
        race = self._race(proposals[0].generation) if proposals else None
        return [self._task(proposal.strategy, race) for proposal in proposals]

    def _task(self, strategy: Strategy, race: Race | None) -> Task:
        """Return the task of a candidate; NNCF's default, which others are compared with, is validated to the end."""
        return Task(bench=self._plan.bench, subject=strategy, race=None if strategy == self._plan.default else race)

    def _race(self, generation: int) -> Race:
        """Return what the members of a generation have to meet: what was known before its first one was evaluated.

        So outcomes do not depend on how many are evaluated at the same time, nor on where a search was stopped.
        """
        if self._raced is None or self._raced[0] != generation:
            rules = self._plan.rules if generation == 0 and self._plan.is_default_in_space else self._rules
            before = [trial for trial in self._trials if trial.generation is None or trial.generation < generation]
            found = [
                rival_of(trial.strategy, trial.outcome, rules)
                for trial in selection.eligible(before)
                if trial.strategy is not None and isinstance(trial.outcome, Evaluation)
            ]
            rivals = tuple(rival for rival in found if rival is not None)
            self._raced = (generation, Race(rules=rules, rivals=rivals))
        return self._raced[1]

    def _add_baseline(self) -> None:
        subject = FloatModel(inference_precision=self._plan.own_precision)
        outcome = self._executor.submit([Task(bench=self._plan.bench, subject=subject)])[0]
        if isinstance(outcome, Failure):
            raise ModelError(f"{self._plan.bench.model}: the float model failed at {outcome.stage}: {outcome.message}")
        self._settle(self._study.add(outcome, "baseline", None))

    def _add_default(self) -> None:
        outcome = self._executor.submit([self._task(self._plan.default, None)])[0]
        self._set_limit(outcome)
        if isinstance(outcome, Evaluation):
            self._settle(self._study.add(outcome, "default", self._plan.default))

    def _set_limit(self, outcome: object) -> None:
        """Without metrics and limit, let NNCF's default set the divergence that is still acceptable."""
        rules = self._plan.rules
        if rules.metrics or rules.max_divergence is not None:
            return
        if isinstance(outcome, Failure):
            raise ConfigError(
                f"NNCF's default, which sets the limit on divergence where there is no metric, failed at {outcome.stage}: "
                f"{outcome.message}. Set max_divergence (--max-divergence)"
            )
        if isinstance(outcome, Evaluation):
            self._rules = dataclasses.replace(rules, max_divergence=outcome.divergence.value)
            self._study.set_rules(self._rules)

    def _restore_limit(self) -> None:
        for trial in self._trials:
            if trial.role == "default":
                self._set_limit(trial.outcome)

    def _settle(self, trial: Trial) -> None:
        self._trials.append(trial)
        elapsed = self._clock.now() - self._start
        self._listen(
            Progress(
                trial=trial,
                best=selection.best(selection.eligible(self._trials), self._rules),
                n_candidates=self._n_candidates(),
                max_trials=self._plan.max_trials,
                elapsed_s=elapsed,
                remaining_s=self._remaining(elapsed),
            )
        )

    def _n_candidates(self) -> int:
        return sum(trial.strategy is not None for trial in self._trials)

    def _remaining(self, elapsed: float) -> float | None:
        by_time = None if self._plan.budget_s is None else max(0.0, self._plan.budget_s - elapsed)
        n_new = self._n_candidates() - self._n_before
        if self._plan.max_trials is None or n_new == 0:
            return by_time
        by_trials = elapsed / n_new * (self._plan.max_trials - self._n_candidates())
        return by_trials if by_time is None else min(by_time, by_trials)

    def _stop_reason(self) -> StopReason | None:
        if meeting(selection.eligible(self._trials), self._plan.stop_at, self._rules):
            return "stop_at met"
        if self._plan.max_trials is not None and self._n_candidates() >= self._plan.max_trials:
            return "max_trials reached"
        # Those of this run: what ended the one before may have been put right.
        if repeated_failure(self._trials[self._n_stored :]) is not None:
            return "one failure after the other"
        is_late = self._plan.budget_s is not None and self._clock.now() - self._start >= self._plan.budget_s
        # However short the budget, NNCF's default is tried: a search always has something to compare.
        has_default = any(trial.role == "default" for trial in self._trials)
        return "budget used up" if is_late and (has_default or self._n_candidates() > 0) else None


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
