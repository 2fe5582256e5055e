"""The content of a report as plain JSON values, which HTML and Markdown are renderings of."""

from __future__ import annotations

import collections
import dataclasses
import math
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ovquant import console, selection
from ovquant.economy import economy
from ovquant.environment import versions
from ovquant.job import Job
from ovquant.objectives import Rules
from ovquant.progress import measured
from ovquant.records import Evaluation, Failure, Interval, Trial
from ovquant.report.importance import importances
from ovquant.report.layers import layers
from ovquant.report.source import Source
from ovquant.report.standing import WORDS, standings, steps
from ovquant.verdict import Row, Verdict, describe

REPORT_VERSION = 1


def content(source: Source) -> dict[str, Any]:
    """Return all that the report tells, most important first. Numbers that are not finite are None."""
    best = _best(source)
    rows = source.verdict.rows if source.verdict is not None else _rows_so_far(source, best)
    found = {
        "report_version": REPORT_VERSION,
        "made_by": f"ovquant report {versions().get('ovquant', '')}".strip(),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "title": f"{Path(source.job.model).name} for {source.target.name} on {_device(source)}",
        "state": source.state,
        "completeness": _completeness(source),
        "verdict": _verdict(source, best),
        "winner": source.verdict.winner if source.verdict is not None else None,
        "best_so_far": best.number if best is not None else None,
        "models": _models(rows),
        "caption": _caption(source, rows),
        "goal": _goal(source.job),
        "trials": _trials(source),
        "steps": [dataclasses.asdict(step) for step in steps(source.trials, is_pareto=_is_pareto(source.job))],
        "importance": [dataclasses.asdict(one) for one in importances(source.trials, source.genes)],
        "layers": _layers(source),
        "sensitivity": _sensitivity(source),
        "latency": [_latency(row) for row in source.verdict.rows] if source.verdict is not None else [],
        "failures": _failures(source.trials),
        "economy": economy(source.trials).words(),
        "environment": _environment(source),
        "reproduce": _reproduce(source, best),
        "notes": [*source.result.get("notes", []), *source.faults],
    }
    return {key: _finite(value) for key, value in found.items()}


def _is_pareto(job: Job) -> bool:
    return job.objective.fitness == "pareto"


def _best(source: Source) -> Trial | None:
    """Return the trial that leads now: the winner, or the feasible one that the search prefers on validation items."""
    if source.verdict is not None:
        return source.trial(source.verdict.winner)
    rules = Rules(objective=source.job.objective, metrics=(), metric_directions=(), max_divergence=None)
    return selection.best([t for t in selection.eligible(source.trials) if t.outcome.kind == "evaluation"], rules)


def _device(source: Source) -> str:
    device = source.manifest.get("device", {})
    name = device.get("name") or source.job.device or source.target.device
    told = f"{name} ({device['full_name']})" if device.get("full_name") else str(name)
    return told if source.job.address is None else f"{told} of {source.job.address}"


def _completeness(source: Source) -> str:
    """Return how far the search is, and what that means for the numbers, in words."""
    job, n_tried = source.job, source.n_candidates
    limits = [f"at most {job.max_trials}" if job.max_trials is not None else "", f"{job.budget:g} s" if job.budget else ""]
    allowed = " or ".join(filter(None, limits))
    tried = f"{n_tried} strategies tried" + (f" (allowed: {allowed})" if allowed else "")
    if source.state == "finished":
        return f"The search is finished: {tried}; {source.result.get('stop_reason', 'ended')}."
    if source.verdict is not None:
        n_before = source.result.get("n_trials", 1) - 1
        now = "is running again" if source.state == "running" else "was stopped when it went on"
        return f"Verdict and table are those of {n_before} strategies. The search {now}: {tried}."
    so_far = "There is no verdict yet: numbers are of validation items that strategies are selected by, the holdout is unseen."
    if source.state == "running":
        return f"The search is running: {tried}. {so_far}"
    if source.ended is not None:
        return f"The search ended ({source.ended}) without a verdict: {tried}. {so_far}"
    return f"The search was stopped before its end: {tried}. {so_far}"


def _verdict(source: Source, best: Trial | None) -> dict[str, Any]:
    if source.verdict is not None:
        verdict = source.verdict
        return {"judgement": verdict.judgement, "is_worth_it": verdict.is_worth_it, "sentences": list(verdict.sentences)}
    if best is not None and best.strategy is not None:
        said = [f"So far trial {best.number} leads: {measured(best.evaluation)} ({best.strategy.describe()})."]
    else:
        miss = selection.nearest_miss([t for t in selection.eligible(source.trials) if not isinstance(t.outcome, Failure)])
        said = ["No strategy meets the limits so far."]
        if miss is not None:
            said.append(f"Nearest miss: trial {miss.number}, {measured(miss.evaluation)}.")
    return {"judgement": None, "is_worth_it": None, "sentences": said}


def _rows_so_far(source: Source, best: Trial | None) -> tuple[Row, ...]:
    """Return what the final table would hold, by what the search measured so far."""
    default = next((t for t in source.trials if t.role == "default"), None)
    named = [("baseline", next((t for t in source.trials if t.role == "baseline"), None)), ("NNCF default", default)]
    if best is not None and (default is None or best.number != default.number):
        named.append(("best so far", best))
    rows = []
    for name, trial in named:
        if trial is not None and isinstance(trial.outcome, Evaluation) and trial.outcome.latency is not None:
            text = "float model" if trial.strategy is None else describe(trial.strategy)
            number = trial.number if trial.strategy is not None else None
            rows.append(Row(name=name, description=text, trial=number, evaluation=trial.outcome, latency=trial.outcome.latency))
    return tuple(rows)


def _models(rows: Sequence[Row]) -> dict[str, Any]:
    if not rows:
        return {"columns": [], "rows": [], "descriptions": []}
    has_judgement = any(row.judgement for row in rows)
    return {
        "columns": console.columns_of(rows, has_judgement),
        "rows": [console.cells_of(row, has_judgement) for row in rows],
        "descriptions": [{"model": console.row_name(row), "is": row.description} for row in rows],
        "measured": [
            {
                "name": row.name,
                "trial": row.trial,
                "judgement": row.judgement,
                "split": row.evaluation.split,
                "n_items": row.evaluation.n_items,
                "metrics": [_metric(result) for result in row.evaluation.metrics],
                "divergence": _interval(row.evaluation.divergence),
                "latency_ms": row.latency.median_ms,
                "speedup": _interval(row.latency.speedup),
                "size_bytes": row.evaluation.size_bytes,
            }
            for row in rows
        ],
    }


def _caption(source: Source, rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    notes = []
    winner = source.trial(source.verdict.winner) if source.verdict is not None else None
    if winner is not None:
        notes.append(f"Finalists were chosen on {winner.evaluation.n_items} validation items.")
    if source.result.get("n_holdout_openings", 1) > 1:
        notes.append(f"The holdout was looked at {source.result['n_holdout_openings']} times in this study.")
    return console.caption(rows, _device(source), notes)


def _goal(job: Job) -> str:
    """Return what was asked for, in words."""
    limits = [f"{spec.label} may drop by {spec.max_drop}" for spec in job.metrics if spec.max_drop is not None]
    if job.max_divergence is not None:
        limits.append(f"divergence at most {job.max_divergence:g}")
    if not limits:
        limits.append("divergence at most that of NNCF's default" if not job.metrics else "no limits")
    goals = {"pareto": "lowest latency and divergence (Pareto)"}
    return f"Goal: {goals.get(job.objective.fitness, f'highest fitness ({job.objective.fitness})')}. Limits: {', '.join(limits)}."


def _trials(source: Source) -> list[dict[str, Any]]:
    standing = standings(source.trials)
    names = {} if source.verdict is None else _names(source.verdict)
    found = []
    for trial in source.trials:
        role = names.get(trial.number) or {"baseline": "baseline", "default": "NNCF default"}.get(trial.role)
        entry: dict[str, Any] = {
            "number": trial.number,
            "standing": standing[trial.number],
            "words": WORDS[standing[trial.number]],
            "role": role,
            "generation": trial.generation,
            "parents": list(trial.parents),
            "code": trial.code,
            "is": trial.description,
            "genes": source.genes.get(trial.number, {}),
            "strategy": {} if trial.strategy is None else trial.strategy.as_dict(),
            **_outcome(trial.outcome),
        }
        if trial.fitness is not None:
            entry["fitness"] = trial.fitness
        found.append(entry)
    return found


def _names(verdict: Verdict) -> dict[int, str]:
    """Return number -> what a trial is in the final table; the winner may be NNCF's default as well."""
    found: dict[int, str] = {}
    for row in verdict.rows:
        if row.trial is not None:
            found[row.trial] = f"{found[row.trial]}, {row.name}" if row.trial in found else row.name
    return found


def _outcome(outcome: Evaluation | Failure) -> dict[str, Any]:
    if isinstance(outcome, Failure):
        failure = {"stage": outcome.stage, "kind": outcome.error, "message": outcome.message}
        return {"failure": failure, "divergence": None, "speedup": None, "metrics": []}
    raced = outcome.raced
    return {
        "failure": None,
        "measured": measured(outcome),
        "n_items": outcome.n_items,
        "stopped": None if raced is None else dataclasses.asdict(raced),
        "divergence": _interval(outcome.divergence),
        "metrics": [_metric(result) for result in outcome.metrics],
        "latency_ms": None if outcome.latency is None else outcome.latency.median_ms,
        "speedup": None if outcome.latency is None else _interval(outcome.latency.speedup),
        "size_bytes": outcome.size_bytes,
        "n_fake_quantize": outcome.n_fake_quantize,
        "same_as": outcome.same_as,
        "seconds": {stage: round(seconds, 3) for stage, seconds in outcome.seconds.items()},
    }


def _metric(result: Any) -> dict[str, Any]:
    interval = _interval(result.drop) if result.has_interval else {"value": result.drop.value}
    return {"name": result.name, "value": result.value, "drop": interval}


def _interval(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def _layers(source: Source) -> dict[str, Any] | None:
    """Return the winner's layers and how its time is shared out; None where no kernels were told."""
    floats, winner = source.baseline_kernels, source.winner_kernels
    if floats is None or winner is None:
        return None
    ranking = source.inspection.ranking if source.inspection is not None else None
    return {
        "layers": [dataclasses.asdict(layer) for layer in layers(floats, winner, ranking)],
        "total_us": winner.total_us,
        "float_total_us": floats.total_us,
        "shares": winner.shares(),
        "float_shares": floats.shares(),
        "conversions_us": sum(kernel.time_us for kernel in winner.kernels if kernel.is_conversion),
    }


def _sensitivity(source: Source) -> dict[str, Any] | None:
    """Return which layers lose most by being quantized, where that was looked into."""
    if source.inspection is None:
        return None
    ranking = source.inspection.ranking
    return {
        "n_items": ranking.n_items,
        "all_quantized": _interval(ranking.all_quantized),
        "layers": [
            {"place": one.place, "name": one.names[0], "type": one.type, "saved": _interval(one.saved)} for one in ranking.layers
        ],
    }


def _latency(row: Row) -> dict[str, Any]:
    """Return the bursts of one model and how its single inferences are spread."""
    latency = row.latency
    samples = sorted(sample for visit in latency.samples_ms for sample in visit)
    marks = {"p1": 0.01, "q1": 0.25, "median": 0.5, "q3": 0.75, "p99": 0.99}
    return {
        "name": console.row_name(row),
        "is_baseline": row.name == "baseline",
        "visited_s": list(latency.visited_s),
        "bursts_ms": list(latency.bursts_ms),
        "n_inferences": latency.n_inferences,
        **{name: samples[min(int(share * len(samples)), len(samples) - 1)] for name, share in marks.items()},
        "speedup": _interval(latency.speedup),
        "unstable": latency.unstable,
        "n_threads": latency.n_threads,
    }


def _failures(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Return failures by stage and kind, the most frequent first."""
    found: dict[tuple[str, str], list[tuple[int, str]]] = collections.defaultdict(list)
    for trial in trials:
        if isinstance(trial.outcome, Failure):
            found[trial.outcome.stage, trial.outcome.error].append((trial.number, trial.outcome.message))
    ordered = sorted(found.items(), key=lambda pair: -len(pair[1]))
    return [
        {"stage": stage, "kind": kind, "trials": [number for number, _ in which], "example": which[0][1]}
        for (stage, kind), which in ordered
    ]


def _environment(source: Source) -> dict[str, str]:
    manifest, job = source.manifest, source.job
    host, data, there = manifest.get("host", {}), manifest.get("data", {}), source.result.get("measured_on") or {}
    found = {
        "model": job.model,
        "data": job.data.path,
        "items": ", ".join(f"{count} {name}" for name, count in data.get("items", {}).items()),
        "seed": str(job.seed),
        "target": f"{source.target.name}: {source.target.description}",
        "device": _device(source),
        "compile properties": ", ".join(f"{key}={value}" for key, value in source.target.compile_properties.items()),
        "float precision of the device": manifest.get("own_precision", ""),
        "host": ", ".join(f"{key} {value}" for key, value in host.items()),
        "latency measured on": ", ".join(f"{key} {_flat(value)}" for key, value in there.items()),
        "versions": ", ".join(f"{key} {value}" for key, value in manifest.get("versions", {}).items()),
    }
    return {key: str(value) for key, value in found.items() if value}


def _flat(value: Any) -> str:
    return " ".join(map(str, value.values())) if isinstance(value, dict) else str(value)


def _reproduce(source: Source, best: Trial | None) -> list[dict[str, str]]:
    """Return commands with what they do."""
    out, job = shlex.quote(str(source.output)), source.job
    found = [{"does": "the same search again", "command": f"ovquant search {out}/job.yaml -o AGAIN"}]
    if source.state == "stopped":
        found.append({"does": "go on with this search", "command": f"ovquant resume {out}"})
    if best is not None:
        found.append({"does": "write a trial's model", "command": f"ovquant export {out} --trial {best.number} -o DIR"})
    if source.verdict is not None:
        model = shlex.quote(job.model)
        calibrating = job.data.calibration.path if job.data.calibration is not None else job.data.path
        replay = f"ovquant quantize {model} --recipe {out}/best/recipe.yaml --data {shlex.quote(calibrating)} -o DIR"
        found.append({"does": "the winner again, without a search", "command": replay})
        again = f"ovquant evaluate {out}/job.yaml {out}/best/model.xml"
        found.append({"does": "measure the winner again", "command": again})
    return found


def _finite(value: Any) -> Any:
    """Return JSON values without what JSON does not know: NaN and infinities."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
