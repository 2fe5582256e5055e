"""What models get through where a device has all that it can take, and what they take of memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ovquant import runtime
from ovquant.environment import disturbances
from ovquant.evaluation import Workbench
from ovquant.footprint import footprint
from ovquant.inference import CompiledModel
from ovquant.latency import UNKNOWN, long_run_interval
from ovquant.protocols import Clock, Sample
from ovquant.records import Capacity, Subject, Throughput
from ovquant.targets import MeasurementPlan
from ovquant.tasks import BenchSpec
from ovquant.turns import Turns, measure

_VISITS = 24
_BURST, _DISCARD = 4, 1  # batches of a visit, and how many of them are not counted
_SECONDS = 4.0  # for each model at most; all of them take turns without a pause
_LEAST_ROUNDS = 2  # of all requests in a batch: at its end they run dry
_STEADY = 0.1  # width of the interval as a share of the value


def capacities(workbench: Workbench, subjects: Sequence[Subject], clock: Clock) -> list[Capacity]:
    """Return throughput and memory of models, in their order; equal ones are measured once.

    Both are measured on the first validation item; throughput with static shapes where the model has dynamic ones.

    Raises:
        ModelError: a model cannot be compiled or run in that way.
    """
    spec, properties = workbench.spec, workbench.spec.target.compile_properties
    sample = workbench.samples.sample(workbench.samples.items("validation")[0])
    keys = [(workbench.build(subject), subject.inference_precision) for subject in subjects]
    # Before any model is compiled here: what is full of models leaves less to a process of its own.
    memories = {key: footprint(_deployed(key[0], spec), spec.device, properties, key[1], sample) for key in dict.fromkeys(keys)}
    compiled: dict[str, CompiledModel] = {}
    for key in memories:
        model = runtime.read_model(key[0])
        if any(port.get_partial_shape().is_dynamic for port in model.inputs):
            model = runtime.with_shapes(model, {name: array.shape for name, array in sample.items()})
        compiled[str(key)] = CompiledModel(model, spec.device, {**properties, "PERFORMANCE_HINT": "THROUGHPUT"}, key[1])
    found = throughputs(compiled, sample, min(_SECONDS, spec.target.measurement.verdict.seconds), clock)
    return [Capacity(throughput=found[str(key)], memory=memories[key]) for key in keys]


def _deployed(path: Path, spec: BenchSpec) -> Path:
    """Return a model as IR: reading other formats takes memory of its own, and nobody deploys them."""
    if path.suffix == ".xml":
        return path
    converted = Path(spec.model_dir) / "converted.xml"
    runtime.save_model(runtime.read_model(path), converted)
    return converted


def throughputs(models: Mapping[str, CompiledModel], sample: Sample, seconds: float, clock: Clock) -> dict[str, Throughput]:
    """Return the items per second of models that take turns, by name.

    A batch keeps all requests of a model busy; a visit is some batches, and the rate of a visit is that of its median batch.
    Visits follow one another, so that the interval is for the time that they took together; how its stretches differ is in it.

    Args:
        models: compiled for throughput.
        sample: that they are run on.
        seconds: for each model.
        clock: source of time.
    """
    # Spread over less than they take: one follows the other, and yet none is left out.
    plan = MeasurementPlan(visits=_VISITS, burst=_BURST, discard=_DISCARD, seconds=seconds, spread=seconds / 2)
    n_items, runners = {}, {}
    for name, model in models.items():
        run = model.crowd(sample)
        n_items[name] = _batch(run, model.n_requests, seconds / _VISITS / _BURST, clock)
        runners[name] = _runner(run, n_items[name])
    turns = measure(runners, plan, clock)
    return {name: _summary(turns, name, n_items[name], model) for name, model in models.items()}


def _batch(run: Callable[[int], None], n_requests: int, seconds: float, clock: Clock) -> int:
    """Return how many items take about so many seconds: a multiple of the number of requests."""
    n_least = _LEAST_ROUNDS * n_requests
    run(n_least)  # the first ones are slow
    start = clock.now()
    run(n_least)
    took = max(clock.now() - start, 1e-9)
    return n_least * max(1, round(seconds / took))


def _runner(run: Callable[[int], None], n_items: int) -> Callable[[], None]:
    return lambda: run(n_items)


def _summary(turns: Turns, name: str, n_items: int, model: CompiledModel) -> Throughput:
    rates = n_items / turns.medians_s(name)
    interval = long_run_interval(rates)
    is_steady = interval.high - interval.low <= _STEADY * interval.value
    return Throughput(
        per_s=interval,
        n_requests=model.n_requests,
        n_threads=model.n_threads,
        n_visits=len(rates),
        n_items=n_items * sum(map(len, turns.samples_s[name])),
        seconds=round(float(np.sum([np.sum(visit) for visit in turns.samples_s[name]])), 3),
        unstable=None if is_steady else disturbances(turns.states) or UNKNOWN,
    )
