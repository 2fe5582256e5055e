"""What people read: lines, tables, progress. Plain lines where the output is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console as RichConsole
from rich.markup import escape as as_markup
from rich.status import Status
from rich.table import Table

from ovquant.errors import printable
from ovquant.loop import Progress
from ovquant.records import Evaluation, Failure, Trial
from ovquant.sensitivity import Ranking
from ovquant.verdict import Row, Verdict

_PIPE_WIDTH = 160


def escape(text: str) -> str:
    """Return text that is shown as it is, whatever is in it."""
    return as_markup(printable(text))


class Console:
    """Writes to standard output; to standard error where that is kept for JSON."""

    def __init__(self, *, is_json: bool = False, is_quiet: bool = False) -> None:
        """Keep where to write.

        Args:
            is_json: human words go to standard error.
            is_quiet: only results and warnings.
        """
        stream = sys.stderr if is_json else sys.stdout
        is_terminal = stream.isatty()
        self._rich = RichConsole(
            file=stream, highlight=False, width=None if is_terminal else _PIPE_WIDTH, no_color=not is_terminal
        )
        self._is_quiet = is_quiet
        self._status: Status | None = self._rich.status("") if is_terminal and not is_quiet else None

    def info(self, text: str) -> None:
        """Write a line that a quiet console leaves out."""
        if not self._is_quiet:
            self.result(text)

    def warn(self, text: str) -> None:
        """Write a warning."""
        self._rich.print(f"[yellow]note:[/yellow] {escape(text)}", soft_wrap=True)

    def result(self, text: str) -> None:
        """Write a line of the result."""
        self._rich.print(escape(text), soft_wrap=True)

    def trial(self, progress: Progress) -> None:
        """Write one line about a settled trial; on a terminal keep a status line below."""
        self.info(f"{progress_mark(progress)} {trial_line(progress)}")
        if self._status is not None:
            self._status.update(escape(status_line(progress)))
            self._status.start()

    def stop(self) -> None:
        """Take the status line away."""
        if self._status is not None:
            self._status.stop()

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], n_words: int = 2) -> None:
        """Write a table; all columns but the first `n_words` are numbers."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for index, column in enumerate(columns):
            table.add_column(escape(column), justify="left" if index < n_words else "right")
        for row in rows:
            table.add_row(*map(escape, row))
        self._rich.print(table)

    def verdict(self, verdict: Verdict, caption: str) -> None:
        """Write the verdict in words, then the table."""
        for sentence in verdict.sentences:
            self.result(sentence)
        self.rows(verdict.rows, caption)

    def rows(self, rows: Sequence[Row], caption: str) -> None:
        """Write the table of models side by side, and below it what each of them is."""
        has_judgement = any(row.judgement for row in rows)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        columns = columns_of(rows, has_judgement)
        for index, column in enumerate(columns):
            is_word = index == 0 or (has_judgement and index == len(columns) - 1)
            table.add_column(escape(column), justify="left" if is_word else "right")
        for row in rows:
            table.add_row(*map(escape, cells_of(row, has_judgement)))
        self._rich.print(table)
        for row in rows:
            self.result(f"{row_name(row)}: {row.description}")
        self.result(caption)


def row_name(row: Row) -> str:
    """Return how a row is called."""
    return row.name if row.trial is None else f"{row.name} (trial {row.trial})"


def columns_of(rows: Sequence[Row], has_judgement: bool) -> list[str]:
    """Return the heads of the table of models side by side."""
    metrics = [head for result in rows[0].evaluation.metrics for head in (result.name, "drop [95 %]")]
    heads = ["model", *metrics, "divergence [95 %]", "latency ms", "speed-up [95 %]", "size kB"]
    return [*heads, "holdout says"] if has_judgement else heads


def cells_of(row: Row, has_judgement: bool) -> list[str]:
    """Return a line of that table."""
    is_reference = row.name == "reference"
    evaluation = row.evaluation
    cells = [row_name(row)]
    for result in evaluation.metrics:
        interval = f" {_range(result.drop.low, result.drop.high, '+.4f')}" if result.has_interval else ""
        cells += [f"{result.value:.4f}", "-" if is_reference else f"{result.drop.value:+.4f}{interval}"]
    divergence, speedup = evaluation.divergence, row.latency.speedup
    cells += [
        "-" if is_reference else f"{divergence.value:.3g} {_range(divergence.low, divergence.high, '.2g')}",
        f"{row.latency.median_ms:.3f}",
        "1" if row.name == "baseline" else f"{speedup.value:.2f}x {_range(speedup.low, speedup.high, '.2f')}",
        f"{evaluation.size_bytes / 1000:.0f}",
    ]
    return [*cells, row.judgement or ""] if has_judgement else cells


def _range(low: float, high: float, form: str) -> str:
    return f"[{low:{form}}, {high:{form}}]"


def progress_mark(progress: Progress) -> str:
    """Return how far a search is: ``[12/40  1:30  ~3:20 left]``."""
    total = "" if progress.max_trials is None else f"/{progress.max_trials}"
    left = "" if progress.remaining_s is None else f"  ~{_clock(progress.remaining_s)} left"
    return f"[{progress.n_candidates}{total}  {_clock(progress.elapsed_s)}{left}]"


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
    fit = "" if trial.role == "baseline" else _standing(trial)
    what = "" if trial.strategy is None else f"  {trial.strategy.describe()}"
    return f"{head}  {measured(trial.outcome)}  {fit:10s} {mark:4s}{what}".rstrip()


def _standing(trial: Trial) -> str:
    raced = trial.evaluation.raced
    if raced is not None:
        return {"limit": "stopped", "dominated": "dominated", "screened": "screened"}[raced.reason]
    return "feasible" if trial.is_feasible else "infeasible"


def measured(evaluation: Evaluation) -> str:
    """Return what was measured of a model, for a line."""
    parts = [f"{result.name} {result.value:.4f}" for result in evaluation.metrics]
    parts.append(f"div {evaluation.divergence.value:.4g}")
    if evaluation.latency is not None:
        parts.append(f"{evaluation.latency.median_ms:.3f} ms")
        parts.append(f"{evaluation.latency.speedup.value:.2f}x")
    if evaluation.raced is not None:
        parts.append(f"[{evaluation.n_items} of {evaluation.raced.n_items} items]")
    return "  ".join(parts)


def status_line(progress: Progress) -> str:
    """Return where the search stands."""
    parts = [f"{progress_mark(progress)} generation {progress.trial.generation or 0}"]
    if progress.best is not None:
        parts.append(f"best: trial {progress.best.number} ({measured(progress.best.evaluation)})")
    else:
        parts.append("none feasible yet")
    return ", ".join(parts)


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}" if whole >= 3600 else f"{whole // 60}:{whole % 60:02d}"


def ranking_line(ranking: Ranking) -> str:
    """Return which layers cost most when they are quantized."""
    whole = ranking.all_quantized.value
    most = ", ".join(f"{one.place} saves {one.saved.value:.2g}" for one in ranking.layers[:3])
    return (
        f"{len(ranking.layers)} layers ranked by the divergence that each saves in float, of {whole:.2g} with all quantized; "
        f"{most} (on {ranking.n_items} calibration items)"
    )


def caption(rows: Sequence[Row], device: str, notes: Sequence[str]) -> str:
    """Return what the numbers of a table were measured on."""
    evaluation, latency = rows[0].evaluation, rows[0].latency
    threads = f", {latency.n_threads} threads" if latency.n_threads else ""
    span = f"{latency.visited_s[-1]:.2g} s" if latency.visited_s[-1] < 10 else f"{latency.visited_s[-1]:.0f} s"
    scope = (
        f"allows for what the machine did in these {span}, slower drift stays unseen"
        if latency.is_spread
        else f"is for these {span}, a machine drifts more over minutes"
    )
    said = [
        f"Metrics, drops and divergence: {evaluation.n_items} {evaluation.split} items.",
        f"Latency: median of {latency.n_visits} bursts of each model, in turns over {span}, on {device}{threads};",
        "speed-up over the baseline is the median ratio of bursts side by side.",
        f"Brackets: 95 % intervals; that of the speed-up {scope}.",
        *_unstable(rows),
    ]
    return " ".join([*said, *notes])


def _unstable(rows: Sequence[Row]) -> list[str]:
    """Return a sentence for each reason that speed-ups were not steady."""
    names: dict[str, list[str]] = {}
    for row in rows:
        if row.latency.unstable is not None:
            names.setdefault(row.latency.unstable, []).append(row_name(row))
    return [f"Unstable speed-up of {', '.join(who)}: {reason}." for reason, who in names.items()]
