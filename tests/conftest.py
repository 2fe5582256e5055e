"""What many tests share."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import small
import yaml
from loopback import Loopback, run_loopback
from typer.testing import CliRunner, Result

from ovquant import contained, targets
from ovquant.cli import app

Run = Callable[..., Result]
TASKS = Path(__file__).resolve().parents[1] / "examples" / "tasks"
N_ITEMS = 90


def pytest_configure(config: pytest.Config) -> None:
    """Let the final timing of all searches and comparisons go on without rests, in other processes by profiles of their own.

    That it is spread over minutes is tested on a scripted clock.
    """
    importlib.import_module("quick_clock")
    contained.PRELOADED = (*contained.PRELOADED, "quick_clock")  # type: ignore[attr-defined]
    # Python 3.11 does not hand its path on to the process that preloads.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    folder = Path(tempfile.mkdtemp(prefix="ovquant-targets-"))
    config.add_cleanup(lambda: shutil.rmtree(folder))
    for name in targets.shipped_names():
        shipped = targets.load_target(str(targets.profiles_dir() / f"{name}.yaml"))
        content = shipped.model_dump(mode="json", exclude_none=True)
        content["measurement"]["verdict"] |= {"spread": 0, "burst": 25, "discard": 5, "seconds": 1.0}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    os.environ[targets.OWN_PROFILES] = str(folder)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in an empty directory, as a user would; returns the result with its output."""
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()

    def call(*arguments: object, code: int = 0) -> Result:
        result = runner.invoke(app, [str(argument) for argument in arguments])
        told = f"exit code {result.exit_code}, expected {code}\n{result.output}\n{result.exception!r}"
        assert result.exit_code == code, told
        assert "Traceback" not in result.output
        return result

    return call


@pytest.fixture(scope="session")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    """Return a machine to measure on over ssh; who stops it starts it again."""
    yield from run_loopback(tmp_path_factory.mktemp("loopback"))


@pytest.fixture(scope="session")
def conv_case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return model and labelled ``.npz`` of the small convolutional case."""
    return small.conv_case(tmp_path_factory.mktemp("conv"))


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the examples with a small part of their data."""
    folder = Path(
        shutil.copytree(TASKS, tmp_path_factory.mktemp("tasks") / "tasks", ignore=shutil.ignore_patterns("data", "__*"))
    )
    code = f"import pathlib, data; data.write(pathlib.Path('data'), {N_ITEMS})"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="session")
def searched(conv_case: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output directory of one finished search on the small case; treat it as read-only."""
    model, data = conv_case
    output = tmp_path_factory.mktemp("searched") / "out"
    arguments = ["search", model, "--data", data, "--metric", "accuracy", "--max-drop", "0.2", "--max-trials", "10", "-o", output]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return output


@pytest.fixture
def searched_copy(searched: Path, tmp_path: Path) -> Path:
    """Return a copy of `searched` that may be changed."""
    return Path(shutil.copytree(searched, tmp_path / "searched"))


@pytest.fixture(scope="session")
def hostile_search(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output directory of a finished search where every name that a user can give is an attack on a page."""
    folder = tmp_path_factory.mktemp("hostile")
    attack = "<img src=x onerror=hacked=1>&amp;$(touch hacked)'\""
    model, data = small.conv_case(folder)
    model = small.renamed(model, folder / f"{attack}.onnx", lambda name: f"{name}</script><script>hacked=1</script><!--{attack}")
    data = data.rename(folder / f"{attack}.npz")
    (folder / "score.py").write_text(
        "import numpy as np\n"
        "def score(outputs, labels):\n"
        "    return [float(np.argmax(array) == label) for array, label in zip(outputs['logits'], labels)]\n"
    )
    output = folder / f"out {attack}"
    arguments = ["search", model, "--data", data, "--metric", folder / "score.py:score", "--max-drop", "0.5"]
    result = CliRunner().invoke(app, [str(argument) for argument in [*arguments, "--max-trials", "2", "-o", output]])
    assert result.exit_code == 0, result.output
    return output


@pytest.fixture(scope="session")
def manifest(searched: Path) -> dict[str, Any]:
    """Return the manifest of `searched`."""
    content: dict[str, Any] = json.loads((searched / "best" / "manifest.json").read_text())
    return content
