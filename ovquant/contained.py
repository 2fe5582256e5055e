"""Candidates in a process of their own, which is watched, and replaced when one of them takes it down."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import multiprocessing
import signal
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import psutil

from ovquant.audit import Audit
from ovquant.building import SHARED
from ovquant.environment import available_bytes
from ovquant.errors import ModelError, OutputError
from ovquant.inspection import Inspection
from ovquant.interrupts import raise_if_asked
from ovquant.log import log
from ovquant.records import Comparison, Evaluation, Failure, Latency, Outcome, Subject
from ovquant.shelf import Shelf
from ovquant.strategy import Strategy
from ovquant.tasks import Bench, BenchSpec, ComparisonTask, Made, Task
from ovquant.worker import PRELOADED, Call, Done, Name, Raised, Settled, Stage, serve

_LOOK_S = 0.2  # between looks at the worker's memory
_SHARE = 0.8  # of the memory that is free when a search begins
_TOLD_AT_ONCE = 20  # outcomes; all of them take much memory
_TOLD_BYTES = 2000  # of what a worker printed last, for the log
_END_S = 5.0
_N_GROWING = 3  # announcements by which a worker has come to the memory that it needs
_MORE_BYTES = 128 << 20  # that it may take beyond that, or half as much again: what libraries keep or scatter adds up
_VERDICT = "verdict"  # rests between its visits as long as the target asks for
_WAITING = "quantize"  # for a model that is built; that has a stage of its own


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a worker may take before it is replaced.

    Attributes:
        memory_bytes: resident memory, less files that are mapped into it, which the system can drop.
        first_s: seconds of a stage that was never seen to end.
        factor: later ones may take so many times the longest one seen,
        least_s: but always so many seconds.
    """

    memory_bytes: int
    first_s: float = 3600.0
    factor: float = 20.0
    least_s: float = 120.0

    def seconds(self, longest_s: float | None) -> float:
        """Return what a stage may take, given the longest one seen."""
        return self.first_s if longest_s is None else max(self.least_s, self.factor * longest_s)


class _LostError(Exception):
    """The worker is gone."""

    def __init__(self, failure: Failure, suspects: frozenset[str]) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.suspects = suspects


class ContainedExecutor:
    """Hands everything to a worker process; what takes it down is found and told as a `Failure`, and a new one goes on.

    A worker may be at two candidates at once: one is evaluated while the next one is built. Where it is not clear which one
    took it down, those that were under way are run again, each by itself.
    """

    n_together = 4

    def __init__(
        self,
        folder: Path,
        memory_bytes: int | None = None,
        limits: Limits | None = None,
        tell: Callable[[str, float], None] | None = None,
    ) -> None:
        """Start a worker.

        Args:
            folder: for what it prints.
            memory_bytes: that it may take; None is most of what is free now.
            limits: in place of the usual ones.
            tell: hears several times a second what is under way, and since how many seconds.
        """
        self._folder = folder
        self._tell = tell
        self._limits = limits or Limits(memory_bytes=memory_bytes or int(_SHARE * available_bytes()))
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([*PRELOADED, "ovquant.worker"])
        self._n_workers = 0
        self._bench: BenchSpec | None = None
        self._known = Shelf(folder)
        self._timed: set[str] = set()  # structures of what is known
        self._longest_s: dict[str, float] = {}
        self._under_way: dict[tuple[str, str], float] = {}
        self._called_at = 0.0
        self._peaks: dict[str, dict[str, int]] = {}
        self._suspected: set[str] = set()
        self._early: dict[int, Outcome] = {}
        self._announced: Sequence[Task] = ()
        self._start()

    def open(self, bench: BenchSpec) -> Bench:
        """Open model and data in the worker.

        Raises:
            OvquantError: they cannot be used together, or take the worker down.
        """
        opened: Bench = self._required("open", bench)
        return opened

    def inspect(self, bench: BenchSpec) -> Inspection:
        """Return which layers lose most.

        Raises:
            OvquantError: that cannot be found out.
        """
        found: Inspection = self._required("inspect", bench)
        return found

    def recall(self, bench: BenchSpec, known: Sequence[tuple[Strategy, Evaluation]]) -> None:
        """Take over what was measured before; a worker that replaces another one is told again."""
        for strategy, evaluation in known:
            self._remember(strategy, evaluation)
        self._required("recall", bench, list(known))

    def build(self, bench: BenchSpec, strategy: Strategy) -> Path:
        """Return the IR of a strategy.

        Raises:
            OvquantError: it cannot be built.
        """
        path: Path = self._required("build", bench, strategy)
        return path

    def announce(self, bench: BenchSpec, tasks: Sequence[Task]) -> None:
        """Say what will be submitted next; what is suspected of taking workers down is left for its own turn."""
        self._announced = tasks
        if tasks:
            self._renew_if_grown()
        self._announce(bench, tasks)

    def _announce(self, bench: BenchSpec, tasks: Sequence[Task]) -> None:
        told = [task.subject for task in tasks if _who(task) not in self._suspected]
        try:
            self._call("announce", bench, told)
        except _LostError as lost:
            self._suspected |= lost.suspects
            self._replace(lost)

    def submit(self, tasks: Sequence[Task]) -> list[Outcome]:
        """Evaluate tasks of one bench, together as far as they are not suspected of anything."""
        if tasks and (used := self._measure()) > self._limits.memory_bytes:
            # Left by those before: they would be killed for it at their first stage.
            self._renew(used)
            self._announce(tasks[0].bench, self._announced)
        outcomes: dict[int, Outcome] = {}
        left = list(range(len(tasks)))
        alone = {index for index in left if _who(tasks[index]) in self._suspected}
        while left:
            batch = [index for index in left if index not in alone] or left[:1]
            try:
                found = self._call("submit", tasks[0].bench, [tasks[index] for index in batch])
            except _LostError as lost:
                known = {batch[place]: outcome for place, outcome in self._early.items()}
                outcomes |= {index: self._settled(tasks[index], one) for index, one in known.items()}
                self._replace(lost)
                guilty = self._guilty(lost, {index: _who(tasks[index]) for index in batch if index not in known})
                if guilty is None:
                    alone |= set(batch)
                else:
                    outcomes[guilty] = lost.failure
            else:
                outcomes |= {index: self._settled(tasks[index], one) for index, one in zip(batch, found, strict=True)}
            left = [index for index in left if index not in outcomes]
        return [outcomes[index] for index in range(len(tasks))]

    def make(self, task: Task) -> Made | Failure:
        """Return a task's model file."""
        self._renew_if_grown()
        found: Made | Failure = self._attempt("make", task)
        return found

    def structure(self, task: Task) -> str | Failure:
        """Return the key of the kernels that run of a task's model."""
        found: str | Failure = self._attempt("structure", task)
        return found

    def time(self, task: Task) -> Latency | Failure:
        """Return the latency of a task's model."""
        found: Latency | Failure = self._attempt("time", task)
        return found

    def compare(self, task: ComparisonTask) -> Comparison | Failure:
        """Measure the latencies of several models in turns."""
        found: Comparison | Failure = self._attempt("compare", task)
        return found

    def _attempt(self, name: Name, task: Task | ComparisonTask) -> Any:
        """Return the answer to a call about one task, or the failure that took the worker down."""
        try:
            return self._call(name, task.bench, task)
        except _LostError as lost:
            self._replace(lost)
            return lost.failure

    def profile(self, bench: BenchSpec, subjects: Sequence[Subject]) -> tuple[Audit, ...] | None:
        """Return the kernels of each model; None as well where that takes the worker down."""
        try:
            found: tuple[Audit, ...] | None = self._call("profile", bench, list(subjects))
        except _LostError as lost:
            self._replace(lost)
            return None
        return found

    def close(self) -> None:
        """End the worker at once."""
        self._pipe.close()
        self._end()
        self._known.close()

    def _guilty(self, lost: _LostError, batch: dict[int, str]) -> int | None:
        """Return the place of the candidate that took a worker down, None where others may have."""
        if len(batch) == 1:
            return next(iter(batch))
        places = [index for index, who in batch.items() if who in lost.suspects]
        elsewhere = lost.suspects - set(batch.values())
        self._suspected |= elsewhere - {SHARED}
        return places[0] if len(places) == 1 and not elsewhere else None

    def _settled(self, task: Task, outcome: Outcome) -> Outcome:
        who = _who(task)
        self._suspected.discard(who)
        peaks = self._peaks.pop(who, {})
        if isinstance(outcome, Failure):
            self._require_space(task.bench)
            return outcome
        outcome = dataclasses.replace(outcome, peak_bytes=peaks)
        if isinstance(task.subject, Strategy):
            self._remember(task.subject, outcome)
        return outcome

    def _remember(self, strategy: Strategy, evaluation: Evaluation) -> None:
        """Keep for the next worker what is known, for which this process has no use; the latency of equal kernels once."""
        is_timed = evaluation.structure is not None and evaluation.latency is not None
        if is_timed and evaluation.structure in self._timed:
            evaluation = dataclasses.replace(evaluation, latency=None)
        self._known.put((strategy, evaluation))
        if is_timed:
            self._timed.add(str(evaluation.structure))

    def _recalled(self) -> Iterator[tuple[Strategy, Evaluation]]:
        latencies: dict[str, Latency | None] = {}
        for strategy, evaluation in self._known:
            latency = evaluation.latency
            if evaluation.structure is not None:
                latency = latencies.setdefault(evaluation.structure, latency)
            yield strategy, dataclasses.replace(evaluation, latency=latency)

    def _require_space(self, bench: BenchSpec) -> None:
        """Check that a failure is not that of a full disk, which all the next ones would share.

        Raises:
            OutputError: there is no room for a model.
        """
        free = psutil.disk_usage(bench.model_dir).free
        needed = 2 * Path(bench.model).stat().st_size + (1 << 20)
        if free < needed:
            raise OutputError(
                f"{bench.model_dir}: no space left for candidates ({free >> 20} MB free, {needed >> 20} MB needed); trials "
                "recorded before are kept. Free some, and the same command continues"
            )

    def _required(self, name: Name, bench: BenchSpec, *arguments: Any) -> Any:
        """Return the answer to a call without which a search cannot go on.

        Raises:
            OvquantError: there is none.
        """
        try:
            return self._call(name, bench, *arguments)
        except _LostError as lost:
            self._replace(lost)
            raise ModelError(f"{bench.model}: {lost.failure.message}") from None

    def _call(self, name: Name, bench: BenchSpec, *arguments: Any) -> Any:
        """Return the answer to a call; watch time and memory meanwhile.

        Raises:
            _LostError: the worker ended, or had to be ended.
            OvquantError: the call raised it.
        """
        self._bench = bench
        self._called_at = time.monotonic()
        self._early.clear()
        try:
            self._pipe.send(Call(name=name, bench=bench, arguments=arguments))
            while True:
                raise_if_asked()
                if self._pipe not in wait([self._pipe, self._worker.sentinel], _LOOK_S):
                    self._look()
                    self._say(name)
                    continue
                message = self._pipe.recv()
                if isinstance(message, Stage):
                    self._note(message)
                elif isinstance(message, Settled):
                    self._early[message.place] = message.outcome
                elif isinstance(message, Done):
                    return message.value
                elif isinstance(message, Raised):
                    raise message.error
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise self._lost("Crash", self._how_it_ended()) from None

    def _note(self, message: Stage) -> None:
        key = (message.who, message.stage)
        if message.is_begun:
            self._under_way[key] = time.monotonic()
            self._limit_memory()
        elif (begun := self._under_way.pop(key, None)) is not None:
            took_s = time.monotonic() - begun
            self._longest_s[message.stage] = max(took_s, self._longest_s.get(message.stage, 0.0))

    def _look(self) -> None:
        """Note the worker's memory, and end it where that or the time of a stage is beyond its limit.

        Raises:
            _LostError: it was ended, or has ended.
        """
        if not self._worker.is_alive():
            raise EOFError
        self._limit_memory()
        now = time.monotonic()
        for (_, stage), begun in self._under_way.items():
            if stage == _WAITING:
                continue
            limit_s = self._limits.seconds(self._longest_s.get(stage))
            if stage == _VERDICT and self._bench is not None:
                limit_s += self._bench.target.measurement.verdict.spread
            if now - begun > limit_s:
                self._end()
                raise self._lost("Hang", f"{stage} did not end within {limit_s:.0f} s, and its process was ended")

    def _say(self, name: Name) -> None:
        """Tell what is under way: the stage that began last, as those before it may be waiting for it."""
        if self._tell is not None:
            last = max(self._under_way, key=lambda key: self._under_way[key], default=None)
            stage, begun = (name, self._called_at) if last is None else (last[1], self._under_way[last])
            self._tell(stage, time.monotonic() - begun)

    def _limit_memory(self) -> None:
        """End the worker where it takes more memory than it may.

        Raises:
            _LostError: it was ended.
        """
        used = self._measure()
        if used > self._limits.memory_bytes:
            self._end()
            raise self._lost(
                "OutOfMemory",
                f"its process took {used >> 20} MB, more than the limit of {self._limits.memory_bytes >> 20} MB (memory_limit)",
            )

    def _measure(self) -> int:
        """Return the worker's resident memory in bytes, less files mapped into it, and note it for what is under way."""
        try:
            memory = self._process.memory_info()
        except psutil.Error:
            return 0
        used = int(memory.rss) - int(getattr(memory, "shared", 0))
        for who, stage in self._under_way:
            peaks = self._peaks.setdefault(who, {})
            peaks[stage] = max(used, peaks.get(stage, 0))
        return used

    def _lost(self, kind: str, message: str) -> _LostError:
        stages = [stage for _, stage in self._under_way]
        failure = Failure(stage=stages[-1] if stages else "start", error=kind, message=message)
        return _LostError(failure, frozenset(who for who, _ in self._under_way))

    def _how_it_ended(self) -> str:
        self._worker.join(_END_S)
        code = self._worker.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
            hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
            return f"its process was ended by {name}{hint}"
        return f"its process ended by itself with exit code {code}"

    def _replace(self, lost: _LostError) -> None:
        """Start another worker, and tell it what is known."""
        printed = self._printed()
        log("worker replaced", stage=lost.failure.stage, kind=lost.failure.error, message=lost.failure.message, printed=printed)
        self._restart()

    def _renew_if_grown(self) -> None:
        """Replace a worker that takes much more memory than when it had run a few candidates, or more than it may."""
        used = self._measure()
        if len(self._held) < _N_GROWING:
            self._held.append(used)
        most = max(self._held)
        if used > min(self._limits.memory_bytes, most + max(_MORE_BYTES, most // 2)):
            self._renew(used)

    def _renew(self, used: int) -> None:
        log("worker renewed", bytes=used, before=max(self._held, default=0))
        self._restart()

    def _restart(self) -> None:
        """Start another worker, and tell it what is known.

        Raises:
            ModelError: it is lost at once, too.
        """
        self._end()
        self._pipe.close()
        self._start()
        if self._bench is None or not self._known:
            return
        try:
            known = self._recalled()
            while told := list(itertools.islice(known, _TOLD_AT_ONCE)):
                self._call("recall", self._bench, told)
        except _LostError as lost:
            raise ModelError(f"{self._bench.model}: {lost.failure.message}") from None

    def _printed(self) -> str:
        try:
            text = self._output.read_bytes()[-10 * _TOLD_BYTES :].decode(errors="replace")
        except OSError:
            return ""
        return text.partition("\nExtension modules:")[0][-_TOLD_BYTES:]  # Python ends the report of a crash with a list of them

    def _start(self) -> None:
        self._n_workers += 1
        self._output = self._folder / f"worker-{self._n_workers}.log"
        self._pipe, theirs = self._context.Pipe()
        self._worker = self._context.Process(target=serve, args=(theirs, str(self._output)), name="ovquant-worker", daemon=True)
        with _hidden_main():
            self._worker.start()
        theirs.close()
        self._process = psutil.Process(self._worker.pid)
        self._under_way.clear()
        self._held: list[int] = []

    def _end(self) -> None:
        if self._worker.is_alive():
            self._worker.kill()
        self._worker.join(_END_S)


@contextlib.contextmanager
def _hidden_main() -> Iterator[None]:
    """Keep a process that is started from running the user's script again, which it would to know what is defined there."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _who(task: Task) -> str:
    return task.subject.digest if isinstance(task.subject, Strategy) else SHARED
