"""A compiled model run on the items of a split and scored, block by block, paired per item with the reference."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ovquant import racing
from ovquant.datasets.splits import Item, Samples
from ovquant.errors import DataError, ModelError, did_you_mean
from ovquant.inference import CompiledModel
from ovquant.job import OutputKind
from ovquant.metrics import divergence, intervals
from ovquant.metrics.summarized import Summarized
from ovquant.protocols import Array, Metric
from ovquant.racing import Constraint, Stop
from ovquant.records import Interval, MetricResult, Split

Columns: TypeAlias = dict[str, list[Array]]
Floats: TypeAlias = NDArray[np.float64]
_FUNCTION_RESAMPLES = 400
_N_CHECKED = 4
# A second compilation has to save several times what it takes: what it saves is only estimated.
_WORTH = 4.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What the float model at f32 makes of one split.

    Attributes:
        outputs: of all items.
        values: of the metrics.
        items: scores per item, shape [N], of the metrics that are means over items; None for others.
    """

    outputs: Columns
    values: tuple[float, ...]
    items: tuple[Floats | None, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """What a candidate makes of the items that it was run on, all of them unless it was stopped.

    Attributes:
        outputs: of those items.
        divergences: per item, shape [n].
        stop: why it was stopped before the end, or None.
    """

    outputs: Columns
    divergences: Floats
    stop: Stop | None


class Validator:
    """Runs and scores models on the items of one job."""

    def __init__(self, samples: Samples, metrics: Sequence[Metric], output_names: Sequence[str], directory: Path) -> None:
        """Keep what is the same for all models.

        Args:
            samples: the items.
            metrics: in the order of the job.
            output_names: in the order of the model.
            directory: where the reference's outputs are kept.
        """
        self._samples = samples
        self._directory = directory
        self._metrics = metrics
        self._output_names = output_names

    def refer(self, compiled: CompiledModel, split: Split, what: str, made_of: str) -> Reference:
        """Run the reference, or read what a process before this one kept of it.

        Args:
            compiled: the float model at f32.
            split: the items.
            what: begins messages.
            made_of: digest of all that its outputs depend on.

        Raises:
            ModelError: its outputs are not finite.
            DataError: a metric does not fit them and the labels.
        """
        outputs = self._kept(split, made_of)
        if outputs is None:
            outputs = self._empty()
            self._keep(self._run(compiled, self._samples.items(split), outputs, what), outputs, split, made_of)
        values, items = self.score(outputs, outputs, split)
        return Reference(outputs=outputs, values=values, items=items)

    def _keep(self, runs: Iterator[None], outputs: Columns, split: Split, made_of: str) -> None:
        """Let the runs fill the outputs; keep them in files, mapped into memory, where all items have the same shapes."""
        n_items = len(self._samples.items(split))
        paths = self._paths(split, made_of)
        self._directory.mkdir(parents=True, exist_ok=True)
        partial = {name: path.with_suffix(".partial") for name, path in paths.items()}
        maps: dict[str, np.memmap[Any, Any]] = {}
        is_even = True
        for index, _ in enumerate(runs):
            if index == 0:
                maps = {
                    name: np.lib.format.open_memmap(partial[name], "w+", column[0].dtype, (n_items, *column[0].shape))
                    for name, column in outputs.items()
                }
            for name, mapped in maps.items():
                if outputs[name][-1].shape == mapped.shape[1:]:
                    mapped[index] = outputs[name][-1]
                    outputs[name][-1] = np.asarray(mapped[index])
                else:
                    is_even = False
        for name, path in partial.items():
            if is_even:
                maps[name].flush()
                path.replace(paths[name])

    def _paths(self, split: Split, made_of: str) -> dict[str, Path]:
        names = enumerate(self._output_names)
        return {name: self._directory / f"{split}-{made_of[:24]}-{index}.npy" for index, name in names}

    def _kept(self, split: Split, made_of: str) -> Columns | None:
        """Return what was kept of the same things, None if that is not all there."""
        try:
            maps = {name: np.load(path, mmap_mode="r") for name, path in self._paths(split, made_of).items()}
        except (OSError, ValueError):
            return None
        return {name: list(np.asarray(mapped)) for name, mapped in maps.items()}

    def validate(
        self,
        compiled: CompiledModel,
        recompile: Callable[[], CompiledModel] | None,
        split: Split,
        reference: Reference,
        kinds: Mapping[str, OutputKind],
        constraints: Sequence[Constraint] = (),
        what: str = "",
    ) -> Validation:
        """Run a model on a split, item by item in the split's order, until the end or until it cannot meet a constraint.

        Args:
            compiled: as it is deployed.
            recompile: compiles it for throughput; used where many items are left, and only if outputs are equal bit for bit.
            split: the items.
            reference: of that split.
            kinds: how outputs are read.
            constraints: for racing; their values are named ``divergence``, or by the place of a metric.
            what: begins messages.

        Raises:
            ModelError: outputs are not finite, or inference fails.
            DataError: a metric does not fit.
        """
        items = self._samples.items(split)
        looks = racing.blocks(len(items)) if constraints else (len(items),)
        outputs, divergences = self._empty(), np.zeros(0)
        powers = divergence.powers_of(reference.outputs, kinds)
        stop: Stop | None = None
        runs = self._quickened(compiled, recompile, items, outputs, what)
        for look in looks:
            n_before = len(divergences)
            for _ in itertools.islice(runs, look - n_before):
                pass
            block = {name: column[n_before:look] for name, column in outputs.items()}
            theirs = {name: column[n_before:look] for name, column in reference.outputs.items()}
            divergences = np.concatenate([divergences, divergence.per_item(theirs, block, kinds, powers)])
            if look < len(items):
                values = self._values(constraints, outputs, reference.outputs, divergences, split)
                stop = racing.judge(len(items), values, constraints)
            if stop is not None:
                break
        runs.close()
        return Validation(outputs=outputs, divergences=divergences, stop=stop)

    def _values(
        self, constraints: Sequence[Constraint], outputs: Columns, theirs: Columns, divergences: Floats, split: Split
    ) -> dict[str, Floats]:
        """Return the values per item that constraints are about."""
        values = {}
        for constraint in constraints:
            if constraint.kind == "drop":
                metric = self._metrics[int(constraint.name)]
                scores = metric.per_item(outputs, self._truths(metric, theirs, split, len(divergences)))
                if scores is None:
                    raise DataError(f"metric {metric.name!r} gave scores per item before, now none")
                values[constraint.name] = scores
            else:
                values[constraint.name] = divergences
        return values

    def _empty(self) -> Columns:
        return {name: [] for name in self._output_names}

    def _quickened(
        self,
        compiled: CompiledModel,
        recompile: Callable[[], CompiledModel] | None,
        items: Sequence[Item],
        outputs: Columns,
        what: str,
    ) -> Generator[None]:
        """Run items as `_run` does, and change to a model compiled for throughput where that pays and changes nothing."""
        n_first = min(racing.blocks(len(items))[0], len(items))
        start, taken_s = time.perf_counter(), 0.0
        for _ in self._run(compiled, items[:n_first], outputs, what):
            taken_s = time.perf_counter() - start  # what the scores of the block take comes after
            yield
        expected_s = taken_s / max(n_first, 1) * (len(items) - n_first)
        chosen = compiled
        if recompile is not None and expected_s > _WORTH * compiled.compile_s:
            chosen = self._if_equal(recompile, items[: min(_N_CHECKED, n_first)], outputs) or compiled
        yield from self._run(chosen, items[n_first:], outputs, what)

    def _if_equal(self, recompile: Callable[[], CompiledModel], items: Sequence[Item], outputs: Columns) -> CompiledModel | None:
        """Return the model compiled for throughput if it gives the same outputs bit for bit."""
        checked = self._empty()
        try:
            quick = recompile()
            for _ in self._run(quick, items, checked, ""):
                pass
        except ModelError:
            return None
        pairs = [pair for name in checked for pair in zip(checked[name], outputs[name], strict=False)]
        return quick if all(np.array_equal(mine, theirs) for mine, theirs in pairs) else None

    def _run(self, compiled: CompiledModel, items: Sequence[Item], outputs: Columns, what: str) -> Iterator[None]:
        """Append the outputs of one item after the other."""
        for item, results in zip(items, compiled.infer_many(map(self._samples.sample, items)), strict=True):
            for name, array in zip(self._output_names, results.values(), strict=True):
                if array.dtype.kind == "f" and not np.isfinite(array).all():
                    raise ModelError(f"{what}output {name!r} holds NaN or infinity on {self._samples.name_of(item)}")
                outputs[name].append(array)
            yield

    def score(self, outputs: Columns, theirs: Columns, split: Split) -> tuple[tuple[float, ...], tuple[Floats | None, ...]]:
        """Return the value of each metric on the first items and, where it is a mean over items, the score of each.

        Args:
            outputs: of the first items of the split.
            theirs: of the reference, of at least as many.
            split: the items.
        """
        n_items = len(next(iter(outputs.values())))
        truths = [self._truths(metric, theirs, split, n_items) for metric in self._metrics]
        items = tuple(metric.per_item(outputs, truth) for metric, truth in zip(self._metrics, truths, strict=True))
        values = tuple(
            metric.value(outputs, truth) if scores is None else float(scores.mean())
            for metric, truth, scores in zip(self._metrics, truths, items, strict=True)
        )
        return values, items

    def _truths(self, metric: Metric, theirs: Columns, split: Split, n_items: int) -> Sequence[Any]:
        """Return what a metric compares the outputs of the first items with."""
        if metric.truth == "reference":
            return [{name: column[index] for name, column in theirs.items()} for index in range(n_items)]
        return column_of((self._samples.labels(split) or [])[:n_items], metric)

    def results(self, outputs: Columns, reference: Reference, split: Split, *, has_intervals: bool) -> tuple[MetricResult, ...]:
        """Return the metrics of a model beside the reference's on the same items.

        Args:
            outputs: of the first items of the split.
            reference: of that split.
            split: the items.
            has_intervals: compute those that need resampling, too.
        """
        n_items = len(next(iter(outputs.values())))
        is_whole = n_items == len(self._samples.items(split))
        firsts = {name: column[:n_items] for name, column in reference.outputs.items()}
        values, items = self.score(outputs, firsts, split)
        reference_values = reference.values if is_whole else self.score(firsts, firsts, split)[0]
        found = []
        for index, metric in enumerate(self._metrics):
            sign = 1.0 if metric.direction == "maximize" else -1.0
            mine, theirs = items[index], reference.items[index]
            drop = sign * (reference_values[index] - values[index])
            interval: Interval | None = None
            if mine is not None and theirs is not None:
                better, worse = (theirs[:n_items], mine) if sign > 0 else (mine, theirs[:n_items])
                interval = intervals.paired_drop(better, worse)
            elif has_intervals:
                interval = self._resampled_drop(metric, sign, outputs, firsts, split)
            shown = interval or Interval(value=drop, low=drop, high=drop)
            found.append(
                MetricResult(
                    name=metric.name,
                    value=values[index],
                    drop=shown,
                    has_interval=interval is not None,
                    scores=tuple(mine.tolist()) if mine is not None and has_intervals else None,
                )
            )
        return tuple(found)

    def _resampled_drop(self, metric: Metric, sign: float, outputs: Columns, theirs: Columns, split: Split) -> Interval | None:
        n_items = len(next(iter(outputs.values())))
        truth = self._truths(metric, theirs, split, n_items)
        if isinstance(metric, Summarized):
            summaries = {"theirs": metric.summaries(theirs, truth), "mine": metric.summaries(outputs, truth)}
        else:
            summaries = {}

        def value(whose: str, picks: Sequence[int]) -> float:
            if isinstance(metric, Summarized):
                return metric.value_of([summaries[whose][i] for i in picks])
            return metric.value(_pick(theirs if whose == "theirs" else outputs, picks), [truth[i] for i in picks])

        def drop(picks: NDArray[np.int64]) -> float:
            try:
                return sign * (value("theirs", picks.tolist()) - value("mine", picks.tolist()))
            except DataError as error:  # e.g. a resample without one of the classes
                raise ValueError(str(error)) from error

        return intervals.bootstrap(drop, n_items, _FUNCTION_RESAMPLES)


def outputs_digest(outputs: Columns) -> str:
    """Return a digest that equal outputs share, bit for bit."""
    digest = hashlib.sha256()
    for name in outputs:
        for array in outputs[name]:
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def column_of(labels: Sequence[Any], metric: Metric) -> Sequence[Any]:
    """Return the labels that a metric compares with, where the data has several for each item.

    Raises:
        DataError: the data does not have them.
    """
    column = metric.column
    if column is None:
        return labels
    for label in labels:
        if not isinstance(label, Mapping) or column not in label:
            names = list(map(str, label)) if isinstance(label, Mapping) else []
            told = (
                f"it has {', '.join(names)}{did_you_mean(column, names)}" if names else "it has one for each item, without names"
            )
            raise DataError(f"metric {metric.name!r}: the data has no labels {column!r}; {told}")
    return [label[column] for label in labels]


def _pick(outputs: Columns, picks: Sequence[int]) -> Columns:
    return {name: [arrays[i] for i in picks] for name, arrays in outputs.items()}
