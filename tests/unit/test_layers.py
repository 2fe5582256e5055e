from __future__ import annotations

import pytest
from fakes.operations import OPERATIONS
from hypothesis import given
from hypothesis import strategies as st

from ovquant.layers import ScopeGenes
from ovquant.scopes import resolve
from ovquant.selectors import NO_SCOPE, ScopeSelector

CHOICES = (
    NO_SCOPE,
    ScopeSelector(roles=("first_convolution",)),
    ScopeSelector(types=("Add",), roles=("depthwise",)),
    ScopeSelector(types=("MatMul", "Convolution")),
)
LAYERS = ("depthwise[0]", "MatMul[0]", "Convolution[0]")
GENES = ScopeGenes.of(CHOICES, LAYERS, OPERATIONS)
PAIRS = st.tuples(st.integers(0, len(CHOICES) - 1), st.tuples(*[st.integers(0, 1)] * len(LAYERS)))


def selected(choice: int, bits: tuple[int, ...]) -> set[str]:
    places = tuple(place for place, bit in zip(LAYERS, bits, strict=True) if bit)
    return {*resolve(CHOICES[choice], OPERATIONS), *resolve(ScopeSelector(places=places), OPERATIONS)}


@given(PAIRS)
def test_the_selector_selects_what_choice_and_bits_do(pair: tuple[int, tuple[int, ...]]) -> None:
    assert set(resolve(GENES.selector(*pair), OPERATIONS)) == selected(*pair)


@given(PAIRS, PAIRS)
def test_pairs_are_settled_alike_where_they_select_the_same(
    pair: tuple[int, tuple[int, ...]], other: tuple[int, tuple[int, ...]]
) -> None:
    settled = GENES.settled(*pair)
    assert GENES.settled(*settled) == settled
    assert selected(*settled) == selected(*pair)
    assert (settled == GENES.settled(*other)) == (selected(*pair) == selected(*other))


@given(PAIRS)
def test_a_selector_is_read_back(pair: tuple[int, tuple[int, ...]]) -> None:
    assert GENES.genes(GENES.selector(*pair)) == GENES.settled(*pair)
    assert GENES.genes(CHOICES[pair[0]]) == GENES.settled(pair[0], (0, 0, 0))


@given(PAIRS)
def test_operations_are_held_by_what_selects_them(pair: tuple[int, tuple[int, ...]]) -> None:
    assert GENES.holding(frozenset(selected(*pair))) == GENES.settled(*pair)


@pytest.mark.parametrize("names", [{"plus"}, {"stem", "plus"}, {"elsewhere"}])
def test_other_operations_are_not_held(names: set[str]) -> None:
    assert GENES.holding(frozenset(names)) is None


@pytest.mark.parametrize(
    "selector", [ScopeSelector(types=("Relu",)), ScopeSelector(places=("Add[0]",)), ScopeSelector(names=("head",))]
)
def test_other_selectors_are_refused(selector: ScopeSelector) -> None:
    with pytest.raises(ValueError, match="is not in this search space"):
        GENES.genes(selector)


@pytest.mark.parametrize("place", ["depthwise[1]", "block[0]"])
def test_layers_are_places_of_one_operation(place: str) -> None:
    with pytest.raises(ValueError, match="is the place of"):
        ScopeGenes.of(CHOICES, (place,), OPERATIONS)
