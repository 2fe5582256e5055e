from __future__ import annotations

import itertools
import random

import pytest
import small
from fakes.operations import ops
from hypothesis import given
from hypothesis import strategies as st

from ovquant import runtime
from ovquant.operations import Operation
from ovquant.places import Places
from ovquant.selectors import Place

RESIDUAL = ops("""
    image = Parameter()
    w = Constant()
    stem = Convolution(image, w)
    bias = Add(stem, w)
    left = Convolution(bias, w)
    left_bias = Add(left, w)
    sum = Add(left_bias, bias)
    wide = Convolution(sum, w)
    narrow = GroupConvolution(sum, w)
    both = Concat(wide, narrow)
    head = MatMul(both, w)
    logits = Add(head, w)
    out = Result(logits)
""")


class TestGrammar:
    @pytest.mark.parametrize(
        ("text", "place"),
        [
            ("depthwise[0]", Place("depthwise", None, 0)),
            ("MatMul[-1]", Place("MatMul", None, -1)),
            ("Add(2)[3]", Place("Add", 2, 3)),
            ("Convolution[2:5]", Place("Convolution", None, slice(2, 5))),
            ("block[:2]", Place("block", None, slice(None, 2))),
            ("MatMul[-2:]", Place("MatMul", None, slice(-2, None))),
            ("MatMul[:]", Place("MatMul", None, slice(None, None))),
        ],
    )
    def test_places_are_read(self, text: str, place: Place) -> None:
        assert Place.of(text) == place

    @pytest.mark.parametrize(
        "text", ["", "MatMul", "MatMul[]", "MatMul[1.5]", "MatMul[a]", "[1]", "Add()[1]", "MatMul[1:2:3]", "Mat Mul[1]"]
    )
    def test_anything_else_is_refused_with_what_is_expected(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"is no place: expected KIND\[INDEX\]"):
            Place.of(text)


class TestResidual:
    @pytest.mark.parametrize(
        ("text", "names"),
        [
            ("Convolution[0]", ("stem",)),
            ("Convolution[2]", ("wide",)),
            ("Convolution[-1]", ("wide",)),
            ("Convolution[3]", ()),
            ("Convolution[-4]", ()),
            ("Convolution[1:]", ("left", "wide")),
            ("Convolution[7:]", ()),
            ("Add[0]", ("bias",)),
            ("Add(2)[0]", ("sum",)),
            ("Add(2)[1]", ()),
            ("Add(1)[:]", ("bias", "left_bias", "logits")),
            ("first_convolution[0]", ("stem",)),
            ("last_matmul[0]", ("head",)),
            ("Constant[0]", ()),
            ("Parameter[0]", ()),
            ("LSTMCell[0]", ()),
            ("block[0]", ("stem", "bias", "left", "left_bias", "sum")),
            ("block[1]", ("wide", "narrow", "both")),
            ("block[2]", ("head", "logits")),
            ("block[-1]", ("head", "logits")),
            ("block[:]", ("stem", "bias", "left", "left_bias", "sum", "wide", "narrow", "both", "head", "logits")),
        ],
    )
    def test_a_place_has_its_operations(self, text: str, names: tuple[str, ...]) -> None:
        assert Places(RESIDUAL).names(text) == names

    def test_every_operation_is_found_at_its_own_place(self) -> None:
        places = Places(RESIDUAL)
        for operation in RESIDUAL:
            if operation.is_selectable:
                assert places.names(places.place_of(operation.name)) == (operation.name,)

    def test_sums_of_results_are_told_from_those_with_a_bias(self) -> None:
        assert Places(RESIDUAL).place_of("sum") == "Add(2)[0]"
        assert Places(RESIDUAL).place_of("left_bias") == "Add(1)[1]"

    def test_constants_have_no_place(self) -> None:
        assert Places(RESIDUAL).place_of("w") is None

    def test_what_depends_on_nothing_but_a_shape_has_a_place(self) -> None:
        model = ops("""
            x = Parameter()
            w = Constant()
            folded = MatMul(w, w)
            shape = ShapeOf(x)
            positions = Slice(w, shape)
            encoded = MatMul(positions, w)
            y = MatMul(x, encoded)
            out = Result(y)
        """)
        assert Places(model).place_of("encoded") == "MatMul(0)[0]"
        assert Places(model).place_of("folded") is None


class TestBlocks:
    def test_a_join_that_a_connection_leads_past_ends_no_block(self) -> None:
        model = ops("""
            x = Parameter()
            a = Convolution(x)
            b = Convolution(a)
            inner = Add(a, b)
            c = Convolution(inner)
            outer = Add(c, a)
            out = Result(outer)
        """)
        assert Places(model).members("block") == [("a", "b", "inner", "c", "outer")]

    def test_a_second_output_leads_past_what_follows(self) -> None:
        model = ops("""
            x = Parameter()
            a = Convolution(x)
            b = Convolution(a)
            early = Result(a)
            c = Add(a, b)
            d = Convolution(c)
            out = Result(d)
        """)
        assert Places(model).members("block") == [("a", "b", "c", "d")]

    def test_two_towers_have_their_first_common_join(self) -> None:
        model = ops("""
            x = Parameter()
            a = Convolution(x)
            b = Convolution(a)
            inner = Add(a, b)
            y = Parameter()
            c = Convolution(y)
            both = Concat(inner, c)
            d = MatMul(both)
            out = Result(d)
        """)
        assert Places(model).members("block") == [("a", "b", "inner", "c", "both"), ("d",)]

    def test_masks_and_shapes_lead_past_nothing(self) -> None:
        model = ops("""
            x = Parameter()
            mask = Parameter()
            hidden = Multiply(mask, mask)
            shape = ShapeOf(x)
            a = Convolution(x)
            b = Convolution(a)
            c = Add(a, b)
            d = Convolution(c)
            e = Add(d, hidden)
            f = Reshape(e, shape)
            g = Add(c, f)
            h = MatMul(g)
            out = Result(h)
        """)
        assert Places(model).members("block") == [("hidden", "a", "b", "c"), ("d", "e", "f", "g"), ("h",)]

    def test_gates_and_squares_end_no_block(self) -> None:
        model = ops("""
            x = Parameter()
            a = Convolution(x)
            gate = Sigmoid(a)
            b = Multiply(a, gate)
            c = Multiply(b, b)
            d = Add(c, b)
            e = Convolution(d)
            out = Result(e)
        """)
        assert Places(model).members("block") == [("a", "gate", "b", "c", "d"), ("e",)]
        assert Places(model).names("Multiply(2)[0]") == ("b",)

    def test_a_chain_is_one_block(self) -> None:
        model = ops("""
            x = Parameter()
            a = Convolution(x)
            b = Relu(a)
            out = Result(b)
        """)
        assert Places(model).members("block") == [("a", "b")]


BRANCHES = ["Convolution", "GroupConvolution", "MatMul", "Relu", "Sigmoid"]


@st.composite
def networks(draw: st.DrawFn) -> list[Operation]:
    """Draw a network of blocks of parallel branches; no two branches of a block compute the same."""
    operations = [Operation(name="x", type="Parameter", inputs=())]
    last, number = "x", itertools.count()
    for _ in range(draw(st.integers(1, 4))):
        ends = []
        for kinds in draw(
            st.lists(st.lists(st.sampled_from(BRANCHES), min_size=1, max_size=3), min_size=1, max_size=3, unique_by=tuple)
        ):
            end = last
            for kind in kinds:
                operations.append(Operation(name=f"n{next(number)}", type=kind, inputs=(end,)))
                end = operations[-1].name
            ends.append(end)
        operations.append(Operation(name=f"n{next(number)}", type="Concat", inputs=tuple(ends)))
        last = operations[-1].name
    return [*operations, Operation(name="out", type="Result", inputs=(last,))]


@given(networks(), st.randoms(use_true_random=False))
def test_places_outlive_other_names_and_another_order_of_branches(operations: list[Operation], rng: random.Random) -> None:
    renamed = {operation.name: f"other{index}" for index, operation in enumerate(rng.sample(operations, len(operations)))}
    left, other = list(operations), []
    while left:
        ready = [o for o in left if all(renamed[name] in {p.name for p in other} for name in o.inputs)]
        chosen = rng.choice(ready)
        left.remove(chosen)
        other.append(Operation(name=renamed[chosen.name], type=chosen.type, inputs=tuple(renamed[n] for n in chosen.inputs)))
    mine, theirs = Places(operations), Places(other)
    for operation in operations:
        if operation.is_selectable:
            place = mine.place_of(operation.name)
            assert theirs.names(place) == (renamed[operation.name],)
            assert {renamed[name] for name in mine.names("block[0]")} == set(theirs.names("block[0]"))


def test_exported_models_have_the_places_one_expects(tmp_path) -> None:
    places = Places(runtime.operations(runtime.read_model(small.conv_model(tmp_path / "model.onnx"))))
    assert places.names("depthwise[0]") == ("depthwise",)
    assert places.names("Add(2)[0]") == ("residual",)
    assert places.place_of("depthwise") == "depthwise[0]"


ATTENTION = """
    x = Parameter()
    w = Constant()
    {before}
    {projections}
    query = Reshape(q, w)
    key = Transpose(k, w)
    scores = MatMul(query, key)
    shares = Softmax(scores)
    mixed = MatMul(shares, v)
    y = MatMul(mixed, w)
    {after}
    out = Result({last})
"""


def attention(order: str, before: str = "", after: str = "") -> tuple[Operation, ...]:
    given, last = ("xx" if before else "x"), ("yy" if after else "y")
    projections = "\n".join(f"{name} = MatMul({given}, w)" for name in order)
    return ops(ATTENTION.format(before=before, projections=projections, after=after, last=last))


@pytest.mark.parametrize("order", ["".join(order) for order in itertools.permutations("qkv")])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", ""),
        ("xx = Convert(x)", ""),
        ("xx = Transpose(x, w)", ""),
        ("", "yy = Reshape(y, w)"),
        ("", "yy = Squeeze(y, w)"),
        ("xx = Unsqueeze(x, w)", "yy = Softmax(y)"),
    ],
)
def test_projections_of_attention_have_the_same_places_however_listed_and_wrapped(before: str, after: str, order: str) -> None:
    """Query, key and value have weights of one shape, and differ only in what is made of them."""
    mine, plain = Places(attention(order, before, after)), Places(attention("qkv"))
    assert {name: mine.place_of(name) for name in "qkv"} == {name: plain.place_of(name) for name in "qkv"}


def test_weights_stored_transposed_have_the_same_place() -> None:
    def model(*shapes: tuple[int, int]) -> tuple[Operation, ...]:
        found = [Operation(name="x", type="Parameter", inputs=()), Operation(name="w", type="Constant", inputs=())]
        for index, shape in enumerate(shapes):
            found.append(Operation(name=f"m{index}", type="MatMul", inputs=("x", "w"), weights_shape=shape))
            found.append(Operation(name=f"out{index}", type="Result", inputs=(f"m{index}",)))
        return tuple(found)

    assert Places(model((64, 128), (64, 32))).place_of("m0") == Places(model((128, 64), (32, 64))).place_of("m0")
