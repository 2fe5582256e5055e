"""Places: operations told by what they are and where they stand, such as ``depthwise[3]``, not by an exporter's names.

``KIND[INDEX]`` is one operation, ``KIND[START:STOP]`` several, counted from 0 at the model's inputs or from -1 at its outputs.
A kind is an OpenVINO type, a role (see `ovquant.roles`) or ``block``; ``KIND(2)`` counts only operations that join two
results, such as the sum of a residual connection, and ``KIND(1)`` only those that take one.

The order is one of structure: by the number of weighted layers before an operation, then by that of its own kind, then by
the sizes of weights, then by what lies around it, up to the third weighted layer away. Changes of shape and type do not
count, as they differ from export to export. What cannot be told apart by that keeps the model's own order.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from ovquant.operations import QUANTIZABLE_TYPES, Operation, computed, of_data
from ovquant.roles import ROLES
from ovquant.selectors import Place

_BLOCK = "block"
_JOINS = frozenset({"Add", "Concat"})
_CHANGING_FORM = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Transpose", "Convert", "Broadcast", "Flatten", "ConvertLike"})
_N_LAYERS_AROUND = 3


class Places:
    """The places of one model."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        """Find out where operations stand.

        Args:
            operations: of the model, in topological order.
        """
        self._all = operations
        self._computed = computed(operations)
        self._data = {operation.name: operation for operation in of_data(operations)}
        weighted = {operation.name for operation in operations if operation.type in QUANTIZABLE_TYPES}
        self._n_weighted = self._n_before(weighted)
        self._order = self._ordered()
        self._members: dict[tuple[str, int | None], list[tuple[str, ...]]] = {}

    def names(self, text: str) -> tuple[str, ...]:
        """Return the names of the operations at a place; none if the model has no such place.

        Raises:
            ValueError: the text is no place.
        """
        place = Place.of(text)
        members = self.members(place.kind, place.n_joined)
        if isinstance(place.index, int):
            is_there = -len(members) <= place.index < len(members)
            return members[place.index] if is_there else ()
        return tuple(name for names in members[place.index] for name in names)

    def members(self, kind: str, n_joined: int | None = None) -> list[tuple[str, ...]]:
        """Return the names at each index of a kind: one operation, or all of a block."""
        key = (kind, n_joined)
        if key not in self._members:
            self._members[key] = self._blocks() if kind == _BLOCK else self._sorted(kind, n_joined)
        return self._members[key]

    def place_of(self, name: str) -> str | None:
        """Return the place of an operation; None for constants.

        The kind is ``depthwise`` or a type, and tells sums of results from those of a result and a bias, and the like.
        """
        return self._place_by_name.get(name)

    @functools.cached_property
    def _place_by_name(self) -> dict[str, str]:
        found: dict[str, str] = {}
        joined: dict[str, set[int]] = {"depthwise": set()}
        for operation in self._computed:
            if operation.is_selectable:
                joined.setdefault(operation.type, set()).add(self._n_joined(operation))
        for kind, counts in joined.items():
            for count in sorted(counts) if len(counts) > 1 else (None,):
                for index, (name,) in enumerate(self.members(kind, count)):
                    found.setdefault(name, f"{kind}[{index}]" if count is None else f"{kind}({count})[{index}]")
        return found

    def _sorted(self, kind: str, n_joined: int | None) -> list[tuple[str, ...]]:
        named = (
            ROLES[kind](self._all) if kind in ROLES else {o.name for o in self._computed if o.type == kind and o.is_selectable}
        )
        chosen = {o.name for o in self._computed if o.name in named and n_joined in {None, self._n_joined(o)}}
        before = self._n_before(chosen)
        return [(name,) for name in sorted(chosen, key=lambda name: (self._n_weighted[name], before[name], *self._order[name]))]

    def _n_joined(self, operation: Operation) -> int:
        return len(set(operation.inputs) & self._data.keys())

    def _n_before(self, counted: set[str]) -> dict[str, int]:
        """Return for each operation how many counted ones lie on the longest way to it."""
        found: dict[str, int] = {}
        for operation in self._all:
            found[operation.name] = max(
                (found[name] + (name in counted) for name in operation.inputs if name in found), default=0
            )
        return found

    def _ordered(self) -> dict[str, tuple[Any, ...]]:
        """Return what decides on the order of operations that as many weighted ones, and of their own kind, precede."""
        users: dict[str, list[tuple[Operation, int]]] = {operation.name: [] for operation in self._computed}
        by_name = {operation.name: operation for operation in self._computed}
        for operation in self._computed:
            for port, name in enumerate(operation.inputs):
                if name in users:
                    users[name].append((operation, port))
        sources = {
            o.name: [(by_name[name], port) for port, name in enumerate(o.inputs) if name in by_name] for o in self._computed
        }
        around: list[Mapping[str, str]] = []
        ahead, behind = dict.fromkeys(by_name, ""), dict.fromkeys(by_name, "")
        for _ in range(_N_LAYERS_AROUND):
            ahead = _digests([*reversed(self._computed)], users, ahead)
            behind = _digests(self._computed, sources, behind)
            around += [ahead, behind]
        return {
            o.name: (_weights(o, by_name), *(digests[o.name] for digests in around), index)
            for index, o in enumerate(self._computed)
        }

    def _blocks(self) -> list[tuple[str, ...]]:
        """Return what lies between one sum or concatenation that all layers' results pass and the next, the second one included.

        Of operations in topological order, one is passed by all results if no connection leads over it, where the first layers
        are led to from the start and outputs lead to the end. What no weighted layer precedes, such as masks, is no result.
        """
        weighted = {name for name, operation in self._data.items() if operation.type in QUANTIZABLE_TYPES}
        results = [o for o in self._data.values() if o.name in weighted or self._n_weighted[o.name] > 0]
        position = {operation.name: index for index, operation in enumerate(results)}
        last_use = dict.fromkeys(position, -1)
        for operation in self._all:
            for name in set(operation.inputs) & position.keys():
                use = len(position) if operation.type == "Result" else position.get(operation.name, -1)
                last_use[name] = max(last_use[name], use)
        starts = {o.name for o in results if not set(o.inputs) & position.keys()}
        furthest = n_started = 0
        blocks: list[tuple[str, ...]] = []
        block: list[str] = []
        for operation in self._data.values():
            if operation.is_selectable:
                block.append(operation.name)
            if operation.name not in position:
                continue
            n_started += operation.name in starts
            is_passed = furthest <= position[operation.name] and n_started == len(starts)
            joined = set(operation.inputs) & position.keys()
            if is_passed and operation.type in _JOINS and len(joined) > 1 and weighted & set(block):
                blocks.append(tuple(block))
                block = []
            furthest = max(furthest, last_use[operation.name])
        return [*blocks, tuple(block)] if block else blocks


@functools.lru_cache(maxsize=4)
def places(operations: tuple[Operation, ...]) -> Places:
    """Return the places of a model; found once for equal operations."""
    return Places(operations)


def _weights(operation: Operation, results: Mapping[str, Operation]) -> tuple[int, ...]:
    """Return the sides of an operation's weights, sorted, as they may be stored transposed; none where it has none."""
    is_weighted = len(operation.inputs) > 1 and operation.inputs[1] not in results
    return tuple(sorted(operation.weights_shape)) if is_weighted else ()


def _digests(
    operations: Sequence[Operation], neighbours: Mapping[str, Sequence[tuple[Operation, int]]], further: Mapping[str, str]
) -> dict[str, str]:
    """Return a digest of what lies on one side of each operation, up to the next weighted layers and what `further` has of them.

    Args:
        operations: in an order in which neighbours come first.
        neighbours: of each operation on that side, and the input that connects them.
        further: digests of what lies beyond weighted layers.
    """
    reached: dict[str, list[str]] = {}
    found: dict[str, str] = {}
    for operation in operations:
        steps: list[str] = []
        for other, port in neighbours[operation.name]:
            if other.type in _CHANGING_FORM:
                steps += reached[other.name]
            else:
                beyond = further[other.name] if other.type in QUANTIZABLE_TYPES else found[other.name]
                steps.append(f"{other.type} {port} {beyond}")
        reached[operation.name] = sorted(set(steps))
        found[operation.name] = hashlib.sha256("\n".join(reached[operation.name]).encode()).hexdigest()
    return found
