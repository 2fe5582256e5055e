"""The log of a search: one JSON object per line for every trial, failure and decision."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
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


@contextlib.contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Append what is noted to a file.

    Raises:
        OSError: it cannot be written.
    """
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_Lines())
    _logger.addHandler(handler)
    try:
        yield
    finally:
        _logger.removeHandler(handler)
        handler.close()
