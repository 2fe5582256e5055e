"""What a worker of a cluster does: keeps the files of a bench, and does one step of a candidate after the other.

The first ones are sent by name and run by Dask on its workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ovquant import runtime
from ovquant.contained import ContainedExecutor
from ovquant.environment import versions
from ovquant.errors import OvquantError
from ovquant.protocols import Array, StepwiseExecutor
from ovquant.quantization.store import ArrayStore
from ovquant.records import Failure, Outcome
from ovquant.shipment import Depot, Piece, Shipment
from ovquant.strategy import Strategy
from ovquant.tasks import BenchSpec, ComparisonTask, Made, Task
from ovquant.worker import Raised

What: TypeAlias = Literal["open", "inspect", "build", "make", "structure", "time", "submit", "compare", "profile"]
MakeExecutor: TypeAlias = Callable[[Path, int | None], StepwiseExecutor]
ITEMS = "items"  # folder with what candidates diverged by on each item
_SAME = ("ovquant", "openvino", "nncf")  # packages that have to be the same everywhere


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """What a worker is.

    Attributes:
        versions: package -> version, of those that have to be the same everywhere.
        devices: OpenVINO devices.
        depot: folder of its files.
    """

    versions: Mapping[str, str]
    devices: tuple[str, ...]
    depot: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One step.

    Attributes:
        shipment: digest of what it is done on.
        what: method of `StepwiseExecutor`.
        is_timing: on the device that latency is measured on.
        argument: its task, or what else it takes beside the bench.
        rival: strategy's digest, and divergence of each item, of the candidate to beat.
    """

    shipment: str
    what: What
    is_timing: bool
    argument: Any = None
    rival: tuple[str, Array] | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A candidate's model, as it goes from worker to worker.

    Attributes:
        name: of its file.
        files: suffix -> content.
        graph_digest, seconds: see `Made`.
    """

    name: str
    files: Mapping[str, bytes]
    graph_digest: str = ""
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """The outcome of a candidate, with the divergence of each item if it was run on all of them."""

    outcome: Outcome
    items: Array | None


@dataclasses.dataclass(frozen=True, slots=True)
class Unknown:
    """The worker does not have what an order is about: it was started again meanwhile."""


def own_versions() -> dict[str, str]:
    """Return package -> version here, of those that have to be the same everywhere."""
    return {name: version for name, version in versions().items() if name in _SAME}


async def greet(dask_worker: Any) -> Greeting:
    """Return what a worker is."""
    depot = str(_station(dask_worker).depot.folder)
    devices = await asyncio.to_thread(runtime.available_devices)
    return Greeting(versions=own_versions(), devices=tuple(devices), depot=depot)


async def lacking(digests: Sequence[str], dask_worker: Any) -> list[str]:
    """Return which files a worker does not have."""
    return await asyncio.to_thread(_station(dask_worker).depot.lacking, digests)


async def take(several: Sequence[Piece], dask_worker: Any) -> None:
    """Give a worker parts of files."""
    await asyncio.to_thread(_station(dask_worker).depot.take, several)


async def settle_in(shipment: Shipment, memory_bytes: int | None, make: MakeExecutor, dask_worker: Any) -> None:
    """Let a worker lay out a shipment whose files it has."""
    await asyncio.to_thread(_station(dask_worker).settle_in, shipment, memory_bytes, make)


async def leave(shipments: Sequence[str], dask_worker: Any) -> None:
    """Let a worker forget shipments, and end what runs for them."""
    await asyncio.to_thread(_station(dask_worker).leave, shipments)


def work(order: Order, model: Model | Failure | None = None) -> Any:
    """Do a step in a worker; an `OvquantError` comes back as a value."""
    from distributed import get_worker

    return _station(get_worker()).do(order, model if isinstance(model, Model) else None)


def told_of(made: Any) -> Any:
    """Return what has to be known of a model, without its files, which stay where it was made."""
    return dataclasses.replace(made, files={}) if isinstance(made, Model) else made


def contained(folder: Path, memory_bytes: int | None) -> StepwiseExecutor:
    """Return what candidates are run by: a process of their own, so that a crash does not take the worker down."""
    import dask

    process = multiprocessing.current_process()
    if process.daemon:  # Dask's nanny makes it one, and those may not have children
        process.daemon = False
    # Dask lets numeric libraries use one thread, for workers with many; here a candidate is alone in its worker.
    for name, value in dask.config.get("distributed.nanny.pre-spawn-environ", {}).items():
        if os.environ.get(name) == str(value):
            del os.environ[name]
    return ContainedExecutor(folder, memory_bytes)


_stations: dict[str, Station] = {}


def _station(worker: Any) -> Station:
    """Return the station of a Dask worker; there may be several in a process."""
    if worker.id not in _stations:
        folder = Path(worker.local_directory)
        _stations[worker.id] = Station(folder / "ovquant", Depot(folder.parent / "ovquant-files", worker.id))
    return _stations[worker.id]


@dataclasses.dataclass(slots=True, kw_only=True)
class _Open:
    """A shipment that is laid out.

    Attributes:
        executors: by the bench that they are for, one for validation and timing if that is the same device.
    """

    shipment: Shipment
    root: Path
    spec: BenchSpec
    memory_bytes: int | None
    make: MakeExecutor
    executors: dict[str, StepwiseExecutor] = dataclasses.field(default_factory=dict)


class Station:
    """What a worker has; it does one thing at a time, however many threads it has."""

    def __init__(self, folder: Path, depot: Depot) -> None:
        """Use `folder` for what belongs to this worker alone."""
        self.depot = depot
        self._folder = folder
        self._lock = threading.Lock()
        self._open: dict[str, _Open] = {}

    def settle_in(self, shipment: Shipment, memory_bytes: int | None, make: MakeExecutor) -> None:
        """Lay out a shipment."""
        if shipment.digest in self._open:
            return
        folder = self._folder / shipment.digest
        root, models = folder / "files", folder / "work"
        models.mkdir(parents=True, exist_ok=True)
        self.depot.lay_out(shipment, root)
        spec = shipment.laid_out(root, models)
        self._open[shipment.digest] = _Open(shipment=shipment, root=root, spec=spec, memory_bytes=memory_bytes, make=make)

    def leave(self, shipments: Sequence[str]) -> None:
        """Forget shipments."""
        for digest in shipments:
            held = self._open.pop(digest, None)
            for executor in held.executors.values() if held is not None else ():
                with contextlib.suppress(Exception):
                    executor.close()
            shutil.rmtree(self._folder / digest, ignore_errors=True)

    def do(self, order: Order, model: Model | None) -> Any:
        """Do a step."""
        with self._lock:
            held = self._open.get(order.shipment)
            if held is None:
                return Unknown()
            spec = held.shipment.timing(held.spec) if order.is_timing else held.shipment.validating(held.spec)
            try:
                answer = _answer(self._executor(held, spec), spec, order, model)
            except OvquantError as error:
                return Raised(error=type(error)(_as_there(str(error), held)))
            if isinstance(answer, Validated) and isinstance(answer.outcome, Failure):
                return dataclasses.replace(answer, outcome=_failure_there(answer.outcome, held))
            return _failure_there(answer, held) if isinstance(answer, Failure) else answer

    def _executor(self, held: _Open, spec: BenchSpec) -> StepwiseExecutor:
        key = repr(spec)
        if key not in held.executors:
            held.executors[key] = held.make(Path(spec.model_dir), held.memory_bytes)
        return held.executors[key]


def _as_there(text: str, held: _Open) -> str:
    """Return a message with the paths of the machine that the files come from."""
    return text.replace(str(held.root), "")


def _failure_there(failure: Failure, held: _Open) -> Failure:
    return dataclasses.replace(failure, message=_as_there(failure.message, held))


def _answer(executor: StepwiseExecutor, spec: BenchSpec, order: Order, model: Model | None) -> Any:
    """Return what a method of an executor returns, as it can be sent."""
    argument = order.argument
    if isinstance(argument, Task | ComparisonTask):
        argument = dataclasses.replace(argument, bench=spec)
    if order.what in {"open", "inspect"}:
        return getattr(executor, order.what)(spec)
    if order.what == "profile":
        return executor.profile(spec, argument)
    if order.what == "build":
        return _packed(executor.build(spec, argument))
    if model is not None:
        _unpack(model, Path(spec.model_dir))
    if order.what == "make":
        made = executor.make(argument)
        return _packed(made.path, made) if isinstance(made, Made) else made
    if order.what != "submit":
        return getattr(executor, order.what)(argument)
    store = ArrayStore(Path(spec.model_dir) / ITEMS)
    if order.rival is not None and not store.has(order.rival[0]):
        store.put({order.rival[0]: [order.rival[1]]})
    outcome = executor.submit([argument])[0]
    subject = argument.subject
    items = store.get(subject.digest) if isinstance(subject, Strategy) and argument.split == "validation" else None
    return Validated(outcome=outcome, items=None if items is None else items[0])


def _packed(path: Path, made: Made | None = None) -> Model:
    files = {file.suffix: file.read_bytes() for file in (path, path.with_suffix(".bin")) if file.exists()}
    if made is None:
        return Model(name=path.stem, files=files)
    return Model(name=path.stem, files=files, graph_digest=made.graph_digest, seconds=dict(made.seconds))


def _unpack(model: Model, folder: Path) -> None:
    write_model(model, folder / f"{model.name}.xml")


def write_model(model: Model, path: Path) -> Path:
    """Write a model's files, unless they are there; the one that is looked for comes last."""
    if not path.exists():
        for suffix in sorted(model.files):
            partial = path.with_suffix(f"{suffix}.partial")
            partial.write_bytes(model.files[suffix])
            partial.replace(path.with_suffix(suffix))
    return path
