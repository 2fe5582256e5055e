from __future__ import annotations

from ovquant.overview import saturation_words
from ovquant.saturation import Saturation


def saturation(place: str, share: float, *, is_possible: bool = True) -> Saturation:
    return Saturation(place=place, name=place, is_possible=is_possible, share=share, error=share / 10, n_values=100)


def test_layers_that_saturate_are_told_with_how_much_and_what_to_do() -> None:
    told = saturation_words([saturation("MatMul[0]", 0.5), saturation("Convolution[0]", 0, is_possible=False)])
    assert "1 of 2 layers saturate: MatMul[0] (50.00% of values, error 5.00%). overflow_fix: enable prevents it." in told


def test_many_layers_are_not_all_told() -> None:
    assert " and 2 more. " in saturation_words([saturation(f"MatMul[{index}]", 0.1) for index in range(10)])


def test_where_nothing_saturates_it_is_told_whether_it_could() -> None:
    assert saturation_words([saturation("a", 0, is_possible=False)]).endswith("none of 1 layers saturates.")
    assert saturation_words([saturation("a", 0)]).endswith(
        "none of 1 layers saturates; weights of 1 are large enough for other inputs to."
    )
