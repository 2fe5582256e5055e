"""What is measured and stored: plain frozen values that travel between processes and into the study as JSON."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, TypeAdapter

from ovquant.strategy import InferencePrecision, Strategy

Split: TypeAlias = Literal["validation", "holdout"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FloatModel:
    """The float model itself, run at a given precision: the reference (f32) or the baseline."""

    inference_precision: InferencePrecision


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """A model in a file, as `ovquant evaluate` compares them, run at a given precision."""

    path: str
    inference_precision: InferencePrecision


Subject: TypeAlias = Strategy | FloatModel | ModelFile


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A value with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MetricResult:
    """One metric of one model on one split.

    Attributes:
        name: of the metric.
        value: in the metric's own unit.
        drop: how much worse than the reference, positive is worse; the interval is paired per item and degenerate
            (low = high = value) where `has_interval` is False.
        has_interval: whether an interval was computed.
    """

    name: str
    value: float
    drop: Interval
    has_interval: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Latency of one model, interleaved with the baseline on the target device.

    Attributes:
        median_ms: median over bursts of the median inference of each burst.
        ratio: latency / baseline latency, median over paired bursts with its 95 % interval (order statistics).
        n_visits: paired bursts.
        n_inferences: timed inferences.
        bursts_ms: the median of each burst, in the order measured.
        n_threads: inference threads, 0 where the device does not tell.
    """

    median_ms: float
    ratio: Interval
    n_visits: int
    n_inferences: int
    bursts_ms: tuple[float, ...]
    n_threads: int

    @property
    def speedup(self) -> Interval:
        """Baseline latency / latency."""
        return Interval(value=1 / self.ratio.value, low=1 / self.ratio.high, high=1 / self.ratio.low)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A model that was measured.

    Attributes:
        split: the items it was scored on.
        n_items: how many.
        divergence: of the reference from it, see `ovquant.metrics.divergence`; mean over items and outputs.
        metrics: in the order of the job.
        latency: None where it was not asked for.
        size_bytes: of the IR (weights and graph).
        n_fake_quantize: FakeQuantize operations in the graph.
        graph_digest: SHA-256 of structure, ranges, weights and biases.
        outputs_digest: SHA-256 of all outputs on the split.
        seconds: wall time by stage.
    """

    kind: Literal["evaluation"] = "evaluation"
    split: Split
    n_items: int
    divergence: Interval
    metrics: tuple[MetricResult, ...]
    latency: Latency | None
    size_bytes: int
    n_fake_quantize: int
    graph_digest: str
    outputs_digest: str
    seconds: dict[str, float]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A candidate that could not be evaluated.

    Attributes:
        stage: ``quantize``, ``compile``, ``validate``, ``latency`` ...
        error: class of the error.
        message: its first line.
    """

    kind: Literal["failure"] = "failure"
    stage: str
    error: str
    message: str


Outcome: TypeAlias = Evaluation | Failure


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Latencies of several models measured in turns in one run, in the order they were given; the first is the baseline."""

    latencies: tuple[Latency, ...]


_OUTCOME: TypeAdapter[Outcome] = TypeAdapter(Annotated[Evaluation | Failure, Field(discriminator="kind")])
_STRATEGY: TypeAdapter[Strategy] = TypeAdapter(Strategy)


def outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as JSON values."""
    content: dict[str, Any] = _OUTCOME.dump_python(outcome, mode="json")
    return content


def outcome_from_json(content: dict[str, Any]) -> Outcome:
    """Return the outcome that `outcome_to_json` wrote."""
    return _OUTCOME.validate_python(content)


def strategy_from_json(content: dict[str, Any]) -> Strategy:
    """Return the strategy that `Strategy.as_dict` wrote."""
    return _STRATEGY.validate_python(content)


Role: TypeAlias = Literal["baseline", "default", "candidate"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One settled trial of a study.

    Attributes:
        number: in the study; 0 is the float model.
        role: ``baseline`` is trial 0, ``default`` is NNCF's default, the rest are candidates.
        generation: None for what is outside of the population.
        parents: trial numbers.
        code: None for what the space does not hold.
        strategy: None for the float model.
        outcome: what came of it.
        objectives: minimized; None for a failure.
        violation: sum of the constraints' violations, each as a multiple of its limit; 0 is feasible.
        fitness: None in pareto mode and for a failure.
    """

    number: int
    role: Role
    generation: int | None
    parents: tuple[int, ...]
    code: str | None
    strategy: Strategy | None
    outcome: Outcome
    objectives: tuple[float, ...] | None
    violation: float | None
    fitness: float | None

    @property
    def is_feasible(self) -> bool:
        """True for an evaluated trial that meets every constraint."""
        return self.violation == 0

    @property
    def evaluation(self) -> Evaluation:
        """The outcome of a trial that did not fail.

        Raises:
            ValueError: it failed.
        """
        if isinstance(self.outcome, Failure):
            raise ValueError(f"trial {self.number} failed: {self.outcome.message}")
        return self.outcome
