"""Models measured on the machine at hand. Sent to other machines as it is: needs openvino and numpy and nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovquant import audit
from ovquant.structure import structure_key
from ovquant.turns import SystemClock, Turns, measure

if TYPE_CHECKING:
    from ovquant.audit import Audit
    from ovquant.inference import CompiledModel
    from ovquant.protocols import Sample
    from ovquant.strategy import InferencePrecision
    from ovquant.targets import MeasurementPlan


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A model that is to be measured.

    Attributes:
        path: of its file.
        model: read from there, an `openvino.Model`.
        precision: that it is run in; None leaves that to the compile properties.
        compiled: for the machine at hand; None where another one measures it.
    """

    path: Path
    model: Any
    precision: InferencePrecision | None
    compiled: CompiledModel | None = None


class LocalMeter:
    """Measures on a device of this machine."""

    is_here = True

    def __init__(self, device: str, properties: Mapping[str, Any], sample: Callable[[], Sample]) -> None:
        """Keep what is needed.

        Args:
            device: OpenVINO device.
            properties: that models are compiled with.
            sample: returns the one that models are run on.
        """
        self._device = device
        self._properties = properties
        self._sample = sample

    def precision(self, model: Ready) -> InferencePrecision:
        """Return the float precision that a model is run in."""
        return _compiled(model).precision

    def structure(self, model: Ready) -> str:
        """Return the key of the kernels that run, see `ovquant.structure`."""
        compiled, sample = _compiled(model), self._sample()
        compiled.infer(sample)  # with dynamic shapes, kernels are chosen by the first inference
        return structure_key(
            model.model,
            compiled.compiled,
            device=self._device,
            properties=self._properties,
            input_shapes={name: array.shape for name, array in sample.items()},
        )

    def turns(self, models: Sequence[Ready], plan: MeasurementPlan) -> tuple[Turns, list[int]]:
        """Return what was measured of models in turns, each called by its place, and the inference threads of each."""
        compiled, sample = [_compiled(model) for model in models], self._sample()
        runners = {str(index): model.runner(sample) for index, model in enumerate(compiled)}
        return measure(runners, plan, SystemClock()), [model.n_threads for model in compiled]

    def audits(self, models: Sequence[Ready]) -> tuple[Audit, ...]:
        """Return the kernels of models that are run in turns, all of them in the precision of the first."""
        properties = dict(self._properties)
        if models[0].precision is not None:
            properties["INFERENCE_PRECISION_HINT"] = models[0].precision
        return tuple(audit.audits([model.model for model in models], self._device, properties, self._sample()))

    def close(self) -> None:
        """Hold nothing."""


def _compiled(model: Ready) -> CompiledModel:
    if model.compiled is None:
        raise ValueError("not compiled")
    return model.compiled
