from __future__ import annotations

from ovquant.operations import Operation, of_data


def test_what_computes_constants_and_shapes_is_not_of_data():
    found = of_data(
        [
            Operation(name="x", type="Parameter", inputs=()),
            Operation(name="c", type="Constant", inputs=()),
            Operation(name="scale", type="Multiply", inputs=("c", "c")),
            Operation(name="shape", type="ShapeOf", inputs=("x",)),
            Operation(name="sides", type="Gather", inputs=("shape", "c")),
            Operation(name="y", type="Reshape", inputs=("x", "sides")),
            Operation(name="z", type="Multiply", inputs=("y", "scale")),
            Operation(name="out", type="Result", inputs=("z",)),
        ]
    )
    assert [operation.name for operation in found] == ["x", "y", "z"]
