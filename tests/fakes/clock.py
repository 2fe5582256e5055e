"""Time that tests script: it stands still but for what the fake models take, and for sleep."""

from __future__ import annotations

from collections.abc import Callable


class ScriptedClock:
    """A clock that only `advance` and `sleep` move."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds

    def advance(self, seconds: float) -> None:
        self._now += seconds


class FakeModel:
    """One inference of it takes the seconds that a script says, by the time at which it begins.

    Args:
        clock: what it moves.
        journal: name of every inference, in order; models that take turns share one.
        name: of the model.
        seconds: of one inference, or a function of the time.
        cold_seconds: added to the first inference after another model ran.
    """

    def __init__(
        self,
        clock: ScriptedClock,
        journal: list[str],
        name: str,
        seconds: float | Callable[[float], float],
        cold_seconds: float = 0.0,
    ) -> None:
        self._clock, self._journal, self._name = clock, journal, name
        self._seconds = seconds if callable(seconds) else lambda now: seconds
        self._cold_seconds = cold_seconds

    def __call__(self) -> None:
        is_cold = bool(self._journal) and self._journal[-1] != self._name
        self._journal.append(self._name)
        self._clock.advance(self._seconds(self._clock.now()) + is_cold * self._cold_seconds)
