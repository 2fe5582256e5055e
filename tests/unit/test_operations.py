from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ovquant.operations import Operation, both_ways, of_data


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


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[str], list[tuple[tuple[int, int], ...]], list[int]]:
    """Return contents and sources of nodes, and another order of them that is topological too."""
    n_nodes = draw(st.integers(1, 8))
    contents = draw(st.lists(st.sampled_from("ab"), min_size=n_nodes, max_size=n_nodes))
    sources = [
        tuple(draw(st.lists(st.tuples(st.integers(0, index - 1), st.integers(0, 1)), max_size=3))) if index else ()
        for index in range(n_nodes)
    ]
    order: list[int] = []
    while len(order) < n_nodes:
        ready = [i for i in range(n_nodes) if i not in order and all(source in order for source, _ in sources[i])]
        order.append(draw(st.sampled_from(ready)))
    return contents, sources, order


@given(graphs())
def test_digests_do_not_depend_on_the_order_of_nodes(case):
    contents, sources, order = case
    moved = [tuple((order.index(source), output) for source, output in sources[index]) for index in order]
    expected = both_ways(contents, sources)
    assert both_ways([contents[index] for index in order], moved) == [expected[index] for index in order]


def test_digests_tell_which_of_two_equal_nodes_feeds_what():
    contents = ["a", "a", "b", "b", "c", "c"]
    one = both_ways(contents, [(), (), ((0, 0),), ((1, 0),), ((0, 0),), ((1, 0),)])
    other = both_ways(contents, [(), (), ((0, 0),), ((0, 0),), ((1, 0),), ((1, 0),)])
    swapped = both_ways(["a", "b", "c"], [(), (), ((1, 0), (0, 0))])
    assert sorted(one) != sorted(other)
    assert sorted(both_ways(["a", "b", "c"], [(), (), ((0, 0), (1, 0))])) != sorted(swapped)
