"""Many strategies of one model from shared statistics, each the same as by a plain `nncf.quantize` call.

NNCF collects statistics of activations anew for every call: for each pair of a tensor and a reducer (minimum, mean per
channel ...) one small array per sample, which an aggregator then turns into a range or a mean. What the reducers give does
not depend on most genes, so it is collected once, in one pass for all strategies at hand, and kept; the aggregators,
quantizers and bias correction are NNCF's own code, run on what was kept. The parts of NNCF used here are not public: where
they are not as expected, the plain call takes over.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from cachetools import LRUCache

from ovquant import runtime
from ovquant.errors import first_line
from ovquant.operations import Operation
from ovquant.protocols import Array, Sample
from ovquant.quantization import plain
from ovquant.quantization.internals import internals
from ovquant.quantization.matching import Matches
from ovquant.quantization.stages import Stage, digest_of
from ovquant.quantization.statistics import Collection
from ovquant.quantization.store import ArrayStore
from ovquant.strategy import Strategy

if TYPE_CHECKING:
    import openvino as ov

_StageKey: TypeAlias = tuple[tuple[float, float] | None, bool, int]
DEFAULT_MEMORY_BYTES = 256 << 20
# Models after SmoothQuant or channel alignment, and quantizer set-ups, that stay in memory; the former are as large as models.
_MAX_STAGES = 3
_MAX_SETUPS = 64
_MAX_LAYERS = 128  # compiled for bias correction
_MAX_SHIFTS = 2048  # of bias correction, each of a layer's output channels


class SharedQuantizer:
    """Quantizes one model by many strategies.

    What it keeps on disk are plain arrays under keys that say all they depend on, so that another process, or a later
    search on the same store, goes on from there.
    """

    def __init__(
        self,
        model: ov.Model,
        operations: Sequence[Operation],
        samples: Sequence[Sample],
        store: ArrayStore,
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
    ) -> None:
        """Keep what is needed.

        Args:
            model: float model; left as it is.
            operations: of `model`, see `ovquant.runtime.operations`.
            samples: all calibration samples in order; a subset of n is the first n.
            store: where statistics are kept.
            memory_bytes: that one pass over the samples may take for what it collects; more is done in several passes.
        """
        self._model = model
        self._operations = operations
        self._samples = samples
        self._store = store
        self._memory_bytes = memory_bytes
        self._collection: Collection | None = None
        self._stages: LRUCache[_StageKey, Stage] = LRUCache(_MAX_STAGES)
        self._setups: LRUCache[str, Any] = LRUCache(_MAX_SETUPS)
        self._matches = Matches()
        self._bias_shifts: LRUCache[str, Array] = LRUCache(_MAX_SHIFTS)
        self._engines: LRUCache[str, Any] = LRUCache(_MAX_LAYERS)
        self.fallback: str | None = None

    @property
    def n_passes(self) -> int:
        """Passes over the samples so far."""
        return 0 if self._collection is None else self._collection.n_passes

    def prepare(self, strategies: Iterable[Strategy]) -> None:
        """Collect the statistics that strategies need, for all of them in one pass where that is possible.

        Faults are left to `quantize`, which meets them again for the strategy that has them.
        """
        with self._shared():
            self._require_shareable()
            pipelines = []
            for strategy in strategies:
                with contextlib.suppress(Exception):
                    pipelines.append((strategy, self._pipeline(strategy)))
            self._prepare(pipelines)

    def quantize(self, strategy: Strategy) -> ov.Model:
        """Return the quantized model, equal to that of a plain `nncf.quantize` call.

        Raises:
            ValueError: the ignored scope matches nothing in this model.
            Exception: whatever NNCF raises.
        """
        plain.arguments(strategy, self._operations)
        with self._shared():
            return self._quantize(strategy)
        samples = self._samples[: strategy.subset_size]
        return plain.quantize(self._model, strategy, samples, self._operations)

    @contextlib.contextmanager
    def _shared(self) -> Iterator[None]:
        """Run the shared way; if it fails, remember why and let the caller go the plain way."""
        try:
            with plain.quiet():
                yield
        except Exception as error:
            if self.fallback is None:
                self.fallback = f"{type(error).__name__}: {first_line(error)}"

    def _require_shareable(self) -> None:
        if internals().get_number_if_op(self._model) > 0:
            raise NotImplementedError("the model has branches (If), whose bodies NNCF quantizes one by one")
        if any(array.size == 0 for sample in self._samples for array in sample.values()):
            raise NotImplementedError("a sample has an array without elements, which NNCF leaves out")

    def _pipeline(self, strategy: Strategy) -> Any:
        return internals().create_ptq_pipeline(**plain.arguments(strategy, self._operations))

    def _prepare(self, pipelines: Sequence[tuple[Strategy, Any]]) -> None:
        """Collect step by step: a step's model is there only once the one before has been taken."""
        collection, base = self._opened()
        first = [self._points(pipeline, 0, base, strategy) for strategy, pipeline in pipelines]
        collection.collect(base, first)
        smoothed: dict[_StageKey, list[tuple[Strategy, Any]]] = {}
        for strategy, pipeline in pipelines:
            if len(pipeline.pipeline_steps) > 1:
                smoothed.setdefault(_stage_key(strategy, len(self._samples)), []).append((strategy, pipeline))
        for members in smoothed.values():
            stage = self._stage(*members[0])
            last = len(members[0][1].pipeline_steps) - 1
            collection.collect(stage, [self._points(pipeline, last, stage, strategy) for strategy, pipeline in members])

    def _quantize(self, strategy: Strategy) -> ov.Model:
        self._require_shareable()
        parts = internals()
        pipeline = self._pipeline(strategy)
        collection, _ = self._opened()
        stage = self._stage(strategy, pipeline)
        last = len(pipeline.pipeline_steps) - 1
        container = self._points(pipeline, last, stage, strategy)
        collection.fill(stage, container)
        self._remember_bias_shifts(pipeline.pipeline_steps[last])
        model = pipeline.run_step(last, container, stage.model, stage.graph)
        parts.compress_quantize_weights_transformation(model)
        given = plain.arguments(strategy, self._operations)
        parts.dump_parameters(
            model,
            {
                "preset": given.get("preset"),
                "target_device": given["target_device"].value,
                "subset_size": given["subset_size"],
                "fast_bias_correction": given["fast_bias_correction"],
                "model_type": given.get("model_type"),
                "ignored_scope": given.get("ignored_scope"),
                "advanced_parameters": parts.convert_to_dict_recursively(given["advanced_parameters"]),
            },
        )
        return model

    def _opened(self) -> tuple[Collection, Stage]:
        """Return the collection and the stage of the float model."""
        if self._collection is None:
            self._collection = Collection(self._samples, self._store, self._memory_bytes)
            self._base = Stage.of(internals().remove_friendly_name_duplicates(self._model))
        return self._collection, self._base

    def _stage(self, strategy: Strategy, pipeline: Any) -> Stage:
        """Return the stage that the last step of a pipeline works on."""
        collection, stage = self._opened()
        n_before = len(pipeline.pipeline_steps) - 1
        if n_before == 0:
            return stage
        key = _stage_key(strategy, len(self._samples))
        if key in self._stages:
            return self._stages[key]
        for index in range(n_before):
            container = self._points(pipeline, index, stage, strategy)
            collection.fill(stage, container)
            stage = Stage.of(pipeline.run_step(index, container, stage.model, stage.graph))
        self._stages[key] = stage
        return stage

    def _points(self, pipeline: Any, index: int, stage: Stage, strategy: Strategy) -> Any:
        """Return the statistic points of a step, with quantizer set-ups taken from where they were found before."""
        parts = internals()
        container = parts.StatisticPointsContainer()
        for algorithm in pipeline.pipeline_steps[index]:
            if isinstance(algorithm, parts.MinMaxQuantization):
                found = self._quantizer_points(algorithm, stage, strategy)
            else:
                found = algorithm.get_statistic_points(stage.model, stage.graph)
            for points in found.values():
                for point in points:
                    container.add_statistic_point(point)
        return container

    def _quantizer_points(self, algorithm: Any, stage: Stage, strategy: Strategy) -> Any:
        mine = strategy.canonical()
        placing = (
            mine.preset,
            mine.model_type,
            mine.target_device,
            mine.activations_per_channel,
            mine.quantizer_propagation_rule,
        )
        key = digest_of((stage.identity, placing, mine.ignored_scope.model_dump_json()))
        if key not in self._setups:
            with self._matches.remembered():
                points = algorithm.get_statistic_points(stage.model, stage.graph)
            self._setups[key] = (algorithm._quantization_target_points_to_qconfig, algorithm._unified_scale_groups)
            return points
        targets, groups = self._setups[key]
        algorithm._quantization_target_points_to_qconfig = targets.copy()
        algorithm._unified_scale_groups = [list(group) for group in groups]
        return algorithm.get_cached_statistic_points(stage.model, stage.graph)

    def _remember_bias_shifts(self, step: Sequence[Any]) -> None:
        """Let fast bias correction take what it computed before for the same layer, input and mean output.

        It compiles and runs each layer by itself; the layer has quantized weights and the mean of its float input, so that
        most strategies of equal subset size have most shifts in common, and others at least the compiled layers.
        """
        parts = internals()
        for algorithm in step:
            if not isinstance(algorithm, parts.FastBiasCorrection):
                continue

            def remembered(*, model: Any, input_blob: Any, algorithm: Any = algorithm, **rest: Any) -> Any:
                arrays = [*input_blob.values(), *(np.asarray(value.data) for value in rest["output_fp"])]
                layer = runtime.graph_digest(model)
                key = digest_of(("bias shift", layer, rest["output_channel_axis"]), *arrays)
                shift = self._bias_shifts.get(key)
                if shift is None:
                    shift = self._bias_shifts[key] = self._bias_shift(algorithm, layer, model, input_blob, **rest)
                return parts.Tensor(shift.copy())

            algorithm._get_bias_shift = remembered

    def _bias_shift(
        self,
        algorithm: Any,
        layer: str,
        model: Any,
        input_blob: Any,
        *,
        output_channel_axis: Any,
        output_fp: Any,
        output_name: str,
    ) -> Array:
        """Return what `FastBiasCorrection._get_bias_shift` does, with a layer compiled once for all its inputs."""
        parts = internals()
        engine = self._engines.get(layer)
        if engine is None:
            engine = self._engines[layer] = parts.EngineFactory.create(model)
        found = algorithm._backend_entity.process_model_output(engine.infer(input_blob), output_name)
        return np.asarray((parts.stack(output_fp) - parts.mean_per_channel(found, output_channel_axis)).data)


def _stage_key(strategy: Strategy, n_samples: int) -> _StageKey:
    mine = strategy.canonical()
    alphas = (mine.smooth_quant_alpha_matmul, mine.smooth_quant_alpha_convolution)
    smoothing = alphas if mine.model_type == "transformer" else None
    return (smoothing, mine.disable_channel_alignment, min(mine.subset_size, n_samples))
