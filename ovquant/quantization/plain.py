"""The plain way: one `nncf.quantize` call, and the arguments of it that a strategy stands for."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ovquant.environment import silence_telemetry
from ovquant.protocols import Sample
from ovquant.scopes import Operation, resolve
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


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep NNCF's progress bars and messages off stdout, which belongs to the caller."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


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
        return package.quantize(model, package.Dataset(samples), **arguments(strategy, operations))


def arguments(strategy: Strategy, operations: Sequence[Operation]) -> dict[str, Any]:
    """Return the keyword arguments of `nncf.quantize` for a strategy.

    Raises:
        ValueError: the ignored scope matches nothing in this model.
    """
    package = nncf()
    from nncf.quantization.advanced_parameters import AdvancedSmoothQuantParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    advanced: dict[str, Any] = {
        "disable_bias_correction": strategy.disable_bias_correction,
        "smooth_quant_alphas": AdvancedSmoothQuantParameters(
            matmul=strategy.smooth_quant_alpha_matmul, convolution=strategy.smooth_quant_alpha_convolution
        ),
    }
    if strategy.overflow_fix is not None:
        advanced["overflow_fix"] = package.OverflowFix(strategy.overflow_fix)
    if strategy.activations_range_estimator is not None:
        estimator = getattr(RangeEstimatorParametersSet, strategy.activations_range_estimator)
        advanced["activations_range_estimator_params"] = estimator
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
            raise ValueError("the ignored scope matches nothing in this model")
        # Names that NNCF folds away in its own graph (e.g. on weights) need no ignoring, so they may be missing there.
        found["ignored_scope"] = package.IgnoredScope(names=list(names), validate=False)
    return found
