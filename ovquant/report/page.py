"""The report as one HTML page that needs nothing else: no network, no other file."""

from __future__ import annotations

import functools
import importlib.resources
from typing import Any

import jinja2
from markupsafe import Markup

from ovquant.report.charts import figures
from ovquant.report.importance import LEAST_TRIALS
from ovquant.report.words import counts, generations, most, number, shares, unstable

_JUDGED = {
    "confirmed": "the holdout confirms the limits",
    "inconclusive": "the holdout leaves open whether the limits are kept",
    "refuted": "the holdout refutes the limits",
    "no limit": "there were no limits to keep",
}


def render(content: dict[str, Any], refresh_s: float | None = None) -> str:
    """Return the page.

    Everything that comes from models, files and users is escaped: in HTML by the template, in the data by `tojson`, in plotly's
    labels by `ovquant.report.charts`, and the script writes it as text. A content security policy forbids all connections.

    Args:
        content: see `ovquant.report.content`.
        refresh_s: the page loads itself again after so many seconds; None for a page that will not change.
    """
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    metrics: list[dict[str, Any]] = next((trial["metrics"] for trial in content["trials"] if trial["metrics"]), [])
    kept = {key: content[key] for key in ("trials", "winner")}
    page: str = environment.from_string(_file("report.html.j2")).render(
        c=content,
        css=Markup(_file("report.css")),
        js=Markup(_file("report.js")),
        plotly=Markup(get_plotlyjs()),
        data={**kept, "leader": content["best_so_far"], "figures": figures(content), "refresh_s": refresh_s},
        refresh_s=None if refresh_s is None else f"{refresh_s:g}",
        tone=_tone(content),
        headline=_headline(content["verdict"]),
        counts=counts(content),
        metric_names=[metric["name"] for metric in metrics],
        generations=generations(content),
        is_share=not any("fitness" in trial for trial in content["trials"]),
        least_trials=LEAST_TRIALS,
        number=number,
        most=most,
        shares=shares,
        unstable=unstable(content["latency"]),
    )
    return page


@functools.cache
def _file(name: str) -> str:
    return (importlib.resources.files(__package__) / name).read_text(encoding="utf-8")


def _headline(verdict: dict[str, Any]) -> str:
    """Return the verdict in few words, empty where there is none."""
    if verdict["judgement"] is None:
        return ""
    if verdict["judgement"] == "refuted":
        said = "not to be deployed"
    else:
        said = "faster" if verdict["is_worth_it"] else "not shown to be faster"
    return f"{said}; {_JUDGED[verdict['judgement']]}"


def _tone(content: dict[str, Any]) -> str:
    verdict = content["verdict"]
    if content["state"] != "finished" or verdict["judgement"] is None:
        return ""
    if verdict["judgement"] == "refuted":
        return "bad"
    return "good" if verdict["is_worth_it"] and verdict["judgement"] in {"confirmed", "no limit"} else "warn"
