"""A candidate on its way through its stages."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ovquant.building import watched
from ovquant.inference import CompiledModel
from ovquant.metering import Ready
from ovquant.protocols import Watch
from ovquant.records import Failure, Latency
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
        task = self.task
        return (self.graph_digest, task.subject.inference_precision, task.split, task.is_timed, task.has_intervals)
