"""OpenVINO: read, inspect, compile, run, save. The only module that imports openvino (lazily)."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ovquant import loading
from ovquant.environment import silence_telemetry
from ovquant.errors import DeviceError, ModelError, did_you_mean, first_line
from ovquant.operations import QUANTIZABLE_TYPES, Operation

if TYPE_CHECKING:
    import openvino as ov

    from ovquant.strategy import InferencePrecision

# OpenVINO's names of precisions -> ours.
PRECISION_NAMES: dict[str, InferencePrecision] = {
    "float32": "f32",
    "f32": "f32",
    "bfloat16": "bf16",
    "bf16": "bf16",
    "float16": "f16",
    "f16": "f16",
}
_QUANTIZED_TYPES = frozenset({"FakeQuantize", "FakeConvert"})
_INTEGER_ONNX = frozenset({"MatMulInteger", "ConvInteger", "DynamicQuantizeLinear"})
_LOW_BIT_TYPES = frozenset({"int8_t", "uint8_t", "int4_t", "uint4_t", "i8", "u8", "i4", "u4", "int4", "uint4", "int8", "uint8"})


@functools.cache
def openvino() -> Any:
    """Return the package, imported once, without telemetry."""
    silence_telemetry()
    import openvino as package

    return package


@functools.cache
def core() -> ov.Core:
    """Return OpenVINO's entry point, made once."""
    return cast("ov.Core", openvino().Core())


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InputInfo:
    """A model input, or output.

    Attributes:
        name: what samples call it.
        shape: None for a dynamic dimension; None altogether for a dynamic rank.
        dtype: numpy type of its elements.
    """

    name: str
    shape: tuple[int | None, ...] | None
    dtype: np.dtype[Any]


def read_model(path: Path) -> ov.Model:
    """Return the model in `path`: OpenVINO IR, ONNX, or whatever `openvino.convert_model` reads.

    Raises:
        ModelError: missing, broken, or no model.
    """
    if not path.exists():
        raise ModelError(f"{path}: no such model file")
    if path.is_dir() and (path / "model.xml").exists():
        raise ModelError(f"{path}: is a directory; give the model in it, {path / 'model.xml'}")
    if path.suffix == ".onnx":
        _check_onnx(path)
    elif path.suffix == ".bin" and path.with_suffix(".xml").exists():
        raise ModelError(f"{path}: holds weights only; give the graph, {path.with_suffix('.xml')}")
    elif path.suffix == ".xml" and not path.with_suffix(".bin").exists():
        raise ModelError(f"{path}: the weights file {path.with_suffix('.bin').name} is missing beside it")
    try:
        if path.suffix == ".xml":
            return core().read_model(str(path))
        # Not read_model: it leaves biases behind shape computations, where NNCF's bias correction does not find them.
        return cast("ov.Model", openvino().convert_model(str(path)))
    except Exception as error:
        raise ModelError(f"{path}: OpenVINO cannot read this model: {first_line(error)}") from error


def _check_onnx(path: Path) -> None:
    import onnx

    if path.is_dir():
        raise ModelError(f"{path}: is a directory, expected an ONNX file")
    try:
        weights = model_files(path)[1:]
    except Exception as error:
        raise ModelError(f"{path}: broken or truncated ONNX file: {first_line(error)}; export or copy it again") from error
    folder = path.parent.resolve()
    for file in weights:
        if not file.resolve().is_relative_to(folder):
            raise ModelError(
                f"{path}: asks for weights in {file}, which is outside of the model's folder; such a model is not read. Put them "
                f"beside the model and export it again"
            )
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        hint = "export it again" if "parse" not in str(error) else "it is broken or truncated; copy or export it again"
        raise ModelError(f"{path}: not a valid ONNX model: {first_line(error)}; {hint}") from error
    except Exception as error:
        raise ModelError(f"{path}: broken or truncated ONNX file: {first_line(error)}; export or copy it again") from error


def model_files(path: Path) -> list[Path]:
    """Return the files that a model is made of: the graph first, then its weights where they are in files of their own."""
    weights = path.with_suffix(".bin" if path.suffix == ".xml" else ".pdiparams")
    if path.suffix in {".xml", ".pdmodel"}:
        return [path, weights] if weights.exists() else [path]
    if path.suffix != ".onnx":
        return [path]
    from onnx.external_data_helper import _get_all_tensors

    tensors = _get_all_tensors(_onnx(path))
    places = (entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location")
    return [path, *(path.parent / place for place in dict.fromkeys(places))]


def _onnx(path: Path) -> Any:
    """Return an ONNX model without the tensors that it keeps in other files."""
    import onnx

    return onnx.load(str(path), load_external_data=False)


def alphabets(path: Path) -> list[str]:
    """Return the lists of symbols that an ONNX file tells: metadata of one symbol a line, as text recognizers have it.

    Which classes stand for a space, if any, is not told; each list comes as it is, and with a space at its end.
    """
    if path.suffix != ".onnx":
        return []
    lists = [entry.value.splitlines() for entry in _onnx(path).metadata_props]
    found = ["".join(symbols) for symbols in lists if len(symbols) > 1 and all(len(symbol) == 1 for symbol in symbols)]
    return [alphabet + space for alphabet in found for space in ("", " ")]


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def model_sha256(path: Path) -> dict[str, str]:
    """Return file name -> SHA-256 of a model's files (graph and weights)."""
    return {file.name: file_sha256(file) for file in model_files(path)}


def input_infos(model: ov.Model) -> tuple[InputInfo, ...]:
    """Return the inputs in the model's order."""
    return tuple(_info(_input_name(port), port) for port in model.inputs)


def output_infos(model: ov.Model) -> tuple[InputInfo, ...]:
    """Return the outputs in the model's order, described as inputs are."""
    return tuple(_info(name, port) for name, port in zip(output_names(model), model.outputs, strict=True))


def _info(name: str, port: Any) -> InputInfo:
    partial = port.get_partial_shape()
    shape = tuple(dim.get_length() if dim.is_static else None for dim in partial) if partial.rank.is_static else None
    return InputInfo(name=name, shape=shape, dtype=np.dtype(port.get_element_type().to_dtype()))


def _input_name(port: Any) -> str:
    return min(port.get_names(), default=str(port.get_node().get_friendly_name()))


def output_names(model: ov.Model | ov.CompiledModel) -> tuple[str, ...]:
    """Return what the outputs are called, in the model's order; ``output_N`` for one without a name."""
    return tuple(min(port.get_names(), default=f"output_{index}") for index, port in enumerate(model.outputs))


def operations(model: ov.Model) -> tuple[Operation, ...]:
    """Return the operations in topological order. A constant stored as f16 and converted is a constant."""
    found = []
    for node in model.get_ordered_ops():
        channels = None
        weights: tuple[int, ...] = ()
        if node.get_type_name() in QUANTIZABLE_TYPES and len(node.inputs()) > 1 and node.input(1).get_partial_shape().is_static:
            weights = tuple(int(side) for side in node.input(1).get_shape())
        if node.get_type_name() == "GroupConvolution":
            groups, per_group_out, per_group_in = (int(dim) for dim in list(node.input(1).get_shape())[:3])
            channels = (groups, per_group_in, per_group_out)
        found.append(
            Operation(
                name=node.get_friendly_name(),
                type="Constant" if _is_constant(node) else node.get_type_name(),
                inputs=tuple(value.get_node().get_friendly_name() for value in node.input_values()),
                group_channels=channels,
                weights_shape=weights,
            )
        )
    return tuple(found)


def _is_constant(node: Any) -> bool:
    is_converted = node.get_type_name() == "Convert" and node.input_value(0).get_node().get_type_name() == "Constant"
    return bool(is_converted or node.get_type_name() == "Constant")


def require_quantizable(model: ov.Model, path: Path) -> None:
    """Check that there is something to quantize, and that nobody did before.

    Raises:
        ModelError: if not.
    """
    nodes = model.get_ordered_ops()
    found = {node.get_type_name() for node in nodes}
    low_bit = any(
        node.get_type_name() == "Constant"
        and node.get_element_type().get_type_name() in _LOW_BIT_TYPES
        and np.prod(list(node.get_output_shape(0))) > 256
        and any(user.get_node().get_type_name() == "Convert" for user in node.output(0).get_target_inputs())
        for node in nodes
    )
    if found & _QUANTIZED_TYPES or low_bit or _has_integer_onnx(path):
        raise ModelError(f"{path}: is already quantized (it holds FakeQuantize or low-bit weights); give the float model")
    if not found & QUANTIZABLE_TYPES:
        raise ModelError(f"{path}: holds nothing to quantize (no convolution, MatMul or recurrent operation)")


def _has_integer_onnx(path: Path) -> bool:
    """Return True for an ONNX file with integer arithmetic, which OpenVINO turns into float operations when it reads it."""
    if path.suffix != ".onnx":
        return False
    nodes = _onnx(path).graph.node
    return any(node.op_type.startswith("QLinear") or node.op_type in _INTEGER_ONNX for node in nodes)


def with_shapes(model: ov.Model, shapes: Mapping[str, Sequence[int]]) -> ov.Model:
    """Return a copy of a model with static input shapes.

    Raises:
        ModelError: it does not take them.
    """
    copied = model.clone()
    try:
        copied.reshape({name: list(shape) for name, shape in shapes.items()})
    except RuntimeError as error:
        raise ModelError(f"cannot be reshaped to {dict(shapes)}: {first_line(error)}") from error
    return copied


def count_fake_quantize(model: ov.Model) -> int:
    """Return the number of FakeQuantize operations."""
    return sum(node.get_type_name() == "FakeQuantize" for node in model.get_ordered_ops())


def graph_digest(model: ov.Model) -> str:
    """Return the SHA-256 of what the model computes: operations, attributes, connections, and every constant bit for bit.

    Names do not count: OpenVINO numbers generated ones anew in each process.
    """
    digest = hashlib.sha256()
    position: dict[str, int] = {}
    for index, node in enumerate(model.get_ordered_ops()):
        position[node.get_friendly_name()] = index
        sources = [(position[v.get_node().get_friendly_name()], v.get_index()) for v in node.input_values()]
        digest.update(repr((_content(node), sources)).encode())
        if node.get_type_name() == "Constant":
            digest.update(_constant_bytes(node))
    return digest.hexdigest()


def operation_digests(model: ov.Model) -> dict[str, str]:
    """Return name -> SHA-256 of all that an operation's outputs depend on: itself and what is upstream of it.

    Equal digests, in whatever models, give equal outputs for equal inputs; model inputs are told apart by their names.
    """
    digests: dict[str, str] = {}
    for node in model.get_ordered_ops():
        sources = [(digests[v.get_node().get_friendly_name()], v.get_index()) for v in node.input_values()]
        names = sorted(node.output(0).get_names()) if node.get_type_name() == "Parameter" else []
        digest = hashlib.sha256(repr((_content(node), names, sources)).encode())
        if node.get_type_name() == "Constant":
            digest.update(_constant_bytes(node))
        digests[node.get_friendly_name()] = digest.hexdigest()
    return digests


def _content(node: Any) -> tuple[Any, ...]:
    """Return what an operation is, apart from its inputs: type, outputs, attributes, and the bodies of a loop or a branch."""
    outputs = [(str(out.get_element_type()), str(out.get_partial_shape())) for out in node.outputs()]
    attributes = {key: str(value) for key, value in sorted(node.get_attributes().items()) if "variable" not in key}
    return (node.get_type_name(), outputs, attributes, [graph_digest(body) for body in _bodies(node)], _ports_of_bodies(node))


def _bodies(node: Any) -> list[Any]:
    if node.get_type_name() == "If":
        return [node.get_function(0), node.get_function(1)]
    return [node.get_function()] if node.get_type_name() in {"Loop", "TensorIterator"} else []


def _ports_of_bodies(node: Any) -> list[list[tuple[str, str]]]:
    """Return how the inputs and outputs of a loop are those of its body: whole, or slice by slice, and in which direction."""
    if node.get_type_name() not in {"Loop", "TensorIterator"}:
        return []
    found = []
    for port in (*node.get_input_descriptions(), *node.get_output_descriptions()):
        names = [name for name in dir(port) if not name.startswith("_") and not callable(getattr(port, name))]
        found.append([(type(port).__name__, ""), *((name, str(getattr(port, name))) for name in names)])
    return found


def _constant_bytes(node: Any) -> memoryview:
    return np.ascontiguousarray(node.get_data()).reshape(-1).view(np.uint8).data


_PRECISION_NOTE = [loading.NOTE, loading.PRECISION]


def save_model(model: ov.Model, path: Path, precision: InferencePrecision | None = None) -> None:
    """Write the model as IR to `path` (``.xml``; weights beside it as ``.bin``), constants as they are.

    Args:
        model: to write.
        path: both files are there whole or not at all.
        precision: what the model is to be run in; noted in its rt_info.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if precision is not None:
        model.set_rt_info(precision, _PRECISION_NOTE)
    partial = path.with_name(f"partial-{path.name}")
    openvino().save_model(model, str(partial), compress_to_fp16=False)
    partial.with_suffix(".bin").replace(path.with_suffix(".bin"))
    partial.replace(path)


def noted_precision(model: ov.Model) -> InferencePrecision | None:
    """Return what `save_model` noted; None for other models."""
    if not model.has_rt_info(_PRECISION_NOTE):
        return None
    return PRECISION_NAMES.get(str(model.get_rt_info(_PRECISION_NOTE).astype(str)))


def note_deployment(model: ov.Model, device: str, properties: Mapping[str, Any]) -> None:
    """Note in a model's rt_info what it was measured on and compiled with, for `ovquant.loading` and other loaders."""
    model.set_rt_info(device, [loading.NOTE, loading.DEVICE])
    model.set_rt_info(json.dumps(dict(properties)), [loading.NOTE, loading.PROPERTIES])


def weight_bytes(model: ov.Model) -> dict[str, int]:
    """Return element type -> bytes of constants, the largest first."""
    found: dict[str, int] = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Constant":
            name = node.get_element_type().get_type_name()
            found[name] = found.get(name, 0) + node.get_data().nbytes
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def loose_weights(model: ov.Model) -> list[str]:
    """Return the names of weights that are quantized and stored as floats all the same: constants behind a FakeQuantize."""
    return [
        node.get_friendly_name()
        for node in model.get_ordered_ops()
        if node.get_type_name() == "FakeQuantize" and _is_constant(node.input_value(0).get_node())
    ]


def size_bytes(path: Path) -> int:
    """Return the size of a model's files, graph and weights."""
    return sum(file.stat().st_size for file in model_files(path))


def available_devices() -> list[str]:
    """Return the OpenVINO devices of this machine."""
    return list(core().available_devices)


_KNOWN_DEVICES = frozenset({"CPU", "GPU", "NPU", "AUTO", "MULTI", "HETERO", "BATCH"})


def has_device(device: str) -> bool:
    """Return True if a device is here; ``GPU`` stands for any ``GPU.N``."""
    return any(device in (name, name.partition(".")[0]) for name in available_devices())


def require_device(device: str, where: str) -> None:
    """Check that a device is here.

    Args:
        device: OpenVINO device, e.g. ``GPU`` or ``GPU.1``.
        where: who asks for it, for the message.

    Raises:
        DeviceError: it is not.
    """
    if has_device(device):
        return
    present = available_devices()
    hint = "" if device.partition(".")[0] in _KNOWN_DEVICES else did_you_mean(device.upper(), present)
    raise DeviceError(
        f"{where}: device {device!r} is not on this machine{hint}; devices here: {', '.join(present)}. "
        "Install its driver, choose another target, or make a dry run with --device CPU"
    )


def device_capabilities(device: str) -> frozenset[str]:
    """Return OpenVINO's OPTIMIZATION_CAPABILITIES of a device."""
    return frozenset(core().get_property(device, "OPTIMIZATION_CAPABILITIES"))


def device_name(device: str) -> str:
    """Return the device's full name."""
    return str(core().get_property(device, "FULL_DEVICE_NAME")).strip()


def device_precisions(device: str) -> frozenset[InferencePrecision]:
    """Return the float precisions that a device computes in."""
    known: dict[str, InferencePrecision] = {"FP32": "f32", "BF16": "bf16", "FP16": "f16"}
    return frozenset({known["FP32"]} | {known[name] for name in device_capabilities(device) if name in known})


def default_precision(device: str) -> InferencePrecision:
    """Return the float precision that a device computes in where nothing is asked for; f32 where it does not tell."""
    told = device_property(device, "INFERENCE_PRECISION_HINT")
    return PRECISION_NAMES.get(told.get_type_name() if hasattr(told, "get_type_name") else str(told), "f32")


def device_property(device: str, name: str) -> Any:
    """Return an OpenVINO property of a device; None where it has no such property."""
    try:
        return core().get_property(device, name)
    except (RuntimeError, TypeError):  # a TypeError where Python has no type for the value
        return None


def device_options(device: str) -> frozenset[str]:
    """Return the names of the properties that models may be compiled with; empty where the device does not tell."""
    told = device_property(device, "SUPPORTED_PROPERTIES") or {}
    return frozenset(name for name, access in told.items() if access in {"RW", "WO"})


def has_state(model: ov.Model) -> bool:
    """Return whether a model remembers something from one inference to the next."""
    return len(model.get_sinks()) > 0


def unnamed_inputs(model: ov.Model) -> Sequence[str]:
    """Return the inputs that have no tensor name; samples cannot address them by name."""
    return [port.get_node().get_friendly_name() for port in model.inputs if not port.get_names()]
