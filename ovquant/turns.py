"""Models take turns in bursts on a clock. Sent to other machines as it is: needs numpy and nothing else."""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ovquant.environment import MachineState, machine_state

if TYPE_CHECKING:
    from ovquant.protocols import Clock
    from ovquant.targets import MeasurementPlan

Runner = Callable[[], None]
LEAST_VISITS = 6  # with fewer, no interval of order statistics reaches 95 %
LEAST_SPREAD_VISITS = 12  # three stretches of four, see `ovquant.latency.long_run_interval`
_MIN_BURST = 3
_AWAKE_S = 0.005  # at least, after a rest
_ONE_IN = 20  # intervals of order statistics may miss


class SystemClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        """Return seconds."""
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        """Let so many seconds pass."""
        time.sleep(seconds)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """What was measured of models that took turns; the first one is the baseline.

    Attributes:
        plan: what was asked for.
        samples_s: model -> one tuple per visit with the seconds of each counted inference.
        visited_s: when each visit began, in seconds since the first.
        states: of the machine, after each visit.
    """

    plan: MeasurementPlan
    samples_s: Mapping[str, tuple[tuple[float, ...], ...]]
    visited_s: tuple[float, ...]
    states: tuple[MachineState, ...]

    @property
    def baseline(self) -> str:
        """Name of the first model."""
        return next(iter(self.samples_s))

    def medians_s(self, name: str) -> NDArray[np.float64]:
        """Return the median inference of each visit to a model, shape [visits], in seconds."""
        return np.array([statistics.median(visit) for visit in self.samples_s[name]])

    def ratios(self, name: str) -> NDArray[np.float64]:
        """Return a model's latency over the baseline's in each visit, shape [visits]; the baseline's own is exactly 1."""
        return self.medians_s(name) / self.medians_s(self.baseline)


def measure(
    runners: Mapping[str, Runner],
    plan: MeasurementPlan,
    clock: Clock,
    look: Callable[[], MachineState] = machine_state,
) -> Turns:
    """Run the models in turns.

    Every visit runs one burst of each model, in an order that alternates between visits; the first inferences of a burst
    warm the caches and are not counted. Slow models get shorter bursts, then fewer visits, to stay within the plan's seconds
    per model; at least 6 visits (12 of a spread plan) of 3 counted inferences are made whatever it takes.

    The visits of a spread plan begin at even distances, and nothing runs in between. Those of any other plan follow one
    another, and end early where the ratio of every model to the baseline is already known within the plan's tolerance.

    Args:
        runners: name -> one inference; the first one is the baseline.
        plan: bursts, visits, time per model and time over which they are spread.
        clock: source of time.
        look: reads the state of the machine.
    """
    pace = {name: _warm_up(run, clock) for name, run in runners.items()}
    n_visits, bursts = _schedule(pace, plan)
    turns = Turns(plan=plan, samples_s=dict.fromkeys(runners, ()), visited_s=(), states=())
    start = clock.now()
    while len(turns.visited_s) < n_visits and not _is_settled(turns):
        visit = len(turns.visited_s)
        names = list(runners) if visit % 2 == 0 else list(runners)[::-1]
        rest = start + visit * plan.spread / (n_visits - 1) - clock.now()
        if rest > 0:
            clock.sleep(rest)
            _wake(runners[names[0]], bursts[names[0]], clock)
        began = clock.now()
        times = {name: _run_burst(runners[name], bursts[name], clock) for name in names}
        turns = Turns(
            plan=plan,
            samples_s={name: (*visits, times[name]) for name, visits in turns.samples_s.items()},
            visited_s=(*turns.visited_s, began - start),
            states=(*turns.states, look()),
        )
    return turns


def _warm_up(run: Runner, clock: Clock) -> float:
    """Run a model until its time settles and return the seconds of one inference."""
    return float(np.median(_run_burst(run, (1, 3), clock)))


def _schedule(pace: Mapping[str, float], plan: MeasurementPlan) -> tuple[int, dict[str, tuple[int, int]]]:
    """Return the number of visits, and (discarded, counted) inferences per burst of each model."""
    bursts: dict[str, tuple[int, int]] = {}
    needed = 0.0
    for name, seconds in pace.items():
        affordable = int(plan.seconds / plan.visits / max(seconds, 1e-9))
        length = max(min(plan.burst, affordable), _MIN_BURST + 1)
        discard = min(plan.discard, max(1, length - _MIN_BURST)) if plan.discard else 0
        bursts[name] = (discard, max(_MIN_BURST, length - discard))
        needed += sum(bursts[name]) * seconds
    allowed = int(plan.seconds * len(pace) / max(needed, 1e-9))
    return max(LEAST_SPREAD_VISITS if plan.spread else LEAST_VISITS, min(plan.visits, allowed)), bursts


def _wake(run: Runner, burst: tuple[int, int], clock: Clock) -> None:
    """Run a burst, or more if it is short: after a rest the CPU is slow at first, and the system favours who rested."""
    until = clock.now() + _AWAKE_S
    _run_burst(run, burst, clock)
    while clock.now() < until:
        run()


def _run_burst(run: Runner, burst: tuple[int, int], clock: Clock) -> tuple[float, ...]:
    """Run (discarded, counted) inferences and return the seconds of those that count."""
    discard, counted = burst
    for _ in range(discard):
        run()
    times = []
    for _ in range(counted):
        start = clock.now()
        run()
        times.append(clock.now() - start)
    return tuple(times)


def _is_settled(turns: Turns) -> bool:
    """Return whether no more visits are needed to know every ratio within the tolerance."""
    if turns.plan.spread or len(turns.visited_s) < LEAST_VISITS:
        return False
    bounds = [median_bounds(turns.ratios(name).tolist()) for name in turns.samples_s if name != turns.baseline]
    return all((high - low) / value <= turns.plan.tolerance for value, low, high in bounds)


def median_bounds(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median, and the ends of its 95 % interval, from order statistics (sign test; no assumption on the distribution).

    With fewer than 6 values no such interval reaches 95 %; the extremes are returned then.

    Source: David and Nagaraja, Order Statistics (2003), section 7.1.

    Args:
        values: independent observations.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n_outside = _n_outside(len(ordered))
    return float(np.median(ordered)), float(ordered[n_outside]), float(ordered[-1 - n_outside])


@functools.cache
def _n_outside(n_values: int) -> int:
    """Return how many values may be left out at either end of an interval of order statistics."""
    # The interval [k-th smallest, k-th largest] misses the median with probability 2 * P(Binomial(n, 1/2) < k).
    n_below, k, n_ways = 0, 0, 1  # ways of fewer than k, and of k, among 2^n
    while 2 * (n_below + n_ways) * _ONE_IN <= 1 << n_values:
        n_below += n_ways
        n_ways = n_ways * (n_values - k) // (k + 1)
        k += 1
    return max(k - 1, 0)
