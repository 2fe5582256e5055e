"""Places: operations told by what they are and where they stand, such as ``depthwise[3]``, not by an exporter's names.

``KIND[INDEX]`` is one operation, ``KIND[START:STOP]`` several, counted from 0 at the model's inputs or from -1 at its outputs.
A kind is an OpenVINO type, a role (see `ovquant.roles`) or ``block``; ``KIND(2)`` counts only operations that join two
results, such as the sum of a residual connection, and ``KIND(1)`` only those that take one.

The order is one of structure: by the number of weighted layers before an operation, then by that of its own kind; parallel
branches by what they compute. So it is the same in another export of a network, unless that computes something else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from ovquant.operations import QUANTIZABLE_TYPES, Operation, both_ways, of_data
from ovquant.roles import ROLES
from ovquant.selectors import Place

_BLOCK = "block"


class Places:
    """The places of one model."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        """Find out where operations stand.

        Args:
            operations: of the model, in topological order.
        """
        self._all = operations
        self._data = of_data(operations)
        self._names = {operation.name for operation in self._data}
        self._order = self._ordered()
        self._n_weighted = self._n_before({operation.name for operation in operations if operation.type in QUANTIZABLE_TYPES})

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
        if kind == _BLOCK:
            return self._blocks()
        named = ROLES[kind](self._all) if kind in ROLES else {o.name for o in self._data if o.type == kind and o.is_selectable}
        chosen = {o.name for o in self._data if o.name in named and n_joined in {None, self._n_joined(o)}}
        before = self._n_before(chosen)
        return [(name,) for name in sorted(chosen, key=lambda name: (self._n_weighted[name], before[name], *self._order[name]))]

    def place_of(self, name: str) -> str:
        """Return the place of an operation, by its role if it is a depthwise convolution, else by its type.

        Raises:
            KeyError: there is no such operation.
        """
        kind = {operation.name: operation.type for operation in self._all}[name]
        for candidate in ("depthwise", kind):
            members = self.members(candidate)
            if (name,) in members:
                return f"{candidate}[{members.index((name,))}]"
        raise KeyError(name)

    def _n_joined(self, operation: Operation) -> int:
        return sum(name in self._names for name in operation.inputs)

    def _n_before(self, counted: set[str]) -> dict[str, int]:
        """Return for each operation how many counted ones lie on the longest way to it."""
        found: dict[str, int] = {}
        for operation in self._all:
            found[operation.name] = max(
                (found[name] + (name in counted) for name in operation.inputs if name in found), default=0
            )
        return found

    def _ordered(self) -> dict[str, tuple[Any, ...]]:
        """Return what decides on the order of operations that as many weighted ones, and of their own kind, precede.

        Weights come first, as they are the same in each export; then what lies before, then the whole network.
        """
        position = {operation.name: index for index, operation in enumerate(self._data)}
        sources = [[(position[name], 0) for name in o.inputs if name in position] for o in self._data]
        contents = [repr((o.type, o.group_channels, o.weights_shape)) for o in self._data]
        whole = both_ways(contents, sources)
        before: list[bytes] = []
        for content, ports in zip(contents, sources, strict=True):
            before.append(hashlib.sha256(content.encode() + b"".join(before[index] for index, _ in ports)).digest())
        return {o.name: (o.weights_shape, before[i], whole[i], i) for i, o in enumerate(self._data)}

    def _blocks(self) -> list[tuple[str, ...]]:
        """Return what lies between one join that all data pass and the next, the second one included.

        Of operations in topological order, one is passed by all data if no connection leads over it, where inputs are led to
        from the start and outputs lead to the end.
        """
        position = {operation.name: index for index, operation in enumerate(self._data)}
        last_use = dict.fromkeys(position, -1)
        for operation in self._all:
            for name in operation.inputs:
                if name in position:
                    use = len(position) if operation.type == "Result" else position.get(operation.name, -1)
                    last_use[name] = max(last_use[name], use)
        n_inputs = sum(operation.type == "Parameter" for operation in self._data)
        furthest = n_inputs_seen = 0
        blocks: list[tuple[str, ...]] = []
        block: list[str] = []
        for index, operation in enumerate(self._data):
            n_inputs_seen += operation.type == "Parameter"
            if operation.is_selectable:
                block.append(operation.name)
            if furthest <= index and n_inputs_seen == n_inputs and self._n_joined(operation) > 1:
                blocks.append(tuple(block))
                block = []
            furthest = max(furthest, last_use[operation.name])
        return [*blocks, tuple(block)] if block else blocks
