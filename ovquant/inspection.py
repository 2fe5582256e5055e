"""What there is to know of a model before a search: where quantization loses, and what runs in which precision."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ovquant import runtime
from ovquant.audit import Audit, audit
from ovquant.errors import ModelError, first_line
from ovquant.evaluation import Workbench
from ovquant.inference import CompiledModel
from ovquant.sensitivity import Ranking, Sensitivity, rank
from ovquant.strategy import Strategy
from ovquant.switches import switched


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What was found of one model on one target.

    Attributes:
        ranking: of its layers.
        floats: what is run of the float model, at the target's own precision.
        quantized: what is run of NNCF's default, likewise.
    """

    ranking: Ranking
    floats: Audit
    quantized: Audit

    def slowed_us(self, layer: Sensitivity) -> float:
        """Return the microseconds that a layer takes more in NNCF's default than in float; below 0 if it is faster."""
        was, now = self.floats.of(layer.names[0]), self.quantized.of(layer.names[0])
        return 0.0 if was is None or now is None else now.time_us - was.time_us

    def promising(self) -> tuple[str, ...]:
        """Return the places of the layers that may be better off in float, those of the most promise first.

        Promise is the share of all divergence that it would save, and the share of the time if it is slowed down.
        """
        whole = max(self.ranking.all_quantized.value, 1e-12)
        total_us = max(self.quantized.total_us, 1e-9)
        promise = {
            layer.place: max(layer.saved.value, 0.0) / whole + max(self.slowed_us(layer), 0.0) / total_us
            for layer in self.ranking.layers
        }
        return tuple(sorted((place for place in promise if promise[place] > 0), key=lambda place: -promise[place]))


_INSPECTION = TypeAdapter(Inspection)


def inspect(workbench: Workbench) -> Inspection:
    """Rank the layers of a job's model on calibration items, and profile it.

    Raises:
        ModelError: NNCF's default cannot be made, its layers are not found in the float model, or the device has no profile.
    """
    calibration = list(workbench.samples.samples("calibration"))
    target = workbench.spec.target
    default = Strategy(subset_size=len(calibration), target_device=target.nncf_target_device).canonical()
    uncorrected = dataclasses.replace(default, disable_bias_correction=True)
    sample = workbench.samples.sample(workbench.samples.items("validation")[0])
    try:
        quantized = runtime.read_model(workbench.build(uncorrected))
        model = switched(workbench.model, quantized)
        compiled = CompiledModel(model.model, workbench.spec.device, {"PERFORMANCE_HINT": "THROUGHPUT"}, "f32")
        ranking = rank(model, compiled, workbench.operations, calibration, workbench.output_kinds())
        properties = target.compile_properties
        # Biases change no kernel.
        floats, run = (audit(one, workbench.spec.device, properties, sample) for one in (workbench.model, quantized))
    except Exception as error:
        raise ModelError(f"{workbench.spec.model}: its layers cannot be ranked: {first_line(error)}") from error
    return Inspection(ranking=ranking, floats=floats, quantized=run)


def stored(path: Path, made_of: dict[str, Any]) -> Inspection | None:
    """Return what was written of the same things; None if there is nothing that can be read."""
    try:
        content = json.loads(path.read_text())
        return _INSPECTION.validate_python(content["inspection"]) if content["made_of"] == made_of else None
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None


def to_json(inspection: Inspection) -> dict[str, Any]:
    """Return an inspection as JSON values."""
    found: dict[str, Any] = _INSPECTION.dump_python(inspection, mode="json")
    return found
