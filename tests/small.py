"""Small real models and data that the tests make for themselves: quick to quantize, with something to lose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

N_CLASSES = 5
SIDE = 12


def conv_model(path: Path, *, seed: int = 0, side: int = SIDE) -> Path:
    """Write a classifier: convolution, depthwise convolution, pointwise convolution, pooling, MatMul.

    Input ``image`` float32 [1, 3, side, side], output ``logits`` [1, N_CLASSES].
    """
    rng = np.random.default_rng(seed)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        fan_in = int(np.prod(shape[1:])) or 1
        return numpy_helper.from_array((rng.normal(size=shape) * (2 / fan_in) ** 0.5).astype(np.float32), name)

    head = numpy_helper.from_array(rng.normal(size=(16, N_CLASSES)).astype(np.float32) * 2, "w4")
    spread = numpy_helper.from_array(np.geomspace(0.05, 4, 16).astype(np.float32).reshape(16, 1, 1, 1), "spread")
    initializers = [weight("w1", 16, 3, 3, 3), weight("w3", 16, 16, 1, 1), head]
    depthwise = numpy_helper.to_array(weight("w2", 16, 1, 3, 3)) * numpy_helper.to_array(spread)
    initializers.append(numpy_helper.from_array(depthwise.astype(np.float32), "w2"))
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["c1"], "stem", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "stem_relu"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "depthwise", pads=[1, 1, 1, 1], group=16),
        helper.make_node("Relu", ["c2"], ["r2"], "depthwise_relu"),
        helper.make_node("Conv", ["r2", "w3"], ["c3"], "pointwise"),
        helper.make_node("Add", ["c3", "r1"], ["sum"], "residual"),
        helper.make_node("GlobalAveragePool", ["sum"], ["pool"], "pool"),
        helper.make_node("Flatten", ["pool"], ["flat"], "flatten"),
        helper.make_node("MatMul", ["flat", "w4"], ["logits"], "head"),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, side, side])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, N_CLASSES])]
    return _save(path, nodes, inputs, outputs, initializers)


def two_input_model(path: Path) -> Path:
    """Write a model with two inputs (``left`` [N, 8], ``right`` [N, 4], batch dynamic) and two outputs.

    ``scores`` [N, 3] are probabilities, ``distance`` [N, 1] is a plain value.
    """
    rng = np.random.default_rng(1)
    initializers = [
        numpy_helper.from_array(rng.normal(size=(12, 16)).astype(np.float32), "w1"),
        numpy_helper.from_array(rng.normal(size=(16, 3)).astype(np.float32), "w2"),
        numpy_helper.from_array(rng.normal(size=(16, 1)).astype(np.float32), "w3"),
    ]
    nodes = [
        helper.make_node("Concat", ["left", "right"], ["both"], "join", axis=1),
        helper.make_node("MatMul", ["both", "w1"], ["hidden"], "first"),
        helper.make_node("Relu", ["hidden"], ["active"], "relu"),
        helper.make_node("MatMul", ["active", "w2"], ["raw"], "second"),
        helper.make_node("Softmax", ["raw"], ["scores"], "softmax", axis=1),
        helper.make_node("MatMul", ["active", "w3"], ["distance"], "third"),
    ]
    inputs = [
        helper.make_tensor_value_info("left", TensorProto.FLOAT, ["N", 8]),
        helper.make_tensor_value_info("right", TensorProto.FLOAT, ["N", 4]),
    ]
    outputs = [
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3]),
        helper.make_tensor_value_info("distance", TensorProto.FLOAT, ["N", 1]),
    ]
    return _save(path, nodes, inputs, outputs, initializers)


def layernorm_model(path: Path) -> Path:
    """Write a model with a LayerNorm in single steps (E[x^2] - E[x]^2) between two MatMuls; tokens [1, 6, 8] to [1, 6, 8]."""
    rng = np.random.default_rng(2)
    initializers = [
        numpy_helper.from_array(rng.normal(size=(8, 8)).astype(np.float32), "w1"),
        numpy_helper.from_array(rng.normal(size=(8, 8)).astype(np.float32), "w2"),
        numpy_helper.from_array(np.float32(1e-5).reshape(1), "eps"),
    ]
    nodes = [
        helper.make_node("MatMul", ["tokens", "w1"], ["x"], "before"),
        helper.make_node("ReduceMean", ["x"], ["mean"], "mean", axes=[2], keepdims=1),
        helper.make_node("Mul", ["x", "x"], ["square"], "square"),
        helper.make_node("ReduceMean", ["square"], ["square_mean"], "square_mean", axes=[2], keepdims=1),
        helper.make_node("Mul", ["mean", "mean"], ["mean_square"], "mean_square"),
        helper.make_node("Sub", ["square_mean", "mean_square"], ["variance"], "variance"),
        helper.make_node("Add", ["variance", "eps"], ["safe"], "add_eps"),
        helper.make_node("Sqrt", ["safe"], ["deviation"], "sqrt"),
        helper.make_node("Sub", ["x", "mean"], ["centred"], "centre"),
        helper.make_node("Div", ["centred", "deviation"], ["normal"], "scale"),
        helper.make_node("MatMul", ["normal", "w2"], ["y"], "after"),
    ]
    inputs = [helper.make_tensor_value_info("tokens", TensorProto.FLOAT, [1, 6, 8])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 6, 8])]
    return _save(path, nodes, inputs, outputs, initializers, opset=13)


def biased_conv_model(path: Path) -> Path:
    """Write the convolutional model with a bias behind each convolution, as exporters fold batch normalization into."""
    model, rng = onnx.load(str(conv_model(path))), np.random.default_rng(3)
    for node in model.graph.node:
        if node.op_type == "Conv":
            node.input.append(f"{node.name}_bias")
            model.graph.initializer.append(_normal(rng, node.input[-1], 16))
    onnx.save(model, str(path))
    return path


def attention_model(path: Path) -> Path:
    """Write a transformer block on ``tokens`` [1, T, 16], T dynamic: attention with two heads, feed-forward layer, residuals.

    Every linear layer has a bias. Output ``y`` [1, T, 16].
    """
    rng = np.random.default_rng(4)
    initializers = [
        numpy_helper.from_array(np.array([1, -1, 2, 8]), "heads"),
        numpy_helper.from_array(np.array([1, -1, 16]), "whole"),
        numpy_helper.from_array(np.full(1, 8**-0.5, np.float32), "scale"),
    ]

    def linear(source: str, target: str, n_in: int = 16, n_out: int = 16) -> list[onnx.NodeProto]:
        initializers.extend([_normal(rng, f"{target}_weight", n_in, n_out, scale=0.3), _normal(rng, f"{target}_bias", n_out)])
        return [
            helper.make_node("MatMul", [source, f"{target}_weight"], [f"{target}_product"], target),
            helper.make_node("Add", [f"{target}_product", f"{target}_bias"], [target], f"{target}_add"),
        ]

    def normalized(source: str, target: str) -> list[onnx.NodeProto]:
        initializers.extend([_normal(rng, f"{target}_scale", 16), _normal(rng, f"{target}_shift", 16)])
        return [helper.make_node("LayerNormalization", [source, f"{target}_scale", f"{target}_shift"], [target], target, axis=-1)]

    def split(source: str, order: list[int]) -> list[onnx.NodeProto]:
        return [
            helper.make_node("Reshape", [source, "heads"], [f"{source}_split"], f"{source}_split"),
            helper.make_node("Transpose", [f"{source}_split"], [f"{source}_heads"], f"{source}_heads", perm=order),
        ]

    nodes = [
        *normalized("tokens", "before"),
        *linear("before", "query"),
        *linear("before", "key"),
        *linear("before", "value"),
        *split("query", [0, 2, 1, 3]),
        *split("key", [0, 2, 3, 1]),
        *split("value", [0, 2, 1, 3]),
        helper.make_node("MatMul", ["query_heads", "key_heads"], ["scores"], "scores"),
        helper.make_node("Mul", ["scores", "scale"], ["scaled"], "scaled"),
        helper.make_node("Softmax", ["scaled"], ["weights"], "weights", axis=-1),
        helper.make_node("MatMul", ["weights", "value_heads"], ["mixed"], "mixed"),
        helper.make_node("Transpose", ["mixed"], ["turned"], "turned", perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["turned", "whole"], ["joined"], "joined"),
        *linear("joined", "projected"),
        helper.make_node("Add", ["projected", "tokens"], ["attended"], "attended"),
        *normalized("attended", "between"),
        *linear("between", "wide", 16, 32),
        helper.make_node("Relu", ["wide"], ["active"], "active"),
        *linear("active", "narrow", 32, 16),
        helper.make_node("Add", ["narrow", "attended"], ["y"], "residual"),
    ]
    inputs = [helper.make_tensor_value_info("tokens", TensorProto.FLOAT, [1, "T", 16])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "T", 16])]
    return _save(path, nodes, inputs, outputs, initializers)


def recurrent_model(path: Path) -> Path:
    """Write a bidirectional LSTM and a GRU on ``frames`` [1, 5, 6], joined with a linear layer on ``facts`` [1, 4].

    Outputs ``scores`` [1, 3], which are probabilities, and ``memory`` [1, 8].
    """
    rng = np.random.default_rng(5)
    initializers = [
        *(_normal(rng, name, 2, *shape, scale=0.5) for name, shape in {"lw": (32, 6), "lr": (32, 8), "lb": (64,)}.items()),
        *(_normal(rng, name, 1, *shape, scale=0.5) for name, shape in {"gw": (24, 16), "gr": (24, 8), "gb": (48,)}.items()),
        _normal(rng, "fact_weight", 4, 8),
        _normal(rng, "fact_bias", 8),
        _normal(rng, "head_weight", 16, 3),
        _normal(rng, "head_bias", 3),
        numpy_helper.from_array(np.array([5, 1, 16]), "both_ways"),
        numpy_helper.from_array(np.array([1, 8]), "flat"),
    ]
    nodes = [
        helper.make_node("Transpose", ["frames"], ["steps"], "steps", perm=[1, 0, 2]),
        helper.make_node("LSTM", ["steps", "lw", "lr", "lb"], ["read"], "lstm", hidden_size=8, direction="bidirectional"),
        helper.make_node("Transpose", ["read"], ["turned"], "turned", perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["turned", "both_ways"], ["joined"], "joined"),
        helper.make_node("GRU", ["joined", "gw", "gr", "gb"], ["", "last"], "gru", hidden_size=8),
        helper.make_node("Reshape", ["last", "flat"], ["memory"], "flatten"),
        helper.make_node("MatMul", ["facts", "fact_weight"], ["fact_product"], "fact"),
        helper.make_node("Add", ["fact_product", "fact_bias"], ["fact"], "fact_add"),
        helper.make_node("Concat", ["memory", "fact"], ["all"], "join", axis=1),
        helper.make_node("MatMul", ["all", "head_weight"], ["head_product"], "head"),
        helper.make_node("Add", ["head_product", "head_bias"], ["raw"], "head_add"),
        helper.make_node("Softmax", ["raw"], ["scores"], "softmax", axis=1),
    ]
    inputs = [
        helper.make_tensor_value_info("frames", TensorProto.FLOAT, [1, 5, 6]),
        helper.make_tensor_value_info("facts", TensorProto.FLOAT, [1, 4]),
    ]
    outputs = [
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 3]),
        helper.make_tensor_value_info("memory", TensorProto.FLOAT, [1, 8]),
    ]
    return _save(path, nodes, inputs, outputs, initializers)


def branched_model(path: Path) -> Path:
    """Write a model in which the sign of the sum of ``x`` [1, 8] decides between two MatMuls; output ``y`` [1, 8]."""
    rng = np.random.default_rng(6)
    initializers = [_normal(rng, name, 8, 8) for name in ("positive_weight", "negative_weight", "last_weight")]
    initializers.append(numpy_helper.from_array(np.float32(0), "zero"))

    def branch(name: str) -> onnx.GraphProto:
        node = helper.make_node("MatMul", ["x", f"{name}_weight"], [f"{name}_y"], name)
        return helper.make_graph([node], name, [], [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, [1, 8])])

    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], "sum", keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["is_positive"], "compare"),
        helper.make_node("If", ["is_positive"], ["h"], "if", then_branch=branch("positive"), else_branch=branch("negative")),
        helper.make_node("MatMul", ["h", "last_weight"], ["y"], "last"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])]
    return _save(path, nodes, inputs, outputs, initializers)


def images(n_items: int, *, seed: int = 0, side: int = SIDE) -> NDArray[np.uint8]:
    """Return noisy images, uint8 [n_items, side, side, 3], with a bright patch that moves."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 120, size=(n_items, side, side, 3))
    for index in range(n_items):
        row, column = rng.integers(0, side - 4, size=2)
        pixels[index, row : row + 4, column : column + 4] += rng.integers(0, 135, size=3)
    return pixels.astype(np.uint8)


def normalized(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return images as the convolutional model takes them: float32 [n, 3, side, side], (x - 100) / 60."""
    return np.ascontiguousarray(((pixels.astype(np.float32) - 100) / 60).transpose(0, 3, 1, 2))


def float_logits(model: Path, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what OpenVINO makes of a batch at f32, one item at a time, shape [n, classes]."""
    from ovquant import inference, runtime

    compiled = inference.CompiledModel(runtime.read_model(model), "CPU", {}, "f32")
    return np.concatenate([compiled.infer({"image": item[np.newaxis]})["logits"] for item in batch])


def conv_case(folder: Path, *, n_items: int = 120, seed: int = 0) -> tuple[Path, Path]:
    """Write the convolutional model and an ``.npz`` with arrays ``image`` (float) and ``y``.

    The labels are the float model's own answers, a tenth of them changed, so that its accuracy is about 0.9.
    """
    model = conv_model(folder / "model.onnx")
    batch = normalized(images(n_items, seed=seed))
    labels = float_logits(model, batch).argmax(axis=1)
    rng = np.random.default_rng(seed)
    wrong = rng.random(n_items) < 0.1
    labels = np.where(wrong, (labels + 1) % N_CLASSES, labels)
    np.savez(folder / "data.npz", image=batch, y=labels)
    return model, folder / "data.npz"


def renamed(model: Path, path: Path, name: Callable[[str], str]) -> Path:
    """Write a copy of an ONNX model whose operations have other names."""
    content = onnx.load(str(model))
    for node in content.graph.node:
        node.name = name(node.name)
    onnx.save(content, str(path))
    return path


def _normal(rng: np.random.Generator, name: str, *shape: int, scale: float = 1.0) -> onnx.TensorProto:
    return numpy_helper.from_array((rng.normal(size=shape) * scale).astype(np.float32), name)


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    initializers: list[onnx.TensorProto],
    opset: int = 17,
) -> Path:
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path
