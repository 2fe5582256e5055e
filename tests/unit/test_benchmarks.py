"""The benchmarks' own files are valid; what they measure is not tested."""

from __future__ import annotations

import json
from pathlib import Path

from ovquant.records import strategy_from_json
from ovquant.targets import load_target

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_the_target_of_the_table_is_valid() -> None:
    assert load_target(str(BENCHMARKS / "table_target.yaml")).genes.layers is not None


def test_the_strategies_of_the_engine_benchmark_are_distinct() -> None:
    strategies = [strategy_from_json(entry) for entry in json.loads((BENCHMARKS / "strategies.json").read_text())]
    assert len({strategy.digest for strategy in strategies}) == len(strategies) >= 40
