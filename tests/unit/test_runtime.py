"""OpenVINO: reading, inspecting, running and saving small real models."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import nncf
import numpy as np
import onnx
import pytest
import small
from onnx import TensorProto, helper

from ovquant import quantization, runtime
from ovquant.errors import DeviceError, ModelError
from ovquant.inference import CompiledModel
from ovquant.runtime import InputInfo
from ovquant.strategy import Strategy


@pytest.fixture(scope="module")
def conv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.conv_model(tmp_path_factory.mktemp("conv") / "model.onnx")


@pytest.fixture(scope="module")
def two_inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.two_input_model(tmp_path_factory.mktemp("two") / "model.onnx")


@pytest.fixture(scope="module")
def ir(conv: Path) -> Path:
    path = conv.with_name("model.xml")
    runtime.save_model(runtime.read_model(conv), path)
    return path


def copy_ir(ir: Path, folder: Path) -> Path:
    for file in (ir, ir.with_suffix(".bin")):
        shutil.copy(file, folder / file.name)
    return folder / ir.name


def batch(n_items: int = 10) -> list[dict[str, np.ndarray]]:
    return [{"image": item[np.newaxis]} for item in small.normalized(small.images(n_items))]


@functools.cache
def quantized(path: Path, **genes):
    model = runtime.read_model(path)
    return quantization.quantize(model, Strategy(**genes), batch(), runtime.operations(model))


# Reading


def test_missing_file_is_told(tmp_path):
    with pytest.raises(ModelError, match=r"nope\.onnx: no such model file"):
        runtime.read_model(tmp_path / "nope.onnx")


@pytest.mark.parametrize("n_bytes", [0, 500, -10])
def test_truncated_onnx_is_told_with_what_to_do(conv, tmp_path, n_bytes):
    (tmp_path / "cut.onnx").write_bytes(conv.read_bytes()[:n_bytes])
    with pytest.raises(ModelError, match=r"cut\.onnx: (broken or truncated ONNX file|not a valid ONNX model): .*(it again)"):
        runtime.read_model(tmp_path / "cut.onnx")


def test_onnx_that_is_a_directory_is_told(tmp_path):
    (tmp_path / "model.onnx").mkdir()
    with pytest.raises(ModelError, match=r"model\.onnx: is a directory, expected an ONNX file"):
        runtime.read_model(tmp_path / "model.onnx")


def test_graph_without_its_weights_is_told(ir, tmp_path):
    shutil.copy(ir, tmp_path / "model.xml")
    with pytest.raises(ModelError, match=r"model\.xml: the weights file model\.bin is missing beside it"):
        runtime.read_model(tmp_path / "model.xml")


def test_weights_given_for_the_graph_point_at_the_graph(ir):
    with pytest.raises(ModelError, match=r"model\.bin: holds weights only; give the graph, .*model\.xml"):
        runtime.read_model(ir.with_suffix(".bin"))


def test_weights_without_a_graph_are_refused(ir, tmp_path):
    shutil.copy(ir.with_suffix(".bin"), tmp_path / "model.bin")
    with pytest.raises(ModelError, match=r"model\.bin: "):
        runtime.read_model(tmp_path / "model.bin")


@pytest.mark.parametrize("suffix", [".xml", ".bin"])
def test_truncated_ir_is_refused(ir, tmp_path, suffix):
    path = copy_ir(ir, tmp_path)
    broken = path.with_suffix(suffix)
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(ModelError, match=r"model\.xml: OpenVINO cannot read this model: "):
        runtime.read_model(path)


@pytest.mark.parametrize("name", ["model.txt", "model.xml", "model.onnx"])
def test_text_is_no_model(tmp_path, name):
    (tmp_path / name).write_text("hello")
    (tmp_path / "model.bin").write_text("hello")
    with pytest.raises(ModelError, match=f"{name}: "):
        runtime.read_model(tmp_path / name)


def test_directory_that_holds_no_model_is_told_with_the_cause(tmp_path):
    with pytest.raises(ModelError, match=r"saved_model\.pb|is a directory"):
        runtime.read_model(tmp_path)


# Inspecting


def test_inputs_are_told_with_shape_and_type(conv):
    infos = runtime.input_infos(runtime.read_model(conv))
    assert infos == (InputInfo(name="image", shape=(1, 3, small.SIDE, small.SIDE), dtype=np.dtype("float32")),)


def test_dynamic_dimensions_are_none(two_inputs):
    infos = runtime.input_infos(runtime.read_model(two_inputs))
    assert [(info.name, info.shape) for info in infos] == [("left", (None, 8)), ("right", (None, 4))]


def test_outputs_are_told_in_the_order_of_the_model(two_inputs):
    assert runtime.output_names(runtime.read_model(two_inputs)) == ("scores", "distance")


def test_operations_are_in_topological_order(conv):
    operations = runtime.operations(runtime.read_model(conv))
    position = {operation.name: index for index, operation in enumerate(operations)}
    assert all(position[name] < position[operation.name] for operation in operations for name in operation.inputs)


def test_depthwise_convolution_tells_its_groups(conv):
    groups = {op.name: op.group_channels for op in runtime.operations(runtime.read_model(conv)) if op.group_channels}
    assert groups == {"depthwise": (16, 1, 1)}


def test_float_model_is_quantizable(conv):
    runtime.require_quantizable(runtime.read_model(conv), conv)


def test_quantized_model_is_refused(conv):
    with pytest.raises(ModelError, match=r"is already quantized .* give the float model"):
        runtime.require_quantizable(quantized(conv), conv)


def test_model_with_compressed_weights_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    weights = onnx.numpy_helper.from_array(rng.normal(size=(64, 128)).astype(np.float32), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "matmul")]
    model = runtime.read_model(write_onnx(tmp_path / "model.onnx", nodes, [weights], [1, 64], [1, 128]))
    path = tmp_path / "compressed.xml"
    runtime.save_model(nncf.compress_weights(model), path)
    with pytest.raises(ModelError, match="is already quantized"):
        runtime.require_quantizable(runtime.read_model(path), path)


def test_dynamically_quantized_onnx_is_refused(tmp_path):
    integers = np.random.default_rng(0).integers(-127, 127, (64, 128)).astype(np.int8)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["x_int", "x_scale", "x_zero"]),
        helper.make_node("MatMulInteger", ["x_int", "w", "x_zero"], ["y_int"]),
        helper.make_node("Cast", ["y_int"], ["y_float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["y_float", "x_scale"], ["y"]),
    ]
    path = write_onnx(tmp_path / "model.onnx", nodes, [onnx.numpy_helper.from_array(integers, "w")], [1, 64], [1, 128])
    with pytest.raises(ModelError, match="is already quantized"):
        runtime.require_quantizable(runtime.read_model(path), path)


def test_model_without_anything_to_quantize_is_refused(tmp_path):
    path = write_onnx(tmp_path / "model.onnx", [helper.make_node("Relu", ["x"], ["y"])], [], [1, 4], [1, 4])
    with pytest.raises(ModelError, match="holds nothing to quantize"):
        runtime.require_quantizable(runtime.read_model(path), path)


def write_onnx(path: Path, nodes: list, weights: list, input_shape: list[int], output_shape: list[int]) -> Path:
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, input_shape)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, output_shape)]
    graph = helper.make_graph(nodes, "model", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def test_fake_quantize_operations_are_counted(conv):
    assert runtime.count_fake_quantize(runtime.read_model(conv)) == 0
    assert runtime.count_fake_quantize(quantized(conv)) > 0


# Saving and digests


def test_digest_survives_saving_and_reading(conv, tmp_path):
    for name, model in {"float": runtime.read_model(conv), "quantized": quantized(conv)}.items():
        runtime.save_model(model, tmp_path / f"{name}.xml")
        assert runtime.graph_digest(runtime.read_model(tmp_path / f"{name}.xml")) == runtime.graph_digest(model)


def test_digest_of_two_runs_of_one_strategy_is_the_same(conv):
    run_again = quantized.__wrapped__
    assert runtime.graph_digest(quantized(conv, subset_size=5)) == runtime.graph_digest(run_again(conv, subset_size=5))


def test_digest_tells_strategies_apart(conv):
    models = [runtime.read_model(conv), quantized(conv), quantized(conv, subset_size=5), quantized(conv, preset="mixed")]
    assert len({runtime.graph_digest(model) for model in models}) == 4


def test_digest_tells_a_single_changed_weight(conv, tmp_path):
    model = onnx.load(str(conv))
    weights = model.graph.initializer[0]
    changed = onnx.numpy_helper.to_array(weights).copy()
    changed.flat[7] = np.nextafter(changed.flat[7], np.float32(np.inf))
    weights.CopyFrom(onnx.numpy_helper.from_array(changed, weights.name))
    onnx.save(model, str(tmp_path / "changed.onnx"))
    digests = {runtime.graph_digest(runtime.read_model(path)) for path in (conv, tmp_path / "changed.onnx")}
    assert len(digests) == 2


def test_digest_tells_a_changed_attribute(conv, tmp_path):
    model = onnx.load(str(conv))
    next(node for node in model.graph.node if node.name == "stem").attribute[0].ints[:] = [0, 2, 2, 0]
    onnx.save(model, str(tmp_path / "changed.onnx"))
    digests = {runtime.graph_digest(runtime.read_model(path)) for path in (conv, tmp_path / "changed.onnx")}
    assert len(digests) == 2


def float_constants(model) -> list[np.ndarray]:
    nodes = [node for node in model.get_ordered_ops() if node.get_type_name() == "Constant"]
    return [node.get_data() for node in nodes if node.get_element_type().get_type_name() == "f32"]


def test_saving_keeps_float_constants_bit_for_bit(conv, tmp_path):
    model = runtime.read_model(conv)
    runtime.save_model(model, tmp_path / "deep" / "model.xml")
    before, after = float_constants(model), float_constants(runtime.read_model(tmp_path / "deep" / "model.xml"))
    assert len(before) == len(after) >= 4
    assert all(a.dtype == b.dtype == np.float32 and a.tobytes() == b.tobytes() for a, b in zip(before, after, strict=True))


def test_saved_model_notes_the_precision_it_is_to_run_in(conv, tmp_path):
    assert runtime.noted_precision(runtime.read_model(conv)) is None
    runtime.save_model(runtime.read_model(conv), tmp_path / "model.xml", "bf16")
    assert runtime.noted_precision(runtime.read_model(tmp_path / "model.xml")) == "bf16"
    assert runtime.graph_digest(runtime.read_model(tmp_path / "model.xml")) == runtime.graph_digest(runtime.read_model(conv))


def test_size_of_an_ir_is_that_of_graph_and_weights(ir, conv):
    assert runtime.size_bytes(ir) == len(ir.read_bytes()) + len(ir.with_suffix(".bin").read_bytes())
    assert runtime.size_bytes(conv) == len(conv.read_bytes())


# Devices


def test_cpu_is_here():
    runtime.require_device("CPU", "target cpu")


@pytest.mark.parametrize("device", ["NOPE", "NOPE.1"])
def test_missing_device_is_told_with_those_that_are_here(device):
    devices = ", ".join(runtime.available_devices())
    with pytest.raises(DeviceError, match=f"target x: device '{device}' is not on this machine; devices here: {devices}"):
        runtime.require_device(device, "target x")


def test_misspelt_device_gets_a_hint():
    with pytest.raises(DeviceError, match=r"device 'cpu' is not on this machine \(did you mean 'CPU'\?\)"):
        runtime.require_device("cpu", "target x")


def test_real_device_that_is_not_here_is_no_misspelling():
    if runtime.has_device("NPU"):
        pytest.skip("this machine has an NPU")
    with pytest.raises(DeviceError) as error:
        runtime.require_device("NPU", "target x")
    assert "did you mean" not in str(error.value)


def test_cpu_computes_in_f32():
    assert "f32" in runtime.device_precisions("CPU")


# Running


def test_compiled_model_computes_what_onnx_says(two_inputs):
    weights = {w.name: onnx.numpy_helper.to_array(w) for w in onnx.load(str(two_inputs)).graph.initializer}
    left, right = np.random.default_rng(0).normal(size=(1, 12)).astype(np.float32)[:, :8], np.ones((1, 4), np.float32)
    hidden = np.maximum(np.concatenate([left, right], axis=1) @ weights["w1"], 0)
    raw = np.exp(hidden @ weights["w2"])
    compiled = CompiledModel(runtime.read_model(two_inputs), "CPU", {}, "f32")
    found = compiled.infer({"left": left, "right": right})
    np.testing.assert_allclose(found["scores"], raw / raw.sum(), rtol=1e-4)
    np.testing.assert_allclose(found["distance"], hidden @ weights["w3"], rtol=1e-4)


def test_precision_as_told_goes_over_the_properties(conv):
    compiled = CompiledModel(runtime.read_model(conv), "CPU", {"INFERENCE_PRECISION_HINT": "bf16"}, "f32")
    assert compiled.precision == "f32"


def test_results_stay_as_they_are_when_the_next_item_runs(conv):
    compiled = CompiledModel(runtime.read_model(conv), "CPU", {}, "f32")
    first, second = batch(2)
    kept = compiled.infer(first)["logits"]
    copied = kept.copy()
    assert not np.array_equal(compiled.infer(second)["logits"], copied)
    np.testing.assert_array_equal(kept, copied)


def test_unknown_compile_property_is_a_model_error_with_the_device(conv):
    with pytest.raises(ModelError, match=r"cannot be compiled for CPU: .*NO_SUCH_PROPERTY"):
        CompiledModel(runtime.read_model(conv), "CPU", {"NO_SUCH_PROPERTY": "1"})


def test_sample_of_another_shape_is_a_model_error(conv):
    compiled = CompiledModel(runtime.read_model(conv), "CPU", {}, "f32")
    with pytest.raises(ModelError, match="inference failed: "):
        compiled.infer({"image": np.zeros((1, 3, 5, 5), np.float32)})


def test_runner_runs_and_returns_nothing(conv):
    compiled = CompiledModel(runtime.read_model(conv), "CPU", {}, "f32")
    assert compiled.runner(batch(1)[0])() is None


def test_number_of_threads_is_the_one_asked_for(conv):
    assert CompiledModel(runtime.read_model(conv), "CPU", {"INFERENCE_NUM_THREADS": 1}).n_threads == 1


def test_symbols_in_the_metadata_of_an_onnx_file_are_an_alphabet(tmp_path: Path) -> None:
    path = small.conv_model(tmp_path / "model.onnx")
    assert runtime.alphabets(path) == []
    model = onnx.load(path)
    for key, value in {"character": "b\na\n\u6587", "author": "one\ntwo", "version": "3"}.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(model, path)
    assert runtime.alphabets(path) == ["ba\u6587", "ba\u6587 "]
    assert runtime.alphabets(tmp_path / "model.xml") == []
