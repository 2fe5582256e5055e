"""Hand-made operations."""

from __future__ import annotations

from ovquant.operations import Operation

# A network with a layer of each role.
OPERATIONS = (
    Operation(name="image", type="Parameter", inputs=()),
    Operation(name="stem", type="Convolution", inputs=("image",)),
    Operation(name="depthwise", type="GroupConvolution", inputs=("stem",), group_channels=(16, 1, 1)),
    Operation(name="plus", type="Add", inputs=("depthwise", "stem")),
    Operation(name="head", type="MatMul", inputs=("plus",)),
    Operation(name="answer", type="Result", inputs=("head",)),
)


def ops(text: str) -> tuple[Operation, ...]:
    """Read lines like ``name = Type(input, input)``."""
    found = []
    for line in filter(str.strip, text.strip().splitlines()):
        name, call = line.strip().split(" = ")
        kind, arguments = call.rstrip(")").split("(")
        found.append(Operation(name=name, type=kind, inputs=tuple(part for part in arguments.split(", ") if part)))
    return tuple(found)
