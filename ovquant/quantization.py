"""NNCF: one strategy applied to one model. The only module that imports nncf (lazily)."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ovquant.environment import silence_telemetry
from ovquant.protocols import Sample
from ovquant.scopes import Operation, resolve
from ovquant.strategy import Strategy

if TYPE_CHECKING:
    import openvino as ov


@functools.cache
def _nncf() -> Any:
    silence_telemetry()
    with contextlib.redirect_stdout(io.StringIO()):
        import nncf
    nncf.set_log_level(logging.ERROR)
    return nncf


def quantize(model: ov.Model, strategy: Strategy, samples: Iterable[Sample], operations: Sequence[Operation]) -> ov.Model:
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
    nncf = _nncf()
    # NNCF's progress bars and messages go to stdout, which belongs to the caller.
    with contextlib.redirect_stdout(io.StringIO()):
        return nncf.quantize(model, nncf.Dataset(list(samples)), **_arguments(nncf, strategy, operations))


def _arguments(nncf: Any, strategy: Strategy, operations: Sequence[Operation]) -> dict[str, Any]:
    from nncf.quantization.advanced_parameters import AdvancedSmoothQuantParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    advanced: dict[str, Any] = {
        "disable_bias_correction": strategy.disable_bias_correction,
        "smooth_quant_alphas": AdvancedSmoothQuantParameters(
            matmul=strategy.smooth_quant_alpha_matmul, convolution=strategy.smooth_quant_alpha_convolution
        ),
    }
    if strategy.overflow_fix is not None:
        advanced["overflow_fix"] = nncf.OverflowFix(strategy.overflow_fix)
    if strategy.activations_range_estimator is not None:
        estimator = getattr(RangeEstimatorParametersSet, strategy.activations_range_estimator)
        advanced["activations_range_estimator_params"] = estimator
    arguments: dict[str, Any] = {
        "target_device": nncf.TargetDevice(strategy.target_device),
        "subset_size": strategy.subset_size,
        "fast_bias_correction": strategy.fast_bias_correction,
        "advanced_parameters": nncf.AdvancedQuantizationParameters(**advanced),
    }
    if strategy.preset is not None:
        arguments["preset"] = nncf.QuantizationPreset(strategy.preset)
    if strategy.model_type is not None:
        arguments["model_type"] = nncf.ModelType(strategy.model_type)
    if not strategy.ignored_scope.is_empty:
        names = resolve(strategy.ignored_scope, operations)
        if not names:
            raise ValueError("the ignored scope matches nothing in this model")
        # Names that NNCF folds away in its own graph (e.g. on weights) need no ignoring, so they may be missing there.
        arguments["ignored_scope"] = nncf.IgnoredScope(names=list(names), validate=False)
    return arguments
