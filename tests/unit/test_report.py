"""The content of a report and its renderings, with hostile names and in every state of a search."""

from __future__ import annotations

import html.parser
import json
import re
import shlex

import plotly.graph_objects as go
import pytest
from fakes import records
from fakes.reports import HOSTILE, source, trials

from ovquant.records import Failure
from ovquant.report import charts, page, text
from ovquant.report.content import content
from ovquant.report.layers import layers
from ovquant.report.source import Source


class Parser(html.parser.HTMLParser):
    """Counts elements, and keeps the text of scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href"}]
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and self.scripts:
            self.scripts[-1] += data


def parsed(rendered: str) -> Parser:
    parser = Parser()
    parser.feed(rendered)
    return parser


@pytest.fixture(scope="module")
def hostile() -> str:
    return page.render(content(source()))


def test_hostile_names_stay_text(hostile: str) -> None:
    parser = parsed(hostile)
    assert parser.tags.count("script") == 3
    assert "img" not in parser.tags
    assert "b" not in parser.tags
    assert HOSTILE.replace("\u2028", "") not in hostile.replace("\u2028", "")
    assert "49" not in re.sub(r"<script>.*", "", hostile[: hostile.index("</h1>")])  # no template in a template
    data = json.loads(parser.scripts[0])
    assert data["trials"][2]["strategy"]["ignored_scope"]["names"] == [HOSTILE]


def test_the_page_asks_for_nothing_from_elsewhere(hostile: str) -> None:
    assert set(parsed(hostile).addresses) == {"data:,", "#main"}
    assert "default-src 'none'" in hostile
    assert len(hostile.encode()) < 6e6


def test_labels_of_charts_hold_no_tags_but_our_own() -> None:
    told = json.dumps(charts.figures(content(source())), ensure_ascii=False)
    assert "<img" not in told
    assert set(re.findall(r"</?\w+", told)) <= {"<b", "</b", "<br", "<extra", "</extra"}


def test_charts_are_valid_figures() -> None:
    figures = charts.figures(content(source()))
    assert set(figures) == {"front", "progress", "layers", "bursts", "spread"}
    many = charts.figures(content(source(trials=trials(16), genes={n: {"gene": str(n % 2)} for n in range(1, 17)})))
    assert "importance" in many
    for figure in (*figures.values(), *many.values()):
        go.Figure(figure)  # plotly refuses what it does not know


def test_standings_differ_in_more_than_colour() -> None:
    assert len(set(charts._SYMBOLS.values())) == len(charts._SYMBOLS)


def test_markdown_has_no_html_links_or_broken_tables() -> None:
    rendered = text.render(content(source()))
    prose = re.sub(r"^(`{3,}).*?^\1$", "", rendered, flags=re.DOTALL | re.MULTILINE)
    assert "<img" not in prose
    assert "[x](" not in prose
    tables = re.findall(r"(?:^\|.*\n)+", prose, flags=re.MULTILINE)
    assert len(tables) >= 4
    for table in tables:
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(counts) == 1, table


def test_commands_are_quoted_for_the_shell() -> None:
    found = content(source())["reproduce"]
    assert shlex.split(found[0]["command"])[2] == f"out {HOSTILE}/job.yaml"
    for one in found:
        assert shlex.split(one["command"])[0] == "ovquant"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "is finished: 6 strategies tried (allowed: at most 9); max_trials reached"),
        ({"state": "running", "verdict": None, "result": {}}, "is running: 6 strategies tried"),
        ({"state": "stopped", "verdict": None, "result": {}}, "was stopped before its end"),
        (
            {"state": "stopped", "verdict": None, "result": {}, "ended": "budget used up"},
            "ended (budget used up) without a verdict",
        ),
        ({"state": "running", "result": {"n_trials": 4}}, "are those of 3 strategies. The search is running again: 6"),
        ({"trials": trials()[:1], "state": "running", "verdict": None, "result": {}, "genes": {}}, "0 strategies tried"),
        ({"trials": (), "state": "running", "verdict": None, "result": {}, "genes": {}}, "0 strategies tried"),
        ({"inspection": None, "winner_kernels": None, "manifest": {}}, "is finished"),
    ],
)
def test_every_state_is_rendered_and_told(changes: dict[str, object], told: str) -> None:
    found = content(source(**changes))
    assert told in found["completeness"]
    assert "Verdict" in page.render(found, 5.0)
    assert told in text.render(found).replace("\\_", "_")
    assert json.loads(json.dumps(found, allow_nan=False))["state"] == found["state"]


def test_without_a_verdict_the_best_so_far_leads_by_validation_items() -> None:
    found = content(source(state="stopped", verdict=None, result={}))
    assert found["best_so_far"] == 2
    assert found["verdict"]["sentences"][0].startswith("So far trial 2 leads")
    assert [row[0] for row in found["models"]["rows"]] == ["baseline", "NNCF default (trial 1)", "best so far (trial 2)"]
    assert "validation items" in found["caption"]


def test_if_nothing_is_feasible_the_nearest_miss_is_told() -> None:
    bad = (records.baseline(), records.trial(1, violation=2.0), records.trial(2, violation=1.0), records.failed(3))
    found = content(source(trials=bad, state="stopped", verdict=None, result={}))
    assert found["verdict"]["sentences"][0] == "No strategy meets the limits so far."
    assert "trial 2" in found["verdict"]["sentences"][1]
    failing = content(source(trials=(records.failed(1),), state="stopped", verdict=None, result={}, genes={}))
    assert len(failing["verdict"]["sentences"]) == 1


def test_numbers_that_are_not_finite_are_none() -> None:
    odd = records.trial(1, records.evaluation(divergence=float("inf")))
    found = content(source(trials=(records.baseline(), odd), state="stopped", verdict=None, result={}, genes={}))
    assert found["trials"][1]["divergence"]["value"] is None
    page.render(found)


def test_failures_are_counted_by_stage_and_kind() -> None:
    crash = Failure(stage="compile", error="Crash", message="signal 11")
    every = (records.failed(1), records.trial(2, crash), records.failed(3))
    found = content(source(trials=every, state="stopped", verdict=None, result={}, genes={}))["failures"]
    assert [(one["stage"], one["kind"], one["trials"]) for one in found] == [
        ("quantize", "RuntimeError", [1, 3]),
        ("compile", "Crash", [2]),
    ]


def test_layers_join_what_is_made_of_the_same_operations() -> None:
    given: Source = source()
    assert given.baseline_kernels is not None
    assert given.winner_kernels is not None
    ranking = given.inspection.ranking if given.inspection else None
    first, second = layers(given.baseline_kernels, given.winner_kernels, ranking)
    assert (first.names, first.float_us, first.us) == ((HOSTILE,), 30.0, 10.0)
    assert (first.float_precisions, first.precisions) == (("f32",), ("u8",))
    assert first.saved == records.interval(0.3, 0.1)
    assert (second.names, second.saved) == (("head",), None)
