"""Recipes: a strategy with all that replays it on the same or a similar model, without a search."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from ovquant.configfile import FileModel
from ovquant.job import DataSpec, Preprocessing, Source
from ovquant.strategy import (
    InferencePrecision,
    ModelType,
    NncfTargetDevice,
    OverflowFix,
    Preset,
    RangeEstimator,
    ScopeSelector,
    Strategy,
)


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
    smooth_quant_alpha_matmul: Annotated[float, Field(ge=-1, le=1)]
    smooth_quant_alpha_convolution: Annotated[float, Field(ge=-1, le=1)]
    inference_precision: InferencePrecision
    target_device: NncfTargetDevice

    def strategy(self) -> Strategy:
        """Return the strategy."""
        return Strategy(**{name: getattr(self, name) for name in type(self).model_fields})


class CalibrationSpec(FileModel):
    """Which items of a data set calibration takes.

    Attributes:
        has_own_source: calibration had a source of its own, and that is what ``--data`` names when the recipe is replayed.
        items: how many are set aside; None is the default of the data section.
        seed: of the choice.
        preprocessing, inputs, class_names, arguments: as in the data section of the job.
    """

    has_own_source: bool
    items: Annotated[int, Field(ge=1)] | None = None
    seed: int
    preprocessing: Preprocessing = Preprocessing()
    inputs: dict[str, str] | None = None
    class_names: tuple[str, ...] | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)

    def data(self, path: str) -> DataSpec:
        """Return the data section that calibrates on `path` as the recipe did."""
        return DataSpec(
            path=path,
            calibration=Source(path=path, inputs=self.inputs) if self.has_own_source else None,
            inputs=self.inputs,
            calibration_items=self.items,
            preprocessing=self.preprocessing,
            class_names=self.class_names,
            arguments=self.arguments,
        )


class Made(FileModel):
    """What the recipe was found with; for comparison only."""

    model_sha256: str
    graph_digest: str
    versions: dict[str, str]


class Recipe(FileModel):
    """The file."""

    version: Literal[1]
    strategy: StrategySpec
    device: str
    compile_properties: dict[str, str | int | float | bool]
    calibration: CalibrationSpec
    made: Made


def recipe_from(
    strategy: Strategy, *, device: str, compile_properties: dict[str, Any], data: DataSpec, seed: int, made: Made
) -> Recipe:
    """Return the recipe of a strategy.

    Args:
        strategy: to replay.
        device: OpenVINO device.
        compile_properties: of the profile; the strategy's inference precision goes over them.
        data: section of the job.
        seed: of the job.
        made: what it was found with.
    """
    own = data.calibration
    return Recipe(
        version=1,
        strategy=StrategySpec.model_validate(strategy.as_dict()),
        device=device,
        compile_properties={**compile_properties, "INFERENCE_PRECISION_HINT": strategy.inference_precision},
        calibration=CalibrationSpec(
            has_own_source=own is not None,
            items=data.calibration_items,
            seed=seed,
            preprocessing=data.preprocessing,
            inputs=own.inputs if own is not None else data.inputs,
            class_names=data.class_names,
            arguments=data.arguments,
        ),
        made=made,
    )
