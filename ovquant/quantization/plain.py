"""The plain way: one `nncf.quantize` call, and the arguments of it that a strategy stands for."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from ovquant.environment import silence_telemetry
from ovquant.operations import Operation
from ovquant.protocols import Sample
from ovquant.scopes import misses, resolve
from ovquant.strategy import Strategy

if TYPE_CHECKING:
    import openvino as ov


@functools.cache
def nncf() -> Any:
    """Return the package, imported once, without telemetry and its messages."""
    silence_telemetry()
    with quiet():
        import nncf as package
    package.set_log_level(logging.ERROR)
    return package


class _Sink(io.TextIOBase):
    """Swallows what one thread writes, and passes on what others do."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.silent: set[int] = set()

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() in self.silent else self.stream.write(text)

    def flush(self) -> None:
        self.stream.flush()


_sink_lock = threading.Lock()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep NNCF's progress bars and messages off stdout, which belongs to the caller; other threads go on writing."""
    with _sink_lock:
        if not isinstance(sys.stdout, _Sink):
            sys.stdout = _Sink(sys.stdout)
        sink = sys.stdout
        is_outermost = threading.get_ident() not in sink.silent
        sink.silent.add(threading.get_ident())
    try:
        yield
    finally:
        with _sink_lock:
            if is_outermost:
                sink.silent.discard(threading.get_ident())
            if not sink.silent and sys.stdout is sink:
                sys.stdout = sink.stream


def quantize(model: ov.Model, strategy: Strategy, samples: Sequence[Sample], operations: Sequence[Operation]) -> ov.Model:
    """Return a quantized copy of `model` by one `nncf.quantize` run.

    Args:
        model: float model; left as it is.
        strategy: what to do; its ignored scope is resolved on `operations`.
        samples: calibration samples, at least `strategy.subset_size` where that many are to count.
        operations: of `model`, see `ovquant.runtime.operations`.

    Raises:
        ValueError: the ignored scope matches nothing in this model.
        Exception: whatever NNCF raises.
    """
    package = nncf()
    with quiet():
        return package.quantize(model, dataset(samples), **arguments(strategy, operations))


def dataset(samples: Sequence[Sample]) -> Any:
    """Return samples as NNCF takes them: copies, as it lets OpenVINO share the arrays, which may be written to afterwards."""
    return nncf().Dataset(samples, lambda sample: {name: array.copy() for name, array in sample.items()})


@functools.cache
def can_align_channels() -> bool:
    """Return whether channel alignment works: in NNCF 3.4.0 it casts to a numpy type, which its tensors do not take."""
    nncf()
    from nncf.tensor import Tensor

    try:
        Tensor(np.zeros(1)).astype(np.float32)
    except KeyError:
        return False
    return True


def arguments(strategy: Strategy, operations: Sequence[Operation]) -> dict[str, Any]:
    """Return the keyword arguments of `nncf.quantize` for a strategy.

    Raises:
        ValueError: the ignored scope matches nothing in this model.
    """
    package = nncf()
    from nncf.quantization.advanced_parameters import (
        AdvancedSmoothQuantParameters,
        QuantizationParameters,
        QuantizerPropagationRule,
    )
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    advanced: dict[str, Any] = {
        "disable_bias_correction": strategy.disable_bias_correction,
        "disable_channel_alignment": strategy.disable_channel_alignment,
        "smooth_quant_alphas": AdvancedSmoothQuantParameters(
            matmul=strategy.smooth_quant_alpha_matmul, convolution=strategy.smooth_quant_alpha_convolution
        ),
    }
    if strategy.overflow_fix is not None:
        advanced["overflow_fix"] = package.OverflowFix(strategy.overflow_fix)
    if strategy.activations_range_estimator is not None:
        estimator = getattr(RangeEstimatorParametersSet, strategy.activations_range_estimator)
        advanced["activations_range_estimator_params"] = estimator
    if strategy.weights_range_estimator is not None:
        advanced["weights_range_estimator_params"] = getattr(RangeEstimatorParametersSet, strategy.weights_range_estimator)
    if strategy.activations_per_channel is not None:
        advanced["activations_quantization_params"] = QuantizationParameters(per_channel=strategy.activations_per_channel)
    if strategy.quantizer_propagation_rule is not None:
        rule = QuantizerPropagationRule[strategy.quantizer_propagation_rule]
        advanced["quantizer_propagation_rule"] = rule
    found: dict[str, Any] = {
        "target_device": package.TargetDevice(strategy.target_device),
        "subset_size": strategy.subset_size,
        "fast_bias_correction": strategy.fast_bias_correction,
        "advanced_parameters": package.AdvancedQuantizationParameters(**advanced),
    }
    if strategy.preset is not None:
        found["preset"] = package.QuantizationPreset(strategy.preset)
    if strategy.model_type is not None:
        found["model_type"] = package.ModelType(strategy.model_type)
    if not strategy.ignored_scope.is_empty:
        names = resolve(strategy.ignored_scope, operations)
        if not names:
            raise ValueError("; ".join(map(str, misses(strategy.ignored_scope, operations))))
        # Names that NNCF folds away in its own graph (e.g. on weights) need no ignoring, so they may be missing there.
        found["ignored_scope"] = package.IgnoredScope(names=list(names), validate=False)
    return found
