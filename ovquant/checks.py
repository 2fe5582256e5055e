"""A few inputs and outputs of a model, kept in its package so that others can tell whether it still does the same there."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ovquant.errors import OutputError, first_line
from ovquant.protocols import Array, Sample

CHECKS_FILE = "checks.npz"
N_ITEMS = 4
# Outputs may differ between machines by how their kernels round. They are to differ by less than half of what quantization
# itself changed, which is what the model was accepted with; the floor is for models that quantization hardly changes.
_SHARE = 0.5
_FLOOR = 1e-3


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Checks:
    """Items with what came out.

    Attributes:
        inputs: of each item, by the names of the model's inputs.
        outputs: of the model as deployed, on the machine that it was measured on.
        limits: output name -> largest relative error that is let pass, see `relative_errors`.
    """

    inputs: tuple[Sample, ...]
    outputs: tuple[Mapping[str, Array], ...]
    limits: Mapping[str, float]

    def to_bytes(self) -> bytes:
        """Return them as an ``.npz``: ``inputs/N/NAME``, ``outputs/N/NAME``, ``limits/NAME``."""
        arrays: dict[str, Any] = {}
        for group, items in (("inputs", self.inputs), ("outputs", self.outputs)):
            arrays |= {f"{group}/{index}/{name}": array for index, item in enumerate(items) for name, array in item.items()}
        arrays |= {f"limits/{name}": np.float64(limit) for name, limit in self.limits.items()}
        stream = io.BytesIO()
        np.savez(stream, **arrays)
        return stream.getvalue()


def from_bytes(content: bytes, where: str) -> Checks:
    """Return what `Checks.to_bytes` wrote; nothing in it is run.

    Raises:
        OutputError: it is something else.
    """
    groups: dict[str, dict[int, dict[str, Array]]] = {"inputs": {}, "outputs": {}}
    limits = {}
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            for key in arrays.files:
                group, _, rest = key.partition("/")
                if group == "limits":
                    limits[rest] = float(arrays[key])
                    continue
                index, _, name = rest.partition("/")
                groups[group].setdefault(int(index), {})[name] = arrays[key]
    except Exception as error:
        raise OutputError(f"{where}: {CHECKS_FILE} cannot be read: {first_line(error)}") from error
    inputs, outputs = (tuple(items[index] for index in sorted(items)) for items in groups.values())
    if len(inputs) != len(outputs) or not inputs or any(set(limits) != set(output) for output in outputs):
        raise OutputError(f"{where}: {CHECKS_FILE} is not whole: {len(inputs)} inputs, {len(outputs)} outputs")
    return Checks(inputs=inputs, outputs=outputs, limits=limits)


def checks_from(
    inputs: Sequence[Sample], floats: Sequence[Mapping[str, Array]], outputs: Sequence[Mapping[str, Array]]
) -> Checks:
    """Return items with the outputs of the model, and limits from what quantization changed.

    Args:
        inputs: of each item.
        floats: outputs of the float model at f32 on them.
        outputs: of the quantized model as deployed.
    """
    limits = {name: max(_FLOOR, _SHARE * error) for name, error in relative_errors(floats, outputs).items()}
    return Checks(inputs=tuple(inputs), outputs=tuple(outputs), limits=limits)


def relative_errors(expected: Sequence[Mapping[str, Array]], found: Sequence[Mapping[str, Array]]) -> dict[str, float]:
    """Return output name -> root of the squared differences over all items, relative to that of the squared expected values.

    An output of another shape, a missing one and one that is not finite are infinitely far.
    """
    errors = {}
    for name in expected[0]:
        squares, total = 0.0, 0.0
        for theirs, ours in zip(expected, found, strict=True):
            wanted = np.asarray(theirs[name], dtype=np.float64)
            got = np.asarray(ours.get(name, np.nan), dtype=np.float64)
            if wanted.shape != got.shape or not np.isfinite(got).all():
                squares = np.inf
                break
            squares += float(np.sum((wanted - got) ** 2))
            total += float(np.sum(wanted**2))
        errors[name] = float(np.sqrt(squares / total)) if total > 0 else float(np.sqrt(squares))
    return errors
