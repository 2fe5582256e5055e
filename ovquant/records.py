"""What is measured and stored: plain frozen values that travel between processes and into the study as JSON."""

from __future__ import annotations

import dataclasses
import statistics
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
        scores: of each item, where the metric is a mean over items and intervals were asked for: as for divergences.
    """

    name: str
    value: float
    drop: Interval
    has_interval: bool
    scores: tuple[float, ...] | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Latency of one model, interleaved with the baseline on the target device.

    Attributes:
        median_ms: median over visits of the median inference of each.
        ratio: latency / baseline latency, median over visits with its 95 % interval, see `ovquant.latency.ratio_interval`.
        n_visits: how often each model had its turn.
        n_inferences: timed inferences.
        samples_ms: the timed inferences of each visit, in the order measured.
        visited_s: when each visit began, in seconds since the first.
        is_spread: there were pauses between the visits, and the interval is for the machine in the long run; False: one
            visit followed the other, and it is for that time.
        n_threads: inference threads, 0 where the device does not tell.
        unstable: None where the interval of the ratio is as narrow as the target profile asks for; else what disturbed the
            machine, as far as it can be read off.
    """

    median_ms: float
    ratio: Interval
    n_visits: int
    n_inferences: int
    samples_ms: tuple[tuple[float, ...], ...]
    visited_s: tuple[float, ...]
    is_spread: bool
    n_threads: int
    unstable: str | None = None

    @property
    def bursts_ms(self) -> tuple[float, ...]:
        """The median inference of each visit."""
        return tuple(statistics.median(visit) for visit in self.samples_ms)

    @property
    def speedup(self) -> Interval:
        """Baseline latency / latency."""
        return Interval(value=1 / self.ratio.value, low=1 / self.ratio.high, high=1 / self.ratio.low)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """How much a model gets through with as many inferences at a time as the device likes.

    Attributes:
        per_s: items per second, with a 95 % interval for the time of the measurement, see `ovquant.capacity`.
        n_requests: inferences at a time.
        n_threads: inference threads, 0 where the device does not tell.
        n_visits: how often each model had its turn.
        n_items: timed inferences.
        seconds: that these took.
        unstable: None where the interval is narrow; else what disturbed the machine, as far as it can be read off.
    """

    per_s: Interval
    n_requests: int
    n_threads: int
    n_visits: int
    n_items: int
    seconds: float
    unstable: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """By how much the resident memory of a process grows that loads a model, compiles it and runs it once.

    Attributes:
        peak_bytes: at most, while it does so.
        held_bytes: afterwards.
    """

    peak_bytes: int
    held_bytes: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What a model gets through, and takes.

    Attributes:
        throughput: on the device.
        memory: of the host; None where the system does not tell.
    """

    throughput: Throughput
    memory: Memory | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Raced:
    """Why a candidate was not validated to the end; it counts as infeasible.

    Attributes:
        reason: ``limit``: it almost surely breaks one; ``dominated``: it is almost surely worse than a feasible candidate that
            is no slower; ``screened``: its accurate bias correction was not run, as the fast one came out hopelessly.
        name: metric, or ``divergence``.
        bound: lower 95 % confidence bound of its drop or divergence on all items.
        limit: that it exceeds.
        n_items: of the split.
    """

    reason: Literal["limit", "dominated", "screened"]
    name: str
    bound: float
    limit: float
    n_items: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A model that was measured.

    Attributes:
        split: the items it was scored on.
        n_items: how many; the first ones of the split, if the candidate was stopped early.
        divergence: of the reference from it, see `ovquant.metrics.divergence`; mean over items and outputs.
        metrics: in the order of the job.
        latency: None where it was not asked for.
        size_bytes: of the IR (weights and graph).
        n_fake_quantize: FakeQuantize operations in the graph.
        graph_digest: SHA-256 of structure, ranges, weights and biases.
        outputs_digest: SHA-256 of all outputs on the split.
        seconds: wall time by stage.
        peak_bytes: largest memory of the process seen in each stage; empty where it was not watched.
        structure: key of the kernels that run, see `ovquant.structure`; None where latency was not asked for.
        same_as: digest of the strategy that gave the same model bit for bit and was measured before; None where there is none.
        raced: why it was stopped early, or None.
        divergences: of each item, where intervals were asked for: two models are compared item by item.
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
    structure: str | None = None
    same_as: str | None = None
    raced: Raced | None = None
    divergences: tuple[float, ...] | None = None
    peak_bytes: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A candidate that could not be evaluated.

    Attributes:
        stage: ``quantize``, ``compile``, ``validate``, ``latency`` ...
        error: class of the error; ``Crash``, ``Hang`` or ``OutOfMemory`` where its process had to be replaced.
        message: its first line.
    """

    kind: Literal["failure"] = "failure"
    stage: str
    error: str
    message: str


Outcome: TypeAlias = Evaluation | Failure


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Latencies of several models measured in turns in one run, in the order they were given; the first is the baseline.

    Attributes:
        latencies: one per model.
        sharing_fault: why candidates could not share calibration statistics so far, None where they could.
    """

    latencies: tuple[Latency, ...]
    sharing_fault: str | None = None


_OUTCOME: TypeAdapter[Outcome] = TypeAdapter(Annotated[Evaluation | Failure, Field(discriminator="kind")])
_LATENCY: TypeAdapter[Latency] = TypeAdapter(Latency)
_STRATEGY: TypeAdapter[Strategy] = TypeAdapter(Strategy)


def outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as JSON values."""
    content: dict[str, Any] = _OUTCOME.dump_python(outcome, mode="json")
    return content


def outcome_from_json(content: dict[str, Any]) -> Outcome:
    """Return the outcome that `outcome_to_json` wrote."""
    return _OUTCOME.validate_python(content)


def latency_from_json(content: dict[str, Any]) -> Latency:
    """Return the latency that `outcome_to_json` wrote as part of an evaluation."""
    return _LATENCY.validate_python(content)


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
        recipe: of an earlier search that the strategy comes from, None for all others.
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
    recipe: str | None = None

    @property
    def description(self) -> str:
        """What it is, for people."""
        if self.strategy is None:
            return "float model"
        return self.strategy.describe() + ("" if self.recipe is None else f" (from {self.recipe})")

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
