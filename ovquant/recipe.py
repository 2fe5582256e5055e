"""Recipes: a strategy with all that replays it on the same or a similar model, without a search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from ovquant.configfile import FileModel
from ovquant.datasets.readers import Part
from ovquant.job import DataSpec, Preprocessing
from ovquant.selectors import ScopeSelector
from ovquant.strategy import (
    InferencePrecision,
    ModelType,
    NncfTargetDevice,
    OverflowFix,
    Preset,
    PropagationRule,
    RangeEstimator,
    Strategy,
    WeightsRangeEstimator,
)
from ovquant.targets import Target


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


class CalibrationSpec(FileModel):
    """Which items of a data set calibration takes, and how they are read.

    Attributes:
        has_own_source: calibration had a source of its own, and that is what ``--data`` names when the recipe is replayed.
        items: indices in the source, in the order they are used; of them the first `subset_size` count.
        preprocessing: as in the data section of the job.
        inputs: likewise.
        class_names: likewise.
        arguments: likewise.
    """

    has_own_source: bool
    items: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    preprocessing: Preprocessing = Preprocessing()
    inputs: dict[str, str] | None = None
    class_names: tuple[str, ...] | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)

    @property
    def part(self) -> Part:
        """What the source is to be opened as."""
        return "calibration" if self.has_own_source else "main"

    def data(self, path: str) -> DataSpec:
        """Return the data section of the source at `path`."""
        return DataSpec(
            path=path,
            inputs=self.inputs,
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
    notes: tuple[str, ...] = ()


def recipe_from(
    strategy: Strategy,
    *,
    target: Target,
    data: DataSpec,
    calibration: Sequence[tuple[Part, int]],
    made: Made,
    notes: Sequence[str] = (),
) -> Recipe:
    """Return the recipe of a strategy.

    Args:
        strategy: to replay.
        target: profile. Its own precision hint stays where a dry run on another device could only guess it.
        data: section of the job.
        calibration: the items that were set aside, in order.
        made: what it was found with.
        notes: what must be said beside the results.
    """
    used = calibration[: strategy.subset_size]
    own = data.calibration
    is_precision_known = target.genes.inference_precision is not None or not notes
    precision = {"INFERENCE_PRECISION_HINT": strategy.inference_precision} if is_precision_known else {}
    return Recipe(
        version=1,
        strategy=StrategySpec.model_validate(strategy.as_dict()),
        device=target.device,
        compile_properties={**target.compile_properties, **precision},
        calibration=CalibrationSpec(
            has_own_source=used[0][0] == "calibration",
            items=tuple(index for _, index in used),
            preprocessing=data.preprocessing,
            inputs=own.inputs if own is not None else data.inputs,
            class_names=data.class_names,
            arguments=data.arguments,
        ),
        made=made,
        notes=tuple(notes),
    )
