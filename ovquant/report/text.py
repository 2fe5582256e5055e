"""The report as Markdown, for issues, wikis and mail."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any

from ovquant.report.words import counts, generations, most, number, shares

_N_LAYERS = 15
# An underscore within a word is none of these, nor is a bracket, unless it could end a link's text.
_SPECIAL = re.compile(r"[\\`*|~]|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[:])|^[#>+-](?=\s|$)|^\d+(?=[.)]\s)")
MARK = "<!-- ovquant report -->"


def render(content: dict[str, Any]) -> str:
    """Return the page; what comes from models, files and users is escaped.

    Args:
        content: see `ovquant.report.content`.
    """
    models = content["models"]
    parts = [
        MARK,
        f"# {_text(content['title'])}",
        *map(_text, content["verdict"]["sentences"]),
        _text(content["completeness"]),
        *(f"Note: {_text(note)}" for note in content["notes"]),
        "## Models side by side",
        _table(models["columns"], models["rows"]),
        "\n".join(f"- {_text(one['model'])}: {_text(one['is'])}" for one in models["descriptions"]),
        _text(content["caption"]),
        _text(content["goal"]),
        "## Pareto front",
        f"{_text(counts(content))}.",
        _table(
            ["trial", "divergence", "speed-up", "strategy"],
            [
                [str(t["number"]), number(t["divergence"]["value"], ".4g"), number(t["speedup"]["value"], ".2f"), t["is"]]
                for t in content["trials"]
                if t["standing"] == "front"
            ],
        ),
        "## Progress of the search",
        _table(
            ["generation", "trials", "feasible", "progress after it"],
            [
                [str(g["generation"]), str(g["n_trials"]), str(g["n_feasible"]), number(g["progress"], ".4g")]
                for g in generations(content)
            ],
        ),
        _text(content["economy"]),
        "## Which genes mattered",
        *(_importance(one) for one in content["importance"]),
        *([] if content["importance"] else ["Too few trials were measured to tell."]),
        *_layers(content),
        "## Failures",
        _table(
            ["stage", "kind", "trials", "for example"],
            [[f["stage"], f["kind"], ", ".join(map(str, f["trials"])), f["example"]] for f in content["failures"]],
        ),
        "## Environment",
        "\n".join(f"- {key}: {_text(value)}" for key, value in content["environment"].items()),
        "## How to reproduce",
        *(f"{one['does']}:\n\n{_code(one['command'])}" for one in content["reproduce"]),
        f"{content['made_by']}, {content['written']}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _importance(one: dict[str, Any]) -> str:
    doubt = f" Unsure: {_text(one['doubt'])}." if one["doubt"] else ""
    return f"For {one['objective']}, {one['n_trials']} trials: {_text(most(one))}{doubt}"


def _layers(content: dict[str, Any]) -> list[str]:
    found = content["layers"]
    if found is None:
        return []
    said = f"Winner: {found['total_us']:.0f} µs in kernels, by what they take in: {shares(found['shares'])}."
    rows = [
        [", ".join(one["names"][:3]), "+".join(one["precisions"]), number(one["us"], ".1f"), number(one["float_us"], ".1f")]
        for one in found["layers"][:_N_LAYERS]
    ]
    return ["## The winner layer by layer", said, _table(["layer", "takes in", "µs", "float µs"], rows)]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "None."
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell if cell == '---' else _text(cell) for cell in line)} |" for line in lines)


def _text(text: str) -> str:
    """Return text that no Markdown reader takes for anything else: no emphasis, code, link, cell or HTML."""
    return _SPECIAL.sub(r"\\\g<0>", html.escape(" ".join(text.split()), quote=False))


def _code(command: str) -> str:
    """Return a block of code whose fence is longer than any in it."""
    longest = max(map(len, re.findall("`+", command)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}console\n$ {command}\n{fence}"
