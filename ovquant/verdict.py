"""The end of a search: finalists are timed together, ordered, then measured on items that nobody has looked at."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from pydantic import TypeAdapter

from ovquant import selection
from ovquant.job import StopAt
from ovquant.latency import relative_speedup
from ovquant.metrics import intervals
from ovquant.objectives import Rules
from ovquant.protocols import Executor
from ovquant.records import Capacity, Comparison, Evaluation, Failure, FloatModel, Interval, Latency, MetricResult, Subject, Trial
from ovquant.strategy import InferencePrecision, Strategy
from ovquant.tasks import BenchSpec, ComparisonTask, Task

Judgement: TypeAlias = Literal["confirmed", "inconclusive", "refuted", "no limit"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the final table.

    Attributes:
        name: ``reference``, ``baseline``, ``NNCF default``, ``winner`` or ``finalist``.
        description: strategy, or precision of the float model.
        trial: number, None for what is no trial.
        evaluation: on the holdout.
        latency: measured together with the other rows.
        judgement: of finalists and NNCF's default: whether the holdout bears out the constraints.
        capacity: throughput and memory, where they were asked for.
    """

    name: str
    description: str
    trial: int | None
    evaluation: Evaluation
    latency: Latency
    judgement: Judgement | None = None
    capacity: Capacity | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result of a search.

    Attributes:
        rows: the final table.
        winner: its trial number.
        judgement: of the winner.
        is_worth_it: False if the winner is not faster than the float model at its own precision.
        sentences: the verdict in words, the most important first.
        sharing_fault: why candidates could not share calibration statistics, None where they could.
    """

    rows: tuple[Row, ...]
    winner: int
    judgement: Judgement
    is_worth_it: bool
    sentences: tuple[str, ...]
    sharing_fault: str | None = None

    @property
    def winner_row(self) -> Row:
        """The winner's line."""
        return next(row for row in self.rows if row.name == "winner")


_VERDICT: TypeAdapter[Verdict] = TypeAdapter(Verdict)
_ROW: TypeAdapter[Row] = TypeAdapter(Row)


def to_json(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as JSON values."""
    content: dict[str, Any] = _VERDICT.dump_python(verdict, mode="json")
    return content


def from_json(content: dict[str, Any]) -> Verdict:
    """Return the verdict that `to_json` wrote.

    Raises:
        ValidationError: it is none.
    """
    return _VERDICT.validate_python(content)


def row_to_json(row: Row) -> dict[str, Any]:
    """Return a row as JSON values."""
    content: dict[str, Any] = _ROW.dump_python(row, mode="json")
    return content


def row_from_json(content: dict[str, Any]) -> Row:
    """Return the row that `row_to_json` wrote."""
    return _ROW.validate_python(content)


def decide(
    bench: BenchSpec,
    executor: Executor,
    rules: Rules,
    finalists: Sequence[Trial],
    default: Trial | None,
    own_precision: InferencePrecision,
    stop_at: StopAt | None = None,
) -> Verdict:
    """Return the verdict on a search's finalists.

    Reference, baseline, NNCF's default and finalists are timed in turns in one run; the finalists are ordered by that, and only
    then measured on the holdout. The winner is the first one in that order which the holdout does not refute.

    Args:
        bench: what was searched on.
        executor: where to measure.
        rules: objectives and constraints. A limit on divergence that was NNCF's default's on validation items must be left
            out: on the holdout it is NNCF's default's there.
        finalists: at least one, feasible.
        default: NNCF's default, None if it failed.
        own_precision: of the baseline.
        stop_at: what ended the search, if that did.

    Raises:
        RuntimeError: a model that could be measured before cannot be measured any more.
    """
    trials = [*([default] if default is not None else []), *finalists]
    subjects = _subjects(trials, own_precision)
    comparison = _compare(bench, executor, subjects)
    latencies = dict(zip(subjects, comparison.latencies, strict=True))
    ordered = selection.order(finalists, [latencies[_key(trial)] for trial in finalists], rules)
    evaluations = _on_holdout(bench, executor, subjects)
    if default is not None and not rules.metrics and rules.max_divergence is None:
        judgements = {_key(trial): _beside(evaluations[_key(trial)], evaluations[_key(default)]) for trial in trials}
        rules = dataclasses.replace(rules, max_divergence=evaluations[_key(default)].divergence.value)
    else:
        judgements = {_key(trial): judge(evaluations[_key(trial)], rules) for trial in trials}
    winner = next((trial for trial in ordered if judgements[_key(trial)] != "refuted"), ordered[0])
    table = tuple(
        Row(
            name=name,
            description=describe(subjects[key]),
            trial=None if trial is None else trial.number,
            evaluation=evaluations[key],
            latency=latencies[key],
            judgement=judgements.get(key),
        )
        for name, key, trial in _lines(default, winner, ordered)
    )
    sentences, is_worth_it = words(table, rules)
    if stop_at is not None:
        sentences = (*sentences, _on_stop(next(row for row in table if row.name == "winner"), stop_at, rules))
    if judgements[_key(winner)] != "refuted":
        sentences = (*sentences, *_refuted_before(winner, ordered))
    return Verdict(
        rows=table,
        winner=winner.number,
        judgement=judgements[_key(winner)],
        is_worth_it=is_worth_it,
        sentences=sentences,
        sharing_fault=comparison.sharing_fault,
    )


def _lines(default: Trial | None, winner: Trial, ordered: Sequence[Trial]) -> list[tuple[str, str, Trial | None]]:
    """Return name, key of the subject and trial of each row; finalists are those that have none of the other names."""
    lines: list[tuple[str, str, Trial | None]] = [("reference", "reference", None), ("baseline", "baseline", None)]
    lines += [("NNCF default", _key(default), default)] if default is not None else []
    lines.append(("winner", _key(winner), winner))
    shown = {key for _, key, _ in lines}
    return [*lines, *(("finalist", _key(trial), trial) for trial in ordered if _key(trial) not in shown)]


def _refuted_before(winner: Trial, ordered: Sequence[Trial]) -> tuple[str, ...]:
    """Return the sentence on finalists that the holdout took out, which is then not used for the report alone."""
    n_refuted = ordered.index(winner)
    told = f"The holdout refuted {n_refuted} of {len(ordered)} finalists before it, so it took part in the choice."
    return (told,) if n_refuted else ()


def _on_stop(winner: Row, stop_at: StopAt, rules: Rules) -> str:
    """Return what is now known of what ended the search, which went by single estimates."""
    held = []
    if stop_at.max_drop is not None:
        result = winner.evaluation.metrics[0]
        limit = stop_at.max_drop.limit(rules.reference(0, result))
        held.append(f"drop of {limit:.4f} at most {_side_of_drop(result, limit)}")
    if stop_at.min_speedup is not None:
        held.append(f"{stop_at.min_speedup:g}x the baseline's speed {_side(winner.latency.ratio, 1 / stop_at.min_speedup)}")
    if stop_at.fitness is not None:
        fitness = rules.fitness(dataclasses.replace(winner.evaluation, latency=winner.latency))
        held.append(f"fitness of {stop_at.fitness:g} now {'unknown' if fitness is None else f'{fitness:.4g}'}")
    return (
        f"Trial {winner.trial} met stop_at by point estimates on validation items and in a short timing; by the holdout and the "
        f"final timing: {', '.join(held)}."
    )


def _key(trial: Trial) -> str:
    return str(trial.number)


def _subjects(trials: Sequence[Trial], own_precision: InferencePrecision) -> dict[str, Subject]:
    """Return what is to be measured, the baseline first; nothing twice."""
    subjects: dict[str, Subject] = {
        "baseline": FloatModel(inference_precision=own_precision),
        "reference": FloatModel(inference_precision="f32"),
    }
    for trial in trials:
        if trial.strategy is not None:
            subjects[_key(trial)] = trial.strategy
    return subjects


def judge(evaluation: Evaluation, rules: Rules) -> Judgement:
    """Return what the intervals say of the constraints.

    confirmed: every interval lies within its limit; refuted: one lies beyond; inconclusive: one straddles its limit; no
    limit: there is none to keep.
    """
    found: list[Judgement] = []
    for index, result in enumerate(evaluation.metrics):
        limit = rules.limit(index, result)
        if limit is not None:
            found.append(_side_of_drop(result, limit))
    if rules.max_divergence is not None:
        found.append(_side(evaluation.divergence, rules.max_divergence))
    if "refuted" in found:
        return "refuted"
    if "inconclusive" in found:
        return "inconclusive"
    return "confirmed" if found else "no limit"


def _beside(evaluation: Evaluation, default: Evaluation) -> Judgement:
    """Return what the holdout says of a limit that NNCF's default sets: by the difference, item by item where that is known."""
    if evaluation is default:
        return "confirmed"
    less = less_divergence(evaluation, default)
    if less is None:
        return _side(evaluation.divergence, default.divergence.value)
    if less.low >= 0:
        return "confirmed"
    return "refuted" if less.high < 0 else "inconclusive"


def _side_of_drop(result: MetricResult, limit: float) -> Judgement:
    return _side(result.drop, limit) if result.has_interval else "inconclusive"


def _side(interval: Interval, limit: float) -> Judgement:
    if interval.high <= limit:
        return "confirmed"
    return "refuted" if interval.low > limit else "inconclusive"


def _compare(bench: BenchSpec, executor: Executor, subjects: dict[str, Subject]) -> Comparison:
    comparison = executor.compare(ComparisonTask(bench=bench, subjects=tuple(subjects.values())))
    if isinstance(comparison, Failure):
        raise RuntimeError(f"the finalists cannot be timed ({comparison.stage}): {comparison.message}")
    return comparison


def _on_holdout(bench: BenchSpec, executor: Executor, subjects: dict[str, Subject]) -> dict[str, Evaluation]:
    tasks = [Task(bench=bench, subject=s, split="holdout", is_timed=False, has_intervals=True) for s in subjects.values()]
    evaluations = {}
    for name, outcome in zip(subjects, executor.submit(tasks), strict=True):
        if isinstance(outcome, Failure):
            raise RuntimeError(f"a finalist cannot be measured on the holdout ({outcome.stage}): {outcome.message}")
        evaluations[name] = outcome
    return evaluations


def describe(subject: Subject) -> str:
    """Return what a subject is, for people."""
    if isinstance(subject, FloatModel):
        return f"float model at {subject.inference_precision}"
    if isinstance(subject, Strategy):
        return subject.describe()
    return f"{subject.path} at {subject.inference_precision}"


def words(rows: Sequence[Row], rules: Rules) -> tuple[tuple[str, ...], bool]:
    """Return the verdict in words, and whether quantization is worth it.

    The rival is the float model at the target's own precision, or at f32 where the former breaks the limits itself.
    """
    by_name = {row.name: row for row in rows}
    winner, baseline, default = by_name["winner"], by_name["baseline"], by_name.get("NNCF default")
    is_baseline_refuted = judge(baseline.evaluation, rules) == "refuted"
    rival = by_name["reference"] if is_baseline_refuted else baseline
    said = []
    if is_baseline_refuted:
        said.append(f"The {baseline.description} breaks the limits itself, so the rival is the {rival.description}.")
    speedup = relative_speedup(winner.latency, rival.latency)
    said.append(_on_speed(winner, rival, speedup))
    said.extend(_on_limits(winner, default, rules))
    if default is not None and default.trial == winner.trial:
        said.append("It is NNCF's default: the search found nothing that is better by these rules.")
    elif default is not None:
        said.extend(_against_default(winner, default, rival))
    if winner.judgement == "refuted":
        said.append("The holdout refutes every finalist: do not deploy it; allow a larger drop or give more validation data.")
    return tuple(said), speedup.low > 1 and winner.judgement != "refuted"


def _on_speed(winner: Row, rival: Row, speedup: Interval) -> str:
    measured = f"{speedup.value:.2f}x [{speedup.low:.2f}, {speedup.high:.2f}]"
    if speedup.low > 1:
        return f"Trial {winner.trial} runs {measured} as fast as the {rival.description}."
    if speedup.high < 1:
        return (
            f"Quantization is not worth it here: trial {winner.trial}, the best found, runs {measured} as fast as the "
            f"{rival.description}."
        )
    disturbance = winner.latency.unstable or rival.latency.unstable
    why = (
        f"The measurement was unstable: {disturbance}. The same command on a quiet machine measures again."
        if disturbance
        else "Quantization may not be worth it on this target."
    )
    return f"Trial {winner.trial} cannot be told from the {rival.description} by speed: {measured}. {why}"


def _on_limits(winner: Row, default: Row | None, rules: Rules) -> list[str]:
    evaluation = winner.evaluation
    said = []
    for index, result in enumerate(evaluation.metrics):
        limit = rules.limit(index, result)
        drop = f"{result.drop.value:+.4f} [{result.drop.low:+.4f}, {result.drop.high:+.4f}]"
        text = f"{result.name} drops by {drop} on {evaluation.n_items} holdout items"
        if limit is not None:
            text += f"; limit {limit:.4f}: {_side_of_drop(result, limit)}"
        said.append(text + ".")
    if rules.max_divergence is not None:
        divergence = evaluation.divergence
        how = winner.judgement if not evaluation.metrics else _side(divergence, rules.max_divergence)
        is_defaults = default is not None and default.evaluation.divergence.value == rules.max_divergence
        whose = ", that of NNCF's default on the same items" if is_defaults else ""
        said.append(
            f"Divergence is {divergence.value:.3g} [{divergence.low:.3g}, {divergence.high:.3g}] on {evaluation.n_items} "
            f"holdout items; limit {rules.max_divergence:.3g}{whose}: {how}."
        )
    return said


def _against_default(winner: Row, default: Row, rival: Row) -> list[str]:
    """Return how the winner compares with NNCF's default and, where no difference is beyond chance, which one is simpler."""
    ratio = winner.evaluation.divergence.value / max(default.evaluation.divergence.value, 1e-12)
    speedup = relative_speedup(winner.latency, default.latency)
    less = less_divergence(winner.evaluation, default.evaluation)
    drops = [drop for pair in zip(winner.evaluation.metrics, default.evaluation.metrics, strict=True) if (drop := _paired(*pair))]
    paired = "" if less is None else f" (less by {less.value:.3g} [{less.low:.3g}, {less.high:.3g}], item by item)"
    speed = f"{speedup.value:.2f}x [{speedup.low:.2f}, {speedup.high:.2f}] its speed"
    if winner.latency == default.latency:
        speed = "its speed, as it runs the same kernels"
    said = [
        f"Against NNCF's default: {ratio:.2g} times its divergence{paired} at {speed}.",
        *(told for _, told in drops),
    ]
    is_alike = (
        less is not None and all(_may_be(0, found) for found in (less, *(drop for drop, _ in drops))) and _may_be(1, speedup)
    )
    is_faster = any(relative_speedup(row.latency, rival.latency).low > 1 for row in (winner, default))
    if not is_faster:
        said.append(f"Neither is shown to be faster than the {rival.description}: unless size is what counts, keep that one.")
    elif is_alike and default.judgement in {"confirmed", "no limit", winner.judgement} - {"refuted"}:
        said.append(
            f"No difference is beyond chance, so NNCF's default is as good by what was measured, and simpler: "
            f"ovquant export OUT --trial {default.trial} -o DIR writes it."
        )
    return said


def _may_be(value: float, interval: Interval) -> bool:
    return interval.low <= value <= interval.high


def _paired(mine: MetricResult, theirs: MetricResult) -> tuple[Interval, str] | None:
    """Return how much a metric is higher than another model's, item by item, and that in words; None where it is not known."""
    if mine.scores is None or theirs.scores is None or len(mine.scores) != len(theirs.scores):
        return None
    first, second = np.array(mine.scores), np.array(theirs.scores)
    value = float(first.mean() - second.mean())
    more = intervals.paired_drop(first, second) or Interval(value=value, low=value, high=value)
    p_value = intervals.exact_p(first, second)
    tested = "" if p_value is None else f"; exact McNemar test: p = {p_value:.2g}"
    return (
        more,
        f"Its {mine.name} less that of NNCF's default, item by item: {value:+.4f} [{more.low:+.4f}, {more.high:+.4f}]{tested}.",
    )


def less_divergence(mine: Evaluation, theirs: Evaluation) -> Interval | None:
    """Return by how much a model's divergence is less than another's, on the same items; None where it is not known of each."""
    if mine.divergences is None or theirs.divergences is None or len(mine.divergences) != len(theirs.divergences):
        return None
    return intervals.mean(np.subtract(theirs.divergences, mine.divergences))
