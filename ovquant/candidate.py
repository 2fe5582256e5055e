"""A candidate on its way through its stages."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ovquant.building import watched
from ovquant.inference import CompiledModel
from ovquant.metering import Ready
from ovquant.protocols import Watch
from ovquant.records import Evaluation, Failure, Latency
from ovquant.shelf import Shelf
from ovquant.strategy import Strategy
from ovquant.tasks import Task


@dataclasses.dataclass(slots=True)
class Stages:
    """Names the stage at work, tells it to a watch, and keeps the seconds of each."""

    watch: Watch
    who: str
    current: str = "start"
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Be at a stage."""
        self.current = name
        start = time.perf_counter()
        with watched(self.watch, self.who, name):
            yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 4)


@dataclasses.dataclass(slots=True, kw_only=True)
class Candidate:
    """A task on its way: what was found out so far.

    Attributes:
        failure: what ended it.
        path, model, compiled, graph_digest, structure, latency: as far as it got.
    """

    task: Task
    stages: Stages
    failure: Failure | None = None
    path: Path = Path()
    model: Any = None
    compiled: CompiledModel | None = None
    graph_digest: str = ""
    structure: str | None = None
    latency: Latency | None = None

    @property
    def ready(self) -> Ready:
        """The model, to be measured."""
        return Ready(path=self.path, model=self.model, precision=self.task.subject.inference_precision, compiled=self.compiled)

    @property
    def known_as(self) -> tuple[Any, ...]:
        """What outcomes of equal models have in common."""
        return known_as(self.graph_digest, self.task)


def known_as(graph_digest: str, task: Task) -> tuple[Any, ...]:
    """Return what outcomes of equal models have in common."""
    return (graph_digest, task.subject.inference_precision, task.split, task.is_timed, task.has_intervals)


class Memory:
    """What was measured: latencies by structure key, outcomes by model.

    Attributes:
        latencies: structure key -> latency.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Know nothing.

        Args:
            folder: for a file of outcomes, which are many and seldom asked for.
        """
        self.latencies: dict[str, Latency] = {}
        self._shelf = Shelf(folder)
        self._whole: dict[tuple[Any, ...], int] = {}  # the places of outcomes on all items
        self._stopped: dict[tuple[Any, ...], int] = {}  # of those that a race stopped
        self._timed: dict[str, Latency] = {}  # by structure, of the outcomes, which are kept without

    def close(self) -> None:
        """Know nothing any more."""
        self._shelf.close()

    def knows(self, key: tuple[Any, ...], *, is_raced: bool) -> bool:
        """Return True if there is an outcome of an equal model; one that a race stopped is none for a task that is not raced."""
        return key in self._whole or (is_raced and key in self._stopped)

    def recall(self, known: Sequence[tuple[Strategy, Evaluation]]) -> None:
        """Take over what was measured before."""
        for strategy, outcome in known:
            if outcome.structure is not None and outcome.latency is not None:
                self.latencies.setdefault(outcome.structure, outcome.latency)
            is_timed = outcome.latency is not None
            key = (outcome.graph_digest, strategy.inference_precision, outcome.split, is_timed, outcome.divergences is not None)
            if outcome.raced is None or outcome.raced.reason != "screened":
                self.learn(key, outcome.same_as or strategy.digest, outcome)

    def learn(self, key: tuple[Any, ...], digest: str, outcome: Evaluation) -> None:
        """Keep an outcome; of a model, the first one on all items and the first one that a race stopped are kept.

        Args:
            key: see `known_as`.
            digest: of the strategy that was evaluated.
            outcome: of it.
        """
        places = self._whole if outcome.raced is None else self._stopped
        if key in places:
            return
        if outcome.structure is not None and outcome.latency is not None:
            self._timed.setdefault(outcome.structure, outcome.latency)
            outcome = dataclasses.replace(outcome, latency=None)
        places[key] = self._shelf.put((digest, outcome))

    def again(self, key: tuple[Any, ...], digest: str, seconds: dict[str, float], *, is_raced: bool) -> Evaluation | None:
        """Return the outcome of an equal model as that of the strategy of this digest, None where there is none, see `knows`."""
        if not self.knows(key, is_raced=is_raced):
            return None
        first, outcome = self._shelf.get(self._whole[key] if key in self._whole else self._stopped[key])
        latency = self._timed.get(str(outcome.structure), outcome.latency)
        same_as = None if first == digest else first
        found: Evaluation = dataclasses.replace(outcome, latency=latency, seconds=seconds, same_as=same_as)
        return found
