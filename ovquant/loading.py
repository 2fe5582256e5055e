"""Packages as they are deployed: what is in them, and the model compiled as it was measured.

Needs OpenVINO and numpy only, so that a server can use it without all that a search takes.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ovquant.errors import DeviceError, ModelError, OutputError, first_line

if TYPE_CHECKING:
    import openvino as ov

NOTE = "ovquant"  # section of a model's rt_info
DEVICE, PROPERTIES, PRECISION = "device", "compile_properties", "inference_precision"
MANIFEST = "manifest.json"
MODEL, OPTIMUM_MODEL = "model.xml", "openvino_model.xml"
_OVMS = "config.json"
_SINGLE = frozenset({"CPU", "GPU", "NPU"})


class Package:
    """The files of a package: a directory, an OpenVINO Model Server repository, or a zip of either."""

    def __init__(self, path: Path) -> None:
        """Look into it.

        Raises:
            OutputError: there is no package.
        """
        self.path = path.parent if path.name in (MODEL, OPTIMUM_MODEL) else path
        self._archive: zipfile.ZipFile | None = None
        if self.path.is_file():
            try:
                self._archive = zipfile.ZipFile(self.path)
            except (zipfile.BadZipFile, OSError) as error:
                raise OutputError(f"{path}: neither a directory nor a zip file: {first_line(error)}") from error
        elif not self.path.is_dir():
            raise OutputError(f"{path}: no such package; give the directory or the zip file that ovquant export wrote")

    def names(self) -> list[str]:
        """Return the files in it, as relative paths with slashes, sorted."""
        if self._archive is not None:
            return sorted(info.filename for info in self._archive.infolist() if not info.is_dir())
        return sorted(file.relative_to(self.path).as_posix() for file in self.path.rglob("*") if file.is_file())

    def has(self, name: str) -> bool:
        """Return whether a file is in it; what lies outside of the package is not."""
        if self._archive is not None:
            return name in self._archive.namelist()
        parts = PurePosixPath(name)
        return not parts.is_absolute() and ".." not in parts.parts and (self.path / name).is_file()

    def read(self, name: str) -> bytes:
        """Return a file's content.

        Raises:
            OutputError: it is not there, or broken.
        """
        if not self.has(name):
            raise OutputError(f"{self.path}: holds no file {name!r}")
        try:
            return (self.path / name).read_bytes() if self._archive is None else self._archive.read(name)
        except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise OutputError(f"{self.path}: {name} cannot be read: {first_line(error)}") from error

    def read_json(self, name: str) -> dict[str, Any]:
        """Return a JSON file's mapping.

        Raises:
            OutputError: it is not there, or no JSON mapping.
        """
        try:
            content = json.loads(self.read(name))
        except ValueError as error:
            raise OutputError(f"{self.path}: {name} is no JSON: {first_line(error)}") from error
        if not isinstance(content, dict):
            raise OutputError(f"{self.path}: {name} is no JSON mapping")
        return content

    def model_name(self) -> str:
        """Return the graph's file: ``model.xml``, Optimum's name for it, or that of the newest version of a server's first model.

        Raises:
            OutputError: there is none.
        """
        for name in (MODEL, OPTIMUM_MODEL):
            if self.has(name):
                return name
        if not self.has(_OVMS):
            raise OutputError(
                f"{self.path}: holds neither {MODEL} nor {OPTIMUM_MODEL} nor {_OVMS}; is it what ovquant export wrote?"
            )
        content = self.read_json(_OVMS)
        try:
            base = PurePosixPath(str(content["model_config_list"][0]["config"]["base_path"]))
        except (KeyError, IndexError, TypeError):
            raise OutputError(f"{self.path}: {_OVMS} names no model") from None
        found = [name for name in self.names() if name.endswith(".xml") and _version(name, base) is not None]
        if not found:
            raise OutputError(f"{self.path}: no version of a model in {base}; expected {base}/1/model.xml")
        return max(found, key=lambda name: _version(name, base) or 0)

    def model(self, core: ov.Core) -> ov.Model:
        """Return the model.

        Raises:
            OutputError: files are missing.
            ModelError: OpenVINO cannot read it.
        """
        name = self.model_name()
        weights = str(PurePosixPath(name).with_suffix(".bin"))
        if not self.has(weights):
            raise OutputError(f"{self.path}: holds no file {weights!r}, the weights of {name}")
        try:
            if self._archive is None:
                return core.read_model(str(self.path / name))
            return core.read_model(self.read(name), _tensor(self.read(weights)))
        except RuntimeError as error:
            raise ModelError(f"{self.path}: OpenVINO cannot read {name}: {first_line(error)}") from error


def _version(name: str, base: PurePosixPath) -> int | None:
    path = PurePosixPath(name)
    version = path.parent.name
    return int(version) if path.parent.parent == base and version.isdecimal() and int(version) > 0 else None


def _tensor(content: bytes) -> Any:
    import numpy as np
    import openvino as ov

    return ov.Tensor(np.frombuffer(content, dtype=np.uint8).copy())


def deployment(model: ov.Model, core: ov.Core, device: str | None, where: str) -> tuple[str, dict[str, Any]]:
    """Return the device and the compile properties that are noted in a model.

    Args:
        model: of a package.
        core: OpenVINO's entry point.
        device: to take instead of the one that is noted.
        where: the package, for the message.

    Raises:
        DeviceError: that device is not here.
    """
    chosen = device or _noted(model, DEVICE) or "CPU"
    present = list(core.available_devices)
    if not any(chosen in (name, name.partition(".")[0]) for name in present) and chosen.partition(".")[0] in _SINGLE:
        told = f"made for device {chosen!r}, which" if device is None else f"device {chosen!r}"
        raise DeviceError(f"{where}: {told} is not here; devices here: {', '.join(present)}. Name one of them")
    return chosen, _noted_properties(model)


def _noted_properties(model: ov.Model) -> dict[str, Any]:
    noted, precision = _noted(model, PROPERTIES), _noted(model, PRECISION)
    if noted is None:
        return {"INFERENCE_PRECISION_HINT": precision} if precision else {}
    content: dict[str, Any] = json.loads(noted)
    return content


def _noted(model: ov.Model, key: str) -> str | None:
    return str(model.get_rt_info([NOTE, key]).astype(str)) if model.has_rt_info([NOTE, key]) else None


def load(
    path: str | Path, device: str | None = None, properties: Mapping[str, Any] | None = None, core: ov.Core | None = None
) -> ov.CompiledModel:
    """Return the model of a package, compiled as it was measured.

    Args:
        path: directory or zip file that ovquant wrote, in any of its layouts.
        device: OpenVINO device; None takes the one that it was made for.
        properties: go over the compile properties that it was measured with.
        core: None makes one.

    Raises:
        OutputError: there is no package, or files in it are missing.
        ModelError: OpenVINO cannot read or compile the model.
        DeviceError: the device that it was made for is not here.
    """
    import openvino as ov

    used = core or ov.Core()
    model = Package(Path(path)).model(used)
    chosen, noted = deployment(model, used, device, str(path))
    try:
        return used.compile_model(model, chosen, {**noted, **(properties or {})})
    except RuntimeError as error:
        raise ModelError(f"{path}: cannot be compiled for {chosen}: {first_line(error)}") from error
