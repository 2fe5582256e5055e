"""Consoles that say nothing and let a test take part in a search."""

from __future__ import annotations

from collections.abc import Callable

from ovquant.console import Console
from ovquant.loop import Progress


class Telling(Console):
    """Calls a function after each trial."""

    def __init__(self, tell: Callable[[Progress], None]) -> None:
        super().__init__(is_quiet=True)
        self._tell = tell

    def trial(self, progress: Progress) -> None:
        self._tell(progress)
