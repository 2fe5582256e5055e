"""Which layers the loss of quantization comes from: what leaving each of them in float would save, and groups of them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ovquant.errors import ModelError
from ovquant.inference import CompiledModel
from ovquant.job import OutputKind
from ovquant.metrics import divergence, intervals
from ovquant.operations import Operation
from ovquant.places import places
from ovquant.protocols import Array, Sample
from ovquant.records import Interval
from ovquant.roles import ROLES
from ovquant.switches import SWITCHES, Switched

LEAST_ITEMS = 8
MOST_ITEMS = 64
_SECONDS = 40.0


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


class _Runs:
    """The switched model on some samples, compared with itself with everything switched off."""

    def __init__(
        self, switched: Switched, compiled: CompiledModel, samples: Sequence[Sample], kinds: Mapping[str, OutputKind]
    ) -> None:
        self._switched, self._compiled, self._samples, self._kinds = switched, compiled, samples, kinds
        self._reference = self.outputs(frozenset(switched.layers))

    def outputs(self, left_out: frozenset[str]) -> dict[str, list[Array]]:
        """Return the outputs of all samples with some layers in float."""
        switches = np.array([name not in left_out for name in self._switched.layers])
        columns: dict[str, list[Array]] = {name: [] for name in self._kinds}
        for outputs in self._compiled.infer_many({**sample, SWITCHES: switches} for sample in self._samples):
            for name, column in columns.items():
                if outputs[name].dtype.kind == "f" and not np.isfinite(outputs[name]).all():
                    raise ModelError(f"with quantized layers, output {name!r} holds NaN or infinity")
                column.append(outputs[name])
        return columns

    def divergences(self, left_out: Sequence[str] = ()) -> NDArray[np.float64]:
        """Return the divergence of each sample with some layers in float."""
        return divergence.per_item(self._reference, self.outputs(frozenset(left_out)), self._kinds)


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
        samples: to run on, in order; not those that candidates are selected on.
        kinds: how outputs are read.
        clock: seconds.

    Raises:
        ModelError: outputs are not finite, or inference fails.
    """
    types = {operation.name: operation.type for operation in operations}
    found = places(tuple(operations))
    single = {place: (name,) for name in switched.layers if (place := found.place_of(name)) is not None}
    groups = _groups(switched.layers, operations)
    n_items = _n_items(switched, compiled, samples, kinds, len(single) + len(groups) + 2, clock)
    runs = _Runs(switched, compiled, samples[:n_items], kinds)
    whole = runs.divergences()

    def ranked(members: Mapping[str, tuple[str, ...]], *, is_group: bool) -> tuple[Sensitivity, ...]:
        each = [
            Sensitivity(
                place=place,
                names=names,
                type="" if is_group else types[names[0]],
                saved=intervals.mean(whole - runs.divergences(names)),
            )
            for place, names in members.items()
        ]
        return tuple(sorted(each, key=lambda one: -one.saved.value))

    return Ranking(
        n_items=len(whole),
        all_quantized=intervals.mean(whole),
        layers=ranked(single, is_group=False),
        groups=ranked(groups, is_group=True),
    )


def _n_items(
    switched: Switched,
    compiled: CompiledModel,
    samples: Sequence[Sample],
    kinds: Mapping[str, OutputKind],
    n_runs: int,
    clock: Callable[[], float],
) -> int:
    """Return how many samples there is time for, by what the first ones take."""
    few = samples[:LEAST_ITEMS]
    runs = _Runs(switched, compiled, few, kinds)
    start = clock()
    runs.outputs(frozenset())
    each_s = max(clock() - start, 1e-6) / len(few)
    return int(np.clip(_SECONDS / (n_runs * each_s), LEAST_ITEMS, MOST_ITEMS))


def _groups(layers: Sequence[str], operations: Sequence[Operation]) -> dict[str, tuple[str, ...]]:
    """Return groups of at least two layers by type, role and block, none twice and none with all layers."""
    types = {operation.name: operation.type for operation in operations}
    sets: dict[str, set[str]] = {
        kind: {n for n in layers if types[n] == kind} for kind in dict.fromkeys(types[n] for n in layers)
    }
    sets |= {role: ROLES[role](operations) for role in ROLES}
    sets |= {f"block[{index}]": set(names) for index, names in enumerate(places(tuple(operations)).members("block"))}
    found: dict[str, tuple[str, ...]] = {}
    for name, members in sets.items():
        held = tuple(layer for layer in layers if layer in members)
        if 1 < len(held) < len(layers) and held not in found.values():
            found[name] = held
    return found
