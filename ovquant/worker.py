"""The process that candidates run in: does what it is told through a pipe, and tells what it is at."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ovquant import inspection
from ovquant.errors import OvquantError, first_line
from ovquant.evaluation import Settle, Workbench
from ovquant.records import Outcome
from ovquant.tasks import BenchSpec

Name: TypeAlias = Literal[
    "open", "inspect", "recall", "build", "announce", "submit", "make", "structure", "time", "compare", "profile"
]
PRELOADED = ("nncf", "openvino", "sklearn.metrics")  # what takes seconds to import, and starts no thread
_FIRST_VICTIM = "1000"  # of the kernel when memory runs out, see proc(5)
_M_ARENA_MAX = -8  # of mallopt(3), in glibc's malloc.h
_N_ARENAS = 2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What is asked of a worker: a method of `Executor`, for a bench, with the rest of its arguments."""

    name: Name
    bench: BenchSpec
    arguments: tuple[Any, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stage begins or ends, for whom (see `Watch`)."""

    who: str
    stage: str
    is_begun: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """One of the tasks of a call has its outcome; told so that it is not lost with the worker."""

    place: int
    outcome: Outcome


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The answer to a call."""

    value: Any


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """A call raised an error: one of ovquant's, or another one in its place."""

    error: OvquantError


Message: TypeAlias = Stage | Settled | Done | Raised


def serve(pipe: Connection, output: str) -> None:
    """Answer calls until the pipe is closed.

    Args:
        pipe: `Call` comes in; `Stage` of any thread, `Settled`, and one `Done` or `Raised` per call go out.
        output: file for all that libraries print, and for what is printed when the process crashes.
    """
    _become_a_worker(Path(output))
    lock = threading.Lock()

    def send(message: Message) -> None:
        with lock:
            pipe.send(message)

    def watch(who: str, stage: str, *, is_begun: bool) -> None:
        send(Stage(who=who, stage=stage, is_begun=is_begun))

    def settle(place: int, outcome: Outcome) -> None:
        send(Settled(place=place, outcome=outcome))

    bench: Workbench | None = None
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            call: Call = pipe.recv()
            try:
                if bench is None or bench.spec != call.bench:
                    if bench is not None:
                        bench.close()
                    bench = Workbench(call.bench, watch)
                answer: Message = Done(value=_answer(bench, call, settle))
            except OvquantError as error:
                answer = Raised(error=error)
            except Exception as error:
                answer = Raised(error=OvquantError(f"{type(error).__name__}: {first_line(error)}"))
            send(answer)
    os._exit(0)  # threads of native code have nothing more to do


def _answer(bench: Workbench, call: Call, settle: Settle) -> Any:
    if call.name == "open":
        return bench.describe()
    if call.name == "inspect":
        return inspection.inspect(bench)
    if call.name == "profile":
        return inspection.profile(bench, *call.arguments)
    if call.name == "submit":
        return bench.evaluate_all(call.arguments[0], settle)
    return getattr(bench, call.name)(*call.arguments)


def _become_a_worker(output: Path) -> None:
    """Print into a file, leave interrupts to the parent, die with it, and before it where memory runs out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    output.parent.mkdir(parents=True, exist_ok=True)
    share_arenas()
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    faulthandler.enable(file=sys.stderr, all_threads=False)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_VICTIM)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent,), name="ovquant-parent", daemon=True).start()


def share_arenas() -> None:
    """Let threads share what arenas of memory there are: each keeps what was freed in it, a sixth of the worker's memory."""
    if "MALLOC_ARENA_MAX" in os.environ:
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _N_ARENAS)


def _die_with(parent: Any) -> None:
    parent.join()
    os._exit(1)
