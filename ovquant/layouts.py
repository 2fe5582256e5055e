"""Where the files of a package lie: a directory with an IR, a repository of OpenVINO Model Server, or a zip file."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

Layout: TypeAlias = Literal["ir", "ovms", "zip"]
_EPOCH = (1980, 1, 1, 0, 0, 0)  # equal packages are equal files


def served_name(model: str) -> str:
    """Return what a server calls a model: its file's name, of letters, digits and ``._-`` only."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(model).stem).strip("-.") or "model"


def model_folder(layout: Layout, name: str) -> Path:
    """Return the folder of the IR within a package; model servers want ``NAME/VERSION``."""
    return Path(name) / "1" if layout == "ovms" else Path()


def server_config(name: str, device: str, properties: Mapping[str, Any]) -> str:
    """Return ``config.json`` of OpenVINO Model Server.

    The path is relative to that file. Source: OpenVINO Model Server, "Model Server Parameters" (name, base_path, target_device,
    plugin_config), and the schema that it checks configurations with, src/schema.cpp.
    """
    config = {"name": name, "base_path": name, "target_device": device, "plugin_config": dict(properties)}
    return json.dumps({"model_config_list": [{"config": config}]}, indent=2) + "\n"


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
