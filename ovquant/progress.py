"""Where a search stands: a line for each trial, and a board with all of it for terminals. Nothing is written here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from ovquant import pareto
from ovquant.errors import printable
from ovquant.loop import Progress
from ovquant.records import Evaluation, Failure, Trial
from ovquant.targets import MeasurementPlan

_BAR = 24
_HEIGHT = 7  # lines of the sketch
_WIDTH = 48  # columns of it
_NAMES = 10  # columns of what the lines of the board are called
_ROOM = 24  # lines of a terminal that has room for the sketch


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What is told of a trial after it was settled; the trial itself would take twenty times as much of memory.

    Attributes:
        number, generation: its.
        word: what became of it, see `verdict_of`; empty for the float model.
        point: its latency over the baseline's and its divergence; None for the float model, for failures, and where the
            divergence is that of few items, which cannot be compared.
        violation: of the constraints.
    """

    number: int
    generation: int | None
    word: str
    point: tuple[float, float] | None
    violation: float


def seen_of(trial: Trial) -> Seen:
    """Return what is told of a trial."""
    outcome, point = trial.outcome, None
    if trial.strategy is not None and isinstance(outcome, Evaluation) and outcome.latency is not None and outcome.raced is None:
        point = outcome.latency.ratio.value, outcome.divergence.value
    word = "" if trial.strategy is None else verdict_of(trial)
    return Seen(number=trial.number, generation=trial.generation, word=word, point=point, violation=trial.violation or 0.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What there is to tell between two trials.

    Attributes:
        seen: the trials settled so far, those of earlier runs included.
        max_trials: strategies at most, None without a limit.
        budget_s: wall time at most, None without a limit.
        best: the trial that would win now, None if none is feasible.
        last: what was told after the last trial of this run, None before.
    """

    seen: tuple[Seen, ...]
    max_trials: int | None
    budget_s: float | None
    best: Trial | None = None
    last: Progress | None = None

    def after(self, progress: Progress) -> Standing:
        """Return how things stand after another trial."""
        return dataclasses.replace(self, seen=(*self.seen, seen_of(progress.trial)), best=progress.best, last=progress)

    @property
    def candidates(self) -> list[Seen]:
        """The strategies among the trials."""
        return [one for one in self.seen if one.word]


def progress_mark(progress: Progress) -> str:
    """Return how far a search is: ``[12/40  1:30  ~3:20 left]``."""
    total = "" if progress.max_trials is None else f"/{progress.max_trials}"
    left = "" if progress.remaining_s is None else f"  ~{clock(progress.remaining_s)} left"
    return f"[{progress.n_candidates}{total}  {clock(progress.elapsed_s)}{left}]"


def trial_line(progress: Progress) -> str:
    """Return one settled trial as a line."""
    trial = progress.trial
    if trial.role == "baseline":
        head = "trial   0  float model (baseline)"
    else:
        generation = "-" if trial.generation is None else trial.generation
        head = f"trial {trial.number:3d}  gen {generation}  {trial.code or '-'}"
    if isinstance(trial.outcome, Failure):
        return f"{head}  FAILED at {trial.outcome.stage}: {trial.outcome.message}"
    mark = "best" if progress.best is not None and progress.best.number == trial.number else ""
    fit = "" if trial.role == "baseline" else verdict_of(trial)
    what = "" if trial.strategy is None else f"  {trial.description}"
    return f"{head}  {measured(trial.outcome, is_baseline=trial.role == 'baseline')}  {fit:10s} {mark:4s}{what}".rstrip()


def verdict_of(trial: Trial) -> str:
    """Return in a word what became of a trial."""
    if isinstance(trial.outcome, Failure):
        return "failed"
    if trial.outcome.raced is not None:
        return {"limit": "stopped", "dominated": "dominated", "screened": "screened"}[trial.outcome.raced.reason]
    return "feasible" if trial.is_feasible else "infeasible"


def measured(evaluation: Evaluation, *, is_baseline: bool = False) -> str:
    """Return what was measured of a model, for a line; of the baseline, whose speed-up is 1, without that."""
    parts = [f"{result.name} {result.value:.4f}" for result in evaluation.metrics]
    parts.append(f"div {evaluation.divergence.value:.4g}")
    if evaluation.latency is not None:
        parts.append(f"{evaluation.latency.median_ms:.3f} ms")
        if not is_baseline:
            parts.append(f"{evaluation.latency.speedup.value:.2f}x")
    if evaluation.raced is not None:
        parts.append(f"[{evaluation.n_items} of {evaluation.raced.n_items} items]")
    return "  ".join(parts)


def clock(seconds: float) -> str:
    """Return a duration as ``1:30`` or ``1:02:03``."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}" if whole >= 3600 else f"{whole // 60}:{whole % 60:02d}"


class Board:
    """The table that a terminal shows while a search runs; drawn anew whenever it is rendered, so that its clock goes on."""

    def __init__(self, standing: Standing, now: Callable[[], float]) -> None:
        """Begin to show.

        Args:
            standing: at the beginning.
            now: seconds of a clock that goes on evenly.
        """
        self._now = now
        self._start = now()
        self._show(standing)

    def update(self, progress: Progress) -> None:
        """Take another trial in."""
        self._show(self._standing.after(progress))

    def _show(self, standing: Standing) -> None:
        self._standing = standing
        self._lines = lines_of(standing)
        self._sketch = sketch(standing)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it as the terminal has room."""
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True, min_width=_NAMES)
        table.add_column(no_wrap=True, overflow="ellipsis")
        for name, text in (*self._lines, ("time", time_line(self._standing, self._now() - self._start))):
            table.add_row(name, Text(printable(text)))
        if console.size.height >= _ROOM and console.size.width > _WIDTH + 24:
            for index, line in enumerate(self._sketch):
                table.add_row("front" if index == 0 else "", Text(line))
        yield Text("")
        yield table


def lines_of(standing: Standing) -> list[tuple[str, str]]:
    """Return what is told of a search, but for the time: pairs of a name and what it is."""
    trials = standing.candidates
    generations = [trial.generation for trial in trials if trial.generation is not None]
    limit = standing.max_trials
    done = f"{len(trials)}" if limit is None else f"{len(trials)} of {limit}  {_bar(len(trials), limit)}"
    best = _best(standing)
    return [
        ("generation", str(max(generations, default=0))),
        ("trials", done),
        ("so far", _counts(trials)),
        *(("best" if index == 0 else "", text) for index, text in enumerate(best)),
    ]


def _bar(n_done: int, n_all: int) -> str:
    n_filled = min(_BAR, _BAR * n_done // max(n_all, 1))
    return "#" * n_filled + "." * (_BAR - n_filled)


def _counts(trials: Sequence[Seen]) -> str:
    words = [one.word for one in trials]
    n_early = sum(word in {"stopped", "dominated", "screened"} for word in words)
    early = f", {n_early} stopped early" if n_early else ""
    return f"{words.count('feasible')} feasible, {words.count('infeasible')} infeasible{early}, {words.count('failed')} failed"


def _best(standing: Standing) -> list[str]:
    best = standing.best
    if best is None:
        return ["none is feasible yet" if standing.candidates else "-"]
    evaluation = best.evaluation
    metrics = [f"{result.name} {result.value:.4f}" for result in evaluation.metrics]
    lines = [f"trial {best.number}: {', '.join([*metrics, f'divergence {evaluation.divergence.value:.3g}'])}"]
    where = f"on {evaluation.n_items} {evaluation.split} items"
    if evaluation.latency is None:
        return [*lines, where]
    ratio = evaluation.latency.ratio.value
    return [*lines, f"{ratio:.2f} of the baseline's latency ({1 / ratio:.2f}x); {where}"]


def time_line(standing: Standing, elapsed_s: float) -> str:
    """Return how long a run of a search took so far, and how long it will still take.

    Args:
        standing: what was told last.
        elapsed_s: since the search began.
    """
    text = clock(elapsed_s)
    last = standing.last
    if last is not None and last.remaining_s is not None:
        text += f", about {clock(max(0.0, last.remaining_s - max(0.0, elapsed_s - last.elapsed_s)))} left"
    if standing.budget_s is not None:
        text += f" (budget {clock(standing.budget_s)})"
    return text


def sketch(standing: Standing) -> list[str]:
    """Return divergence over latency in characters: ``*`` best, ``o`` Pareto front, ``.`` feasible, ``x`` not feasible.

    Divergence is on a logarithmic axis, latency is relative to the baseline's. Fewer than two points make no picture.
    """
    shown = [one for one in standing.candidates if one.point is not None]
    if len(shown) < 2:
        return []
    points = np.array([one.point for one in shown])
    front = set(pareto.front(points, np.array([one.violation for one in shown])).tolist())
    best = None if standing.best is None else standing.best.number
    heights = np.log10(np.maximum(points[:, 1], 1e-12))
    columns, rows = _cells(points[:, 0], _WIDTH), _cells(-heights, _HEIGHT)
    grid = [[" "] * _WIDTH for _ in range(_HEIGHT)]
    marks = [_mark(one, best, is_front=index in front) for index, one in enumerate(shown)]
    for index in sorted(range(len(shown)), key=lambda index: "x.o*".index(marks[index])):
        grid[rows[index]][columns[index]] = marks[index]
    labels = [f"{10 ** heights.max():.2g}", *[""] * (_HEIGHT - 2), f"{10 ** heights.min():.2g}"]
    low, high = f"{points[:, 0].min():.2f}", f"{points[:, 0].max():.2f}"
    return [
        "divergence over latency: * best, o front, . feasible, x not",
        *(f"{label:>8} |{''.join(row).rstrip()}" for label, row in zip(labels, grid, strict=True)),
        f"{'':8} +{'-' * _WIDTH}",
        f"{'':10}{low}{'latency / baseline':^{_WIDTH - len(low) - len(high)}}{high}",
    ]


def _mark(one: Seen, best: int | None, *, is_front: bool) -> str:
    if one.number == best:
        return "*"
    if one.violation != 0:
        return "x"
    return "o" if is_front else "."


def _cells(values: np.ndarray, n_cells: int) -> list[int]:
    """Return the cell of each value, from the least one in the first to the largest one in the last."""
    low, span = float(values.min()), float(np.ptp(values))
    if span == 0 or not math.isfinite(span):
        return [n_cells // 2] * len(values)
    return [round((float(value) - low) / span * (n_cells - 1)) for value in values]


def timing_span(plan: MeasurementPlan, n_models: int) -> str:
    """Return over what time models are timed together: the plan's spread, or longer where many of them are slow."""
    if not plan.spread:
        return ""
    longest = max(plan.spread, plan.seconds * n_models)
    return f", over {plan.spread:g} s" if longest == plan.spread else f", over {plan.spread:g} to {longest:g} s"
