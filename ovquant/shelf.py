"""Objects that are seldom asked for: kept in a file that has no name and goes with its process, not in memory."""

from __future__ import annotations

import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

from ovquant.errors import OutputError, first_line


class Shelf:
    """A file of objects. Nobody else can open it, so that what is read is what this process wrote."""

    def __init__(self, folder: Path | None = None) -> None:
        """Make the file in `folder`, which is made as well, or where the system keeps temporary files."""
        self._folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it is there for as long as this is
        self._places: list[int] = []

    def put(self, value: Any) -> int:
        """Keep an object; return the place to ask for.

        Raises:
            OutputError: there is no room for it.
        """
        try:
            place = self._file.seek(0, os.SEEK_END)
            pickle.dump(value, self._file)
            self._file.flush()
        except OSError as error:
            raise OutputError(
                f"{self._folder or tempfile.gettempdir()}: cannot be written: {first_line(error)}; trials recorded before are "
                "kept. Free some space, and the same command continues"
            ) from error
        self._places.append(place)
        return len(self._places) - 1

    def get(self, place: int) -> Any:
        """Return what was put there."""
        self._file.seek(self._places[place])
        return pickle.load(self._file)

    def __len__(self) -> int:
        """How many objects it holds."""
        return len(self._places)

    def __iter__(self) -> Any:
        """Yield the objects in the order that they were put."""
        return map(self.get, range(len(self)))
