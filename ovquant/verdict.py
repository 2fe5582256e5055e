"""The end of a search: finalists are timed together, ordered, then measured on items that nobody has looked at."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from pydantic import TypeAdapter

from ovquant import selection
from ovquant.evaluation import BenchSpec, ComparisonTask, Task
from ovquant.objectives import Rules
from ovquant.protocols import Executor
from ovquant.records import Evaluation, Failure, FloatModel, Interval, Latency, Subject, Trial
from ovquant.strategy import InferencePrecision, Strategy

Judgement: TypeAlias = Literal["confirmed", "inconclusive", "refuted"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the final table.

    Attributes:
        name: ``reference``, ``baseline``, ``NNCF default``, ``winner`` or ``finalist``.
        description: strategy, or precision of the float model.
        trial: number, None for what is no trial.
        evaluation: on the holdout.
        latency: measured together with the other rows.
        judgement: of finalists: whether the holdout bears out the constraints.
    """

    name: str
    description: str
    trial: int | None
    evaluation: Evaluation
    latency: Latency
    judgement: Judgement | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result of a search.

    Attributes:
        rows: the final table.
        winner: its trial number.
        judgement: of the winner.
        is_worth_it: False if the winner is not faster than the float model at its own precision.
        sentences: the verdict in words, the most important first.
    """

    rows: tuple[Row, ...]
    winner: int
    judgement: Judgement
    is_worth_it: bool
    sentences: tuple[str, ...]

    @property
    def winner_row(self) -> Row:
        """The winner's line."""
        return next(row for row in self.rows if row.trial == self.winner and row.judgement is not None)


_VERDICT: TypeAdapter[Verdict] = TypeAdapter(Verdict)
_ROW: TypeAdapter[Row] = TypeAdapter(Row)


def to_json(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as JSON values."""
    content: dict[str, Any] = _VERDICT.dump_python(verdict, mode="json")
    return content


def row_to_json(row: Row) -> dict[str, Any]:
    """Return a row as JSON values."""
    content: dict[str, Any] = _ROW.dump_python(row, mode="json")
    return content


def decide(
    bench: BenchSpec,
    executor: Executor,
    rules: Rules,
    finalists: Sequence[Trial],
    default: Trial | None,
    own_precision: InferencePrecision,
) -> Verdict:
    """Return the verdict on a search's finalists.

    Reference, baseline, NNCF's default and finalists are timed in turns in one run; the finalists are ordered by that, and
    only then measured on the holdout. The winner is the first one in that order which the holdout does not refute.

    Args:
        bench: what was searched on.
        executor: where to measure.
        rules: objectives and constraints, with the limits that were in force.
        finalists: at most three feasible trials, at least one.
        default: NNCF's default, None if it failed.
        own_precision: of the baseline.

    Raises:
        RuntimeError: a model that could be measured before cannot be measured any more.
    """
    subjects: dict[str, Subject] = {
        "baseline": FloatModel(inference_precision=own_precision),
        "reference": FloatModel(inference_precision="f32"),
    }
    if default is not None and default.strategy is not None:
        subjects["NNCF default"] = default.strategy
    for trial in finalists:
        if trial.strategy is not None:
            subjects[str(trial.number)] = trial.strategy
    latencies = _compare(bench, executor, subjects)
    ordered = selection.order(finalists, [latencies[str(trial.number)] for trial in finalists], rules)

    evaluations = {name: _on_holdout(bench, executor, subject) for name, subject in subjects.items()}
    if default is not None and rules.max_divergence is not None and not rules.metrics:
        limit = evaluations["NNCF default"].divergence.value
        rules = dataclasses.replace(rules, max_divergence=max(rules.max_divergence, limit))
    judgements = {trial.number: judge(evaluations[str(trial.number)], rules) for trial in ordered}
    if default is not None and default.number in judgements and not rules.metrics:
        judgements[default.number] = "confirmed"
    winner = next((trial for trial in ordered if judgements[trial.number] != "refuted"), ordered[0])

    rows = []
    for name in ("reference", "baseline", "NNCF default"):
        if name in subjects:
            number = default.number if name == "NNCF default" and default is not None else None
            rows.append(_row(name, subjects[name], number, evaluations[name], latencies[name], None))
    for trial in [winner, *(t for t in ordered if t.number != winner.number)]:
        key = str(trial.number)
        name = "winner" if trial.number == winner.number else "finalist"
        rows.append(_row(name, subjects[key], trial.number, evaluations[key], latencies[key], judgements[trial.number]))
    chosen = next(row for row in rows if row.name == "winner")
    return Verdict(
        rows=tuple(rows),
        winner=winner.number,
        judgement=judgements[winner.number],
        is_worth_it=chosen.latency.speedup.low > 1,
        sentences=_sentences(rows, chosen, rules, own_precision),
    )


def judge(evaluation: Evaluation, rules: Rules) -> Judgement:
    """Return what the intervals say of the constraints.

    confirmed: every interval lies within its limit; refuted: one lies beyond; inconclusive: one straddles its limit.
    """
    found: list[Judgement] = []
    for index, result in enumerate(evaluation.metrics):
        limit = rules.limit(index, result)
        if limit is not None:
            found.append(_side(result.drop, limit) if result.has_interval else "inconclusive")
    if rules.max_divergence is not None:
        found.append(_side(evaluation.divergence, rules.max_divergence))
    if "refuted" in found:
        return "refuted"
    return "inconclusive" if "inconclusive" in found else "confirmed"


def _side(interval: Interval, limit: float) -> Judgement:
    if interval.high <= limit:
        return "confirmed"
    return "refuted" if interval.low > limit else "inconclusive"


def _compare(bench: BenchSpec, executor: Executor, subjects: dict[str, Subject]) -> dict[str, Latency]:
    comparison = executor.compare(ComparisonTask(bench=bench, subjects=tuple(subjects.values())))
    if isinstance(comparison, Failure):
        raise RuntimeError(f"the finalists cannot be timed ({comparison.stage}): {comparison.message}")
    return dict(zip(subjects, comparison.latencies, strict=True))


def _on_holdout(bench: BenchSpec, executor: Executor, subject: Subject) -> Evaluation:
    task = Task(bench=bench, subject=subject, split="holdout", is_timed=False, has_intervals=True)
    outcome = executor.submit(task)
    if isinstance(outcome, Failure):
        raise RuntimeError(f"a finalist cannot be measured on the holdout ({outcome.stage}): {outcome.message}")
    return outcome


def describe(subject: Subject) -> str:
    """Return what a subject is, for people."""
    if isinstance(subject, FloatModel):
        return f"float model, {subject.inference_precision}"
    if isinstance(subject, Strategy):
        return subject.describe()
    return subject.path


def _row(
    name: str,
    subject: Subject,
    trial: int | None,
    evaluation: Evaluation,
    latency: Latency,
    judgement: Judgement | None,
) -> Row:
    return Row(
        name=name,
        description=describe(subject),
        trial=trial,
        evaluation=evaluation,
        latency=latency,
        judgement=judgement,
    )


def _sentences(rows: Sequence[Row], winner: Row, rules: Rules, own_precision: InferencePrecision) -> tuple[str, ...]:
    by_name = {row.name: row for row in rows}
    said = [_on_speed(winner, own_precision)]
    said.extend(_on_metrics(winner, rules))
    if rules.max_divergence is not None:
        said.append(
            f"Divergence {winner.evaluation.divergence.value:.4g} on {winner.evaluation.n_items} holdout items, "
            f"limit {rules.max_divergence:.4g}: {_side(winner.evaluation.divergence, rules.max_divergence)}."
        )
    default = by_name.get("NNCF default")
    if default is not None and default.trial == winner.trial:
        said.append("It is NNCF's default: the search found nothing that is better by these rules.")
    elif default is not None:
        ratio = default.evaluation.divergence.value / max(winner.evaluation.divergence.value, 1e-12)
        speed = default.latency.ratio.value / winner.latency.ratio.value
        said.append(f"Against NNCF's default: divergence {1 / max(ratio, 1e-12):.2g}x, speed {speed:.2f}x.")
    if winner.judgement == "refuted":
        said.append("The holdout refutes every finalist: do not deploy it; allow a larger drop or give more validation data.")
    return tuple(said)


def _on_speed(winner: Row, own_precision: InferencePrecision) -> str:
    speedup = winner.latency.speedup
    measured = f"{speedup.value:.2f}x [{speedup.low:.2f}, {speedup.high:.2f}]"
    if speedup.low > 1:
        return f"Trial {winner.trial} runs {measured} as fast as the float model at {own_precision}."
    if speedup.high < 1:
        return (
            f"Quantization is not worth it here: trial {winner.trial}, the best found, runs {measured} as fast as the float "
            f"model at {own_precision}."
        )
    return (
        f"Trial {winner.trial} cannot be told from the float model at {own_precision} by speed: {measured}. "
        "Quantization may not be worth it on this target."
    )


def _on_metrics(winner: Row, rules: Rules) -> list[str]:
    said = []
    for index, result in enumerate(winner.evaluation.metrics):
        limit = rules.limit(index, result)
        drop = f"{result.drop.value:+.4f} [{result.drop.low:+.4f}, {result.drop.high:+.4f}]"
        text = f"{result.name} drops by {drop} on {winner.evaluation.n_items} holdout items"
        if limit is not None:
            side = _side(result.drop, limit) if result.has_interval else "inconclusive"
            text += f", limit {limit:.4f}: {side}"
        said.append(text + ".")
    return said
