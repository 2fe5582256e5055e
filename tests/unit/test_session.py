"""What a search begins with."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovquant import evaluation
from ovquant.executor import InProcessExecutor
from ovquant.job import load_job
from ovquant.session import open_session
from ovquant.strategy import Strategy


@pytest.fixture
def begun(conv_case: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function to tell which strategies a search begins with, and goes on with, on a device that saturates or not."""
    model, data = conv_case

    def run(*, saturates: bool, target: str = "cpu") -> tuple[list[Strategy], list[Strategy]]:
        monkeypatch.setattr(evaluation, "may_saturate", lambda device: saturates)
        path = tmp_path / "job.yaml"
        path.write_text(f"version: 1\nmodel: {model}\ntarget: {target}\ndata: {{path: {data}}}\nmax_divergence: 1.0\n")
        executor = InProcessExecutor()
        try:
            session = open_session(load_job(path, {}), tmp_path / f"work {saturates}", tmp_path, executor)
            of = session.space.strategy_from_genome
            return [of(genome) for genome in session.seeds], [of(genome) for genome in session.neighbours]
        finally:
            executor.close()

    return run


def told(neighbours: list[Strategy]) -> list[str]:
    return ["+".join(entry for _, entry in sorted(near.ignored_scope.entries)) for near in neighbours]


def test_a_search_begins_with_what_nncf_does_by_default_and_for_transformers(begun) -> None:
    seeds, neighbours = begun(saturates=False)
    assert [seed.model_type for seed in seeds] == [None, "transformer"]
    assert {near.overflow_fix for near in neighbours} == {"first_layer_only"}
    assert {"Add", "depthwise", "first_convolution", "last_matmul"} <= {*told(neighbours)}


def test_where_sums_may_saturate_it_begins_with_what_keeps_them_from_it_too_and_goes_on_from_there(begun) -> None:
    seeds, neighbours = begun(saturates=True)
    assert [(seed.model_type, seed.overflow_fix) for seed in seeds] == [
        (None, "first_layer_only"),
        ("transformer", "first_layer_only"),
        (None, "enable"),
    ]
    assert {near.overflow_fix for near in neighbours} == {"enable"}


def test_a_target_without_that_choice_goes_on_from_the_default(begun, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "version: 1\nname: mine\nextends: cpu\ngenes: {overflow_fix: [first_layer_only], model_type: [null]}\n", encoding="utf-8"
    )
    seeds, neighbours = begun(saturates=True, target=str(mine))
    assert [seed.overflow_fix for seed in seeds] == ["first_layer_only"]
    assert {near.overflow_fix for near in neighbours} == {"first_layer_only"}
