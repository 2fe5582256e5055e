"""Hand-made operations."""

from __future__ import annotations

from ovquant.operations import Operation


def ops(text: str) -> tuple[Operation, ...]:
    """Read lines like ``name = Type(input, input)``."""
    found = []
    for line in filter(str.strip, text.strip().splitlines()):
        name, call = line.strip().split(" = ")
        kind, arguments = call.rstrip(")").split("(")
        found.append(Operation(name=name, type=kind, inputs=tuple(part for part in arguments.split(", ") if part)))
    return tuple(found)
