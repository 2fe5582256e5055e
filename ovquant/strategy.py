"""A quantization strategy in NNCF's own words, its canonical form and its digest."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from ovquant.configfile import FileModel
from ovquant.selectors import NO_SCOPE, ScopeSelector

Preset: TypeAlias = Literal["performance", "mixed"]
ModelType: TypeAlias = Literal["transformer"]
OverflowFix: TypeAlias = Literal["enable", "first_layer_only", "disable"]
RangeEstimator: TypeAlias = Literal[
    "MINMAX", "MEAN_MINMAX", "MEDIAN_MINMAX", "MEAN_NO_OUTLIERS_MINMAX", "MEAN_QUANTILE", "HISTOGRAM"
]
# Weights are one sample: what averages over samples gives the same for them as MINMAX, NNCF's default.
WeightsRangeEstimator: TypeAlias = Literal["MINMAX", "MEAN_QUANTILE"]
PropagationRule: TypeAlias = Literal[
    "DO_NOT_MERGE_BRANCHES", "MERGE_IF_ALL_BRANCHES_SAME", "MERGE_WITH_POTENTIAL_REQUANTIZATION", "MERGE_ALL_IN_ONE"
]
InferencePrecision: TypeAlias = Literal["f32", "bf16", "f16"]
NncfTargetDevice: TypeAlias = Literal["ANY", "CPU", "GPU", "NPU", "CPU_SPR"]

# Defaults of `nncf.quantize`, NNCF 3.4 (nncf.quantization.advanced_parameters, algorithms.min_max).
DEFAULT_SUBSET_SIZE = 300
DEFAULT_OVERFLOW_FIX: OverflowFix = "first_layer_only"
DEFAULT_WEIGHTS_RANGE_ESTIMATOR: WeightsRangeEstimator = "MINMAX"
DEFAULT_PROPAGATION_RULE: PropagationRule = "MERGE_ALL_IN_ONE"
DEFAULT_ALPHA_MATMUL = 0.95
DEFAULT_ALPHA_CONVOLUTION = -1.0
# Attributes that came after the first digests, with the value at which they are left out, so that digests stay the same.
_LATER = {
    "weights_range_estimator": DEFAULT_WEIGHTS_RANGE_ESTIMATOR,
    "activations_per_channel": None,
    "disable_channel_alignment": True,
    "quantizer_propagation_rule": DEFAULT_PROPAGATION_RULE,
}
_DESCRIBED_APART = frozenset({"model_type", "inference_precision"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """Arguments of one `nncf.quantize` call, and the precision that the result is run with.

    Attributes:
        preset: None is NNCF's default: ``mixed`` for transformers, else ``performance``.
        model_type: ``transformer`` or None.
        subset_size: number of calibration samples.
        fast_bias_correction: False selects the accurate and slow algorithm.
        disable_bias_correction: True skips bias correction altogether.
        ignored_scope: operations left in float.
        overflow_fix: None is NNCF's default.
        activations_range_estimator: name in ``nncf.quantization.range_estimator.RangeEstimatorParametersSet``;
            None is NNCF's default.
        weights_range_estimator: likewise, for weights.
        activations_per_channel: None lets NNCF quantize inputs of depthwise convolutions per channel, which it allows for no
            other; False has it quantize all activations per tensor.
        disable_channel_alignment: False balances the channels of convolutions that follow each other.
        quantizer_propagation_rule: how quantizers of branches are merged, a name in
            ``nncf.quantization.advanced_parameters.QuantizerPropagationRule``; None is NNCF's default.
        smooth_quant_alpha_matmul: in 0..1, negative switches it off. Has an effect on transformers only.
        smooth_quant_alpha_convolution: likewise.
        inference_precision: the compile property ``INFERENCE_PRECISION_HINT`` of the quantized model.
        target_device: NNCF target device.
    """

    preset: Preset | None = None
    model_type: ModelType | None = None
    subset_size: int = DEFAULT_SUBSET_SIZE
    fast_bias_correction: bool = True
    disable_bias_correction: bool = False
    ignored_scope: ScopeSelector = NO_SCOPE
    overflow_fix: OverflowFix | None = None
    activations_range_estimator: RangeEstimator | None = None
    weights_range_estimator: WeightsRangeEstimator | None = None
    activations_per_channel: Literal[False] | None = None
    disable_channel_alignment: bool = True
    quantizer_propagation_rule: PropagationRule | None = None
    smooth_quant_alpha_matmul: float = DEFAULT_ALPHA_MATMUL
    smooth_quant_alpha_convolution: float = DEFAULT_ALPHA_CONVOLUTION
    inference_precision: InferencePrecision = "f32"
    target_device: NncfTargetDevice = "ANY"

    def canonical(self) -> Strategy:
        """Return the representative of all strategies that give the same model.

        Genes without effect collapse to NNCF's default: fast bias correction where bias correction is off, SmoothQuant
        where the model type is not transformer (nncf create_ptq_pipeline), negative alphas to -1, and defaults that
        NNCF resolves itself (preset, overflow fix, ...) to what it resolves them to. For 8 bits NNCF treats GPU and NPU as
        CPU, and ANY like CPU.
        """
        is_transformer = self.model_type == "transformer"
        preset: Preset = self.preset or ("mixed" if is_transformer else "performance")
        return dataclasses.replace(
            self,
            preset=preset,
            fast_bias_correction=self.fast_bias_correction or self.disable_bias_correction,
            ignored_scope=self.ignored_scope.canonical(),
            overflow_fix=self.overflow_fix or DEFAULT_OVERFLOW_FIX,
            weights_range_estimator=self.weights_range_estimator or DEFAULT_WEIGHTS_RANGE_ESTIMATOR,
            quantizer_propagation_rule=self.quantizer_propagation_rule or DEFAULT_PROPAGATION_RULE,
            smooth_quant_alpha_matmul=_alpha(self.smooth_quant_alpha_matmul) if is_transformer else DEFAULT_ALPHA_MATMUL,
            smooth_quant_alpha_convolution=(
                _alpha(self.smooth_quant_alpha_convolution) if is_transformer else DEFAULT_ALPHA_CONVOLUTION
            ),
            target_device="CPU_SPR" if self.target_device == "CPU_SPR" else "ANY",
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the strategy as plain JSON values, one key per attribute."""
        content = dataclasses.asdict(self)
        content["ignored_scope"] = self.ignored_scope.model_dump(mode="json", exclude_defaults=True)
        return content

    @property
    def digest(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of the canonical form; equal for equal models."""
        content = self.canonical().as_dict()
        content = {name: value for name, value in content.items() if name not in _LATER or value != _LATER[name]}
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def model_digest(self) -> str:
        """The digest of what makes the model, which the precision that it is run with does not."""
        return dataclasses.replace(self, inference_precision="f32").digest

    def describe(self) -> str:
        """Return what differs from NNCF's default, for people: ``model_type=transformer, subset_size=100; bf16``."""
        mine, default = self.canonical(), Strategy(model_type=self.model_type).canonical()
        parts = [] if self.model_type is None else [f"model_type={self.model_type}"]
        for field in dataclasses.fields(Strategy):
            value = getattr(mine, field.name)
            if field.name in _DESCRIBED_APART or value == getattr(default, field.name):
                continue
            if isinstance(value, ScopeSelector):
                value = "+".join([*value.roles, *value.types, *value.places, *value.patterns, *value.names])
            elif isinstance(value, float):
                value = f"{value:g}"
            parts.append(f"{field.name}={value}")
        return f"{', '.join(parts) or 'NNCF default'}; {self.inference_precision}"


class StrategySpec(FileModel):
    """A `Strategy` as a file holds it."""

    preset: Preset | None = None
    model_type: ModelType | None = None
    subset_size: Annotated[int, Field(ge=1)]
    fast_bias_correction: bool = True
    disable_bias_correction: bool = False
    ignored_scope: ScopeSelector = ScopeSelector()
    overflow_fix: OverflowFix | None = None
    activations_range_estimator: RangeEstimator | None = None
    weights_range_estimator: WeightsRangeEstimator | None = None
    activations_per_channel: Literal[False] | None = None
    disable_channel_alignment: bool = True
    quantizer_propagation_rule: PropagationRule | None = None
    smooth_quant_alpha_matmul: Annotated[float, Field(ge=-1, le=1)]
    smooth_quant_alpha_convolution: Annotated[float, Field(ge=-1, le=1)]
    inference_precision: InferencePrecision
    target_device: NncfTargetDevice

    def strategy(self) -> Strategy:
        """Return the strategy."""
        return Strategy(**{name: getattr(self, name) for name in type(self).model_fields})


def _alpha(value: float) -> float:
    return abs(float(value)) if value >= 0 else -1.0  # abs: minus zero is zero
