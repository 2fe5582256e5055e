"""Small real models and data that the tests make for themselves: quick to quantize, with something to lose."""

from __future__ import annotations

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
    from ovquant import runtime

    compiled = runtime.CompiledModel(runtime.read_model(model), "CPU", {}, "f32")
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
