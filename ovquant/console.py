"""What people read: lines, tables, progress. Plain lines where the output is no terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Hashable, Sequence
from typing import TextIO

from rich import box
from rich.console import Console as RichConsole
from rich.live import Live
from rich.markup import escape as as_markup
from rich.table import Table

from ovquant.errors import printable
from ovquant.loop import Progress
from ovquant.progress import Board, Standing, clock, progress_mark, trial_line
from ovquant.sensitivity import Ranking
from ovquant.turns import SystemClock
from ovquant.verdict import Row, Verdict

_PIPE_WIDTH = 160
_REFRESH_HZ = 1  # the clock of the board; drawing takes CPU from what is timed
_NO = {"", "0", "false"}
_PATIENCE_S = 30.0  # without a line; after each that says no more than that something goes on, twice as long
_DOING = {  # stages, and calls of the worker between them
    "open": "reading model and data",
    "recall": "reading what is known",
    "announce": "handing out candidates",
    "submit": "evaluating candidates",
    "make": "quantizing a model",
    "structure": "compiling a model",
    "time": "measuring latency",
    "compare": "measuring latency of the finalists",
    "inspect": "ranking layers by what quantizing them costs",
    "calibrate": "collecting statistics of calibration items",
    "quantize": "waiting for a model",
    "build": "quantizing a model",
    "correct": "correcting biases accurately",
    "compile": "compiling a model",
    "latency": "measuring latency",
    "validate": "running validation items",
    "verdict": "measuring latency of the finalists",
    "profile": "reading which kernels run",
}


def escape(text: str) -> str:
    """Return text that is shown as it is, whatever is in it."""
    return as_markup(printable(text))


def obeys_controls(stream: TextIO) -> bool:
    """Return whether a stream is a terminal that moves its cursor and that somebody looks at: logs of CI are read later."""
    is_dumb = os.environ.get("TERM", "").lower() in {"", "dumb", "unknown"}
    return stream.isatty() and not is_dumb and os.environ.get("CI", "").lower() in _NO


class Console:
    """Writes to standard output; to standard error where that is kept for JSON."""

    def __init__(self, *, is_json: bool = False, is_quiet: bool = False, is_plain: bool = False) -> None:
        """Keep where to write.

        Args:
            is_json: human words go to standard error.
            is_quiet: only results and warnings.
            is_plain: lines only, as where the output is no terminal.
        """
        stream = sys.stderr if is_json else sys.stdout
        is_terminal = not is_plain and obeys_controls(stream)
        self._rich = RichConsole(
            file=stream,
            highlight=False,
            width=None if stream.isatty() else _PIPE_WIDTH,
            force_terminal=is_terminal,
            no_color=not is_terminal or bool(os.environ.get("NO_COLOR")),
        )
        self._is_quiet = is_quiet
        self._is_live = is_terminal and not is_quiet
        self._board: Board | None = None
        self._live: Live | None = None
        self._written_at, self._patience_s = time.monotonic(), _PATIENCE_S

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
        self._written_at, self._patience_s = time.monotonic(), _PATIENCE_S

    def under_way(self, stage: str, seconds: float) -> None:
        """Write what has been under way so long that a reader of lines may think that nothing is.

        Args:
            stage: as failures name it.
            seconds: since it began.
        """
        patience_s = self._patience_s
        if self._is_quiet or self._live is not None or time.monotonic() - self._written_at < patience_s:
            return
        self.info(f"... {_DOING.get(stage, stage)}, for {clock(seconds)} so far")
        self._patience_s = 2 * patience_s

    def begin(self, standing: Standing) -> None:
        """Show from now on where a search stands, where the output is a terminal that is not to be quiet."""
        if self._is_live:
            self._board = Board(standing, SystemClock().now)
            self._live = Live(self._board, console=self._rich, refresh_per_second=_REFRESH_HZ, transient=True)
            self._live.start(refresh=True)
            # A cursor that stays to be seen needs nobody to bring it back, however the process ends.
            self._rich.show_cursor(True)

    def trial(self, progress: Progress) -> None:
        """Write one line about a settled trial; on a terminal, the board stays below."""
        if self._board is not None:
            self._board.update(progress)
        self.info(f"{progress_mark(progress)} {trial_line(progress)}")  # draws the board anew below it

    def stop(self) -> None:
        """Take the board away."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

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
    capacity = ["items/s [95 %]", "memory MB"] if rows[0].capacity is not None else []
    heads = ["model", *metrics, "divergence [95 %]", "latency ms", "speed-up [95 %]", *capacity, "size kB"]
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
        *_capacity_cells(row),
        f"{evaluation.size_bytes / 1000:.0f}",
    ]
    return [*cells, row.judgement or ""] if has_judgement else cells


def _capacity_cells(row: Row) -> list[str]:
    if row.capacity is None:
        return []
    per_s, memory = row.capacity.throughput.per_s, row.capacity.memory
    form = ".0f" if per_s.low >= 100 else ".3g"
    told = f"{per_s.value:{form}} {_range(per_s.low, per_s.high, form)}"
    return [told, "-" if memory is None else f"{memory.peak_bytes / 1e6:.0f}"]


def _range(low: float, high: float, form: str) -> str:
    return f"[{low:{form}}, {high:{form}}]"


def ranking_line(ranking: Ranking) -> str:
    """Return which layers cost most when they are quantized."""
    whole = ranking.all_quantized.value
    most = ", ".join(f"{one.place} saves {one.saved.value:.2g}" for one in ranking.layers[:3])
    return (
        f"{len(ranking.layers)} layers ranked by the divergence that each saves in float, of {whole:.2g} with all quantized; "
        f"{most} (on {ranking.n_items} calibration items)"
    )


def caption(rows: Sequence[Row], device: str, notes: Sequence[str], items: str | None = None) -> str:
    """Return what the numbers of a table were measured on.

    Args:
        rows: of the table.
        device: that latency was measured on.
        notes: further sentences.
        items: what metrics were computed on; None names the split.
    """
    evaluation, latency = rows[0].evaluation, rows[0].latency
    threads = f", {latency.n_threads} threads" if latency.n_threads else ""
    span = f"{latency.visited_s[-1]:.2g} s" if latency.visited_s[-1] < 10 else f"{latency.visited_s[-1]:.0f} s"
    scope = (
        f"allows for what the machine did in these {span}, slower drift stays unseen"
        if latency.is_spread
        else f"is for these {span}, a machine drifts more over minutes"
    )
    said = [
        f"Metrics, drops and divergence: {items or f'{evaluation.n_items} {evaluation.split} items'}.",
        f"Latency: median of {latency.n_visits} bursts of each model, in turns over {span}, on {device}{threads};",
        "speed-up over the baseline is the median ratio of bursts side by side.",
        f"Brackets: 95 % intervals; that of the speed-up {scope}.",
        *_timed_once(rows),
        *_unstable(rows),
        *_on_capacity(rows),
    ]
    return " ".join([*said, *notes])


def _on_capacity(rows: Sequence[Row]) -> list[str]:
    """Return what throughput and memory were measured on."""
    found = [row.capacity for row in rows if row.capacity is not None]
    if not found:
        return []
    first = found[0].throughput
    requests = " or ".join(map(str, sorted({one.throughput.n_requests for one in found})))
    said = [
        f"items/s: compiled for throughput, {requests} inferences at a time, {first.n_visits} visits to each model in turns, "
        f"{first.seconds:.2g} s of each, on the first item; its interval is for that time."
    ]
    if any(one.memory is not None for one in found):
        said.append(
            "memory: by how much a process of its own grows at most (resident) while it reads the model as IR, compiles it and "
            "runs it once."
        )
    return said


def _timed_once(rows: Sequence[Row]) -> list[str]:
    """Return a sentence for all models that share a measurement."""
    models = {row.trial if row.trial is not None else row.name: row for row in rows}  # NNCF's default may be the winner, too
    groups = _names_by([*models.values()], lambda row: row.latency).values()
    return [f"{', '.join(who)} run the same kernels, timed once." for who in groups if len(who) > 1]


def _unstable(rows: Sequence[Row]) -> list[str]:
    """Return a sentence for each reason that speed-ups were not steady."""
    groups = _names_by(rows, lambda row: row.latency.unstable)
    return [f"Unstable speed-up of {', '.join(who)}: {reason}." for reason, who in groups.items() if reason is not None]


def _names_by(rows: Sequence[Row], key: Callable[[Row], Hashable]) -> dict[Hashable, list[str]]:
    """Return the names of the rows by what they have in common."""
    names: dict[Hashable, list[str]] = {}
    for row in rows:
        names.setdefault(key(row), []).append(row_name(row))
    return names
