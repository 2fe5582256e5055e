from __future__ import annotations

import json
from pathlib import Path

import pytest

from ovquant.audit import Audit, Kernel
from ovquant.inspection import Inspection, stored, to_json
from ovquant.records import Interval
from ovquant.sensitivity import Ranking, Sensitivity


def kernel(name: str, time_us: float, *origins: str, kind: str = "Eltwise", spread_us: float = 0.0) -> Kernel:
    return Kernel(name=name, kind=kind, precision="f32", origins=origins or (name,), time_us=time_us, spread_us=spread_us)


def sensitivity(name: str, saved: float) -> Sensitivity:
    return Sensitivity(place=name.upper(), names=(name,), type="Add", saved=Interval(value=saved, low=saved, high=saved))


def inspection(saved: dict[str, float], floats: list[Kernel] | None, quantized: list[Kernel] | None) -> Inspection:
    ranking = Ranking(
        n_items=8,
        all_quantized=Interval(value=1.0, low=0.9, high=1.1),
        layers=tuple(sensitivity(name, value) for name, value in saved.items()),
        groups=(),
    )
    sides = (None if kernels is None else Audit(kernels=tuple(kernels)) for kernels in (floats, quantized))
    return Inspection(ranking=ranking, floats=next(sides), quantized=next(sides))


def test_layers_that_are_fused_when_quantized_are_compared_together():
    floats = [kernel("conv", 100), kernel("add", 5), kernel("mul", 5)]
    fused = inspection({"conv": 0, "add": 0, "mul": 0}, floats, [kernel("all", 40, "conv", "add", "mul")])
    assert fused.slowed() == []
    assert fused.promising() == ()


def test_a_layer_that_is_slower_is_told_with_those_that_run_with_it():
    floats = [kernel("a", 10), kernel("sub", 20, "b", "c")]
    quantized = [kernel("a", 60), kernel("b", 15), kernel("c", 25, "c", "d")]
    found = inspection({"a": 0, "b": 0, "c": 0}, floats, quantized)
    assert found.slowed() == [(("A",), 50), (("B", "C"), 20)]
    assert found.promising() == ("A", "B", "C")


def test_a_difference_within_the_scatter_does_not_count():
    found = inspection({"a": 0}, [kernel("a", 10, spread_us=30)], [kernel("a", 60, spread_us=30)])
    assert found.slowed() == []


def test_conversions_and_layers_without_a_kernel_are_left_out():
    floats = [kernel("a", 10), kernel("gone", 1)]
    quantized = [kernel("a", 10), kernel("r", 50, "a", kind="Reorder"), kernel("new", 90)]
    assert inspection({"a": 0, "gone": 0, "new": 0}, floats, quantized).slowed() == []


def test_promise_is_what_is_saved_of_divergence_and_of_time():
    floats = [kernel("a", 10), kernel("b", 10), kernel("c", 80)]
    quantized = [kernel("a", 40), kernel("b", 10), kernel("c", 50)]
    found = inspection({"a": 0.0, "b": 0.2, "c": -0.1}, floats, quantized)
    assert found.promising() == ("A", "B")  # 30 of 100 us, 0.2 of 1 nat


@pytest.mark.parametrize(("floats", "quantized"), [(None, None), ([kernel("a", 1)], None)])
def test_without_a_profile_divergence_alone_counts(floats, quantized):
    found = inspection({"a": 0.1, "b": 0.3}, floats, quantized)
    assert found.slowed() == []
    assert found.promising() == ("B", "A")


def test_what_was_written_is_read_again_only_for_the_same_things(tmp_path: Path):
    found = inspection({"a": 0.1}, [kernel("a", 1)], [kernel("a", 2)])
    path = tmp_path / "inspection.json"
    assert stored(path, {"model": "x"}) is None
    path.write_text(json.dumps({"made_of": {"model": "x"}, "inspection": to_json(found)}))
    assert stored(path, {"model": "x"}) == found
    assert stored(path, {"model": "y"}) is None
    path.write_text('{"made_of": {"model": "x"}, "inspection": {"ranking": 3}}')
    assert stored(path, {"model": "x"}) is None
    path.write_text("not JSON")
    assert stored(path, {"model": "x"}) is None
