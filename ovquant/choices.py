"""The space of a profile for one model: the values of its genes that can matter there; what is dropped, and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ovquant.errors import ConfigError
from ovquant.layers import ScopeGenes
from ovquant.operations import Operation
from ovquant.scopes import matching, misses, resolve
from ovquant.space import LAYER, SCOPE, Gene, SearchSpace, label
from ovquant.strategy import InferencePrecision, Strategy
from ovquant.targets import Genes, Target

_LAYER_LABELS = ("int8", "float")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What a space needs to know of model, data and device.

    Attributes:
        operations: the model's operations in topological order.
        n_calibration: calibration items at hand.
        own_precision: the float precision that the profile's compile properties give on the device.
        device_precisions: the float precisions that the device offers.
        may_saturate: the device's 8-bit sums may saturate, which overflow fix is for.
        can_align_channels: NNCF's channel alignment works in the version at hand.
        layers: places of the layers that may be better off in float, the most promising first.
    """

    operations: tuple[Operation, ...]
    n_calibration: int
    own_precision: InferencePrecision
    device_precisions: frozenset[str]
    may_saturate: bool = True
    can_align_channels: bool = True
    layers: tuple[str, ...] = ()


def nncf_default(target: Target, facts: ModelFacts, **arguments: Any) -> Strategy:
    """Return what `nncf.quantize` does when it is given nothing but model and data, at the profile's own precision.

    Args:
        target: the profile; its NNCF target device is kept.
        facts: of model, data and device.
        arguments: attributes of `Strategy` that are given to NNCF all the same, e.g. the model type.
    """
    default = Strategy(inference_precision=facts.own_precision, target_device=target.nncf_target_device, **arguments)
    return dataclasses.replace(default, subset_size=min(default.subset_size, facts.n_calibration)).canonical()


def build_space(target: Target, facts: ModelFacts) -> SearchSpace:
    """Return the space of a profile for one model.

    Raises:
        ConfigError: a gene has no value left.
    """
    notes: list[str] = []
    genes = target.genes
    columns: list[tuple[str, str, list[tuple[str, Any]]]] = []
    for name in ("preset", "model_type", "fast_bias_correction", "disable_bias_correction"):
        columns.append((name, name, _labelled(getattr(genes, name))))
    columns.append(("overflow_fix", "overflow_fix", _overflow_fixes(genes, facts, notes)))
    for name in ("activations_range_estimator", "weights_range_estimator", "quantizer_propagation_rule"):
        columns.append((name, name, _labelled(getattr(genes, name))))
    columns.append(("activations_per_channel", "activations_per_channel", _per_channel(genes, facts, notes)))
    columns.append(("disable_channel_alignment", "disable_channel_alignment", _alignments(genes, facts, notes)))
    columns.append(("target_device", "target_device", _target_devices(genes, notes)))
    columns.append(("subset_size", "subset_size", _subset_sizes(genes, facts.n_calibration, notes)))
    choices = _scopes(genes, facts.operations, notes)
    columns.append((SCOPE, SCOPE, choices))
    for part, types in (("matmul", {"MatMul"}), ("convolution", {"Convolution"})):
        values = _alphas(genes, part, types, facts.operations, notes)
        columns.append((f"smooth_quant_alphas.{part}", f"smooth_quant_alpha_{part}", values))
    columns.append(("inference_precision", "inference_precision", _precisions(genes, facts, notes)))

    base = Strategy(inference_precision=facts.own_precision, target_device=target.nncf_target_device)
    free: list[Gene] = []
    for name, field, values in columns:
        if len(values) == 1:
            base = dataclasses.replace(base, **{field: values[0][1]})
        elif values:
            free.append(
                Gene(
                    name=name,
                    field=field,
                    values=tuple(v for _, v in values),
                    labels=tuple(word for word, _ in values),
                )
            )
    base = dataclasses.replace(base, subset_size=min(base.subset_size, facts.n_calibration))
    layers = facts.layers[: genes.layers.top] if genes.layers is not None else ()
    if genes.layers is not None and len(layers) < genes.layers.top:
        notes.append(f"layers: {len(layers)} genes, not {genes.layers.top}: no other layer seems better off in float by itself")
    free += [Gene(name=place, field=LAYER, values=(False, True), labels=_LAYER_LABELS) for place in layers]
    scopes = ScopeGenes.of([value for _, value in choices] or [base.ignored_scope], layers, facts.operations)
    return SearchSpace(genes=tuple(free), scopes=scopes, base=base, notes=tuple(notes))


def _labelled(values: Sequence[Any] | None) -> list[tuple[str, Any]]:
    return [(label(value), value) for value in values or ()]


def _subset_sizes(genes: Genes, n_calibration: int, notes: list[str]) -> list[tuple[str, Any]]:
    values = genes.subset_size or ()
    kept = sorted({min(value, n_calibration) for value in values})
    too_large = [value for value in values if value > n_calibration]
    if too_large:
        notes.append(f"subset_size {', '.join(map(str, too_large))} -> {n_calibration}: that many calibration items are at hand")
    return _labelled(kept)


def _scopes(genes: Genes, operations: Sequence[Operation], notes: list[str]) -> list[tuple[str, Any]]:
    kept: list[tuple[str, Any]] = []
    seen: dict[tuple[str, ...], str] = {}
    faults = []
    for name, selector in (genes.ignored_scope or {}).items():
        names = resolve(selector, operations)
        missed = misses(selector, operations)
        # Names are those of one model, and so meant for it; all else may be meant for many.
        faults += [
            f"target genes.ignored_scope.{name}: {miss}; take it out, or name what this model has"
            for miss in missed
            if miss.field == "names"
        ]
        if not names and not selector.is_empty:
            told = [str(miss) for miss in missed if miss.nearest]
            notes.append(f"ignored_scope {name!r} dropped: {'; '.join(told) or 'it matches nothing in this model'}")
        elif names in seen:
            notes.append(f"ignored_scope {name!r} dropped: same operations as {seen[names]!r}")
        else:
            seen[names] = name
            kept.append((name, matching(selector, operations)))
            # A type or role that a model lacks is no slip where others of the choice are there, unless another one is near.
            told = [str(miss) for miss in missed if miss.nearest or miss.field in {"patterns", "places"}]
            notes += [f"ignored_scope {name!r}: {miss}; the rest of it is searched" for miss in told]
    if faults:
        raise ConfigError("\n".join(faults))
    if genes.ignored_scope and not kept:
        raise ConfigError(
            "target genes.ignored_scope: no choice matches anything in this model; add a choice with an empty mapping {} "
            "to allow ignoring nothing"
        )
    return kept


def _overflow_fixes(genes: Genes, facts: ModelFacts, notes: list[str]) -> list[tuple[str, Any]]:
    values = genes.overflow_fix or ()
    kept = [value for value in values if value != "enable" or facts.may_saturate]
    if kept and len(kept) < len(values):
        notes.append("overflow_fix enable dropped: sums of 8-bit products do not saturate on this device")
        return _labelled(kept)
    return _labelled(values)


def _per_channel(genes: Genes, facts: ModelFacts, notes: list[str]) -> list[tuple[str, Any]]:
    values = genes.activations_per_channel or ()
    if not values or any(operation.type == "GroupConvolution" for operation in facts.operations):
        return _labelled(values)
    notes.append("activations_per_channel dropped: the model has no depthwise convolution, and NNCF allows it for no other")
    return []


def _alignments(genes: Genes, facts: ModelFacts, notes: list[str]) -> list[tuple[str, Any]]:
    values = genes.disable_channel_alignment or ()
    reason = None
    if not facts.can_align_channels:
        reason = "channel alignment fails in this version of NNCF"
    elif sum(operation.type in {"Convolution", "GroupConvolution"} for operation in facts.operations) < 2:
        reason = "the model has no two convolutions whose channels could be aligned"
    if False not in values or reason is None:
        return _labelled(values)
    notes.append(f"disable_channel_alignment false dropped: {reason}")
    return _labelled([value for value in values if value])


def _target_devices(genes: Genes, notes: list[str]) -> list[tuple[str, Any]]:
    kept: dict[bool, str] = {}
    for value in genes.target_device or ():
        other = kept.setdefault(value == "CPU_SPR", value)
        if other != value:
            notes.append(f"target_device {value} dropped: NNCF quantizes to 8 bits for it as for {other}")
    return _labelled(list(kept.values()))


def _alphas(genes: Genes, part: str, types: set[str], operations: Sequence[Operation], notes: list[str]) -> list[tuple[str, Any]]:
    values: Sequence[float] | None = getattr(genes.smooth_quant_alphas, part, None)
    if values is None:
        return []
    if not any(operation.type in types for operation in operations):
        notes.append(f"smooth_quant_alphas.{part} dropped: the model has no {' or '.join(sorted(types))}")
        return []
    return _labelled(list(dict.fromkeys(float(value) if value >= 0 else -1.0 for value in values)))


def _precisions(genes: Genes, facts: ModelFacts, notes: list[str]) -> list[tuple[str, Any]]:
    values = genes.inference_precision or ()
    kept = [value for value in values if value in facts.device_precisions]
    dropped = [value for value in values if value not in facts.device_precisions]
    if dropped:
        notes.append(f"inference_precision {', '.join(dropped)} dropped: the device does not offer it")
    if values and not kept:
        raise ConfigError(
            f"target genes.inference_precision: the device offers {', '.join(sorted(facts.device_precisions))}, "
            f"the target allows {', '.join(values)}"
        )
    return _labelled(kept)
