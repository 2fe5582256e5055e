"""What there is to know of a model before a search: where quantization loses, and what runs in which precision."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ovquant import runtime
from ovquant.audit import Audit, same_operations
from ovquant.choices import nncf_default
from ovquant.environment import SUMS_IN_32_BITS
from ovquant.errors import ModelError, OvquantError, first_line
from ovquant.evaluation import Workbench
from ovquant.inference import CompiledModel
from ovquant.metering import Ready
from ovquant.records import Subject
from ovquant.saturation import Saturation, saturations
from ovquant.sensitivity import MOST_ITEMS, Ranking, rank
from ovquant.switches import switched

WORTH_TELLING = 0.01  # share of the time


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What was found of one model on one target.

    Attributes:
        ranking: of its layers.
        floats: what is run of the float model, at the target's own precision; None where the device has no profile.
        quantized: what is run of NNCF's default, likewise.
        saturation: what saturates in NNCF's default on a CPU without VNNI, likewise on calibration items; None where neither the
            device nor the target is one.
    """

    ranking: Ranking
    floats: Audit | None
    quantized: Audit | None
    saturation: tuple[Saturation, ...] | None = None

    def slowed(self) -> list[tuple[tuple[str, ...], float]]:
        """Return the places of layers that take longer in NNCF's default than in float, and by how many microseconds.

        Kernels are compared as far as they are of the same operations: what is one kernel in one model may be several in the
        other. A difference that is smaller than what the times scatter by does not count. The largest comes first.
        """
        if self.floats is None or self.quantized is None:
            return []
        place_by_name = {name: layer.place for layer in self.ranking.layers for name in layer.names}
        found = []
        for floats, quantized in same_operations(self.floats, self.quantized):
            slower_us = sum(k.time_us for k in quantized) - sum(k.time_us for k in floats)
            spread_us = sum(k.spread_us for k in (*floats, *quantized))
            names = dict.fromkeys(origin for kernel in quantized for origin in kernel.origins)
            layers = tuple(place_by_name[name] for name in names if name in place_by_name)
            if layers and floats and slower_us > max(spread_us, WORTH_TELLING * self.quantized.total_us):
                found.append((layers, slower_us))
        return sorted(found, key=lambda pair: -pair[1])

    def promising(self) -> tuple[str, ...]:
        """Return the places of the layers that may be better off in float, those of the most promise first.

        Promise is the share of all divergence that a layer would save, and the share of the time that it is slowed down by,
        divided among the layers that run in the same kernels.
        """
        whole = max(self.ranking.all_quantized.value, 1e-12)
        promise = {layer.place: max(layer.saved.value, 0.0) / whole for layer in self.ranking.layers}
        for layers, slower_us in self.slowed():
            for place in layers:
                promise[place] += slower_us / len(layers) / (self.quantized.total_us if self.quantized is not None else 1.0)
        return tuple(sorted((place for place in promise if promise[place] > 0), key=lambda place: -promise[place]))


_INSPECTION = TypeAdapter(Inspection)


def inspect(workbench: Workbench) -> Inspection:
    """Rank the layers of a job's model on calibration items and simulate saturation, on the CPU, and profile it on the device.

    Raises:
        ModelError: NNCF's default cannot be made, or its layers are not found in the float model.
        OvquantError: model or data have other faults.
    """
    target, facts = workbench.spec.target, workbench.facts()
    uncorrected = dataclasses.replace(nncf_default(target, facts), disable_bias_correction=True).canonical()
    kinds = workbench.output_kinds()
    try:
        path = workbench.build(uncorrected)
        quantized = runtime.read_model(path)
        model = switched(workbench.model, quantized)
        compiled = CompiledModel(model.model, "CPU", {"PERFORMANCE_HINT": "THROUGHPUT"}, "f32")
        items = list(workbench.samples.samples("calibration", MOST_ITEMS))
        ranking = rank(model, compiled, workbench.operations, items, kinds)
        is_without_vnni = facts.may_saturate or bool(SUMS_IN_32_BITS & set(target.requirements.cpu_flags_none))
        saturation = saturations(quantized, workbench.operations, items) if is_without_vnni else None
    except OvquantError:
        raise
    except Exception as error:
        raise ModelError(f"{workbench.spec.model}: its layers cannot be ranked: {first_line(error)}") from error
    floats: Audit | None = None
    run: Audit | None = None
    # Biases change no kernel.
    with contextlib.suppress(RuntimeError):
        models = {Path(workbench.spec.model): workbench.model, path: quantized}
        floats, run = workbench.meter.audits([Ready(path=at, model=model, precision=None) for at, model in models.items()])
    return Inspection(ranking=ranking, floats=floats, quantized=run, saturation=saturation)


def stored(path: Path, made_of: dict[str, Any]) -> Inspection | None:
    """Return what was written of the same things; None if there is nothing that can be read."""
    try:
        content = json.loads(path.read_text())
        return _INSPECTION.validate_python(content["inspection"]) if content["made_of"] == made_of else None
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None


def read(path: Path) -> Inspection | None:
    """Return what a search wrote, whatever it was made of; None if there is nothing that can be read."""
    try:
        return _INSPECTION.validate_python(json.loads(path.read_text())["inspection"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None


def profile(workbench: Workbench, subjects: Sequence[Subject]) -> tuple[Audit, ...] | None:
    """Return what is run of each model on the target's device, at the precision it is measured with, on a validation item.

    Models run one after the other, so that their times may differ by what the machine does meanwhile.

    Returns:
        One audit per model; None where the device has no profile of its kernels.
    """
    found: list[Audit] = []
    with contextlib.suppress(RuntimeError):
        for subject in subjects:
            path = workbench.build(subject)
            model = Ready(path=path, model=runtime.read_model(path), precision=subject.inference_precision)
            found.extend(workbench.meter.audits([model]))
        return tuple(found)
    return None


def to_json(inspection: Inspection) -> dict[str, Any]:
    """Return an inspection as JSON values."""
    found: dict[str, Any] = _INSPECTION.dump_python(inspection, mode="json")
    return found
