"""What decides a compiled model's latency, as a digest: models with the same key need be timed only once.

Latency hangs on the kernels that run, hardly on the numbers that they run on. But numbers can choose the kernel: a range
above zero takes a convolution out of 8 bits. So the key holds three things, and each covers what another one hides:

- The runtime graph, which the device's plugin made of the model: what really runs, in which precision and layout.
  It does not tell strides, activations, zero points or what exactly was fused.
- The model that was compiled, with all its attributes, but of its weights, biases and ranges only the *class*: what a
  plugin may choose a kernel by, such as whether there is a zero point.
- The compile properties as they are in force.

Where a class cannot tell, as near a plugin's own thresholds, the numbers themselves go into the key: a key too many costs
one measurement, a key too few gives a wrong latency.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ovquant.quantizers import WEIGHTED_TYPES, Graph, Port, has_readable_ranges, quantizer_classes

if TYPE_CHECKING:
    import openvino as ov

_RULES = 1  # part of every key: to be raised when what goes into keys changes, so that stored ones are not matched any more

# Of a runtime node: how long it took, which of several possible orders it stands in, and names.
_RUNTIME_ACCIDENTS = frozenset({"execOrder", "execTimeMcs", "originalLayersNames"})
# Of a compiled model: names, places of files, and what only concerns how it was loaded.
_PROPERTY_ACCIDENTS = frozenset(
    {
        "CACHE_DIR",
        "CACHE_MODE",
        "LOADED_FROM_CACHE",
        "LOG_LEVEL",
        "MODEL_PTR",
        "NETWORK_NAME",
        "SUPPORTED_PROPERTIES",
        "WEIGHTS_PATH",
    }
)
_SPARSITY = "CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE"  # below 1, how many weights are zero chooses kernels
_GENERATED_NAME = re.compile(r"([A-Za-z][A-Za-z0-9]*)(?:_\d+)+")

_FLOAT_TYPES = frozenset({"f64", "f32", "f16", "bf16"})
_LOW_BIT_TYPES = frozenset({"i8", "u8", "i4", "u4", "u2", "nf4", "f8e4m3", "f8e5m2", "f4e2m1"})
# Operations in which the size of a single number chooses no kernel, only its sign or its being 0 or 1.
_LINEAR_TYPES = WEIGHTED_TYPES | {"Add", "Subtract", "Multiply", "Divide"}
_MAX_LOOKED_AT = 1 << 16  # elements; larger constants are weights, never uniform, and looking at them would take long


def structure_key(
    model: ov.Model,
    compiled: ov.CompiledModel,
    *,
    device: str,
    properties: Mapping[str, Any] = MappingProxyType({}),
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> str:
    """Return a digest that two compiled models share only if they run the same kernels, so that one latency holds for both.

    It is the same in another process, for a model saved and read again, and whatever operations are called. Changed
    weights, biases and ranges leave it as it is unless they can change a kernel. Order of inputs, outputs and operations
    does not matter.

    Where the device's plugin has no runtime graph to show, or has not chosen kernels yet, every constant goes in bit for
    bit, so that only equal models share such a key.

    Args:
        model: what was compiled.
        compiled: made of `model`. With dynamic shapes it must have run one inference on the sample that is timed, as
            kernels are chosen by shape; of several inferences, the key is that of the last.
        device: what it was compiled for. It must tell apart all that share a store of latencies: where several machines
            do, this is to hold the device's full name as well.
        properties: compile properties that were asked for. Those which `compiled` can tell are read from it instead,
            so that a default and the same value in words are the same.
        input_shapes: input name -> shape of the timed sample. Needed with dynamic shapes where there is no runtime
            graph. Elsewhere the shapes are in the graph; they count all the same, so give them always or never.

    Returns:
        SHA-256, 64 hexadecimal digits.

    Raises:
        ValueError: `input_shapes` is needed and missing.
    """
    graph, running = Graph.of(model.get_ordered_ops()), _running(compiled)
    if running is None and input_shapes is None and any(port.get_partial_shape().is_dynamic for port in model.inputs):
        raise ValueError("dynamic shapes, and the device shows no kernels for them: the key needs the input shapes")
    in_force = _properties(compiled, device, properties)
    is_exact = running is None or not has_readable_ranges(graph) or in_force.get(_SPARSITY, "1.0") != "1.0"
    source = _digests(_source_contents(graph, is_exact=is_exact), graph.sources)
    key = hashlib.sha256(repr((_RULES, device, is_exact)).encode())
    key.update(repr(sorted(in_force.items())).encode())
    key.update(repr({name: [int(dim) for dim in shape] for name, shape in sorted((input_shapes or {}).items())}).encode())
    key.update(b"".join(sorted(source)))
    if running is not None:
        names = [node.get_friendly_name() for node in graph.nodes]
        origins = dict(zip(names, zip(graph.kinds, source, strict=True), strict=True))
        key.update(b"".join(sorted(_digests(_running_contents(running, origins), running.sources))))
    return key.hexdigest()


# Graphs of any kind


def _digests(contents: Iterable[str], sources: Sequence[tuple[Port, ...]]) -> list[bytes]:
    """Return a digest for each node of itself, all that it depends on and all that depends on it.

    Equal graphs have equal collections of digests, in whatever order their nodes come. The way back from the consumers
    makes it count which of two equal nodes feeds what. The time is linear in the nodes and connections.

    Args:
        contents: what counts about each node itself, in topological order.
        sources: where the inputs of each come from.
    """
    behind: list[bytes] = []
    for content, ports in zip(contents, sources, strict=True):
        digest = hashlib.sha256(hashlib.sha256(content.encode()).digest())
        for index, output in ports:
            digest.update(b"%b%d;" % (behind[index], output))
        behind.append(digest.digest())
    consumers: list[list[bytes]] = [[] for _ in behind]
    both = [b""] * len(behind)
    for index in range(len(behind) - 1, -1, -1):
        both[index] = hashlib.sha256(behind[index] + b"".join(sorted(consumers[index]))).digest()
        for port, (source, output) in enumerate(sources[index]):
            consumers[source].append(b"%b%d>%d;" % (both[index], output, port))
    return both


def _outputs(node: Any) -> list[str]:
    return [f"{output.get_element_type().get_type_name()}{output.get_partial_shape()}" for output in node.outputs()]


# What runs


def _running(compiled: ov.CompiledModel) -> Graph | None:
    """Return the runtime graph; None where there is none, or where kernels wait for shapes to be known."""
    try:
        nodes = compiled.get_runtime_model().get_ordered_ops()
    except RuntimeError:
        return None
    if any(output.get_partial_shape().is_dynamic for node in nodes for output in node.outputs()):
        return None
    return Graph.of(nodes)


def _running_contents(graph: Graph, origins: Mapping[str, tuple[str, bytes]]) -> Iterator[str]:
    """Yield what counts of each node of the runtime graph, and what operations of the model were made into it.

    Args:
        graph: the runtime graph.
        origins: name of an operation of the model -> type, digest.
    """
    for node, kind in zip(graph.nodes, graph.kinds, strict=True):
        info = node.get_rt_info()
        told = sorted((key, str(value.value)) for key, value in info.items() if key not in _RUNTIME_ACCIDENTS)
        names = str(info["originalLayersNames"].value) if "originalLayersNames" in info else ""
        yield repr((kind, _outputs(node), told, sorted(_origin(name, origins) for name in names.split(",") if name)))


def _origin(name: str, origins: Mapping[str, tuple[str, bytes]]) -> str:
    """Return what operation was made into a runtime node, without its name."""
    generated = _GENERATED_NAME.fullmatch(name)
    kind, digest = origins.get(name, (generated[1] if generated else "", b""))
    # Compiling makes operations too, named by type and number. The number may happen to be one that the model uses.
    is_sure = kind != "Constant" and not (generated and generated[1] == kind)
    return digest.hex() if is_sure else kind


_names: dict[tuple[type, str, str], frozenset[str]] = {}


def _names_of_properties(compiled: ov.CompiledModel, device: str, asked: Mapping[str, Any]) -> frozenset[str]:
    """Return which properties a device's models have; asked once, as each answer leaks 2 kB (OpenVINO 2026.4)."""
    key = (type(compiled), device, repr(sorted(asked.items())))
    if key not in _names:
        try:
            _names[key] = frozenset(compiled.get_property("SUPPORTED_PROPERTIES"))
        except RuntimeError:
            return frozenset()
    return _names[key]


def _properties(compiled: ov.CompiledModel, device: str, asked: Mapping[str, Any]) -> dict[str, str]:
    """Return the compile properties in force; those asked for where the device does not tell."""
    names = _names_of_properties(compiled, device, asked)
    found = {name: _in_words(value) for name, value in asked.items() if name not in _PROPERTY_ACCIDENTS}
    for name in names - _PROPERTY_ACCIDENTS:
        try:
            found[name] = _in_words(compiled.get_property(name))
        except (RuntimeError, TypeError):  # listed, yet not to be read, or of a type unknown to Python
            found.setdefault(name, "unknown")
    return found


def _in_words(value: Any) -> str:
    """Return a property's value as text that is the same in each process: sets have no order."""
    if isinstance(value, set | frozenset):
        return repr(sorted(map(_in_words, value)))
    if isinstance(value, Mapping):
        return repr(sorted((str(key), _in_words(item)) for key, item in value.items()))
    return str(value)


# What was compiled


def _source_contents(graph: Graph, *, is_exact: bool) -> Iterator[str]:
    """Yield what counts of each operation of a model: its attributes; of a constant its class, or all bits if `is_exact`."""
    quantizers = {} if is_exact else quantizer_classes(graph)
    users = graph.users()
    for index, (node, kind) in enumerate(zip(graph.nodes, graph.kinds, strict=True)):
        parts: list[Any] = [kind, _outputs(node)]
        if kind == "Constant":
            parts.append(_exactly(node) if is_exact else _constant_class(graph, index, users))
        else:
            # The name of a variable ties the operations that read and write it; it is a name nevertheless.
            parts.append({key: str(value) for key, value in sorted(node.get_attributes().items()) if key != "variable_id"})
            parts.append(quantizers.get(index))
            parts.extend(_body_class(node, body, is_exact=is_exact) for body in _bodies(node, kind))
        yield repr(parts)


def _bodies(node: Any, kind: str) -> list[Any]:
    """Return the graphs inside If, Loop and TensorIterator."""
    if kind == "If":
        return [node.get_then_body(), node.get_else_body()]
    return [node.get_function()] if kind in {"Loop", "TensorIterator"} else []


def _body_class(node: Any, body: ov.Model, *, is_exact: bool) -> tuple[Any, ...]:
    graph = Graph.of(body.get_ordered_ops())
    digests = _digests(_source_contents(graph, is_exact=is_exact or not has_readable_ranges(graph)), graph.sources)
    return (sorted(digest.hex() for digest in digests), len(node.inputs()), len(node.outputs()))


def _constant_class(graph: Graph, index: int, users: Sequence[Sequence[Port]]) -> str:
    """Return what about a constant can choose a kernel.

    Integers are shapes, axes and indices: each one matters. Floats and 8-bit numbers are weights, biases, scales and zero
    points, of which plugins see whether they do nothing (0, 1) and whether they are the same for all channels.
    """
    used_by = {(graph.kinds[user], port) for user, port in users[index]}
    if all(kind == "FakeQuantize" and port > 0 for kind, port in used_by):
        return "range"  # classed with its FakeQuantize
    node = graph.nodes[index]
    element = node.get_element_type().get_type_name()
    size = math.prod(node.get_output_shape(0))
    is_converted = all(kind == "Convert" for kind, _ in used_by)
    is_number = element in _FLOAT_TYPES or (element in _LOW_BIT_TYPES and is_converted)
    if is_converted:
        used_by = {(graph.kinds[user], port) for converted, _ in users[index] for user, port in users[converted]}
    if not is_number or (size == 1 and not {kind for kind, _ in used_by} <= _LINEAR_TYPES):
        return _exactly(node)
    if size > _MAX_LOOKED_AT:
        return "large"
    values = np.asarray(node.get_data()).ravel()
    if size > 1 and bool((values != values[0]).any()):
        return "varied"
    if size == 0 or values[0] in (0, 1):
        return f"all {values[:1].tolist()}"
    return "uniform" if values[0] > 0 else "uniform, negative"


def _exactly(node: Any) -> str:
    if node.get_element_type().get_type_name() == "string":
        return repr(node.get_value_strings())
    return hashlib.sha256(np.ascontiguousarray(node.get_data()).tobytes()).hexdigest()


# Ranges
