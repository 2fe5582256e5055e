"""A search as a report reads it, made by hand, with names that try to break out of whatever they are put into."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from fakes import records
from ovquant.audit import Audit, Kernel
from ovquant.inspection import Inspection
from ovquant.job import Job
from ovquant.records import Failure, Trial
from ovquant.report.source import Source
from ovquant.selectors import ScopeSelector
from ovquant.sensitivity import Ranking, Sensitivity
from ovquant.strategy import Strategy
from ovquant.targets import Target
from ovquant.verdict import Row, Verdict

HOSTILE = "</script><img src=x onerror=alert(1)><b>'\"&|`*[x](y)\u2028{{7*7}}"


def kernel(name: str, precision: str, time_us: float, *, kind: str = "Convolution", origins: tuple[str, ...] = ()) -> Kernel:
    """Return a kernel that is made of the operation of its name, unless `origins` says otherwise."""
    return Kernel(name=name, kind=kind, precision=precision, origins=origins or (name,), time_us=time_us)


def trials(n_trials: int = 6) -> tuple[Trial, ...]:
    """Return the float model, NNCF's default, candidates that leave something of a hostile name in float, and a failure."""
    scope = ScopeSelector(names=(HOSTILE,))
    found = [records.baseline(), records.trial(1, divergence=0.5, ratio=0.6, role="default")]
    for number in range(2, n_trials):
        strategy = Strategy(subset_size=number, ignored_scope=scope)
        divergence, ratio = 0.1 / number, 0.5 + 0.01 * number
        metrics = (records.metric(0.9, name=HOSTILE),)
        settled = records.evaluation(divergence=divergence, ratio=ratio, metrics=metrics, graph=f"graph {number}")
        found.append(records.trial(number, settled, strategy=strategy, violation=float(number == 3)))
    failure = Failure(stage="quantize", error="RuntimeError", message=HOSTILE)
    found.append(records.trial(n_trials, failure, strategy=Strategy(subset_size=n_trials, ignored_scope=scope)))
    return tuple(found)


def source(**changes: Any) -> Source:
    """Return a finished search; `changes` are attributes of `Source`."""
    every = trials()
    rows = [
        Row(name=name, description=HOSTILE, trial=None if number == 0 else number, evaluation=every[number].evaluation,
            latency=records.latency(ratio), judgement="confirmed" if name == "winner" else None)
        for name, number, ratio in (("reference", 0, 1.0), ("baseline", 0, 1.0), ("NNCF default", 1, 0.6), ("winner", 2, 0.5))
    ]  # fmt: skip
    rows[:3] = [dataclasses.replace(row, evaluation=every[2].evaluation) for row in rows[:3]]
    saved = Sensitivity(place=HOSTILE, names=(HOSTILE,), type="Convolution", saved=records.interval(0.3, 0.1))
    ranking = Ranking(n_items=8, all_quantized=records.interval(0.5, 0.1), layers=(saved,), groups=())
    given: dict[str, Any] = {
        "output": Path(f"out {HOSTILE}"),
        "job": Job.model_validate(
            {"model": HOSTILE, "data": HOSTILE, "metrics": [{"name": HOSTILE, "max_drop": 0.1}], "max_trials": 9}
        ),
        "target": Target(version=1, name="t", description=HOSTILE, device="CPU"),
        "trials": every,
        "genes": {trial.number: {HOSTILE: str(trial.number % 2)} for trial in every[1:]},
        "state": "finished",
        "verdict": Verdict(rows=tuple(rows), winner=2, judgement="confirmed", is_worth_it=True, sentences=(HOSTILE,)),
        "result": {"n_trials": len(every), "stop_reason": "max_trials reached", "notes": [HOSTILE]},
        "manifest": {"device": {"name": "CPU", "full_name": HOSTILE}, "versions": {"openvino": HOSTILE}},
        "inspection": Inspection(ranking=ranking, floats=None, quantized=None),
        "baseline_kernels": Audit(kernels=(kernel(HOSTILE, "f32", 30.0), kernel("head", "f32", 5.0))),
        "winner_kernels": Audit(
            kernels=(kernel(HOSTILE, "u8", 10.0), kernel("head", "f32", 5.0), kernel("r", "f32", 2.0, kind="Reorder"))
        ),
    }
    return Source(**{**given, **changes})
