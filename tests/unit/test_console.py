"""What people are told of a table."""

from __future__ import annotations

import dataclasses
import time

import pytest
from fakes.records import evaluation, latency

from ovquant.console import Console, caption
from ovquant.errors import printable
from ovquant.records import Latency
from ovquant.verdict import Row


def row(name: str, measured: Latency, trial: int | None = None) -> Row:
    return Row(name=name, description="", trial=trial, evaluation=evaluation(), latency=measured)


def test_caption_of_visits_in_a_row_says_how_long_they_took_and_that_they_show_no_more():
    told = caption([row("baseline", dataclasses.replace(latency(1.0), visited_s=(0.0, 0.84)))], "CPU", [])
    assert "median of 12 bursts of each model, in turns over 0.84 s, on CPU, 2 threads" in told
    assert told.endswith("that of the speed-up is for these 0.84 s, a machine drifts more over minutes.")


def test_caption_of_spread_visits_says_what_the_interval_allows_for():
    told = caption([row("baseline", dataclasses.replace(latency(1.0), visited_s=(0.0, 120.2), is_spread=True))], "CPU", ["Note."])
    assert "in turns over 120 s" in told
    assert told.endswith("allows for what the machine did in these 120 s, slower drift stays unseen. Note.")


def test_caption_names_the_rows_whose_speed_was_not_steady_and_why():
    unstable = dataclasses.replace(latency(0.5), unstable="other processes took 25 % of the CPU time")
    told = caption([row("baseline", latency(1.0)), row("winner", unstable, 3), row("finalist", unstable, 5)], "CPU", [])
    assert "Unstable speed-up of winner (trial 3), finalist (trial 5): other processes took 25 % of the CPU time." in told
    assert told.count("Unstable") == 1


def test_caption_names_the_models_that_run_the_same_kernels():
    rows = [row("baseline", latency(1.0)), row("NNCF default", latency(0.5), 1), row("winner", latency(0.5), 3)]
    told = caption([*rows, row("finalist", latency(0.6), 4)], "CPU", [])
    assert "NNCF default (trial 1), winner (trial 3) run the same kernels, timed once." in told
    assert told.count("the same kernels") == 1


def test_caption_does_not_tell_a_model_that_has_two_rows_to_run_the_kernels_of_itself():
    rows = [row("baseline", latency(1.0)), row("NNCF default", latency(0.5), 1), row("winner", latency(0.5), 1)]
    assert "the same kernels" not in caption(rows, "CPU", [])


HOSTILE = "conv\x1b[31m\x07[bold]\u202e\x9b\r0"


def test_what_a_terminal_would_obey_is_spelt_out(capsys: pytest.CaptureFixture[str]):
    console = Console()
    console.result(HOSTILE)
    console.warn(HOSTILE)
    console.table(["layer"], [[HOSTILE]])
    told = capsys.readouterr().out
    assert told.count("conv\\x1b[31m\\x07[bold]\\u202e\\x9b\\r0") == 3
    assert not set(told) & set("\x1b\x07\x9b\u202e\r")


def test_printable_text_is_left_as_it_is():
    assert printable("Größe 3 µs\n\tok") == "Größe 3 µs\n\tok"


def test_what_takes_long_is_told_ever_more_rarely(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    console = Console()
    told = []
    for second in range(300):
        now[0] = float(second)
        console.under_way("calibrate", second + 5.0)
        if "..." in capsys.readouterr().out:
            told.append(second)
    assert told == [30, 90, 210]
    console.result("a line")
    for second in range(300, 340):
        now[0] = float(second)
        console.under_way("calibrate", second + 5.0)
    assert capsys.readouterr().out == "a line\n... collecting statistics of calibration items, for 5:34 so far\n"


def test_a_quiet_console_does_not_tell_what_takes_long(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    console = Console(is_quiet=True)
    monkeypatch.setattr(time, "monotonic", lambda: float("inf"))
    console.under_way("calibrate", 100.0)
    assert not capsys.readouterr().out
