"""Latency measured on another machine, by what measures it here, and compared here."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from ovquant import machine, runtime
from ovquant.address import Address
from ovquant.audit import Audit, from_json
from ovquant.connection import Connection, LostError
from ovquant.environment import MachineState
from ovquant.errors import DeviceError, ModelError, OvquantError
from ovquant.machine import Machine
from ovquant.metering import LocalMeter, Ready
from ovquant.protocols import Clock, LatencyMeter, Sample
from ovquant.strategy import InferencePrecision
from ovquant.targets import MeasurementPlan
from ovquant.turns import SystemClock, Turns

_PAUSES_S = (1.0, 2.0, 4.0)  # before the connection is made again
_SENT_BYTES = 1 << 30  # of models that are kept on the other machine


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where latency is measured, if not here.

    Attributes:
        address: of the machine.
        device: OpenVINO device there.
        search: what tells the files of this search from those of others there.
        machine: what was found there before the search began.
    """

    address: Address
    device: str
    search: str
    machine: Machine

    def identity(self) -> dict[str, Any]:
        """Return what makes measurements those of this machine, as JSON values; not how busy it was."""
        there = self.machine
        return {"address": str(self.address), "device": there.full_name, "host": dict(there.host), "openvino": there.openvino}


def site_at(address: Address, device: str, folder: Path, where: str) -> Site:
    """Return what is at an address.

    Args:
        address: of the machine.
        device: OpenVINO device to measure on.
        folder: of the search here, which names its files there.
        where: who asks for the device, for the message.

    Raises:
        DeviceError: there is no such machine or device, or what is needed is not on it.
    """
    # Two searches share a machine, and a name of a folder, and still have files of their own there.
    name = f"{socket.gethostname()} {os.getuid()} {folder.absolute()}"
    search = hashlib.sha256(name.encode()).hexdigest()[:16]
    try:
        connection = Connection(address, search)
        try:
            found = connection.ask("describe", {"device": device})
        finally:
            connection.close()
    except LostError as error:
        raise DeviceError(f"{address}: cannot be measured on: {error}. Check host, port and network") from error
    if found["machine"] is None:
        raise DeviceError(
            f"{where}: device {device!r} is not on {address}; devices there: {', '.join(found['devices'])}. "
            "Install its driver there, or choose another target"
        )
    return Site(address=address, device=device, search=search, machine=machine.from_json(found["machine"]))


def meter_of(
    site: Site | None, device: str, properties: Mapping[str, Any], sample: Callable[[], Sample], folder: Path
) -> LatencyMeter:
    """Return what measures latency for a job.

    Args:
        site: machine to measure on; None is this one.
        device: OpenVINO device of this machine.
        properties: that timed models are compiled with.
        sample: returns the one that they are run on.
        folder: for models that have to be written before they can be sent.
    """
    if site is None:
        return LocalMeter(device, properties, sample)
    return RemoteMeter(site, properties, sample, folder)


class RemoteMeter:
    """Measures on another machine; a connection that is lost is made again, and what was asked then is asked again."""

    is_here = False

    def __init__(
        self,
        site: Site,
        properties: Mapping[str, Any],
        sample: Callable[[], Sample],
        folder: Path,
        clock: Clock | None = None,
    ) -> None:
        """Keep what is needed; the connection is made when something is asked for.

        Args:
            site: the machine.
            properties: that models are compiled with.
            sample: returns the one that models are run on.
            folder: for models that have to be written before they can be sent.
            clock: to wait by before the connection is made again.
        """
        self._site = site
        self._properties = dict(properties)
        self._sample = sample
        self._folder = folder
        self._clock = clock or SystemClock()
        self._connection: Connection | None = None
        self._converted: dict[Path, Path] = {}
        self._sent: dict[str, int] = {}  # digest of a model that is there -> bytes; the last one used is the last

    def precision(self, model: Ready) -> InferencePrecision:
        """Return the float precision that a model is run in there."""
        return cast("InferencePrecision", self._ask("precision", [model], lambda names: {"model": names[0]}))

    def structure(self, model: Ready) -> str:
        """Return the key of the kernels that run there."""
        return str(self._ask("structure", [model], lambda names: {"model": names[0]}))

    def turns(self, models: Sequence[Ready], plan: MeasurementPlan) -> tuple[Turns, list[int]]:
        """Return what was measured there of models in turns, each called by its place, and the inference threads of each."""
        found = self._ask("turns", models, lambda names: {"models": names, "plan": plan.model_dump()})
        turns = Turns(
            plan=plan,
            samples_s={name: tuple(map(tuple, visits)) for name, visits in found["samples_s"].items()},
            visited_s=tuple(found["visited_s"]),
            states=tuple(MachineState(**state) for state in found["states"]),
        )
        return turns, list(found["n_threads"])

    def audits(self, models: Sequence[Ready]) -> tuple[Audit, ...]:
        """Return the kernels of models that are run there in turns, all of them in the precision of the first.

        Raises:
            RuntimeError: the device has no profile.
            DeviceError: as `_ask`.
        """
        try:
            return tuple(map(from_json, self._ask("audits", models, lambda names: {"models": names})))
        except ModelError as error:
            raise RuntimeError(str(error)) from error

    def close(self) -> None:
        """End what runs there."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self, what: str, models: Sequence[Ready], content: Callable[[list[list[str | None]]], dict[str, Any]]) -> Any:
        """Return the answer to a question about models, which are sent where they are not there yet.

        Raises:
            ModelError: a model cannot be measured there.
            DeviceError: the machine cannot be reached any more, or has no room for a model.
        """
        for pause_s in (*_PAUSES_S, None):
            try:
                with self._closed_unless_answered():
                    connection = self._connected()
                    names: list[list[str | None]] = []
                    for model in models:
                        names.append([self._send(connection, model, {str(name) for name, _ in names}), model.precision])
                    self._forget(connection, {str(name) for name, _ in names}, _SENT_BYTES)
                    return connection.ask(what, content(names), fault=ModelError)
            except LostError as error:
                lost = error
            if pause_s is not None:
                self._clock.sleep(pause_s)
        raise DeviceError(f"{self._site.address}: the connection was lost {len(_PAUSES_S) + 1} times in a row: {lost}") from lost

    @contextlib.contextmanager
    def _closed_unless_answered(self) -> Iterator[None]:
        try:
            yield
        except OvquantError:  # an answer, too
            raise
        except BaseException:
            self.close()
            raise

    def _connected(self) -> Connection:
        if self._connection is None:
            self._sent.clear()
            connection = Connection(self._site.address, self._site.search)
            packed = io.BytesIO()
            np.savez(packed, **cast("dict[str, Any]", dict(self._sample())))
            sample = packed.getvalue()
            name = f"{hashlib.sha256(sample).hexdigest()}.npz"
            content = {"device": self._site.device, "properties": self._properties, "sample": name}
            try:
                connection.ask("begin", content, {name: sample})
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _send(self, connection: Connection, model: Ready, needed: set[str]) -> str:
        """Return the name of a model there: the digest of its files, which are sent once; others make room for them."""
        files = self._files(model)
        digest = hashlib.sha256()
        for file in files:
            digest.update(bytes.fromhex(runtime.file_sha256(file)))
        name = digest.hexdigest()
        size = self._sent.pop(name, None)
        if size is None:
            sent: dict[str, bytes | Path] = {f"{name}{file.suffix}": file for file in files}
            try:
                connection.ask("take", {}, sent)
            except DeviceError:
                if not self._forget(connection, needed, 0):
                    raise
                connection.ask("take", {}, sent)
            size = sum(file.stat().st_size for file in files)
        self._sent[name] = size
        return name

    def _files(self, model: Ready) -> list[Path]:
        """Return a model as IR, which needs nothing but OpenVINO to be read."""
        path = model.path
        if path.suffix != ".xml":
            if path not in self._converted:  # each time anew: the file may have changed since the last search
                self._converted[path] = self._folder / f"{hashlib.sha256(str(path).encode()).hexdigest()[:16]}.xml"
                runtime.save_model(model.model, self._converted[path])
            path = self._converted[path]
        return [path, path.with_suffix(".bin")]

    def _forget(self, connection: Connection, needed: set[str], most_bytes: int) -> list[str]:
        """Remove models there that were not used for long, where all together are larger; return which."""
        dropped = []
        for name in [name for name in self._sent if name not in needed]:
            if sum(self._sent.values()) <= most_bytes:
                break
            dropped.append(name)
            del self._sent[name]
        if dropped:
            connection.ask("forget", {"names": dropped})
        return dropped
