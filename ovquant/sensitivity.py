"""Which layers the loss of quantization comes from: what leaving each of them in float would save, and groups of them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ovquant.inference import CompiledModel
from ovquant.job import OutputKind
from ovquant.metrics import divergence, intervals
from ovquant.operations import Operation
from ovquant.places import Places
from ovquant.protocols import Array, Sample
from ovquant.records import Interval
from ovquant.roles import ROLES
from ovquant.switches import SWITCHES, Switched

if TYPE_CHECKING:
    from collections.abc import Callable

LEAST_ITEMS = 8
_MOST_ITEMS = 64
_SECONDS = 20.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """What leaving something in float saves where all else is quantized.

    Attributes:
        place: what it is: a place, a role, a type or a block.
        names: of its operations that are quantized.
        type: of the operation, empty for a group of several types.
        saved: divergence of the model with all quantized less that of the model with all but this; nats per item.
    """

    place: str
    names: tuple[str, ...]
    type: str
    saved: Interval


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Layers and groups by what they would save, the most first.

    Attributes:
        n_items: samples that divergences are means over.
        all_quantized: divergence from the float model with all layers quantized by NNCF's default, without bias correction.
        layers: single operations.
        groups: operations that belong together.
    """

    n_items: int
    all_quantized: Interval
    layers: tuple[Sensitivity, ...]
    groups: tuple[Sensitivity, ...]


def rank(
    switched: Switched,
    compiled: CompiledModel,
    operations: Sequence[Operation],
    samples: Sequence[Sample],
    kinds: Mapping[str, OutputKind],
    clock: Callable[[], float] = time.perf_counter,
) -> Ranking:
    """Return the ranking; all models run on the same samples, as many as there is time for.

    Args:
        switched: the model.
        compiled: likewise, at f32.
        operations: of the float model.
        samples: to run on; not those that candidates are selected on.
        kinds: how outputs are read.
        clock: seconds.
    """
    groups = _groups(switched.layers, operations)
    places = Places(operations)
    types = {operation.name: operation.type for operation in operations}
    single = {places.place_of(name): (name,) for name in switched.layers}
    n_runs = len(single) + len(groups) + 2
    list(_outputs(compiled, switched, samples[:1], ()))
    start = clock()
    list(_outputs(compiled, switched, samples[:LEAST_ITEMS], ()))
    each_s = max(clock() - start, 1e-6) / min(LEAST_ITEMS, len(samples))
    chosen = samples[: int(np.clip(_SECONDS / (n_runs * each_s), LEAST_ITEMS, _MOST_ITEMS))]

    def divergences(left_out: Sequence[str] | None) -> NDArray[np.float64]:
        run = {name: [] for name in kinds}  # type: dict[str, list[Array]]
        for outputs in _outputs(compiled, switched, chosen, left_out):
            for name in kinds:
                run[name].append(outputs[name])
        reference.update(reference or run)
        return divergence.per_item(reference, run, kinds)

    reference: dict[str, list[Array]] = {}
    divergences(None)
    whole = divergences(())

    def ranked(members: Mapping[str, tuple[str, ...]], *, is_group: bool) -> tuple[Sensitivity, ...]:
        found = [
            Sensitivity(
                place=place,
                names=names,
                type="" if is_group else types[names[0]],
                saved=intervals.mean(whole - divergences(names)),
            )
            for place, names in members.items()
        ]
        return tuple(sorted(found, key=lambda one: -one.saved.value))

    return Ranking(
        n_items=len(chosen),
        all_quantized=intervals.mean(whole),
        layers=ranked(single, is_group=False),
        groups=ranked(groups, is_group=True),
    )


def _outputs(
    compiled: CompiledModel, switched: Switched, samples: Sequence[Sample], left_out: Sequence[str] | None
) -> Iterator[dict[str, Array]]:
    """Yield the outputs with all layers quantized but some, None for all."""
    switches = np.array([left_out is not None and name not in left_out for name in switched.layers])
    return compiled.infer_many({**sample, SWITCHES: switches} for sample in samples)


def _groups(layers: Sequence[str], operations: Sequence[Operation]) -> dict[str, tuple[str, ...]]:
    """Return groups of at least two layers by type, role and block, none twice and none with all layers."""
    types = {operation.name: operation.type for operation in operations}
    sets: dict[str, set[str]] = {
        kind: {n for n in layers if types[n] == kind} for kind in dict.fromkeys(map(types.get, layers)) if kind
    }
    sets |= {role: ROLES[role](operations) for role in ROLES}
    sets |= {f"block[{index}]": set(names) for index, names in enumerate(Places(operations).members("block"))}
    found: dict[str, tuple[str, ...]] = {}
    for name, members in sets.items():
        held = tuple(layer for layer in layers if layer in members)
        if 1 < len(held) < len(layers) and held not in found.values():
            found[name] = held
    return found
