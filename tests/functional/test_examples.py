"""The examples run as the README says."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Run

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output of the README's first command."""
    output = tmp_path_factory.mktemp("digits") / "out"
    command = [sys.executable, "-m", "ovquant", "search", str(EXAMPLES / "digits" / "job.yaml"), "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return output


def test_digits_show_a_real_trade_off(digits: Path) -> None:
    # Which accuracies a search meets depends on the device and on when it stops a candidate; the orders of divergence do not.
    rows = [row for row in csv.DictReader((digits / "trials.csv").open()) if row["role"] != "baseline"]
    whole = [row for row in rows if not row["stopped"] and not row["failure"]]
    divergences = [float(row["divergence"]) for row in whole]
    assert max(divergences) >= 10 * min(divergences)
    assert len({row["structure"] for row in whole}) >= 3


def test_digits_winner_keeps_its_limit_where_nncf_default_does_not(digits: Path) -> None:
    verdict = json.loads((digits / "result.json").read_text())["verdict"]
    rows = {row["name"]: row for row in verdict["rows"]}
    assert verdict["judgement"] != "refuted"
    default, winner = (rows[name]["evaluation"]["divergence"]["value"] for name in ("NNCF default", "winner"))
    assert winner < default


def test_the_digits_model_is_small_enough_to_be_committed() -> None:
    assert (EXAMPLES / "digits" / "digits.onnx").stat().st_size <= 400_000


def test_magika_features_have_the_classifiers_form() -> None:
    sys.path.insert(0, str(EXAMPLES / "magika"))
    try:
        import prepare  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    config = {"beg_size": 4, "end_size": 4, "block_size": 8, "padding_token": 256}
    assert prepare.features(b"  abcdefghij  ", config) == [*b"abcd", *b"ghij"]
    assert prepare.features(b" a ", config) == [97, 32, 256, 256, 256, 256, 32, 97]
    assert prepare.type_by_extension({"x": {"extensions": ["a", "b"]}, "y": {"extensions": ["b"]}}, ["x", "y"]) == {"a": 0}


def test_magika_asks_for_enough_types(run: Run, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    command = [sys.executable, EXAMPLES / "magika" / "prepare.py", tmp_path / "files", "-o", tmp_path / "job"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert not (tmp_path / "job").exists()


def test_magika_balances_types(tmp_path: Path) -> None:
    sys.path.insert(0, str(EXAMPLES / "magika"))
    try:
        import prepare
    finally:
        sys.path.pop(0)
    found = {index: [Path(f"{index}-{n}") for n in range(12 + index)] for index in range(10)}
    pairs = prepare.balance(found, None, seed=0)
    counts = np.bincount([index for _, index in pairs])
    assert len(set(counts[counts > 0])) == 1
    assert (counts > 0).sum() >= 8
