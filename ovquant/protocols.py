"""Interfaces with more than one implementation (a fake in the tests counts)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pathlib import Path

    from ovquant.audit import Audit
    from ovquant.inspection import Inspection
    from ovquant.metering import Ready
    from ovquant.records import Comparison, Evaluation, Failure, Latency, Outcome, Subject
    from ovquant.strategy import InferencePrecision, Strategy
    from ovquant.targets import MeasurementPlan
    from ovquant.tasks import Bench, BenchSpec, ComparisonTask, Made, Task
    from ovquant.turns import Turns

Array: TypeAlias = NDArray[Any]
Sample: TypeAlias = Mapping[str, Array]
Outputs: TypeAlias = Mapping[str, Sequence[Array]]


class Clock(Protocol):
    """Time that tests can script."""

    def now(self) -> float:
        """Return seconds on a monotonic scale."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let so many seconds pass."""
        ...


class Dataset(Protocol):
    """Samples with random access.

    Samples map model input names to arrays with a batch axis of 1, of the model's shape and type.
    """

    @property
    def identity(self) -> tuple[str, ...]:
        """What tells its items from those of other data sets: file, and arrays or function in it."""
        ...

    @property
    def labels(self) -> Sequence[Any] | None:
        """One label per item, or None."""
        ...

    def __len__(self) -> int: ...

    def sample(self, index: int) -> Sample:
        """Return the item at `index`, ready for the model."""
        ...

    def item_name(self, index: int) -> str:
        """Return what the user knows the item by."""
        ...


class Metric(Protocol):
    """A score over items.

    Attributes:
        name: what results call it.
        direction: which values are better.
        truth: what it takes for `labels`: those of the data, or the reference's outputs of each item (output name -> array).
        column: which labels, where the data has several; None where it has one.
    """

    name: str
    direction: Literal["maximize", "minimize"]
    truth: Literal["labels", "reference"]
    column: str | None

    def per_item(self, outputs: Outputs, labels: Sequence[Any]) -> NDArray[np.float64] | None:
        """Return scores, shape [N], whose mean is the value; None where the metric is no mean over items."""
        ...

    def value(self, outputs: Outputs, labels: Sequence[Any]) -> float:
        """Return the metric over all items."""
        ...


class Watch(Protocol):
    """Who wants to know what is being done for whom; called from any thread."""

    def __call__(self, who: str, stage: str, *, is_begun: bool) -> None:
        """Hear that a stage begins or ends for a strategy (its model's digest), or for something else."""
        ...


def unwatched(who: str, stage: str, *, is_begun: bool) -> None:
    """Hear nothing."""


class LatencyMeter(Protocol):
    """Where models are compiled to be timed: on this machine, or on another one.

    What it raises is a fault of the models asked about, unless it is a `DeviceError` of a machine that cannot be reached.
    """

    @property
    def is_here(self) -> bool:
        """Whether it measures on this machine, which should do nothing else meanwhile."""
        ...

    def precision(self, model: Ready) -> InferencePrecision:
        """Return the float precision that a model is run in."""
        ...

    def structure(self, model: Ready) -> str:
        """Return the key of the kernels that run, see `ovquant.structure`."""
        ...

    def turns(self, models: Sequence[Ready], plan: MeasurementPlan) -> tuple[Turns, list[int]]:
        """Return what was measured of models in turns, each called by its place, and the inference threads of each.

        The first one is the baseline.
        """
        ...

    def audits(self, models: Sequence[Ready]) -> tuple[Audit, ...]:
        """Return the kernels of models that are run in turns, all of them in the precision of the first.

        Raises:
            RuntimeError: the device has no profile of them.
        """
        ...

    def close(self) -> None:
        """Hold nothing any more."""
        ...


class Executor(Protocol):
    """Where models are evaluated."""

    @property
    def n_together(self) -> int:
        """How many tasks are best submitted together; all of them are settled only when the last one is."""
        ...

    def open(self, bench: BenchSpec) -> Bench:
        """Open model and data, run the float model on all items, and return what there is to know of them.

        Raises:
            OvquantError: they cannot be used together.
        """
        ...

    def inspect(self, bench: BenchSpec) -> Inspection:
        """Return which layers lose most by being quantized.

        Raises:
            OvquantError: that cannot be found out.
        """
        ...

    def recall(self, bench: BenchSpec, known: Sequence[tuple[Strategy, Evaluation]]) -> None:
        """Take over what was measured before, so that equal models and kernels are not measured again."""
        ...

    def build(self, bench: BenchSpec, strategy: Strategy) -> Path:
        """Return the IR of a strategy.

        Raises:
            Exception: it cannot be built.
        """
        ...

    def announce(self, bench: BenchSpec, tasks: Sequence[Task]) -> None:
        """Say what will be submitted next, in that order, in place of what was announced before; nothing is promised."""
        ...

    def submit(self, tasks: Sequence[Task]) -> list[Outcome]:
        """Evaluate tasks of one bench together; a fault of a candidate is returned as a `Failure`, never raised."""
        ...

    def compare(self, task: ComparisonTask) -> Comparison | Failure:
        """Measure the latencies of several models in turns.

        Raises:
            DeviceError: the machine that measures cannot be reached any more.
        """
        ...

    def profile(self, bench: BenchSpec, subjects: Sequence[Subject]) -> tuple[Audit, ...] | None:
        """Return the kernels of each model with their precisions and times; None where they cannot be told."""
        ...

    def close(self) -> None:
        """Stop what is under way."""
        ...


class StepwiseExecutor(Executor, Protocol):
    """An executor that does the steps of a task one by one as well, so that each can be done on another machine."""

    def make(self, task: Task) -> Made | Failure:
        """Return a task's model file."""
        ...

    def structure(self, task: Task) -> str | Failure:
        """Return the key of the kernels that run of a task's model, see `ovquant.structure`."""
        ...

    def time(self, task: Task) -> Latency | Failure:
        """Return the latency of a task's model by the ranking plan."""
        ...
