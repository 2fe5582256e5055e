"""The README is true: its YAML validates, its commands parse, its snippets run, and it names every command and exit code."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from conftest import Run
from typer.testing import CliRunner

from ovquant import commands, delivery, errors, overview, preparing, probing, replay, verification
from ovquant.cli import app
from ovquant.job import load_job
from ovquant.report import writing
from ovquant.targets import Genes, SmoothQuantGenes, Target, load_target, shipped_names, to_yaml

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def console_commands() -> list[str]:
    text = "\n".join(blocks("console")).replace("\\\n", " ")
    return [line[2:].split(" #")[0].strip() for line in text.splitlines() if line.startswith("$ ovquant")]


def test_there_are_commands_and_blocks_to_check() -> None:
    assert len(console_commands()) >= 6
    assert len(blocks("yaml")) == 3
    assert len(blocks("python")) >= 2


@pytest.mark.parametrize("command", console_commands())
def test_every_command_parses(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    called: list[str] = []
    for name in ("search", "resume", "evaluate"):
        monkeypatch.setattr(commands, name, lambda *_, name=name: called.append(name) or {})
    for name in ("init_job", "check_job"):
        monkeypatch.setattr(preparing, name, lambda *_, name=name: called.append(name) or {})
    monkeypatch.setattr(replay, "quantize", lambda *_: called.append("quantize") or {})
    monkeypatch.setattr(overview, "inspect", lambda *_: called.append("inspect") or {})
    monkeypatch.setattr(delivery, "export_trial", lambda *_: called.append("export") or {})
    monkeypatch.setattr(verification, "verify", lambda *_, **__: called.append("verify") or {})
    monkeypatch.setattr(probing, "probe_target", lambda *_: {})
    monkeypatch.setattr(writing, "report", lambda *_: called.append("report") or {})
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "job.yaml").write_text("model: model.onnx\ndata: data.npz\n")
    result = CliRunner().invoke(app, shlex.split(command)[1:])
    assert result.exit_code == 0, result.output
    assert called or command.startswith("ovquant targets")


def test_the_target_of_the_readme_is_valid(run: Run) -> None:
    (text,) = (block for block in blocks("yaml") if block.startswith("# target"))
    Path("mine.yaml").write_text(text)
    assert "mine.yaml: valid" in run("targets", "check", "mine.yaml").output


def test_the_extension_of_the_readme_does_what_it_says(tmp_path: Path) -> None:
    (text,) = (block for block in blocks("yaml") if block.startswith("# extends"))
    (tmp_path / "mine.yaml").write_text(text)
    mine, parent = load_target(str(tmp_path / "mine.yaml")), load_target("cpu-avx2")
    assert mine.compile_properties == {**parent.compile_properties, "INFERENCE_NUM_THREADS": 2}
    assert (mine.genes.subset_size, mine.genes.smooth_quant_alphas) == ((100,), None)
    assert set(mine.genes.ignored_scope or {}) == {*(parent.genes.ignored_scope or {}), "gates"} - {"ends"}


def test_the_job_of_the_readme_is_valid(tmp_path: Path) -> None:
    (text,) = (block for block in blocks("yaml") if block.startswith("# job"))
    (tmp_path / "job.yaml").write_text(text)
    job = load_job(tmp_path / "job.yaml", {})
    assert set(yaml.safe_load(text)) <= set(type(job).model_fields)


def test_the_snippet_loads_a_result(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("OUT").symlink_to(searched)
    scope: dict[str, Any] = {}
    (snippet,) = (block for block in blocks("python") if "OUT/best" in block)
    exec(snippet, scope)
    assert scope["model"].get_property("PERFORMANCE_HINT") == "LATENCY"


def test_the_snippet_from_python_runs(
    conv_case: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for source in conv_case:
        Path(source.name).symlink_to(source)
    (snippet,) = (block for block in blocks("python") if "ovquant.search(" in block)
    exec(snippet.replace("max_trials=40", "max_trials=2"), {})
    assert "the float model" in capsys.readouterr().out
    assert Path("AGAIN/model.xml").exists()


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_the_snippet_with_objects_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    monkeypatch.chdir(tmp_path)
    images = torch.randn(60, 3, 8, 8)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 3))
    loader = DataLoader(TensorDataset(images, module(images).argmax(dim=1)), batch_size=16)
    (snippet,) = (block for block in blocks("python") if "data=loader" in block)
    exec(snippet.replace("max_trials=40", "max_trials=2"), {"module": module, "loader": loader})
    assert Path("OUT-OBJECTS/best/model.xml").exists()


def test_every_command_and_every_exit_code_is_documented() -> None:
    click_app = typer.main.get_command(app)
    names = list(click_app.commands)  # type: ignore[attr-defined]
    assert [name for name in names if f"ovquant {name}" not in README and f"`{name}`" not in README] == []
    codes = {cls.exit_code for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.OvquantError)}
    assert [code for code in codes if f"\n| {code} |" not in README] == []


def test_every_gene_and_every_profile_is_documented() -> None:
    assert [gene for gene in Genes.model_fields if f"| `{gene}` |" not in README] == []
    assert [name for name in SmoothQuantGenes.model_fields if f"`{name}`" not in README] == []
    assert [name for name in shipped_names() if name not in README] == []


def test_a_profile_survives_writing_and_reading(run: Run) -> None:
    for name in shipped_names():
        target = load_target(str(ROOT / "targets" / f"{name}.yaml"))
        Path("copy.yaml").write_text(to_yaml(target))
        assert Target.model_validate(yaml.safe_load(Path("copy.yaml").read_text())) == target


def test_the_options_of_search_have_help(run: Run) -> None:
    text = run("search", "--help").output
    for option in ("--data", "--target", "--metric", "--max-drop", "--budget", "--max-trials", "--seed", "--output", "--device"):
        assert option in text
