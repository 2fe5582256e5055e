"""Arrays on disk, keyed by what they were computed from: written once, readable by any process."""

from __future__ import annotations

import os
import uuid
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cachetools import LRUCache

from ovquant.protocols import Array

_MAX_OPEN = 64
_UNREADABLE = (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)


class ArrayStore:
    """A directory of ``.npz`` files, each written once and whole.

    An entry is a sequence of one or more arrays under a key of hexadecimal digits. Entries never change: the key says what
    they depend on, and where it does not say all, several may be put under it. A file that cannot be read is passed over;
    what it held is computed anew.
    """

    def __init__(self, directory: Path) -> None:
        """Use `directory`, which is made when the first entry is put."""
        self._directory = directory
        self._seen: set[str] = set()  # names of files: paths take much more, and these may be thousands
        self._looked_ns = 0
        self._open = _OpenFiles(_MAX_OPEN)
        self._places: dict[str, list[tuple[str, int]]] = {}

    def has(self, key: str) -> bool:
        """Return True if there is an entry, of this process or another."""
        if not self._places.get(key):
            self._look()
        return bool(self._places.get(key))

    def get(self, key: str) -> list[Array] | None:
        """Return an entry, or None."""
        return next(self.entries(key), None)

    def entries(self, key: str) -> Iterator[list[Array]]:
        """Yield all entries that were put under a key."""
        if not self.has(key):
            return
        for name, n_arrays in list(self._places[key]):
            try:
                file = self._file(name)
                yield [file[f"{key}.{index}"] for index in range(n_arrays)]
            except _UNREADABLE:
                self._places[key].remove((name, n_arrays))

    def put(self, entries: Mapping[str, Sequence[Array]]) -> None:
        """Write entries in one file, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        arrays = {f"{key}.{index}": array for key, entry in entries.items() for index, array in enumerate(entry)}
        if not arrays:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"{uuid.uuid4().hex}.npz"
        partial = path.with_suffix(f".partial-{os.getpid()}")
        try:
            with partial.open("wb") as stream:
                np.savez(stream, **arrays)  # type: ignore[arg-type]
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        self._learn(path.name)

    def close(self) -> None:
        """Close the files; they are opened again when needed."""
        while self._open:
            self._open.popitem()
        self._seen.clear()
        self._looked_ns = 0
        self._places.clear()

    def _look(self) -> None:
        """Learn what other processes have written since; what is written in the same tick of the clock is seen a look later."""
        try:
            changed_ns = self._directory.stat().st_mtime_ns
        except OSError:
            return
        if changed_ns == self._looked_ns:
            return
        self._looked_ns = changed_ns
        for path in self._directory.glob("*.npz"):
            if path.name not in self._seen:
                self._learn(path.name)

    def _file(self, name: str) -> Any:
        """Return a file, open; those that were not used for longest are closed, since a process may not have many open."""
        if name not in self._open:
            self._open[name] = np.load(self._directory / name, allow_pickle=False)
        return self._open[name]

    def _learn(self, name: str) -> None:
        try:
            file = self._file(name)
        except _UNREADABLE:
            return
        self._seen.add(name)
        counts: dict[str, int] = {}
        for array in file.files:
            key = array.partition(".")[0]
            counts[key] = counts.get(key, 0) + 1
        for key, count in counts.items():
            self._places.setdefault(key, []).append((name, count))


class _OpenFiles(LRUCache[str, Any]):
    """Files by name, which are closed when they go."""

    def __delitem__(self, name: str) -> None:
        file = self[name]
        super().__delitem__(name)
        file.close()
