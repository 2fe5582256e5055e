"""What a compiled model really runs: the precision and time of each of its kernels, as the device tells them."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ovquant import runtime
from ovquant.protocols import Sample
from ovquant.quantizers import DisjointSets

if TYPE_CHECKING:
    import openvino as ov
    from pydantic import TypeAdapter

# Kernels that compute nothing: they change a tensor's precision or layout for the next one.
_CONVERTING = frozenset({"Reorder", "Convert", "FakeQuantize", "Quantize"})
_N_WARMING = 3
_NO_KERNEL = frozenset({"Input", "Output", "Parameter", "Result", "Const", "Constant"})
_FLOAT = frozenset({"f32", "bf16", "f16"})
_INTEGER = frozenset({"i8", "u8", "i4", "u4"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One kernel of a compiled model.

    Attributes:
        name: of the device's own.
        kind: type that the device gives it, e.g. Convolution or Reorder.
        precision: of what it takes in; elementwise kernels that take integers compute in float within.
        origins: names of the model's operations that were made into it.
        time_us: microseconds of one inference, with profiling on; median over inferences.
        spread_us: distance of their quartiles.
    """

    name: str
    kind: str
    precision: str
    origins: tuple[str, ...]
    time_us: float
    spread_us: float = 0.0

    @property
    def is_conversion(self) -> bool:
        """Whether it only changes precision or layout."""
        return self.kind in _CONVERTING

    @property
    def is_integer(self) -> bool:
        """Whether it takes 8 bits or less."""
        return self.precision in _INTEGER

    @property
    def is_float(self) -> bool:
        """Whether it takes floating-point numbers."""
        return self.precision in _FLOAT


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """All kernels that take time, in the order in which they run."""

    kernels: tuple[Kernel, ...]

    @property
    def total_us(self) -> float:
        """Microseconds of one inference; kernels one after the other."""
        return sum(kernel.time_us for kernel in self.kernels)

    def of(self, name: str) -> Kernel | None:
        """Return the kernel that an operation of the model was made into; None if it was folded away."""
        held = [kernel for kernel in self.kernels if name in kernel.origins and not kernel.is_conversion]
        return max(held, key=lambda kernel: kernel.time_us, default=None)

    def shares(self) -> dict[str, float]:
        """Return the share of the time by what is done: ``int8``, each float precision, ``conversions``."""
        total = max(self.total_us, 1e-9)
        found: dict[str, float] = {}
        for kernel in self.kernels:
            key = "conversions" if kernel.is_conversion else "int8" if kernel.is_integer else kernel.precision
            found[key] = found.get(key, 0.0) + kernel.time_us / total
        return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def same_operations(floats: Audit, quantized: Audit) -> Iterator[tuple[list[Kernel], list[Kernel]]]:
    """Yield the kernels of both models that belong together: those of an operation, and of all that is run with it."""
    sides = [[kernel for kernel in audit.kernels if kernel.origins and not kernel.is_conversion] for audit in (floats, quantized)]
    kernels = [*sides[0], *sides[1]]
    sets = DisjointSets(len(kernels))
    first: dict[str, int] = {}
    for index, kernel in enumerate(kernels):
        for origin in kernel.origins:
            sets.join(index, first.setdefault(origin, index))
    groups: dict[int, tuple[list[Kernel], list[Kernel]]] = {}
    for index, kernel in enumerate(kernels):
        groups.setdefault(sets.find(index), ([], []))[index >= len(sides[0])].append(kernel)
    yield from groups.values()


@functools.cache
def _adapter() -> TypeAdapter[Audit]:
    from pydantic import TypeAdapter  # not on machines that only measure

    return TypeAdapter(Audit)


def to_json(audit: Audit) -> dict[str, Any]:
    """Return an audit as JSON values."""
    content: dict[str, Any] = _adapter().dump_python(audit, mode="json")
    return content


def from_json(content: dict[str, Any]) -> Audit:
    """Return the audit that `to_json` wrote.

    Raises:
        ValidationError: it is none.
    """
    return _adapter().validate_python(content)


def audits(
    models: Sequence[ov.Model], device: str, properties: Mapping[str, Any], sample: Sample, n_runs: int = 30
) -> list[Audit]:
    """Run models in turns with profiling and return the kernels of each.

    Args:
        models: to compile.
        device: OpenVINO device.
        properties: compile properties, the precision hint among them.
        sample: one input.
        n_runs: inferences of each.

    Raises:
        RuntimeError: the device cannot compile them, or has no profile.
    """
    compiled = [runtime.core().compile_model(model, device, {**properties, "PERF_COUNT": "YES"}) for model in models]
    requests = [one.create_infer_request() for one in compiled]
    times: list[dict[str, list[float]]] = [{} for _ in models]
    for index in range(n_runs + _N_WARMING):
        for request, found in zip(requests, times, strict=True):
            request.infer(dict(sample))
            for info in request.profiling_info if index >= _N_WARMING else ():
                found.setdefault(info.node_name, []).append(info.real_time.total_seconds() * 1e6)
    return [
        Audit(kernels=tuple(_with_fused(_kernels(one, found), model)))
        for model, one, found in zip(models, compiled, times, strict=True)
    ]


def _kernels(compiled: ov.CompiledModel, times: Mapping[str, Sequence[float]]) -> list[Kernel]:
    kernels = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        name = node.get_friendly_name()
        told = {key: str(value.value) for key, value in node.get_rt_info().items()}
        if name in times and told.get("layerType") not in _NO_KERNEL:
            low, middle, high = np.percentile(times[name], [25, 50, 75])
            kernels.append(
                Kernel(
                    name=name,
                    kind=told.get("layerType", node.get_type_name()),
                    precision=told.get("runtimePrecision", ""),
                    origins=tuple(filter(None, told.get("originalLayersNames", "").split(","))),
                    time_us=float(middle),
                    spread_us=float(high - low),
                )
            )
    return kernels


def _with_fused(kernels: Sequence[Kernel], model: ov.Model) -> Iterator[Kernel]:
    """Yield kernels that also name the operations which the plugin fused without a record: into what alone uses them."""
    computing = [kernel for kernel in kernels if not kernel.is_conversion]
    owners = {_plain(origin): kernel.name for kernel in computing for origin in kernel.origins}
    added: dict[str, list[str]] = {}
    for node in reversed(model.get_ordered_ops()):
        name = node.get_friendly_name()
        users = {target.get_node().get_friendly_name() for output in node.outputs() for target in output.get_target_inputs()}
        owner = owners.get(name) or (owners.get(next(iter(users))) if len(users) == 1 else None)
        if owner is not None and node.get_type_name() not in {"Constant", "Parameter", "FakeQuantize", "Convert"}:
            owners[name] = owner
            added.setdefault(owner, []).append(name)
    for kernel in kernels:
        yield dataclasses.replace(kernel, origins=tuple(dict.fromkeys((*kernel.origins, *added.get(kernel.name, ())))))


def _plain(origin: str) -> str:
    """Return an operation's name without what the plugin appends when it takes quantization apart."""
    return re.sub(r"/(Dequantization|Fused)\w*$", "", origin)
