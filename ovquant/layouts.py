"""What the files of a package are called and lie beside: for OpenVINO, its Model Server, Optimum Intel, or in a zip file."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ovquant.errors import UsageError, first_line
from ovquant.loading import MODEL, OPTIMUM_MODEL

Layout: TypeAlias = Literal["ir", "ovms", "optimum", "zip"]
CONFIG = "config.json"
# What transformers writes beside a model, so that tokenizers and processors load from the same directory.
PROCESSOR_FILES = (
    "added_tokens.json", "merges.txt", "preprocessor_config.json", "processor_config.json", "sentencepiece.bpe.model",
    "special_tokens_map.json", "spiece.model", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json",
    "vocab.txt",
)  # fmt: skip
_EPOCH = (1980, 1, 1, 0, 0, 0)  # equal packages are equal files


def served_name(model: str) -> str:
    """Return what a server calls a model: its file's name, of letters, digits and ``._-`` only."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(model).stem).strip("-.") or "model"


def model_file(layout: Layout, name: str) -> Path:
    """Return where the graph of a package is; model servers want ``NAME/VERSION``, Optimum a name of its own."""
    if layout == "ovms":
        return Path(name) / "1" / MODEL
    return Path(OPTIMUM_MODEL if layout == "optimum" else MODEL)


def companions(layout: Layout, name: str, device: str, properties: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files that a layout has beside model, recipe and manifest: name -> content.

    Args:
        layout: of the package.
        name: of the model, for servers.
        device: that the model was measured on.
        properties: that it was compiled with.
    """
    if layout == "ovms":
        return {CONFIG: server_config(name, device, properties).encode()}
    if layout == "optimum":
        return {"openvino_config.json": optimum_config(device, properties).encode()}
    return {}


def server_config(name: str, device: str, properties: Mapping[str, Any]) -> str:
    """Return ``config.json`` of OpenVINO Model Server.

    The path is relative to that file. Source: OpenVINO Model Server, "Model Server Parameters" (name, base_path, target_device,
    plugin_config), and the schema that it checks configurations with, src/schema.cpp.
    """
    config = {"name": name, "base_path": name, "target_device": device, "plugin_config": dict(properties)}
    return json.dumps({"model_config_list": [{"config": config}]}, indent=2) + "\n"


def optimum_config(device: str, properties: Mapping[str, Any]) -> str:
    """Return ``openvino_config.json``: arguments of ``from_pretrained`` under which Optimum Intel compiles what was measured.

    Optimum gives a file of this name to its quantization settings, and reads no properties from any file (2.2). Without
    ``dynamic_shapes`` it would give every input dynamic shapes.
    """
    return json.dumps({"device": device, "ov_config": dict(properties), "dynamic_shapes": False}, indent=2) + "\n"


def hub_files(folder: Path) -> dict[str, bytes]:
    """Return a model's ``config.json``, and what tokenizers and processors are loaded from, as far as it is there.

    Raises:
        UsageError: there is no ``config.json`` that transformers could tell the model by.
    """
    path = folder / CONFIG
    hint = "--config-from names the folder that transformers or Optimum wrote the model to"
    try:
        content = json.loads(path.read_bytes())
        files = {name: (folder / name).read_bytes() for name in (CONFIG, *PROCESSOR_FILES) if (folder / name).is_file()}
    except FileNotFoundError:
        raise UsageError(f"{path}: is not there, and --layout optimum needs it; {hint}") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as JSON: {first_line(error)}; {hint}") from error
    if not isinstance(content, dict) or not isinstance(content.get("model_type"), str):
        raise UsageError(f"{path}: has no model_type, so it is no configuration of a transformers model; {hint}")
    return files


def zip_folder(folder: Path, path: Path) -> None:
    """Write the files of a folder into a new zip file; weights do not shrink worth the time, so nothing is compressed."""
    with zipfile.ZipFile(path, "x", zipfile.ZIP_STORED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                info = zipfile.ZipInfo(file.relative_to(folder).as_posix(), _EPOCH)
                info.external_attr = 0o644 << 16
                with file.open("rb") as source, archive.open(info, "w", force_zip64=True) as target:
                    while block := source.read(1 << 20):
                        target.write(block)
