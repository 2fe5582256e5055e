"""The log of a search: one JSON object per line for every trial, failure and decision."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_logger = logging.getLogger("ovquant")
_logger.setLevel(logging.INFO)
_logger.propagate = False
_logger.addHandler(logging.NullHandler())


class _Lines(logging.Formatter):
    """A record as a JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        return json.dumps({"time": when, "event": record.getMessage(), **getattr(record, "content", {})}, default=str)


def log(event: str, **content: Any) -> None:
    """Note something; where no log is open, nowhere."""
    _logger.info(event, extra={"content": content})


class _File(logging.FileHandler):
    """A file; where it cannot be written any more, the search goes on without a log."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Say nothing."""


class _Told(logging.Handler):
    """Hands lines on."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Hand one line on."""
        self._tell(self.format(record))


@contextlib.contextmanager
def logging_to(place: Path | Callable[[str], None]) -> Iterator[None]:
    """Append what is noted to a file, or hand it on line by line.

    Raises:
        OSError: the file cannot be written.
    """
    handler: logging.Handler = _File(place, encoding="utf-8") if isinstance(place, Path) else _Told(place)
    handler.setFormatter(_Lines())
    _logger.addHandler(handler)
    try:
        yield
    finally:
        _logger.removeHandler(handler)
        handler.close()
