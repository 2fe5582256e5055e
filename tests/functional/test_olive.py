"""The pass for Olive in workflows of Olive, with its data, its cache and its command.

Needs olive-ai, which brings torch, and is skipped without it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import small

import ovquant
from ovquant import api, runtime
from ovquant.study import read_trials

README = Path(__file__).resolve().parents[2] / "README.md"
SEARCH = {"metrics": [{"name": "accuracy", "max_drop": 0.5}], "max_trials": 2}
DATA_SCRIPT = """
import numpy as np
from olive.data.registry import Registry

@Registry.register_dataset()
def of_arrays(data_dir, **_):
    with np.load(data_dir) as arrays:
        return [(image, int(label)) for image, label in zip(arrays["image"], arrays["y"])]
"""


@pytest.fixture
def olive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return the pass's module, in an empty directory; with `CI` set, Olive sends no telemetry."""
    monkeypatch.setenv("CI", "1")
    pytest.importorskip("olive.passes", reason="olive-ai is not installed", exc_type=ImportError)
    import ovquant.olive

    monkeypatch.chdir(tmp_path)
    return ovquant.olive


def workflow(model: dict[str, Any], step: dict[str, Any], **more: Any) -> dict[str, Any]:
    passes = {"search": {"type": "OvquantSearch", **step}}
    return {"input_model": model, "passes": passes, "output_dir": "models", "cache_dir": "cache", **more}


def run(olive: Any, config: dict[str, Any]) -> Any:
    from olive.workflows import run as run_workflow

    return run_workflow(config, package_config=olive.package_config()).get_best_candidate()


def onnx_model(case: tuple[Path, Path]) -> dict[str, Any]:
    return {"type": "ONNXModel", "model_path": str(case[0])}


def test_the_winner_of_an_onnx_model_comes_out_once(
    olive: Any, conv_case: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = workflow(onnx_model(conv_case), {"search": {**SEARCH, "data": str(conv_case[1])}})
    found = run(olive, config)
    assert (found.model_type.lower(), Path(found.model_path)) == ("openvinomodel", Path("models/model").resolve())
    told = found.model_config["model_attributes"]["ovquant"]
    result = json.loads((Path(told["search"]) / "result.json").read_text())
    manifest = json.loads(Path("models/model/manifest.json").read_text())
    assert manifest["trial"]["number"] == result["verdict"]["winner"]
    model = runtime.read_model(Path("models/model/model.xml"))
    assert runtime.graph_digest(model) == manifest["trial"]["graph_digest"]
    assert {"device": told["device"], "compile_properties": told["compile_properties"]} == manifest["deployment"]
    assert ovquant.load("models/model").get_property("PERFORMANCE_HINT") == "LATENCY"
    # Olive takes an equal workflow from its cache.
    monkeypatch.setattr(api, "search", lambda *_, **__: pytest.fail("searched again"))
    assert run(olive, config).model_config == found.model_config


def test_data_of_olive_calibrate_and_validate_an_ir(olive: Any, conv_case: tuple[Path, Path]) -> None:
    model, arrays = conv_case
    runtime.save_model(runtime.read_model(model), Path("ir/float.xml"), "f32")
    Path("script.py").write_text(DATA_SCRIPT)
    data = {
        "name": "images",
        "type": "DataContainer",
        "user_script": "script.py",
        "load_dataset_config": {"type": "of_arrays", "data_dir": str(arrays)},
        "dataloader_config": {"batch_size": 16},
    }
    step = {"data_config": "images", "search": {**SEARCH, "output": "out"}}
    run(olive, workflow({"type": "OpenVINOModel", "model_path": "ir"}, step, data_configs=[data]))
    by_file = ovquant.search(model, data=str(arrays), output="by-file", **SEARCH)
    (mine, theirs) = (
        [trial.evaluation.metrics for trial in read_trials(Path(folder) / "study.db")][:2] for folder in ("out", by_file.output)
    )
    assert mine == theirs


def test_it_stands_between_passes_of_olive(olive: Any, conv_case: tuple[Path, Path]) -> None:
    config = workflow(onnx_model(conv_case), {"search": {**SEARCH, "data": str(conv_case[1])}})
    wrap = {"type": "OpenVINOEncapsulation", "target_device": "cpu", "ov_version": "2026.4"}
    config["passes"] = {"convert": {"type": "OpenVINOConversion"}, **config["passes"], "wrap": wrap}
    found = run(olive, config)
    assert found.model_type.lower() == "onnxmodel"
    assert found.model_config["model_attributes"]["ovquant"]["device"] == "CPU"
    assert {"model.onnx", "model.xml", "model.bin"} <= {path.name for path in Path("models").iterdir()}


def test_an_interrupted_workflow_goes_on(olive: Any, conv_case: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    config = workflow(onnx_model(conv_case), {"search": {**SEARCH, "data": str(conv_case[1])}})
    heard: list[int] = []

    def interrupt(progress: Any) -> None:
        heard.append(progress.trial.number)
        if heard == [0, 1]:
            raise KeyboardInterrupt

    monkeypatch.setattr(olive, "_tell", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(olive, config)
    assert run(olive, config).model_path is not None
    assert heard == [0, 1, 2]


def test_faults_end_the_workflow(olive: Any, conv_case: tuple[Path, Path], tmp_path: Path) -> None:
    """Olive logs most exceptions and goes on, so that its command would end well."""
    for search, told in (
        ({"data": "nothing.npz"}, r"ovquant: .*nothing\.npz: no such file"),
        ({"data": str(conv_case[1]), "max_trails": 2}, "did you mean 'max_trials'"),
        ({"data": str(conv_case[1]), "model": "mine.onnx"}, "search.model: the model is what Olive hands over"),
    ):
        with pytest.raises(ValueError, match=told):
            run(olive, workflow(onnx_model(conv_case), {"search": search}))
    both = {"data_config": {"name": "images", "type": "DataContainer"}, "search": {"data": str(conv_case[1])}}
    with pytest.raises(ValueError, match=r"either search\.data or data_config"):
        run(olive, workflow(onnx_model(conv_case), both))
    (tmp_path / "module.py").write_text("def load(_): return None")
    module = {"type": "PyTorchModel", "model_loader": "load", "model_script": "module.py"}
    with pytest.raises(TypeError, match="takes ONNXModel and OpenVINOModel, found PyTorchModelHandler; convert it"):
        run(olive, workflow(module, {"search": {"data": str(conv_case[1])}}))


def test_the_command_of_the_readme_runs(olive: Any) -> None:
    section = README.read_text().partition("### Olive\n")[2].partition("\n## ")[0]
    (config,) = re.findall(r"```json\n(.*?)```", section, re.DOTALL)
    (commands,) = re.findall(r"```console\n(.*?)```", section, re.DOTALL)
    small.conv_case(Path())
    Path("workflow.json").write_text(config.replace('"max_trials": 40', '"max_trials": 2'))
    for line in commands.replace("\\\n", " ").splitlines():
        command = (
            line.removeprefix("$ ")
            .replace("python -c", f"{sys.executable} -c")
            .replace("olive run", f"{sys.executable} -m olive run")
        )
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert "[2/2 " in done.stdout + done.stderr
    assert ovquant.load("models/model") is not None
