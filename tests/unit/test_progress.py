"""What is drawn of a search, from given states of it."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
from collections.abc import Sequence

import pytest
from fakes.clock import ScriptedClock
from fakes.records import baseline, evaluation, failed, metric, trial
from rich.console import Console

from ovquant.console import Console as OwnConsole
from ovquant.console import obeys_controls
from ovquant.loop import Progress
from ovquant.progress import Board, Standing, lines_of, seen_of, sketch, time_line, timing_span, trial_line
from ovquant.records import Raced, Trial
from ovquant.targets import MeasurementPlan


def progress(last: Trial, best: Trial | None, n: int, **given: float | None) -> Progress:
    told = {"max_trials": 20, "elapsed_s": 90.0, "remaining_s": 200.0, **given}
    return Progress(trial=last, best=best, n_candidates=n, **told)  # type: ignore[arg-type]


def standing(trials: Sequence[Trial], best: Trial | None = None, **given: float | None) -> Standing:
    begun = Standing(seen=tuple(map(seen_of, trials[:-1])), max_trials=20, budget_s=None)
    return begun.after(progress(trials[-1], best, len(trials), **given))


def stopped(number: int) -> Trial:
    raced = Raced(reason="limit", name="accuracy", bound=0.2, limit=0.1, n_items=500)
    return trial(number, dataclasses.replace(evaluation(divergence=3.0), raced=raced), violation=1.0)


BEST = trial(3, evaluation(divergence=0.001, ratio=0.5, metrics=[metric(0.9733)]))
ALL = [
    baseline(),
    trial(1, evaluation(divergence=0.1, ratio=0.4), violation=0.5),
    trial(2, evaluation(divergence=0.01, ratio=0.8)),
    BEST,
    stopped(4),
    failed(5),
    trial(6, evaluation(divergence=0.0001, ratio=0.9)),
]


def test_counts_and_the_best_say_what_they_are_of():
    lines = lines_of(standing(ALL, BEST))
    told = {name: text for name, text in lines if name}
    assert told["trials"].startswith("6 of 20  #######")
    assert told["so far"] == "3 feasible, 1 infeasible, 1 stopped early, 1 failed"
    assert told["best"] == "trial 3: accuracy 0.9733, divergence 0.001"
    assert lines[-1] == ("", "0.50 of the baseline's latency (2.00x); on 100 validation items")
    assert dict(lines_of(standing(ALL)))["best"] == "none is feasible yet"
    assert dict(lines_of(Standing(seen=(), max_trials=None, budget_s=60)))["trials"] == "0"


def test_a_search_that_goes_on_begins_with_its_best_so_far():
    told = dict(lines_of(Standing(seen=tuple(map(seen_of, ALL)), max_trials=20, budget_s=None, best=BEST))[:4])
    assert told["best"].startswith("trial 3: ")
    assert dict(lines_of(Standing(seen=(), max_trials=20, budget_s=None)))["best"] == "-"


def test_the_sketch_has_a_mark_for_each_trial_that_was_measured_to_the_end():
    lines = sketch(standing(ALL, BEST))
    plot = lines[1:-2]
    marks = "".join(line.split("|")[1] for line in plot)
    assert {mark: marks.count(mark) for mark in "*o.x"} == {"*": 1, "o": 1, ".": 1, "x": 1}
    # Less divergence is lower, less latency to the left.
    (low,) = [line for line in plot if "o" in line]
    assert low == plot[-1]
    assert low.rstrip().endswith("o")
    assert low.startswith("  0.0001 |")
    assert plot[0].startswith("     0.1 |x")
    assert lines[-1].split()[0] == "0.40"
    assert lines[-1].split()[-1] == "0.90"


def test_a_sketch_of_too_few_or_equal_points_is_no_fault():
    assert sketch(standing(ALL[:2])) == []
    alike = [baseline(), trial(1), trial(2)]
    assert sum(line.count("o") for line in sketch(standing(alike))[1:-2]) == 1
    exact = [baseline(), trial(1, evaluation(divergence=0.0)), trial(2)]
    assert sketch(standing(exact))[7].lstrip().startswith("1e-12 |")


def test_the_estimate_goes_down_as_time_passes_and_never_below_nothing():
    state = standing(ALL, BEST)
    assert time_line(state, 90) == "1:30, about 3:20 left"
    assert time_line(state, 120) == "2:00, about 2:50 left"
    assert time_line(state, 4000) == "1:06:40, about 0:00 left"
    assert time_line(Standing(seen=(), max_trials=None, budget_s=600), 5) == "0:05 (budget 10:00)"


def drawn(board: Board, width: int = 100, height: int = 40) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width, height=height, force_terminal=True, color_system=None).print(board)
    return stream.getvalue().splitlines()


def test_the_board_goes_with_the_clock_and_with_the_trials():
    clock = ScriptedClock()
    board = Board(Standing(seen=tuple(map(seen_of, ALL[:-1])), max_trials=20, budget_s=None), clock.now)
    assert "none is feasible yet" in next(line for line in drawn(board) if line.startswith("best"))
    board.update(progress(ALL[-1], BEST, 6))
    clock.sleep(100)
    lines = drawn(board)
    assert next(line for line in lines if line.startswith("time")).split(maxsplit=1)[1].strip() == "1:40, about 3:10 left"
    assert any("trial 3" in line for line in lines)
    assert any(line.startswith("front") for line in lines)


def test_a_small_terminal_has_no_sketch_and_no_line_that_wraps():
    clock = ScriptedClock()
    board = Board(standing(ALL, BEST), clock.now)
    assert not any(line.startswith("front") for line in drawn(board, height=20))
    narrow = drawn(board, width=40)
    assert max(map(len, narrow)) <= 40
    assert len(narrow) == 7
    assert narrow[1].startswith("generation")


def test_lines_of_trials_are_as_they_were():
    assert trial_line(progress(ALL[5], BEST, 5)) == "trial   5  gen 0  5  FAILED at quantize: no such layer"
    assert "stopped" in trial_line(progress(ALL[4], BEST, 5))
    assert " feasible   best  " in trial_line(progress(BEST, BEST, 5))
    known = dataclasses.replace(BEST, recipe="OUT trial 7")
    assert trial_line(progress(known, BEST, 5)).endswith("  NNCF default; f32 (from OUT trial 7)")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    stream = Terminal()
    for name in ("CI", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    return stream


def on(stream: io.StringIO, **options: bool) -> OwnConsole:
    with contextlib.redirect_stdout(stream):
        return OwnConsole(**options)


def use(console: OwnConsole) -> None:
    console.begin(Standing(seen=(seen_of(baseline()),), max_trials=20, budget_s=None))
    console.warn("careful")
    console.trial(progress(BEST, BEST, 1))
    console.stop()
    console.stop()


def test_a_terminal_is_shown_a_board_that_is_taken_away_again(terminal: Terminal):
    use(on(terminal))
    told = terminal.getvalue()
    assert "so far" in told
    assert "\x1b[2K" in told
    assert told.rstrip("\n").rfind("\x1b[?25h") > told.rfind("\x1b[?25l")


@pytest.mark.parametrize(
    ("setting", "options"),
    [({"TERM": "dumb"}, {}), ({"CI": "true"}, {}), ({}, {"is_plain": True}), ({"CI": "1", "FORCE_COLOR": "1"}, {})],
    ids=["dumb", "CI", "plain", "CI that asks for colours"],
)
def test_where_nobody_looks_there_are_lines_only(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, setting, options):
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    use(on(terminal, **options))
    told = terminal.getvalue()
    assert "\x1b" not in told
    assert [line.split()[0] for line in told.splitlines()] == ["note:", "[1/20"]


def test_quiet_is_warnings_only(terminal: Terminal):
    use(on(terminal, is_quiet=True))
    assert "careful" in terminal.getvalue()
    assert "trial" not in terminal.getvalue()


def test_colours_are_left_out_where_they_are_not_wanted(terminal: Terminal, monkeypatch: pytest.MonkeyPatch):
    on(terminal).warn("careful")
    assert "\x1b[33m" in terminal.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    terminal.truncate(0)
    use(on(terminal))
    assert "\x1b[3" not in terminal.getvalue()
    assert "so far" in terminal.getvalue()  # a board is no colour


def test_a_pipe_is_no_terminal_whatever_is_set(monkeypatch: pytest.MonkeyPatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.setenv(name, "1")
    stream = io.StringIO()
    use(on(stream))
    assert "\x1b" not in stream.getvalue()
    with open(os.devnull) as file:  # noqa: PTH123
        assert not obeys_controls(file)


def test_many_slow_models_may_take_longer_than_they_are_spread_over():
    plan = MeasurementPlan(visits=96, burst=50, seconds=13.0, spread=120.0)
    assert timing_span(plan, 9) == ", over 120 s"
    assert timing_span(plan, 10) == ", over 120 to 130 s"
    assert timing_span(MeasurementPlan(), 10) == ""
