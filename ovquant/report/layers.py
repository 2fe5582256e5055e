"""The winner layer by layer: what the device runs of it, next to the float model, and what each layer would save in float."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from ovquant.audit import Audit, Kernel, same_operations
from ovquant.records import Interval
from ovquant.sensitivity import Ranking


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Kernels of both models that are made of the same operations.

    Attributes:
        names: of these operations, those that kernels are called by first.
        kinds: types of the winner's kernels (of the float model's, where the winner has none).
        float_us: microseconds of the float model's kernels; None where it has none of its own.
        float_precisions: of what they take in.
        us: microseconds of the winner's kernels; None likewise.
        precisions: of what they take in.
        saved: by how much leaving this layer alone in float would lower the divergence; None where it was not looked into.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    float_us: float | None
    float_precisions: tuple[str, ...]
    us: float | None
    precisions: tuple[str, ...]
    saved: Interval | None


def layers(floats: Audit, winner: Audit, ranking: Ranking | None) -> list[Layer]:
    """Return the layers, those first that the winner spends the most time in.

    Args:
        floats: what is run of the float model.
        winner: likewise.
        ranking: of layers by sensitivity, None where there is none.
    """
    saved = {} if ranking is None else {name: one.saved for one in ranking.layers for name in one.names}
    found = [_layer(mine, theirs, saved) for theirs, mine in same_operations(floats, winner)]
    return sorted(found, key=lambda layer: (-(layer.us or 0.0), -(layer.float_us or 0.0)))


def _layer(mine: Sequence[Kernel], theirs: Sequence[Kernel], saved: Mapping[str, Interval]) -> Layer:
    kernels = mine or theirs
    called = {kernel.name for kernel in kernels}
    names = sorted(dict.fromkeys(origin for kernel in kernels for origin in kernel.origins), key=lambda name: name not in called)
    known = [saved[name] for name in names if name in saved]
    return Layer(
        names=tuple(names),
        kinds=tuple(dict.fromkeys(kernel.kind for kernel in kernels)),
        float_us=sum(kernel.time_us for kernel in theirs) if theirs else None,
        float_precisions=tuple(dict.fromkeys(kernel.precision for kernel in theirs)),
        us=sum(kernel.time_us for kernel in mine) if mine else None,
        precisions=tuple(dict.fromkeys(kernel.precision for kernel in mine)),
        saved=max(known, key=lambda interval: interval.value, default=None),
    )
