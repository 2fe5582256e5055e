"""Objects that are seldom asked for: kept in a file that has no name and goes with its process, not in memory."""

from __future__ import annotations

import contextlib
import os
import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ovquant.errors import OutputError, first_line


class Shelf:
    """A file of objects. Nobody else can open it, so that what is read is what this process wrote."""

    def __init__(self, folder: Path | None = None) -> None:
        """Make the file in `folder`, which is made as well, or where the system keeps temporary files.

        Raises:
            OutputError: it cannot be made.
        """
        self._folder = folder
        self._places: list[int] = []
        with self._faults():
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by `close`

    def put(self, value: Any) -> int:
        """Keep an object; return the place to ask for.

        Raises:
            OutputError: there is no room for it.
        """
        with self._faults():
            place = self._file.seek(0, os.SEEK_END)
            pickle.dump(value, self._file)
            self._file.flush()
        self._places.append(place)
        return len(self._places) - 1

    def get(self, place: int) -> Any:
        """Return what was put there.

        Raises:
            OutputError: it cannot be read.
        """
        with self._faults():
            self._file.seek(self._places[place])
            return pickle.load(self._file)

    def close(self) -> None:
        """Give the file up."""
        with contextlib.suppress(OSError):  # what could not be written before cannot be now
            self._file.close()

    def __len__(self) -> int:
        """How many objects it holds."""
        return len(self._places)

    def __iter__(self) -> Iterator[Any]:
        """Yield the objects in the order that they were put."""
        return map(self.get, range(len(self)))

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"{self._folder or tempfile.gettempdir()}: cannot be written or read: {first_line(error)}; trials recorded "
                "before are kept. Free some space, and the same command continues"
            ) from error
