"""Reference kernels: what a device makes of a convolution, a depthwise convolution and a product, in float and in INT8."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ovquant import runtime
from ovquant.audit import audits
from ovquant.errors import OvquantError
from ovquant.inference import CompiledModel
from ovquant.latency import relative_speedup, summarize
from ovquant.protocols import Array, Clock
from ovquant.records import Interval
from ovquant.strategy import InferencePrecision
from ovquant.targets import MeasurementPlan
from ovquant.turns import measure

if TYPE_CHECKING:
    import openvino as ov

PLAN = MeasurementPlan(visits=16, burst=25, discard=5, seconds=2.0, tolerance=0.05)
INT8 = "int8"
_N_LAYERS = 3  # of a kind in a row, so that what is at the ends counts less
_RANGE = 4.0  # of activations, in units of their standard deviation


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KernelTime:
    """A kind of kernel in one precision.

    Attributes:
        kind: convolution, depthwise or matmul.
        precision: asked for: f32, bf16, f16 or int8.
        median_ms: of a model of three such layers.
        speedup: over the first float precision that was timed, with its 95 % interval.
        share: of the kernels' time that is spent in 8 bits, as the device tells; None where it does not tell.
    """

    kind: str
    precision: str
    median_ms: float
    speedup: Interval
    share: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    shape: tuple[int, ...]
    weights: tuple[int, ...]
    layer: Callable[[Any, Any, Any], Any]


def _convolution(opset: Any, x: Any, weights: Any) -> Any:
    return opset.convolution(x, weights, [1, 1], [1, 1], [1, 1], [1, 1])


def _depthwise(opset: Any, x: Any, weights: Any) -> Any:
    return opset.group_convolution(x, weights, [1, 1], [1, 1], [1, 1], [1, 1])


def _matmul(opset: Any, x: Any, weights: Any) -> Any:
    return opset.matmul(x, weights, False, True)


KINDS: Mapping[str, _Kind] = {
    "convolution": _Kind(shape=(1, 64, 28, 28), weights=(64, 64, 3, 3), layer=_convolution),
    "depthwise": _Kind(shape=(1, 96, 56, 56), weights=(96, 1, 1, 3, 3), layer=_depthwise),
    "matmul": _Kind(shape=(64, 512), weights=(512, 512), layer=_matmul),
}


def reference_model(kind: str, *, is_quantized: bool) -> ov.Model:
    """Return three layers of a kind with ReLUs between; quantized as NNCF does: u8 per tensor, weights i8 per channel."""
    package = runtime.openvino()
    opset = package.opset13
    rng = np.random.default_rng(0)
    one = KINDS[kind]
    value = parameter = opset.parameter(one.shape, np.float32, "x")
    for _ in range(_N_LAYERS):
        weights: Array = rng.normal(size=one.weights).astype(np.float32)
        weights /= np.sqrt(np.prod(one.weights[1:]))
        value = opset.relu(value)
        constant = opset.constant(weights)
        if is_quantized:
            value = opset.fake_quantize(value, *map(np.float32, (0, _RANGE, 0, _RANGE)), 256)
            limit = np.abs(weights).max(axis=tuple(range(1, weights.ndim)), keepdims=True)
            constant = opset.fake_quantize(constant, -limit, limit, -limit, limit, 255)
        value = one.layer(opset, value, constant)
    return package.Model([value], [parameter], f"reference_{kind}")


def time_kernels(
    device: str, precisions: Sequence[InferencePrecision], properties: Mapping[str, Any], clock: Clock
) -> tuple[list[KernelTime], list[str]]:
    """Time each kind of kernel in each float precision and in INT8, in turns.

    Args:
        device: OpenVINO device.
        precisions: floats to time; the first one that the device compiles is what speed-ups are over.
        properties: to compile with.
        clock: source of time.

    Returns:
        Times, and in words what could not be timed.
    """
    times: list[KernelTime] = []
    faults: list[str] = []
    for kind, one in KINDS.items():
        sample = {"x": np.abs(np.random.default_rng(1).normal(size=one.shape)).astype(np.float32)}
        compiled: dict[str, CompiledModel] = {}
        for precision in (*precisions, INT8):
            model = reference_model(kind, is_quantized=precision == INT8)
            model.inputs[0].set_names({"x"})
            hint = None if precision == INT8 else runtime.PRECISION_NAMES[precision]
            try:
                compiled[precision] = CompiledModel(model, device, properties, hint)
                compiled[precision].infer(sample)
            except OvquantError as error:
                compiled.pop(precision, None)
                faults.append(f"{kind} in {precision}: {error}")
        if not compiled:
            continue
        turns = measure({name: model.runner(sample) for name, model in compiled.items()}, PLAN, clock)
        told = {name: summarize(turns, name, model.n_threads) for name, model in compiled.items()}
        first = next(iter(told.values()))
        times.extend(
            KernelTime(
                kind=kind,
                precision=name,
                median_ms=latency.median_ms,
                speedup=relative_speedup(latency, first),
                share=_int8_share(kind, device, properties, sample) if name == INT8 else None,
            )
            for name, latency in told.items()
        )
    return times, faults


def _int8_share(kind: str, device: str, properties: Mapping[str, Any], sample: Mapping[str, Array]) -> float | None:
    model = reference_model(kind, is_quantized=True)
    model.inputs[0].set_names({"x"})
    try:
        (audit,) = audits([model], device, properties, dict(sample), n_runs=5)
    except RuntimeError:
        return None
    return audit.shares().get(INT8, 0.0) if audit.kernels else None
