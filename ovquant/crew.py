"""The workers of a Dask cluster, as a search sees them: who is there, who may be given work, who has what."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ovquant import station
from ovquant.errors import DeviceError, UsageError, first_line
from ovquant.log import log
from ovquant.shipment import Shipment, pieces
from ovquant.station import Greeting, MakeExecutor, Order

_CONNECT_S = 10.0
_END_S = 5.0
_STEP_S = 0.1
RESOURCE = "ovquant-target"
_NOT_IN_NAMES = r"[=,\s]"  # of resources, on the command line of `dask worker`


@dataclasses.dataclass(eq=False, slots=True, kw_only=True)
class Member:
    """A worker.

    Attributes:
        address: of it.
        host: that it runs on.
        is_timing: latency may be measured there.
        is_ready: it has all that is needed.
        devices: OpenVINO devices, once it was asked.
        depot: folder of its files, likewise.
    """

    address: str
    host: str
    is_timing: bool
    is_ready: bool = False
    devices: tuple[str, ...] = ()
    depot: str = ""


def connect(address: str) -> Any:
    """Return a client of the scheduler at an address, or of the one that a scheduler file (``.json``) names.

    Raises:
        UsageError: dask.distributed is not installed.
        DeviceError: no scheduler answers.
    """
    try:
        from distributed import Client
    except ImportError:
        raise UsageError("--cluster needs dask.distributed, which is not installed: pip install 'ovquant[cluster]'") from None
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what it has to say of lost workers is said here
    options: dict[str, Any] = {"timeout": _CONNECT_S, "set_as_default": False, "name": "ovquant"}
    try:
        if not address.endswith(".json"):
            return Client(address, **options)
        Path(address).stat()  # Dask would wait for it without end
        return Client(scheduler_file=address, **options)
    except Exception as error:
        raise DeviceError(
            f"{address}: no Dask scheduler answers there: {first_line(error)}. Start one with `dask scheduler`, or check "
            "address, network and TLS settings"
        ) from error


class Crew:
    """Keeps the list of workers, welcomes new ones, and hands orders to them."""

    def __init__(self, address: str, target: str, make: MakeExecutor, memory_bytes: int | None, wait_s: float) -> None:
        """Connect, and greet who is there.

        Args:
            address: of the scheduler.
            target: name of the target profile, which workers that measure latency carry in their resource.
            make: makes what candidates are run by on a worker.
            memory_bytes: that the process of candidates may take on each worker.
            wait_s: for a worker that may measure latency.

        Raises:
            UsageError, DeviceError: see `connect`; there is no worker that may measure; versions differ.
        """
        self.address = address
        self.resource = f"{RESOURCE}-{re.sub(_NOT_IN_NAMES, '-', target)}"
        self._make = make
        self._memory_bytes = memory_bytes
        self._shipments: list[Shipment] = []
        self._shipping = threading.Lock()
        self._members: dict[str, Member] = {}
        self._client = connect(address)
        try:
            self._wait(wait_s)
            self._greet_first()
        except BaseException:
            self._client.close()
            raise

    def _wait(self, wait_s: float) -> None:
        end = time.monotonic() + wait_s
        while True:
            self._members = {m.address: m for m in self._seen()}
            if any(member.is_timing for member in self._members.values()):
                return
            if time.monotonic() > end:
                n_workers = len(self._members)
                raise DeviceError(
                    f"{self.address}: none of the {n_workers} workers there has the resource {self.resource!r}, which tells "
                    f"where latency is measured. Start one on the target device: dask worker {self.address} --nthreads 1 "
                    f'--resources "{self.resource}=1"'
                )
            time.sleep(_STEP_S)

    def _greet_first(self) -> None:
        """Greet those who are there at the start, all of which have to fit."""
        for member, fault in self._greet(list(self._members.values())).items():
            if fault is not None:
                raise DeviceError(f"{self.address}: worker {member.address} {fault}")
            member.is_ready = True

    def _seen(self) -> list[Member]:
        """Return the workers that the scheduler knows."""
        found: Mapping[str, Any] = self._client.scheduler_info(n_workers=-1)["workers"]
        return [
            Member(address=address, host=info["host"], is_timing=info["resources"].get(self.resource, 0) >= 1)
            for address, info in found.items()
            if info.get("status") not in {"closed", "closing"}
        ]

    @property
    def members(self) -> list[Member]:
        """The workers that may be given work."""
        return [member for member in self._members.values() if member.is_ready]

    def look(self) -> list[Member]:
        """Return the workers that are gone since the last look; new ones are welcomed meanwhile.

        Raises:
            OSError: the scheduler does not answer.
        """
        seen = {member.address: member for member in self._seen()}
        lost = [member for address, member in self._members.items() if address not in seen]
        for member in lost:
            self.drop(member)
        for address, member in seen.items():
            if address not in self._members:
                self._members[address] = member
                threading.Thread(target=self._welcome, args=(member,), name="ovquant-welcome", daemon=True).start()
        return lost

    def drop(self, member: Member) -> None:
        """Give a worker no more work, until it is seen again."""
        member.is_ready = False
        if self._members.get(member.address) is member:
            del self._members[member.address]
            log("worker lost", worker=member.address)

    def _welcome(self, member: Member) -> None:
        """Make a worker that came later ready; one that does not fit is not used."""
        try:
            fault = self._greet([member])[member]
            if fault is None:
                with self._shipping:
                    for shipment in self._shipments:
                        self._send(shipment, [member])
                    member.is_ready = True
        except Exception as error:
            fault = f"could not be made ready: {first_line(error)}"
        log("worker joined" if fault is None else "worker not used", worker=member.address, fault=fault)

    def _greet(self, members: Sequence[Member]) -> dict[Member, str | None]:
        """Learn what workers are, and return in words why they cannot be used, None where they can."""
        answers = self._client.run(station.greet, workers=[member.address for member in members], on_error="return")
        faults: dict[Member, str | None] = {}
        here = station.own_versions()
        for member in members:
            answer = answers.get(member.address)
            if not isinstance(answer, Greeting):
                told = "it does not answer" if answer is None else first_line(answer)
                faults[member] = f"cannot run ovquant: {told}. Install ovquant {here['ovquant']} there"
                continue
            member.devices, member.depot = answer.devices, answer.depot
            other = [f"{name} {answer.versions.get(name, 'none')}" for name in here if answer.versions.get(name) != here[name]]
            own = ", ".join(f"{name} {here[name]}" for name in here)
            faults[member] = f"has {', '.join(other)}, and this machine {own}: install the same versions" if other else None
        return faults

    def ship(self, shipment: Shipment) -> None:
        """Send a shipment to all workers; to those that join later it is sent then.

        Raises:
            DeviceError: it cannot be sent.
        """
        with self._shipping:
            if shipment in self._shipments:
                return
            self._send(shipment, self.members)
            self._shipments.append(shipment)

    def _send(self, shipment: Shipment, members: Sequence[Member]) -> None:
        """Send the files that a machine lacks to one of its workers, and let all of them lay them out."""
        paths = {digest: Path(path) for path, digest in shipment.files.items()}
        addresses = [member.address for member in members]
        try:
            lacking: dict[str, list[str]] = self._client.run(station.lacking, list(paths), workers=addresses)
            takers: dict[tuple[str, ...], list[str]] = {}  # several machines at once, where they lack the same
            for member in {(member.host, member.depot): member for member in members}.values():
                if lacking[member.address]:
                    takers.setdefault(tuple(lacking[member.address]), []).append(member.address)
            for digests, receivers in takers.items():
                for several in pieces({digest: paths[digest] for digest in digests}):
                    self._client.run(station.take, several, workers=receivers)
            self._client.run(station.settle_in, shipment, self._memory_bytes, self._make, workers=addresses)
        except (OSError, ValueError) as error:
            raise DeviceError(f"{self.address}: model and data cannot be sent to the workers: {first_line(error)}") from error
        n_sent = {address: len(digests) for digests, receivers in takers.items() for address in receivers}
        log("files sent", shipment=shipment.digest, n_files=len(paths), n_sent=n_sent)

    def on_targets(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a function returns on the workers that measure latency, all of which have to agree.

        Raises:
            OvquantError: the function raised it there.
            DeviceError: they do not agree.
        """
        targets = [member.address for member in self.members if member.is_timing]
        answers: dict[str, Any] = self._client.run(function, *arguments, workers=targets)
        first = next(iter(answers.values()))
        for address, answer in answers.items():
            if answer != first:
                raise DeviceError(
                    f"{self.address}: workers with the resource {self.resource!r} are on different devices, so that their "
                    f"latencies cannot be compared: {next(iter(answers))} says {first}, {address} says {answer}. Give the "
                    "resource to those of one kind only"
                )
        return first

    def submit(self, order: Order, member: Member, model: Any, n: str) -> tuple[Any, Any]:
        """Hand an order to a worker.

        Args:
            order: what to do.
            member: who does it.
            model: future of the candidate's model, or None.
            n: name of this order; no other one has it.

        Returns:
            Futures of the answer, and of the model if one is made.
        """
        options: dict[str, Any] = {"workers": [member.address], "allow_other_workers": False, "pure": False}
        resources = {self.resource: 1} if order.is_timing else None
        answer = self._client.submit(station.work, order, model, key=f"ovquant-{order.what}-{n}", resources=resources, **options)
        if order.what != "make":
            return answer, None
        return self._client.submit(station.told_of, answer, key=f"ovquant-told-{n}", **options), answer

    @property
    def is_connected(self) -> bool:
        """Whether the scheduler is there, as far as it is known."""
        return bool(self._client.status == "running")

    def close(self) -> None:
        """Let the workers end what runs for this search, and leave."""
        digests = [shipment.digest for shipment in self._shipments]
        with contextlib.suppress(Exception):
            run = self._client._run
            self._client.sync(run, station.leave, digests, callback_timeout=_END_S)
        with contextlib.suppress(Exception):
            self._client.close(timeout=_END_S)
