"""Packages as a server loads them: every layout, with OpenVINO and numpy alone, and packages that are not whole."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import small

import ovquant
from ovquant import layouts, loading, runtime
from ovquant.errors import DeviceError, ModelError, OutputError

PROPERTIES = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return layout -> package of the small model."""
    root = tmp_path_factory.mktemp("packages")
    model = runtime.read_model(small.conv_model(root / "m.onnx"))
    runtime.note_deployment(model, "CPU", PROPERTIES)
    runtime.save_model(model, root / "ir" / "model.xml", "f32")
    for version in ("1", "2", "10", "x"):
        runtime.save_model(model, root / "ovms" / "m" / version / "model.xml", "f32")
    (root / "ovms" / "config.json").write_text(layouts.server_config("m", "CPU", PROPERTIES))
    runtime.save_model(model, root / "optimum" / "openvino_model.xml", "f32")
    (root / "optimum" / "config.json").write_text('{"model_type": "bert"}')
    layouts.zip_folder(root / "ir", root / "ir.zip")
    layouts.zip_folder(root / "ovms", root / "ovms.zip")
    return {path.name: path for path in (root / name for name in ("ir", "ovms", "optimum", "ir.zip", "ovms.zip"))}


@pytest.mark.parametrize("layout", ["ir", "ovms", "optimum", "ir.zip", "ovms.zip"])
def test_every_layout_loads_with_the_properties_that_it_was_measured_with(packages: dict[str, Path], layout: str) -> None:
    compiled = ovquant.load(packages[layout])
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    image = small.normalized(small.images(1))
    expected = small.float_logits(packages["ir"] / "model.xml", image)
    assert np.allclose(compiled(image)["logits"], expected, atol=1e-4)


def test_the_newest_version_of_a_repository_counts(packages: dict[str, Path]) -> None:
    assert loading.Package(packages["ovms"]).model_name() == "m/10/model.xml"
    assert loading.Package(packages["ovms.zip"]).model_name() == "m/10/model.xml"


def test_properties_and_device_of_the_caller_go_first(packages: dict[str, Path]) -> None:
    assert ovquant.load(packages["ir"], "CPU", {"INFERENCE_NUM_THREADS": 2}).get_property("INFERENCE_NUM_THREADS") == 2
    for model in (packages["ir"] / "model.xml", packages["optimum"] / "openvino_model.xml"):
        assert ovquant.load(model).get_property("INFERENCE_NUM_THREADS") == 1


def test_a_package_of_before_keeps_its_precision(tmp_path: Path) -> None:
    runtime.save_model(runtime.read_model(small.conv_model(tmp_path / "m.onnx")), tmp_path / "model.xml", "f32")
    package = loading.Package(tmp_path)
    assert loading.deployment(package.model(ov.Core()), ov.Core(), None, "here") == ("CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def test_loading_needs_openvino_and_numpy_only(packages: dict[str, Path], tmp_path: Path) -> None:
    """Run it where nothing else is installed: a folder with these two and ovquant, and no site-packages."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "ovquant").symlink_to(Path(ovquant.__file__).parent)
    for module in (np, ov):
        home = Path(str(module.__file__)).parent
        for beside in [home, *home.parent.glob(f"{home.name}.libs")]:
            (folder / beside.name).symlink_to(beside)
    code = (
        f"import sys; sys.path.insert(0, {str(folder)!r})\n"
        "import importlib.util as found\n"
        "assert found.find_spec('pydantic') is None and found.find_spec('yaml') is None and found.find_spec('scipy') is None\n"
        "import ovquant\n"
        f"for path in {[str(path) for path in packages.values()]!r}:\n"
        "    print(ovquant.load(path).get_property('INFERENCE_NUM_THREADS'))\n"
        "print(sorted(name for name in sys.modules if name.startswith('ovquant')))\n"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:-1] == ["1"] * len(packages) + ["['ovquant', 'ovquant.errors', 'ovquant.loading']"]


def test_a_device_that_is_not_here_is_an_error_that_names_those_that_are(tmp_path: Path, packages: dict[str, Path]) -> None:
    model = runtime.read_model(packages["ir"] / "model.xml")
    runtime.note_deployment(model, "NPU", {})
    runtime.save_model(model, tmp_path / "model.xml")
    with pytest.raises(DeviceError, match="made for device 'NPU', which is not here; devices here: CPU"):
        ovquant.load(tmp_path)
    with pytest.raises(DeviceError, match=r"device 'GPU.1' is not here"):
        ovquant.load(tmp_path, "GPU.1")
    assert ovquant.load(tmp_path, "CPU") is not None


def test_a_property_that_the_device_lacks_is_an_error_of_the_model(packages: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match="cannot be compiled for CPU"):
        ovquant.load(packages["ir"], properties={"NO_SUCH_THING": 1})


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, r"holds neither model.xml nor openvino_model.xml nor config.json"),
        ({"config.json": "{}"}, "config.json names no model"),
        ({"config.json": "[1]"}, "config.json is no JSON mapping"),
        ({"config.json": "{"}, "config.json is no JSON"),
        (
            {"config.json": layouts.server_config("m", "CPU", {}), "m/0/model.xml": "", "m/model.xml": ""},
            "no version of a model in m",
        ),
        ({"config.json": layouts.server_config("../m", "CPU", {})}, r"no version of a model in ../m"),
        ({"model.xml": "<net/>"}, "holds no file 'model.bin', the weights of model.xml"),
    ],
)
@pytest.mark.parametrize("is_zipped", [False, True])
def test_what_is_no_package_is_an_error(tmp_path: Path, files: dict[str, str], told: str, is_zipped: bool) -> None:
    folder = tmp_path / "package"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    path = folder
    if is_zipped:
        path = tmp_path / "p.zip"
        layouts.zip_folder(folder, path)
    with pytest.raises(OutputError, match=told):
        ovquant.load(path)


def test_a_path_that_is_nothing_or_no_zip_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("words")
    for name, told in (("text.zip", "neither a directory nor a zip file"), ("nothing", "no such package")):
        with pytest.raises(OutputError, match=told):
            ovquant.load(tmp_path / name)


def test_nothing_outside_of_a_package_is_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "p").mkdir()
    package = loading.Package(tmp_path / "p")
    for name in ("../secret", str(tmp_path / "secret")):
        assert not package.has(name)
        with pytest.raises(OutputError):
            package.read(name)


def test_a_broken_model_is_an_error_of_the_model(tmp_path: Path, packages: dict[str, Path]) -> None:
    (tmp_path / "model.xml").write_text("<net")
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"OpenVINO cannot read model.xml"):
        ovquant.load(tmp_path)


def test_equal_folders_give_equal_zip_files_and_none_is_overwritten(tmp_path: Path, packages: dict[str, Path]) -> None:
    layouts.zip_folder(packages["ir"], tmp_path / "a.zip")
    layouts.zip_folder(packages["ir"], tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with pytest.raises(FileExistsError):
        layouts.zip_folder(packages["ir"], tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == ["model.bin", "model.xml"]


# Facts of OpenVINO Model Server, from the schema that it checks config.json with (openvinotoolkit/model_server,
# src/schema.cpp, MODELS_CONFIG_SCHEMA) and its page "Model Server Parameters": what a model's entry must and may hold, and
# that base_path may be relative to config.json.
OVMS_REQUIRED = {"name", "base_path"}
OVMS_TYPES = {
    "name": str, "base_path": str, "batch_size": int | str, "model_version_policy": dict, "shape": dict | str, "nireq": int,
    "target_device": str, "plugin_config": dict, "stateful": bool, "idle_sequence_cleanup": bool,
    "low_latency_transformation": bool, "max_sequence_number": int, "custom_loader_options": dict,
}  # fmt: skip


@pytest.mark.parametrize("name", ["digits", "my model (2).onnx", "é", "..", "-x-"])
def test_the_configuration_of_a_model_server_keeps_to_its_schema(name: str) -> None:
    served = layouts.served_name(name)
    assert served
    assert not set(served) & set("/\\ ()")
    assert served not in {".", ".."}
    content = json.loads(layouts.server_config(served, "GPU.1", PROPERTIES))
    assert set(content) == {"model_config_list"}
    (entry,) = content["model_config_list"]
    assert set(entry) == {"config"}
    assert set(entry["config"]) >= OVMS_REQUIRED
    for key, value in entry["config"].items():
        assert isinstance(value, OVMS_TYPES[key])
    assert not Path(entry["config"]["base_path"]).is_absolute()
    assert entry["config"]["plugin_config"] == PROPERTIES
    assert layouts.model_file("ovms", served) == Path(served) / "1" / "model.xml"  # versions are positive whole numbers
