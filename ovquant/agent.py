"""Measures on a machine where nothing but Python and OpenVINO is: sent there with the modules that it imports, run over ssh.

Requests come in on standard input, answers go out on what was standard output; each is a line of JSON. What a request names
under ``files`` follows it, as many bytes as it says, and is put into a folder that goes when the connection does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import re
import shutil
import sys
import threading
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ovquant import machine, runtime
from ovquant.errors import first_line
from ovquant.inference import CompiledModel
from ovquant.metering import LocalMeter, Ready

_NAME = re.compile(r"[0-9a-f]{64}\.(xml|bin|npz)")
_CHUNK_BYTES = 1 << 20
_COMPILED_BYTES = 1 << 30  # of models that are open at the same time, by the size of their files
_FAULT = "fault"
_PID = "pid"


def serve(folder: str, prefix: str) -> None:
    """Answer requests until standard input ends, then remove what is left here, and end the process.

    Args:
        folder: of this process alone.
        prefix: of the names of such folders of the same search; those that others left are removed.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what libraries print must not get between the answers
    _sweep(Path(folder), prefix)
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(sys.stdin.buffer, Path(folder), requests), daemon=True).start()
    print(json.dumps({"lacks": None}), file=answers)
    agent = Agent(Path(folder))
    while True:
        request = requests.get()
        print(json.dumps(_answer(agent, request)), file=answers)


def _answer(agent: Agent, request: Mapping[str, Any]) -> dict[str, Any]:
    if _FAULT in request:
        return {_FAULT: request[_FAULT]}
    try:
        return {"answer": getattr(agent, request["ask"])(**request["content"])}
    except Exception as error:
        return {_FAULT: first_line(error)}


def _sweep(folder: Path, prefix: str) -> None:
    """Remove the folders that a connection before could not remove; who still runs removes its own."""
    (folder / _PID).write_text(str(os.getpid()))
    for other in folder.parent.glob(f"{prefix}*"):
        is_ours = not other.is_symlink() and other.stat().st_uid == os.getuid()
        if other != folder and is_ours and not _runs(other):
            shutil.rmtree(other, ignore_errors=True)


def _runs(folder: Path) -> bool:
    """Return whether the process that a folder is of still runs."""
    try:
        os.kill(int((folder / _PID).read_text()), 0)
    except (OSError, ValueError):
        return False
    return True


def _receive(stream: BinaryIO, folder: Path, requests: queue.SimpleQueue[dict[str, Any]]) -> None:
    """Hand requests on; at the end of the stream, which is that of the connection, end whatever is under way."""
    try:
        while line := stream.readline():
            request = json.loads(line)
            for name, size in request.get("files", {}).items():
                try:
                    _save(stream, folder, name, size)
                except OSError as error:
                    request[_FAULT] = f"{name} cannot be written there: {error.strerror}"
            requests.put(request)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)


def _save(stream: BinaryIO, folder: Path, name: str, size: int) -> None:
    """Write the next bytes of a stream to a file; they are read in any case.

    Raises:
        OSError: they cannot be written.
        EOFError: the stream ends before.
        ValueError: no name of ours.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(name)
    left = _Left(stream, size, name)
    try:
        with (folder / name).open("wb") as file:
            while chunk := left.read(_CHUNK_BYTES):
                file.write(chunk)
    except OSError:
        with contextlib.suppress(OSError):
            (folder / name).unlink(missing_ok=True)
        while left.read(_CHUNK_BYTES):
            pass
        raise


class _Left:
    """The next bytes of a stream, as a file of their own."""

    def __init__(self, stream: BinaryIO, size: int, name: str) -> None:
        self._stream, self._size, self._name = stream, size, name

    def read(self, most: int) -> bytes:
        """Return some of them; nothing at their end.

        Raises:
            EOFError: the stream ends before.
        """
        chunk = self._stream.read(min(self._size, most)) if self._size else b""
        if self._size and not chunk:
            raise EOFError(self._name)
        self._size -= len(chunk)
        return chunk


class Agent:
    """What can be asked for. Models go by the name of their files; with a precision, or None for that of the properties."""

    def __init__(self, folder: Path) -> None:
        """Keep where files are."""
        self._folder = folder
        self._compiled: dict[tuple[str, str | None], tuple[Ready, int]] = {}  # with the bytes of its files

    def describe(self, device: str) -> dict[str, Any]:
        """Return the devices that are here, and what is known of one of them; nothing where it is not here."""
        found = machine.describe(device) if runtime.has_device(device) else None
        return {"devices": runtime.available_devices(), "machine": None if found is None else dataclasses.asdict(found)}

    def begin(self, device: str, properties: dict[str, Any], sample: str) -> None:
        """Measure on a device from now on, with a sample that was sent."""
        with np.load(self._folder / sample) as arrays:
            loaded = dict(arrays)
        self._device, self._properties = device, properties
        self._meter = LocalMeter(device, properties, lambda: loaded)

    def take(self) -> None:
        """Take files; they are there by now."""

    def forget(self, names: Sequence[str]) -> None:
        """Remove models."""
        self._compiled = {key: held for key, held in self._compiled.items() if key[0] not in names}
        for name in names:
            for suffix in (".xml", ".bin"):
                (self._folder / f"{name}{suffix}").unlink(missing_ok=True)

    def precision(self, model: tuple[str, Any]) -> str:
        """Return the float precision that a model is run in."""
        return self._meter.precision(self._ready(*model))

    def structure(self, model: tuple[str, Any]) -> str:
        """Return the key of a model's kernels."""
        return self._meter.structure(self._ready(*model))

    def turns(self, models: Sequence[tuple[str, Any]], plan: Mapping[str, Any]) -> dict[str, Any]:
        """Return what was measured of models in turns."""
        asked: Any = types.SimpleNamespace(**plan)
        turns, n_threads = self._meter.turns([self._ready(*model) for model in models], asked)
        self._compiled = {key: held for key, held in self._compiled.items() if key == tuple(models[0])}
        return {
            "samples_s": turns.samples_s,
            "visited_s": turns.visited_s,
            "states": [dataclasses.asdict(state) for state in turns.states],
            "n_threads": n_threads,
        }

    def audits(self, models: Sequence[tuple[str, Any]]) -> list[dict[str, Any]]:
        """Return the kernels of models."""
        found = self._meter.audits([Ready(path=self._path(name), model=self._read(name), precision=p) for name, p in models])
        return [dataclasses.asdict(one) for one in found]

    def _ready(self, name: str, precision: Any) -> Ready:
        """Return a model, compiled; those that were not used for long are dropped where all together are large."""
        key = (name, precision)
        held = self._compiled.pop(key, None)
        if held is None:
            model, path = self._read(name), self._path(name)
            compiled = CompiledModel(model, self._device, self._properties, precision)
            held = Ready(path=path, model=model, precision=precision, compiled=compiled), runtime.size_bytes(path)
        self._compiled[key] = held
        total = 0
        for kept, (_, size) in reversed(list(self._compiled.items())):
            total += size
            if total > _COMPILED_BYTES and kept != key:
                del self._compiled[kept]
        return held[0]

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.xml"

    def _read(self, name: str) -> Any:
        return runtime.read_model(self._path(name))
