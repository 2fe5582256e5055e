"""The charts as plotly figures in plain JSON values. Colours are names of roles that the page has a colour for in each theme."""

from __future__ import annotations

import html
import itertools
from collections.abc import Sequence
from typing import Any, TypeAlias

from ovquant.report.standing import WORDS, Standing
from ovquant.report.words import number

Figure: TypeAlias = dict[str, Any]
Content: TypeAlias = dict[str, Any]

_SYMBOLS: dict[Standing, str] = {
    "baseline": "star",
    "front": "circle",
    "feasible": "circle-open",
    "infeasible": "x-thin",
    "stopped": "triangle-down-open",
    "failed": "square-x-open",
}
_MARKS = {"winner": "diamond-open", "best so far": "diamond-open", "NNCF default": "square-open"}
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_SHAPES = ("", "/", ".", "x")
_N_LAYERS, _N_GENES = 20, 12
_NAME_LENGTH = 40
_DECADES = 30.0


def figures(content: Content) -> dict[str, Figure]:
    """Return the charts that there is something to show in, by their places in the page."""
    made = {
        "front": _front(content),
        "progress": _progress(content),
        "importance": _importance(content),
        "layers": _layers(content),
        "bursts": _bursts(content),
        "spread": _spread(content),
    }
    return {place: figure for place, figure in made.items() if figure["data"]}


def _text(text: str) -> str:
    """Return text so that plotly, which knows some tags, shows it as it is."""
    return html.escape(text, quote=False)


def _short(text: str) -> str:
    return _text(text if len(text) <= _NAME_LENGTH else f"{text[: _NAME_LENGTH // 2 - 1]}…{text[-_NAME_LENGTH // 2 :]}")


def _axis(title: str, **more: Any) -> dict[str, Any]:
    return {"title": {"text": title}, "automargin": True, "zeroline": False, **more}


def _upright(x: float) -> dict[str, Any]:
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": {"width": 1, "dash": "dot"}}


def _front(content: Content) -> Figure:
    """Return divergence against speed-up; the front is joined, and what has a role is marked by a larger shape around it."""
    trials = [trial for trial in content["trials"] if trial["speedup"] and trial["divergence"]["value"] is not None]
    positive = [trial["divergence"]["value"] for trial in trials if trial["divergence"]["value"] > 0]
    floor = min(positive, default=1e-6) / 2
    data = []
    for standing in ("infeasible", "stopped", "feasible", "front", "baseline"):
        members = [trial for trial in trials if trial["standing"] == standing]
        if standing == "front":
            members.sort(key=lambda trial: -trial["speedup"]["value"])
        if members:
            data.append(_points(members, standing, floor))
    for role, symbol in _MARKS.items():
        members = [t for t in trials if role in (t["role"] or "") or (role == "best so far" and _leads(t, content))]
        if members:
            data.append(_marks(members, role, symbol, floor))
    layout = {
        "xaxis": _axis("speed-up over the float model, measured during the search"),
        "yaxis": _axis("divergence from the float model", type="log", exponentformat="power", dtick=_step(positive)),
        "hovermode": "closest",
        "shapes": [_upright(1)],
        "height": 460,
    }
    return {"data": data, "layout": layout}


def _step(values: Sequence[float]) -> float | str:
    """Return plotly's step of a logarithmic axis: decades, or where there is hardly one, its digits 1, 2 and 5."""
    return 1 if values and max(values) > _DECADES * min(values) else "D2"


def _leads(trial: dict[str, Any], content: Content) -> bool:
    return content["winner"] is None and trial["number"] == content["best_so_far"]


def _place(trial: dict[str, Any], floor: float) -> tuple[float, float]:
    return trial["speedup"]["value"], max(trial["divergence"]["value"], floor)


def _points(members: Sequence[dict[str, Any]], standing: Standing, floor: float) -> dict[str, Any]:
    places = [_place(trial, floor) for trial in members]
    spread = [(t["speedup"]["high"] - x, x - t["speedup"]["low"]) for t, (x, _) in zip(members, places, strict=True)]
    is_front = standing == "front"
    return {
        "type": "scatter",
        "mode": "lines+markers" if is_front else "markers",
        "name": WORDS[standing],
        "x": [x for x, _ in places],
        "y": [y for _, y in places],
        "error_x": {
            "type": "data", "symmetric": False, "thickness": 1, "width": 3, "visible": is_front,
            "array": [high for high, _ in spread], "arrayminus": [low for _, low in spread],
        },
        "line": {"shape": "vh", "width": 1},
        "marker": {"symbol": _SYMBOLS[standing], "size": 12 if standing == "baseline" else 9, "line": {"width": 2}},
        "customdata": [trial["number"] for trial in members],
        "hovertext": [hover(trial) for trial in members],
        "hoverinfo": "text",
        "meta": {"colour": standing},
    }  # fmt: skip


def _marks(members: Sequence[dict[str, Any]], role: str, symbol: str, floor: float) -> dict[str, Any]:
    places = [_place(trial, floor) for trial in members]
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": role,
        "x": [x for x, _ in places],
        "y": [y for _, y in places],
        "text": [role] * len(places),
        "textposition": "top center",
        "marker": {"symbol": symbol, "size": 18, "line": {"width": 2}},
        "hoverinfo": "skip",
        "showlegend": False,
        "customdata": [trial["number"] for trial in members],
        "meta": {"colour": "mark"},
    }


def hover(trial: dict[str, Any]) -> str:
    """Return what is shown beside a trial's point: genes, then measured numbers with their intervals."""
    lines = [f"<b>trial {trial['number']}</b>" + (f" ({_text(trial['role'])})" if trial["role"] else "") + f": {trial['words']}"]
    changed = [part.strip() for part in trial["is"].replace(";", ",").split(",")]
    lines += [_short(part) for part in changed[:12]]
    if trial["failure"]:
        lines.append(_short(f"{trial['failure']['stage']}: {trial['failure']['message']}"))
        return "<br>".join(lines)
    for metric in trial["metrics"]:
        drop, value = metric["drop"], number(metric["value"], ".4f")
        lines.append(f"{_text(metric['name'])} {value}, drop {number(drop['value'], '+.4f')}{_range(drop)}")
    lines.append(f"divergence {number(trial['divergence']['value'], '.4g')}{_range(trial['divergence'])}")
    if trial["speedup"]:
        lines.append(f"speed-up {trial['speedup']['value']:.2f}x{_range(trial['speedup'])}, {trial['latency_ms']:.3f} ms")
    lines.append(f"on {trial['n_items']} validation items")
    return "<br>".join(lines)


def _range(interval: dict[str, float]) -> str:
    if "low" not in interval or interval["low"] == interval["high"]:
        return ""
    return f" [{number(interval['low'], '.3g')}, {number(interval['high'], '.3g')}]"


def _progress(content: Content) -> Figure:
    """Return how far the search came with each trial, and below it what became of each."""
    steps = content["steps"]
    if not steps:
        return {"data": [], "layout": {}}
    by_number = {trial["number"]: trial for trial in content["trials"]}
    is_share = not any("fitness" in trial for trial in content["trials"])
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "progress",
            "x": [step["trial"] for step in steps],
            "y": [step["progress"] for step in steps],
            "line": {"shape": "hv", "width": 2},
            "hovertemplate": f"after trial %{{x}}: %{{y:{'.1%' if is_share else '.4g'}}}<extra></extra>",
            "showlegend": False,
            "meta": {"colour": "front"},
        }
    ]
    for standing in ("failed", "stopped", "infeasible", "feasible", "front"):
        members = [by_number[step["trial"]] for step in steps if by_number[step["trial"]]["standing"] == standing]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": WORDS[standing],
                "x": [trial["number"] for trial in members],
                "y": [WORDS[standing]] * len(members),
                "yaxis": "y2",
                "marker": {"symbol": _SYMBOLS[standing], "size": 9, "line": {"width": 2}},
                "customdata": [trial["number"] for trial in members],
                "hovertext": [hover(trial) for trial in members],
                "hoverinfo": "text",
                "showlegend": False,
                "meta": {"colour": standing},
            }
        )
    begun = [late["trial"] - 0.5 for early, late in itertools.pairwise(steps) if early["generation"] != late["generation"]]
    title = "hypervolume" if is_share else "best fitness"
    layout = {
        "xaxis": _axis("trial; dotted lines are generations", anchor="y2"),
        "yaxis": _axis(title, domain=[0.42, 1], **({"tickformat": ".0%", "rangemode": "tozero"} if is_share else {})),
        "yaxis2": _axis("", domain=[0, 0.34], type="category"),
        "shapes": [_upright(x) for x in begun],
        "hovermode": "closest",
        "height": 460,
    }
    return {"data": data, "layout": layout}


def _importance(content: Content) -> Figure:
    data = []
    most: dict[str, float] = {}
    for one in content["importance"]:
        for weight in one["weights"][:_N_GENES]:
            most[weight["gene"]] = max(weight["value"], most.get(weight["gene"], 0.0))
    names = sorted(most, key=lambda name: -most[name])
    for index, one in enumerate(content["importance"]):
        weights = one["weights"][:_N_GENES]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": one["objective"],
                "y": [_short(weight["gene"]) for weight in weights],
                "x": [max(weight["value"], 0.0) for weight in weights],
                "error_x": {
                    "type": "data", "symmetric": False, "thickness": 1, "width": 3,
                    "array": [weight["high"] - max(weight["value"], 0.0) for weight in weights],
                    "arrayminus": [max(weight["value"], 0.0) - max(weight["low"], 0.0) for weight in weights],
                },
                "hovertemplate": "%{y}: %{x:.2f}<extra></extra>",
                "marker": {"pattern": {"shape": _SHAPES[index], "solidity": 0.4}},
                "meta": {"colour": ("front", "stopped")[index]},
            }
        )  # fmt: skip
    layout = {
        "xaxis": _axis("by how much R² on unseen trials falls when the gene's values are shuffled", rangemode="tozero"),
        "yaxis": _axis("", type="category", autorange="reversed", categoryarray=list(map(_short, names))),
        "barmode": "group",
        "height": 140 + 34 * len(names),
    }
    return {"data": data, "layout": layout}


def _layers(content: Content) -> Figure:
    """Return the time of the layers that take the most of it, in the winner and in the float model."""
    if content["layers"] is None:
        return {"data": [], "layout": {}}
    shown = content["layers"]["layers"][:_N_LAYERS]
    labels = [f"{place}. {_short((layer['names'] or layer['kinds'])[0])}" for place, layer in enumerate(shown, start=1)]
    data = []
    for name, key, kinds, colour, shape in (
        ("winner", "us", "precisions", "front", ""),
        ("float model", "float_us", "float_precisions", "feasible", "/"),
    ):
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": name,
                "y": labels,
                "x": [layer[key] for layer in shown],
                "text": [_text("+".join(layer[kinds])) for layer in shown],
                "textposition": "outside",
                "cliponaxis": False,
                "hovertext": [
                    "<br>".join([*map(_short, layer["names"][:8]), f"{name}: {layer[key] or 0:.1f} µs, {'+'.join(layer[kinds])}"])
                    for layer in shown
                ],
                "hoverinfo": "text",
                "marker": {"pattern": {"shape": shape, "solidity": 0.4}},
                "meta": {"colour": colour},
            }
        )
    layout = {
        "xaxis": _axis("µs of one inference, with profiling on"),
        "yaxis": _axis("", type="category", autorange="reversed"),
        "barmode": "group",
        "height": 140 + 38 * len(shown),
    }
    return {"data": data, "layout": layout}


def _bursts(content: Content) -> Figure:
    """Return the median of each burst in the order of time: how steady the machine was."""
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": model["name"],
            "x": model["visited_s"],
            "y": model["bursts_ms"],
            "line": {"width": 1.5, "dash": _DASHES[index % len(_DASHES)]},
            "marker": {"size": 5},
            "hovertemplate": "%{x:.1f} s: %{y:.3f} ms<extra>%{fullData.name}</extra>",
            "meta": {"colour": f"series{index % 6}"},
        }
        for index, model in enumerate(content["latency"])
    ]
    layout = {
        "xaxis": _axis("seconds since the first burst"),
        "yaxis": _axis("ms, median of a burst", rangemode="tozero"),
        "height": 380,
    }
    return {"data": data, "layout": layout}


def _spread(content: Content) -> Figure:
    """Return how single inferences are spread: quartiles, and the 1st and 99th percentile."""
    data = [
        {
            "type": "box",
            "orientation": "h",
            "name": model["name"],
            "y": [model["name"]],
            "q1": [model["q1"]],
            "median": [model["median"]],
            "q3": [model["q3"]],
            "lowerfence": [model["p1"]],
            "upperfence": [model["p99"]],
            "showlegend": False,
            "meta": {"colour": f"series{index % 6}"},
        }
        for index, model in enumerate(content["latency"])
    ]
    layout = {
        "xaxis": _axis("ms of one inference", rangemode="tozero"),
        "yaxis": _axis("", type="category", autorange="reversed"),
        "height": 130 + 36 * len(data),
    }
    return {"data": data, "layout": layout}
