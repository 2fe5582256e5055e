"""Who does what in a cluster: runs go step by step, each step to a worker that is free; what a lost worker was at begins anew."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import heapq
import itertools
import queue
import threading
import time
import uuid
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, TypeAlias

from ovquant.crew import Crew, Member
from ovquant.errors import DeviceError, OvquantError, first_line
from ovquant.interrupts import raise_if_asked
from ovquant.log import log
from ovquant.protocols import Array
from ovquant.records import Failure
from ovquant.station import Order, Unknown, What
from ovquant.worker import Raised

_LOOK_S = 0.5  # between looks at who is there
_GATHER_S = 10.0  # for an answer that a worker has ready
_N_LOST = 3  # workers that a candidate may take down before it is its own fault
_RANKS: dict[What, int] = {"structure": 0, "time": 0, "submit": 1}  # what others wait for first, new candidates last
_LAST_RANK = 2
_STAGES: dict[What, str] = {"make": "quantize", "structure": "compile", "time": "latency", "submit": "validate"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """A step that a worker has to do; see `Order`.

    Attributes:
        what, shipment, argument, is_timing: of the order.
        rival: of the order, read when it is given.
    """

    what: What
    shipment: str
    argument: Any = None
    is_timing: bool = False
    rival: Callable[[], tuple[str, Array] | None] | None = None


# Yields what is needed and is sent the answer; yields None to be asked again later.
Steps: TypeAlias = Generator[Need | None, Any, Any]


@dataclasses.dataclass(eq=False, slots=True, kw_only=True)
class Run:
    """Something on its way through its steps.

    Attributes:
        place: the order that runs were begun in.
        begin: returns its steps, from the first one.
        result: what comes of it.
        notes: of its steps, for themselves; forgotten when it begins anew.
        steps: that are left.
        need: the step at hand.
        worker: who is at it.
        model, holder: future of the model that it is about, and who has it.
        futures: of what is under way.
        ticket: of the step at hand; what comes of an earlier one is of no interest.
        n_lost: workers that were lost while they were at it.
    """

    place: int
    begin: Callable[[Run], Steps]
    result: Future[Any] = dataclasses.field(default_factory=Future)
    notes: list[Any] = dataclasses.field(default_factory=list)
    steps: Steps | None = None
    need: Need | None = None
    worker: Member | None = None
    model: Any = None
    holder: Member | None = None
    futures: tuple[Any, ...] = ()
    ticket: int = 0
    n_lost: int = 0

    def wait(self) -> Any:
        """Return what came of it, once it is there; an interrupt is not kept waiting.

        Raises:
            OvquantError: it cannot be had.
        """
        while True:
            raise_if_asked()
            with contextlib.suppress(TimeoutError):
                return self.result.result(timeout=_LOOK_S)


class Dispatcher:
    """Hands the steps of all runs to whoever is free, in a thread of its own."""

    def __init__(self, crew: Crew, patience_s: float) -> None:
        """Begin to serve.

        Args:
            crew: the workers.
            patience_s: while nobody is there who could go on.
        """
        self.lock = threading.RLock()  # what steps use beside is theirs while they hold it
        self._crew = crew
        self._patience_s = patience_s
        self._events: queue.SimpleQueue[tuple[Run, int, Any] | None] = queue.SimpleQueue()
        self._places = itertools.count()
        self._name = uuid.uuid4().hex[:8]
        self._runs: set[Run] = set()
        self._waiting: list[Run] = []
        self._needs: dict[bool, list[tuple[int, int, int, Run]]] = {True: [], False: []}
        self._busy: set[Member] = set()
        self._served = time.monotonic()
        self._is_closed = False
        self._thread = threading.Thread(target=self._serve, name="ovquant-cluster", daemon=True)
        self._thread.start()

    def begin(self, begin: Callable[[Run], Steps]) -> Run:
        """Begin a run.

        Args:
            begin: returns its steps; called again where it has to begin anew.
        """
        with self.lock:
            run = Run(place=next(self._places), begin=begin)
            self._runs.add(run)
            self._restart(run)
        self._events.put(None)
        return run

    def drop(self, run: Run) -> None:
        """End a run without a result."""
        with self.lock:
            self._leave(run)
            self._runs.discard(run)
            run.result.cancel()

    def close(self) -> None:
        """Drop all runs, and serve no more."""
        with self.lock:
            self._is_closed = True
            for run in list(self._runs):
                self.drop(run)
        self._events.put(None)
        self._thread.join(_GATHER_S)

    # Runs

    def _restart(self, run: Run) -> None:
        """Begin a run anew; what is under way for it is dropped."""
        self._leave(run)
        run.model = run.holder = None
        run.notes.clear()
        run.steps = run.begin(run)
        self._advance(run, None)

    def _leave(self, run: Run) -> None:
        """Drop what is under way for a run."""
        run.ticket += 1
        for future in run.futures:
            with contextlib.suppress(Exception):
                future.cancel()
        if run.worker is not None:
            self._busy.discard(run.worker)
        if run.steps is not None:
            run.steps.close()
        if run in self._waiting:
            self._waiting.remove(run)
        run.futures, run.worker, run.need = (), None, None

    def _end(self, run: Run, result: Any) -> None:
        """Note what came of a run, and let its model go."""
        self._leave(run)
        run.model = run.holder = None
        self._runs.discard(run)
        if isinstance(result, BaseException):
            run.result.set_exception(result)
        else:
            run.result.set_result(result)

    def _advance(self, run: Run, answer: Any) -> None:
        """Give a run the answer that it waits for, and note what it needs next."""
        if run in self._waiting:
            self._waiting.remove(run)
        if isinstance(answer, Raised):
            self._end(run, answer.error)
            return
        try:
            need = next(run.steps) if answer is None else run.steps.send(answer)  # type: ignore[arg-type, union-attr]
        except StopIteration as stop:
            self._end(run, stop.value)
            return
        except Exception as error:
            self._end(run, error)
            return
        run.need = need
        run.ticket += 1
        if need is None:
            self._waiting.append(run)
        else:
            heapq.heappush(self._needs[need.is_timing], (_RANKS.get(need.what, _LAST_RANK), run.place, run.ticket, run))

    # The thread

    def _serve(self) -> None:
        """Hear of what was done, look who is there, hand out what is needed: until this is closed."""
        looked = time.monotonic()
        while not self._is_closed:
            events = self._next_events()
            try:
                with self.lock:
                    for event in filter(None, events):
                        self._hear(*event)
                    if time.monotonic() - looked > _LOOK_S:
                        looked = time.monotonic()
                        self._look()
                    for run in list(self._waiting):
                        self._advance(run, None)
                    self._hand_out()
            except Exception as error:  # nobody must wait without end
                self._fail_all(OvquantError(f"{self._crew.address}: {type(error).__name__}: {first_line(error)}"))

    def _next_events(self) -> list[tuple[Run, int, Any] | None]:
        """Return what happened, once something did."""
        events = []
        with contextlib.suppress(queue.Empty):
            events.append(self._events.get(timeout=_LOOK_S))
            while True:
                events.append(self._events.get_nowait())
        return events

    def _hear(self, run: Run, ticket: int, future: Any) -> None:
        """Take the answer of a worker."""
        from distributed.scheduler import KilledWorker

        worker, need = run.worker, run.need
        if run.ticket != ticket or worker is None or need is None:
            return
        try:
            fault = future.exception(timeout=_GATHER_S) if future.status == "error" else None
            answer = future.result(timeout=_GATHER_S) if fault is None else None
        except (Exception, asyncio.CancelledError):  # lost on its way: with the worker, or with the scheduler
            if not self._crew.is_connected or not self._is_blamed(run):
                self._restart(run)
            return
        if isinstance(fault, KilledWorker) or isinstance(answer, Unknown):
            self._lose(worker)
            return
        if fault is not None:
            stage = _STAGES.get(need.what, need.what)
            answer = Failure(stage=stage, error=type(fault).__name__, message=first_line(fault))
        self._busy.discard(worker)
        run.worker, run.futures = None, ()
        if answer is None:
            self._end(run, None)  # of a profile, which not every device has
        else:
            self._advance(run, answer)

    def _look(self) -> None:
        """See who is gone, and end all where there has been nobody for long who could go on."""
        try:
            for member in self._crew.look():
                self._lose(member)
        except OSError as error:
            log("scheduler does not answer", error=str(error))
        members = self._crew.members if self._crew.is_connected else []
        has_timing = any(member.is_timing for member in members)
        if not self._runs or (members and (has_timing or not self._needs[True])):
            self._served = time.monotonic()
        elif time.monotonic() - self._served > self._patience_s:
            lacking = "worker that measures latency" if members else "worker" if self._crew.is_connected else "scheduler"
            self._fail_all(
                DeviceError(
                    f"{self._crew.address}: there has been no {lacking} for {self._patience_s:.0f} s; trials recorded before are "
                    "kept. Start it again, and the same command continues"
                )
            )

    def _fail_all(self, error: OvquantError) -> None:
        log("cluster fails", error=str(error))
        with self.lock:
            for run in list(self._runs):
                self._end(run, error)

    def _lose(self, member: Member) -> None:
        """Begin anew what a lost worker was at, and what it alone had."""
        self._crew.drop(member)
        for run in sorted(self._runs, key=lambda run: run.place):
            if member not in {run.worker, run.holder} or (run.worker is member and self._is_blamed(run)):
                continue
            self._restart(run)
        self._busy.discard(member)

    def _is_blamed(self, run: Run) -> bool:
        """Count a worker that a run lost; end the run if it has lost as many as it may."""
        run.n_lost += 1
        if run.n_lost < _N_LOST or run.need is None or run.worker is None:
            return False
        stage = _STAGES.get(run.need.what, run.need.what)
        message = f"{run.n_lost} workers were lost while they were at it, the last one was {run.worker.address}"
        self._end(run, Failure(stage=stage, error="Crash", message=message))
        return True

    def _hand_out(self) -> None:
        """Give every worker that is free something to do."""
        if not self._crew.is_connected:
            return
        free = [member for member in self._crew.members if member not in self._busy]
        for is_timing in (True, False):
            needs = self._needs[is_timing]
            fitting = [member for member in free if member.is_timing or not is_timing]
            while needs and fitting:
                _, _, ticket, run = heapq.heappop(needs)
                if run.ticket != ticket or run.need is None:
                    continue
                # Who has the model, else who has nothing else to do: those that measure are few.
                others = min(fitting, key=lambda member: member.is_timing)
                member = run.holder if run.holder is not None and run.holder in fitting else others
                fitting.remove(member)
                free.remove(member)
                self._hand(run, run.need, member)

    def _hand(self, run: Run, need: Need, member: Member) -> None:
        rival = None if need.rival is None else need.rival()
        order = Order(shipment=need.shipment, what=need.what, is_timing=need.is_timing, argument=need.argument, rival=rival)
        self._busy.add(member)
        run.worker, ticket = member, run.ticket
        answer, model = self._crew.submit(order, member, run.model, f"{self._name}-{run.place}-{ticket}")
        if model is not None:
            run.model, run.holder = model, member
        run.futures = (answer,) if model is None else (answer, model)
        answer.add_done_callback(lambda future: self._events.put((run, ticket, future)))
