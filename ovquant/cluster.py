"""Candidates on the workers of a Dask cluster: each goes from step to step, and from worker to worker where that is quicker."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ovquant.audit import Audit
from ovquant.candidate import Memory, known_as
from ovquant.crew import Crew
from ovquant.dispatch import Dispatcher, Need, Run, Steps
from ovquant.errors import ModelError
from ovquant.inspection import Inspection
from ovquant.protocols import Array
from ovquant.quantization.store import ArrayStore
from ovquant.records import Comparison, Evaluation, Failure, Outcome, Subject
from ovquant.shipment import shipment_of
from ovquant.station import ITEMS, MakeExecutor, Model, Validated, What, contained, write_model
from ovquant.strategy import Strategy
from ovquant.tasks import (
    Bench,
    BenchSpec,
    ComparisonTask,
    Race,
    Rival,
    Task,
    Timed,
    best_rival,
    if_hopeless,
    needs_screening,
    screening,
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Shipped:
    """A bench that the workers have.

    Attributes:
        digest: of the shipment.
        items: what candidates diverge by on each item.
    """

    digest: str
    items: ArrayStore


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What came of a model: a note of a run.

    Attributes:
        key: see `known_as`.
        digest: of the strategy.
        outcome: of it.
    """

    key: tuple[Any, ...]
    digest: str
    outcome: Evaluation


class ClusterExecutor:
    """Hands the steps of all candidates that are announced to whoever is free.

    A model is made and validated by any worker; its kernels are identified, and timed if they are new, on those workers that
    carry the target's resource. When a worker is lost, what it was at, and what only it had, is done again by others.
    """

    n_together = 1  # all that is announced is under way anyway

    def __init__(
        self,
        address: str,
        target: str,
        timed_on: str,
        *,
        memory_bytes: int | None = None,
        make: MakeExecutor = contained,
        wait_s: float = 10.0,
        patience_s: float = 300.0,
        folder: Path | None = None,
    ) -> None:
        """Connect to a scheduler and greet its workers.

        Args:
            address: of the scheduler, or its scheduler file.
            target: name of the target profile.
            timed_on: OpenVINO device that latency is measured on.
            memory_bytes: that the process of candidates may take on each worker; None is most of what is free there.
            make: makes what runs candidates on a worker, see `ovquant.station`.
            wait_s: at the start, for a worker that may measure latency.
            patience_s: later on, while no worker is there that could go on.
            folder: for a file of what is settled.

        Raises:
            UsageError, DeviceError: there is no scheduler, no worker to measure on, or workers have other versions.
        """
        self._crew = Crew(address, target, make, memory_bytes, wait_s)
        self._dispatcher = Dispatcher(self._crew, patience_s)
        self._timed_on = timed_on
        self._shipped: dict[str, _Shipped] = {}
        self._announced: dict[tuple[Any, ...], Run] = {}
        self._equal: dict[tuple[Any, ...], dict[int, Evaluation | None]] = {}  # of equal models, by the places of their runs
        self._memory = Memory(folder)  # of what is settled, in the order that it was asked for
        self._timing: set[str] = set()  # structures that are being timed

    def on_targets(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a function returns on the workers that measure latency; see `Crew.on_targets`."""
        return self._crew.on_targets(function, *arguments)

    def describe(self) -> str:
        """Return in words who is there."""
        members = self._crew.members
        n_timing = sum(member.is_timing for member in members)
        return f"{len(members)} workers at {self._crew.address}, of which {n_timing} measure latency"

    def open(self, bench: BenchSpec) -> Bench:
        """Send model and data to the workers, open them on one that measures latency, and return what there is to know.

        Raises:
            OvquantError: they cannot be used together.
        """
        opened: Bench = self._required("open", bench, is_timing=True)
        return opened

    def inspect(self, bench: BenchSpec) -> Inspection:
        """Return which layers lose most.

        Raises:
            OvquantError: that cannot be found out.
        """
        found: Inspection = self._required("inspect", bench, is_timing=True)
        return found

    def recall(self, bench: BenchSpec, known: Sequence[tuple[Strategy, Evaluation]]) -> None:
        """Take over what was measured before."""
        with self._dispatcher.lock:
            self._memory.recall(known)

    def build(self, bench: BenchSpec, strategy: Strategy) -> Path:
        """Return the IR of a strategy, here.

        Raises:
            OvquantError: it cannot be built.
        """
        model: Model = self._required("build", bench, strategy)
        Path(bench.model_dir).mkdir(parents=True, exist_ok=True)
        return write_model(model, Path(bench.model_dir) / f"{model.name}.xml")

    def announce(self, bench: BenchSpec, tasks: Sequence[Task]) -> None:
        """Begin with what will be submitted; what was announced before and is not among it is dropped."""
        if tasks:
            self._ship(bench)
        before, self._announced = self._announced, {}
        for task in tasks:
            key = _key(task)
            self._announced[key] = before.pop(key) if key in before else self._begin(task)
        for run in before.values():
            self._dispatcher.drop(run)

    def submit(self, tasks: Sequence[Task]) -> list[Outcome]:
        """Evaluate tasks; those that were announced are under way, with the race that was announced."""
        for task in tasks:
            self._ship(task.bench)
        keys = [_key(task) for task in tasks]
        runs = [
            self._announced.pop(key) if key in self._announced else self._begin(task)
            for key, task in zip(keys, tasks, strict=True)
        ]
        return [self._settled(task, run) for task, run in zip(tasks, runs, strict=True)]

    def compare(self, task: ComparisonTask) -> Comparison | Failure:
        """Measure the latencies of several models in turns, on one worker."""
        found: Comparison | Failure = self._asked("compare", task.bench, task, is_timing=True)
        return found

    def profile(self, bench: BenchSpec, subjects: Sequence[Subject]) -> tuple[Audit, ...] | None:
        """Return the kernels of each model."""
        found = self._asked("profile", bench, tuple(subjects), is_timing=True)
        return None if isinstance(found, Failure) else found

    def close(self) -> None:
        """Drop what is under way, and leave the cluster."""
        self._dispatcher.close()
        self._crew.close()

    def _asked(self, what: What, bench: BenchSpec, argument: Any = None, *, is_timing: bool = False) -> Any:
        """Return the answer to a single step."""
        self._ship(bench)
        need = Need(what=what, shipment=self._shipped[repr(bench)].digest, argument=argument, is_timing=is_timing)

        def steps(run: Run) -> Steps:
            return (yield need)

        return self._dispatcher.begin(steps).wait()

    def _required(self, what: What, bench: BenchSpec, argument: Any = None, *, is_timing: bool = False) -> Any:
        answer = self._asked(what, bench, argument, is_timing=is_timing)
        if isinstance(answer, Failure):
            raise ModelError(f"{bench.model}: {what} failed at {answer.stage}: {answer.message}")
        return answer

    def _ship(self, bench: BenchSpec) -> None:
        """Send what a bench consists of, unless that is done."""
        if repr(bench) in self._shipped:
            return
        # Validated alike everywhere: on the target's device only where all have one.
        has_all = all(self._timed_on in member.devices for member in self._crew.members)
        shipment = shipment_of(dataclasses.replace(bench, device=self._timed_on if has_all else "CPU"), self._timed_on)
        self._crew.ship(shipment)
        items = ArrayStore(Path(bench.model_dir) / ITEMS)
        self._shipped[repr(bench)] = _Shipped(digest=shipment.digest, items=items)

    def _begin(self, task: Task) -> Run:
        return self._dispatcher.begin(functools.partial(self._candidate, task))

    def _settled(self, task: Task, run: Run) -> Outcome:
        """Return the outcome of a candidate; of equal models, the first one that was asked for counts as measured."""
        outcome: Outcome = run.wait()
        with self._dispatcher.lock:
            for found in run.notes:
                self._memory.learn(found.key, found.digest, found.outcome)
                self._forget_equal(found.key, run)
            is_screened = isinstance(outcome, Evaluation) and outcome.raced is not None and outcome.raced.reason == "screened"
            if not run.notes or isinstance(outcome, Failure) or is_screened:
                return outcome
            last = run.notes[-1]
            return self._memory.again(last.key, last.digest, outcome.seconds, is_raced=task.is_raced) or outcome

    # The steps of a candidate

    def _need(self, what: What, task: Task, *, is_timing: bool = False, rival: Rival | None = None) -> Need:
        shipped = self._shipped[repr(task.bench)]

        def items() -> tuple[str, Array] | None:
            kept = None if rival is None else shipped.items.get(rival.digest)
            return None if rival is None or kept is None else (rival.digest, kept[0])

        return Need(what=what, shipment=shipped.digest, argument=task, is_timing=is_timing, rival=items)

    def _candidate(self, task: Task, run: Run) -> Steps:
        """Go through the steps of a candidate, return its outcome."""
        if not isinstance(task.subject, Strategy):
            answer = yield self._need("submit", task, is_timing=task.is_timed)
            return answer.outcome if isinstance(answer, Validated) else answer
        quick = screening(task.subject)
        if needs_screening(task) and isinstance(quick, Strategy):
            hopeless = if_hopeless((yield from self._strategy(dataclasses.replace(task, subject=quick), quick, run)))
            if hopeless is not None:
                return hopeless
            run.model = run.holder = None
        return (yield from self._strategy(task, task.subject, run))

    def _strategy(self, task: Task, strategy: Strategy, run: Run) -> Steps:
        """Make, time and validate a strategy's model, unless an equal one that was asked for before is known."""
        made = yield self._need("make", task)
        if not isinstance(made, Model):
            return made
        key, seconds = known_as(made.graph_digest, task), dict(made.seconds)
        recall = functools.partial(self._memory.again, key, strategy.digest, seconds, is_raced=task.is_raced)
        outcome = yield from self._equal_one(key, recall, seconds, run)
        equal = self._equal.setdefault(key, {})
        equal[run.place] = None
        try:
            if outcome is None:
                outcome = yield from self._measured(task, strategy, seconds)
            if isinstance(outcome, Evaluation):
                equal[run.place] = outcome
                run.notes.append(_Found(key=key, digest=strategy.digest, outcome=outcome))
        finally:
            if equal[run.place] is None:
                self._forget_equal(key, run)
        return outcome

    def _forget_equal(self, key: tuple[Any, ...], run: Run) -> None:
        equal = self._equal.get(key, {})
        equal.pop(run.place, None)
        if not equal:
            self._equal.pop(key, None)

    def _equal_one(
        self, key: tuple[Any, ...], recall: Callable[[], Evaluation | None], seconds: dict[str, float], run: Run
    ) -> Steps:
        """Return the outcome of an equal model that was asked for before, None if there is none; waits while it is evaluated."""
        while True:
            again = recall()
            if again is not None:
                return again
            before = {place: one for place, one in self._equal.get(key, {}).items() if place <= run.place}
            known = next((one for one in before.values() if one is not None), None)
            if known is not None or not before:
                return known and dataclasses.replace(known, seconds=seconds)
            yield None

    def _measured(self, task: Task, strategy: Strategy, seconds: dict[str, float]) -> Steps:
        """Time and validate a model that was made."""
        timed: Timed | None = None
        if task.is_timed:
            begun = time.monotonic()
            timed = yield from self._timed(task)
            if not isinstance(timed, Timed):
                return timed
            seconds["latency"] = round(time.monotonic() - begun, 4)
        race = task.race
        rival = None if race is None or timed is None else best_rival(race.rivals, timed.latency)
        if race is not None:
            race = Race(rules=race.rules, rivals=() if rival is None else (rival,))
        answer = yield self._need("submit", dataclasses.replace(task, timed=timed, race=race), rival=rival)
        if not isinstance(answer, Validated) or isinstance(answer.outcome, Failure):
            return answer.outcome if isinstance(answer, Validated) else answer
        if answer.items is not None:
            self._shipped[repr(task.bench)].items.put({strategy.digest: [answer.items]})
        spent = answer.outcome.seconds
        both = {stage: round(spent.get(stage, 0.0) + seconds.get(stage, 0.0), 4) for stage in {**seconds, **spent}}
        return dataclasses.replace(answer.outcome, seconds=both, same_as=None)

    def _timed(self, task: Task) -> Steps:
        """Identify the kernels of a candidate, and time them if nobody did before; return `Timed` or a failure."""
        structure = yield self._need("structure", task, is_timing=True)
        if not isinstance(structure, str):
            return structure
        while structure in self._timing:
            yield None
        if structure not in self._memory.latencies:
            self._timing.add(structure)
            try:
                latency = yield self._need("time", task, is_timing=True)
            finally:
                self._timing.discard(structure)
            if isinstance(latency, Failure):
                return latency
            self._memory.latencies[structure] = latency
        return Timed(structure=structure, latency=self._memory.latencies[structure])


def _key(task: Task) -> tuple[Any, ...]:
    """Return what tells the tasks of a bench apart; the race of one that was announced is the one that counts."""
    subject = task.subject
    name = subject.digest if isinstance(subject, Strategy) else repr(subject)
    return (name, task.split, task.is_timed, task.has_intervals)
