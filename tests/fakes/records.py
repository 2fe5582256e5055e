"""Hand-made records: an evaluation of which a test states only what it is about."""

from __future__ import annotations

from collections.abc import Sequence

from ovquant.objectives import Rules
from ovquant.records import Evaluation, Failure, Interval, Latency, MetricResult, Role, Trial
from ovquant.strategy import Strategy


def interval(value: float, half_width: float = 0.0) -> Interval:
    """Return a value with a symmetric interval."""
    return Interval(value=value, low=value - half_width, high=value + half_width)


def latency(ratio: float, half_width: float = 0.01) -> Latency:
    """Return a latency of `ratio` x a baseline of 10 ms."""
    return Latency(
        median_ms=10 * ratio,
        ratio=interval(ratio, half_width),
        n_visits=12,
        n_inferences=36,
        samples_ms=((10 * ratio,) * 3,) * 12,
        visited_s=tuple(map(float, range(12))),
        is_spread=False,
        n_threads=2,
    )


def metric(value: float, drop: float = 0.0, *, name: str = "accuracy", half_width: float = 0.0) -> MetricResult:
    """Return a metric with its drop from the reference."""
    return MetricResult(name=name, value=value, drop=interval(drop, half_width), has_interval=half_width > 0)


def evaluation(
    *,
    divergence: float = 0.01,
    metrics: Sequence[MetricResult] = (),
    ratio: float | None = 0.5,
    half_width: float = 0.01,
    graph: str = "graph",
) -> Evaluation:
    """Return an evaluation on 100 validation items.

    Args:
        divergence: from the reference.
        metrics: results.
        ratio: latency / baseline latency, None for an untimed one.
        half_width: of the interval of `ratio`.
        graph: digest of the quantized graph.
    """
    return Evaluation(
        split="validation",
        n_items=100,
        divergence=interval(divergence),
        metrics=tuple(metrics),
        latency=None if ratio is None else latency(ratio, half_width),
        size_bytes=1000,
        n_fake_quantize=5,
        graph_digest=graph,
        outputs_digest="outputs",
        seconds={},
    )


def trial(
    number: int,
    outcome: Evaluation | Failure | None = None,
    *,
    violation: float = 0.0,
    fitness: float | None = None,
    strategy: Strategy | None = None,
    role: Role = "candidate",
    **measured: float,
) -> Trial:
    """Return a settled trial of a quantized model; its graph is its own unless `outcome` says otherwise.

    Args:
        number: in the study.
        outcome: what came of it; None makes an evaluation of `measured`.
        violation: of the constraints.
        fitness: None in pareto mode.
        strategy: None is NNCF's default.
        role: in the study.
        measured: arguments of `evaluation`.
    """
    settled = evaluation(**{"graph": f"graph {number}", **measured}) if outcome is None else outcome  # type: ignore[arg-type]
    is_failure = isinstance(settled, Failure)
    return Trial(
        number=number,
        role=role,
        generation=0,
        parents=(),
        code=str(number),
        strategy=strategy or Strategy(),
        outcome=settled,
        objectives=None,
        violation=None if is_failure else violation,
        fitness=None if is_failure else fitness,
    )


def scored(number: int, settled: Evaluation, rules: Rules) -> Trial:
    """Return a trial with violation and fitness as the rules have them."""
    return trial(number, settled, violation=rules.violation(settled), fitness=rules.fitness(settled))


def failed(number: int) -> Trial:
    """Return a trial that did not get as far as an evaluation."""
    return trial(number, Failure(stage="quantize", error="RuntimeError", message="no such layer"))


def baseline() -> Trial:
    """Return trial zero, the float model."""
    settled = evaluation(divergence=0.0, ratio=1.0, half_width=0.0, graph="float")
    return Trial(
        number=0,
        role="baseline",
        generation=None,
        parents=(),
        code=None,
        strategy=None,
        outcome=settled,
        objectives=None,
        violation=0.0,
        fitness=None,
    )
