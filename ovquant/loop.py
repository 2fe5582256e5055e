"""The loop: ask for a generation, evaluate it, tell; until a target is met, the budget is used up or the space is empty."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

from ovquant.errors import ConfigError, ModelError
from ovquant.job import StopAt
from ovquant.objectives import Rules
from ovquant.protocols import Clock, Executor
from ovquant.records import Evaluation, Failure, FloatModel, Trial
from ovquant.strategy import InferencePrecision, Strategy
from ovquant.study import Proposal, Study
from ovquant.tally import Tally
from ovquant.tasks import BenchSpec, Race, Task, rival_of

StopReason: TypeAlias = Literal[
    "stop_at met", "max_trials reached", "budget used up", "search space exhausted", "one failure after the other"
]
_ANNOUNCED = 64  # proposals that are announced together: asking for thousands takes a while


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
        self._rules = plan.rules
        self._raced: tuple[int, Race] | None = None
        self._tally = Tally(plan.stop_at)
        for trial in study.trials():
            if trial.role == "default":
                self._set_limit(trial.outcome)
            self._tally.add(trial, self._rules)
        self._n_before = self._tally.n_candidates
        self._tally.forget_failures()

    def run(self) -> StopReason:
        if not self._tally.has_baseline:
            self._add_baseline()
        if not self._plan.is_default_in_space and not self._tally.has_default:
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
            n_failures = self._tally.n_failures
            reason = self._run_together(together)
            if reason is not None:
                self._executor.announce(self._plan.bench, ())
                return reason
            self._ask(waiting, self._tally.n_failures - n_failures)
        return None

    def _ask(self, waiting: list[Proposal], n_wanted: int) -> None:
        """Ask for members of the current generation, and announce those that wait: the first ones while others are asked for."""
        if self._plan.max_trials is not None:
            n_wanted = min(n_wanted, self._plan.max_trials - self._tally.n_candidates - len(waiting))
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
        """Evaluate some members of a generation and settle one after the other; those that took the budget with them count."""
        reason: StopReason | None = None
        for proposal, outcome in zip(proposals, self._executor.submit(self._tasks(proposals)), strict=True):
            is_default = proposal.strategy == self._plan.default
            if is_default:
                self._set_limit(outcome)
            self._settle(self._study.tell(proposal, outcome, "default" if is_default else "candidate"))
            reason = self._stop_reason()
            if reason not in {None, "budget used up"}:
                break
        return reason

    def _tasks(self, proposals: Sequence[Proposal]) -> list[Task]:
        """Return the tasks of some members of a generation."""
        race = self._race(proposals[0].generation) if proposals else None
        return [self._task(proposal.strategy, race) for proposal in proposals]

    def _task(self, strategy: Strategy, race: Race | None) -> Task:
        """Return the task of a candidate; NNCF's default, which others are compared with, is validated to the end."""
        return Task(bench=self._plan.bench, subject=strategy, race=None if strategy == self._plan.default else race)

    def _race(self, generation: int) -> Race:
        """Return what the members of a generation have to meet: what was known before its first one was evaluated.

        So outcomes do not depend on how many are evaluated at the same time, nor on where a search was interrupted. A search
        that ended keeps no items of its rivals: where it is continued, candidates meet limits, and only rivals that come then.
        """
        if self._raced is None or self._raced[0] != generation:
            rules = self._plan.rules if generation == 0 and self._plan.is_default_in_space else self._rules
            before = self._tally.before(generation)
            found = [rival_of(trial.strategy, trial.evaluation, rules) for trial in before if trial.strategy is not None]
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

    def _settle(self, trial: Trial) -> None:
        self._tally.add(trial, self._rules)
        elapsed = self._clock.now() - self._start
        self._listen(
            Progress(
                trial=trial,
                best=self._tally.best(self._rules),
                n_candidates=self._tally.n_candidates,
                max_trials=self._plan.max_trials,
                elapsed_s=elapsed,
                remaining_s=self._remaining(elapsed),
            )
        )

    def _remaining(self, elapsed: float) -> float | None:
        by_time = None if self._plan.budget_s is None else max(0.0, self._plan.budget_s - elapsed)
        n_new = self._tally.n_candidates - self._n_before
        if self._plan.max_trials is None or n_new == 0:
            return by_time
        by_trials = elapsed / n_new * (self._plan.max_trials - self._tally.n_candidates)
        return by_trials if by_time is None else min(by_time, by_trials)

    def _stop_reason(self) -> StopReason | None:
        if self._tally.is_met:
            return "stop_at met"
        if self._plan.max_trials is not None and self._tally.n_candidates >= self._plan.max_trials:
            return "max_trials reached"
        if self._tally.repeated_failure is not None:
            return "one failure after the other"
        is_late = self._plan.budget_s is not None and self._clock.now() - self._start >= self._plan.budget_s
        # However short the budget, NNCF's default is tried: a search always has something to compare.
        return "budget used up" if is_late and self._tally.n_candidates > 0 else None
