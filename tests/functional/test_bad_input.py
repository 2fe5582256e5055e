"""What users get wrong: one clear message, the right exit code, no traceback, nothing changed."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import small
from conftest import Run
from onnx import TensorProto, helper

USAGE, CONFIG, DATA, MODEL, DEVICE, OUTPUT, INFEASIBLE, ALL_FAILED = 2, 3, 4, 5, 6, 7, 8, 9

JOB = "version: 1\nmodel: model.onnx\ndata: data.npz\nmax_trials: 2\n"
TARGET = "version: 1\nname: mine\ndevice: CPU\n"


def snapshot(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def case(conv_case: tuple[Path, Path], tmp_path: Path) -> Path:
    """Return a directory with ``model.onnx`` and ``data.npz`` of the small case."""
    for source in conv_case:
        (tmp_path / source.name).write_bytes(source.read_bytes())
    return tmp_path


def nothing() -> None:
    """Prepare nothing."""


def broken_onnx() -> None:
    whole = Path("model.onnx").read_bytes()
    Path("broken.onnx").write_bytes(whole[: len(whole) // 2])


def empty_folder() -> None:
    Path("empty").mkdir()


def quantized_model() -> None:
    import nncf
    import openvino as ov

    data = nncf.Dataset([np.ones((1, 3, small.SIDE, small.SIDE), np.float32)])
    ov.save_model(nncf.quantize(ov.Core().read_model("model.onnx"), data), "quantized.xml", compress_to_fp16=False)


def relu_model() -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("a", "b")]
    graph = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "g", value[:1], value[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), "relu.onnx")
    np.savez("relu.npz", a=np.ones((20, 4), np.float32))


def nan_model() -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("a", "b")]
    weight = onnx.numpy_helper.from_array(-np.eye(4, dtype=np.float32), "w")
    nodes = [helper.make_node("MatMul", ["a", "w"], ["c"]), helper.make_node("Sqrt", ["c"], ["b"])]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), "nan.onnx")
    np.savez("nan.npz", a=np.ones((20, 4), np.float32))


def arrays(name: str, **changes: Callable[[np.ndarray], np.ndarray]) -> Callable[[], None]:
    """Return a function that writes the data again as `name` with some arrays changed."""

    def write() -> None:
        with np.load("data.npz") as data:
            np.savez(name, **{key: changes.get(key, lambda array: array)(data[key]) for key in data.files})

    return write


def text(name: str, content: str) -> Callable[[], None]:
    return lambda: Path(name).write_text(content) and None


def other_study() -> None:
    Path("out").mkdir()
    Path("out/precious.txt").write_text("mine")


def bomb() -> None:
    """Write an image file of 80 bytes that stands for 400 million pixels."""
    Path("bombs").mkdir()
    header = b"IHDR" + (20_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    chunks = [header, b"IDAT" + zlib.compress(b""), b"IEND"]
    content = b"".join((len(c) - 4).to_bytes(4, "big") + c + zlib.crc32(c).to_bytes(4, "big") for c in chunks)
    for name in "abcdefghi":
        Path(f"bombs/{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def binary() -> None:
    Path("job.yaml").write_bytes(bytes(range(256)))


def no_image() -> None:
    Path("images").mkdir()
    for name in "abcdefghi":
        Path(f"images/{name}.png").write_text("no image")


def weights(place: str) -> Callable[[], None]:
    """Return a function that writes the model with weights at `place`."""

    def write() -> None:
        model = onnx.load("model.onnx")
        for tensor in model.graph.initializer:
            if tensor.raw_data:
                tensor.data_location = TensorProto.EXTERNAL
                del tensor.external_data[:]
                tensor.external_data.add(key="location", value=place)
                tensor.ClearField("raw_data")
                break
        Path("out.onnx").write_bytes(model.SerializeToString())

    return write


OUT_ONNX = ["search", "out.onnx", "--data", "data.npz"]
OWN_TARGET = ["search", "model.onnx", "--data", "data.npz", "--target", "t.yaml"]
SEARCH = ["search", "model.onnx", "--data", "data.npz", "--max-trials", "2", "-o", "out"]
QUANTIZE = ["quantize", "model.onnx", "--data", "data.npz", "-o", "d", "--recipe"]
MANY_FAULTS = JOB + "metric: accuracy\nmax_trails: 3\nseed: -1\nbudget: soon\n"

CASES: list[tuple[str, Callable[[], None], list[str], int, list[str]]] = [
    ("model missing", nothing, ["search", "no.onnx", "--data", "data.npz"], MODEL, ["no.onnx: no such model file"]),
    ("model truncated", broken_onnx, ["search", "broken.onnx", "--data", "data.npz"], MODEL, ["broken or truncated"]),
    ("model is a text", text("a.xml", "hello"), ["search", "a.xml", "--data", "data.npz"], MODEL, ["a.bin is missing"]),
    ("model quantized already", quantized_model, ["search", "quantized.xml", "--data", "data.npz"], MODEL, ["already quantized"]),
    ("nothing to quantize", relu_model, ["search", "relu.onnx", "--data", "relu.npz"], MODEL, ["nothing to quantize"]),
    ("NaN outputs", nan_model, ["search", "nan.onnx", "--data", "nan.npz"], MODEL, ["NaN or infinity", "nan.npz["]),
    ("no data option", nothing, ["search", "model.onnx"], CONFIG, ["--data is required"]),
    ("data missing", nothing, ["search", "model.onnx", "--data", "no.npz"], DATA, ["no.npz: no such file"]),
    ("data of unknown kind", text("a.txt", "x"), ["search", "model.onnx", "--data", "a.txt"], DATA, ["accepted: image folder"]),
    ("folder without images", empty_folder, ["search", "model.onnx", "--data", "empty"], DATA, ["holds no images"]),
    (
        "npz truncated",
        text("bad.npz", "PK\x03\x04 no archive"),
        ["search", "model.onnx", "--data", "bad.npz"],
        DATA,
        ["bad.npz: cannot be read as .npz"],
    ),
    (
        "label out of range",
        arrays("labels.npz", y=lambda y: np.where(np.arange(len(y)) == 3, 7, y)),
        ["search", "model.onnx", "--data", "labels.npz", "--metric", "accuracy"],
        DATA,
        ["label 7 is out of range", "0..4"],
    ),
    (
        "labels missing",
        lambda: np.savez("plain.npz", image=np.load("data.npz")["image"]),
        ["search", "model.onnx", "--data", "plain.npz", "--metric", "accuracy"],
        DATA,
        ["needs labels"],
    ),
    (
        "wrong shape",
        arrays("shape.npz", image=lambda x: x[:, :, :5]),
        ["search", "model.onnx", "--data", "shape.npz"],
        DATA,
        ["takes shape 1x3x12x12, found 1x3x5x12"],
    ),
    (
        "wrong type",
        arrays("type.npz", image=lambda x: x.astype(str)),
        ["search", "model.onnx", "--data", "type.npz"],
        DATA,
        ["takes float32, found <U"],
    ),
    (
        "NaN inputs",
        arrays("nan.npz", image=lambda x: x * np.nan),
        ["search", "model.onnx", "--data", "nan.npz"],
        DATA,
        ["holds NaN or infinity"],
    ),
    (
        "too little data",
        arrays("few.npz", image=lambda x: x[:3], y=lambda y: y[:3]),
        ["search", "model.onnx", "--data", "few.npz"],
        DATA,
        ["at least 2 are needed"],
    ),
    ("unknown metric", nothing, [*SEARCH, "--metric", "acuracy"], CONFIG, ["did you mean 'accuracy'?"]),
    ("drop without metric", nothing, [*SEARCH, "--max-drop", "1"], USAGE, ["--max-drop: no metric is given"]),
    ("drop no number", nothing, [*SEARCH, "--metric", "accuracy", "--max-drop", "few"], CONFIG, ["max_drop", "'few'"]),
    ("unknown target", nothing, [*SEARCH, "--target", "cpuu"], CONFIG, ["did you mean 'cpu'?", "igpu"]),
    ("target file missing", nothing, [*SEARCH, "--target", "my.yaml"], CONFIG, ["my.yaml: no such target file"]),
    ("GPU absent", nothing, [*SEARCH, "--target", "igpu"], DEVICE, ["device 'GPU' is not on this machine", "CPU"]),
    ("unknown device", nothing, [*SEARCH, "--device", "CUP"], DEVICE, ["'CUP'", "did you mean 'CPU'?"]),
    ("bad budget", nothing, [*SEARCH, "--budget", "soon"], CONFIG, ["budget", "10m"]),
    ("no trials", nothing, [*SEARCH, "--max-trials", "0"], CONFIG, ["max_trials", "greater than or equal to 1"]),
    ("bad option value", nothing, [*SEARCH, "--mean", "red"], USAGE, ["numbers separated by commas"]),
    ("unknown option", nothing, [*SEARCH, "--trails", "3"], USAGE, ["No such option"]),
    ("job missing", nothing, ["search", "no.yaml"], CONFIG, ["no.yaml: no such job file"]),
    ("job no YAML", text("job.yaml", "a: [1\nb: 2\n"), ["search", "job.yaml"], CONFIG, ["job.yaml:2", "not valid YAML"]),
    ("job a list", text("job.yaml", "- 1\n"), ["search", "job.yaml"], CONFIG, ["a mapping of keys to values, found list"]),
    (
        "job with an unknown key",
        text("job.yaml", JOB + "max_trails: 3\n"),
        ["search", "job.yaml"],
        CONFIG,
        ["max_trails: unknown key (did you mean 'max_trials'?)"],
    ),
    ("job with a wrong type", text("job.yaml", JOB + "seed: many\n"), ["search", "job.yaml"], CONFIG, ["seed", "'many'"]),
    (
        "job with several faults",
        text("job.yaml", MANY_FAULTS),
        ["search", "job.yaml"],
        CONFIG,
        ["metric: unknown key (did you mean 'metrics'?)", "max_trails: unknown key", "seed: ", "budget: "],
    ),
    (
        "unknown gene",
        text("t.yaml", TARGET + "genes: {presets: [mixed]}\n"),
        [*SEARCH, "--target", "t.yaml"],
        CONFIG,
        ["genes.presets: unknown key (did you mean 'preset'?)"],
    ),
    (
        "unknown gene value",
        text("t.yaml", TARGET + "genes: {preset: [mixde]}\n"),
        [*SEARCH, "--target", "t.yaml"],
        CONFIG,
        ["genes.preset.0", "'mixde'", "did you mean 'mixed'?"],
    ),
    (
        "scope that matches nothing",
        text("t.yaml", TARGET + "genes: {ignored_scope: {lstm: {types: [LSTMCell]}}}\n"),
        [*SEARCH, "--target", "t.yaml"],
        CONFIG,
        ["no choice matches anything"],
    ),
    (
        "scope of names that are not there",
        text("t.yaml", TARGET + "genes: {ignored_scope: {none: {}, one: {names: [stemm]}}}\n"),
        [*SEARCH, "--target", "t.yaml"],
        CONFIG,
        ["names 'stemm' matches nothing in this model (nearest: stem"],
    ),
    (
        "scope with a place that is none",
        text("t.yaml", TARGET + "genes: {ignored_scope: {none: {}, one: {places: [depthwise]}}}\n"),
        [*SEARCH, "--target", "t.yaml"],
        CONFIG,
        ["'depthwise' is no place: expected KIND[INDEX]"],
    ),
    ("output directory of something else", other_study, SEARCH, OUTPUT, ["out: is not empty; nothing was written"]),
    ("output is a file", text("out", "mine"), SEARCH, OUTPUT, ["out: is a file"]),
    (
        "a drop nobody can meet",
        nothing,
        [*SEARCH, "--max-divergence", "0"],
        INFEASIBLE,
        ["no strategy meets the constraints", "Nearest miss", "ovquant export out --trial"],
    ),
    (
        "every candidate fails",
        text("t.yaml", TARGET + "genes: {ignored_scope: {all: {patterns: ['.*']}}, subset_size: 5}\n"),
        [*SEARCH, "--target", "t.yaml"],
        ALL_FAILED,
        ["nothing was quantized"],
    ),
    ("export of no study", nothing, ["export", "nowhere", "--trial", "1", "-o", "d"], OUTPUT, ["no study there"]),
    ("recipe missing", nothing, [*QUANTIZE, "r.yaml"], CONFIG, ["no such recipe file"]),
    (
        "recipe with an unknown key",
        text("r.yaml", "version: 1\nstratgy: {}\n"),
        [*QUANTIZE, "r.yaml"],
        CONFIG,
        ["stratgy: unknown key (did you mean 'strategy'?)"],
    ),
    ("evaluate a missing model", nothing, ["evaluate", "model.onnx", "no.xml", "--data", "data.npz"], MODEL, ["no.xml"]),
    ("python entry missing", nothing, ["search", "model.onnx", "--data", "no.py:f"], DATA, ["no.py: no such Python file"]),
    (
        "python entry that raises",
        text("d.py", "def f():\n    raise RuntimeError('no luck')\n"),
        ["search", "model.onnx", "--data", "d.py:f"],
        DATA,
        ["d.py:f: raised RuntimeError: no luck"],
    ),
    (
        "python metric that raises",
        text("m.py", "def f(outputs, labels):\n    return 1 / 0\n"),
        [*SEARCH, "--metric", "m.py:f"],
        DATA,
        ["m.py:f", "ZeroDivisionError"],
    ),
    # Files that are not what they seem
    (
        "job that aliases blow up",
        text("job.yaml", "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else 'x'] * 9)}]\n" for i in range(12))),
        ["search", "job.yaml"],
        CONFIG,
        ["holds more than 200000 values"],
    ),
    ("job that holds itself", text("job.yaml", "a: &a {b: *a}\n"), ["search", "job.yaml"], CONFIG, ["nested too deeply"]),
    ("job nested deeply", text("job.yaml", "a: " + "[" * 300 + "]" * 300), ["search", "job.yaml"], CONFIG, ["nested too deeply"]),
    ("job of megabytes", text("job.yaml", "# " + "x" * 1_100_000), ["search", "job.yaml"], CONFIG, ["larger than 1000000 bytes"]),
    ("job empty", text("job.yaml", ""), ["search", "job.yaml"], CONFIG, ["a mapping of keys to values, found nothing"]),
    ("job that runs code", text("j.yaml", "model: !!python/name:os.system\n"), ["search", "j.yaml"], CONFIG, ["not valid YAML"]),
    ("job is binary", binary, ["search", "job.yaml"], CONFIG, ["job.yaml"]),
    ("job is a directory", lambda: Path("job.yaml").mkdir(), ["search", "job.yaml"], CONFIG, ["is a directory"]),
    ("key twice", text("job.yaml", JOB + "max_trials: 3\n"), ["search", "job.yaml"], CONFIG, ["'max_trials' is there twice"]),
    ("job of another version", text("job.yaml", JOB.replace("1", "9", 1)), ["search", "job.yaml"], CONFIG, ["version"]),
    (
        "pickles in npz",
        lambda: np.savez("objects.npz", image=np.array([{"a": 1}] * 9, dtype=object), y=np.zeros(9)),
        ["search", "model.onnx", "--data", "objects.npz"],
        DATA,
        ["objects.npz"],
    ),
    ("image that is a bomb", bomb, ["search", "model.onnx", "--data", "bombs"], DATA, ["cannot be read as an image", "bomb"]),
    ("image that is none", no_image, ["search", "model.onnx", "--data", "images"], DATA, [".png: cannot be read as an image"]),
    ("weights elsewhere", weights("../outside.bin"), [*OUT_ONNX], MODEL, ["outside of the model's"]),
    ("weights at a path", weights("/etc/hostname"), [*OUT_ONNX], MODEL, ["outside of the model's"]),
    ("weights missing", weights("gone.bin"), [*OUT_ONNX], MODEL, ["gone.bin"]),
    ("model is a directory", empty_folder, ["search", "empty", "--data", "data.npz"], MODEL, ["empty"]),
    ("weights only", text("a.bin", "x"), ["search", "a.bin", "--data", "data.npz"], MODEL, ["a.bin"]),
    ("no function in the file", text("d.py", "x = 1\n"), ["search", "model.onnx", "--data", "d.py:f"], DATA, ["d.py", "f"]),
    ("python file with a fault", text("d.py", "def f(:\n"), ["search", "model.onnx", "--data", "d.py:f"], DATA, ["d.py"]),
    (
        "python entry without items",
        text("d.py", "def f():\n    return iter(())\n"),
        ["search", "model.onnx", "--data", "d.py:f"],
        DATA,
        ["d.py:f"],
    ),
    # Values that cannot be
    ("memory in words", nothing, [*SEARCH, "--memory-limit", "plenty"], CONFIG, ["memory_limit"]),
    ("memory of nothing", nothing, [*SEARCH, "--memory-limit", "1k"], CONFIG, ["memory_limit"]),
    ("memory too small", nothing, [*SEARCH, "--memory-limit", "20M"], MODEL, ["more than the limit of 19 MB"]),
    ("a generation of one", nothing, [*SEARCH, "--population", "1"], CONFIG, ["population", "greater than or equal to 2"]),
    ("negative divergence", nothing, [*SEARCH, "--max-divergence", "-1"], CONFIG, ["max_divergence"]),
    ("metric twice", nothing, [*SEARCH, "--metric", "top5", "--metric", "top5"], CONFIG, ["the same metric is given twice"]),
    ("fitness unknown", nothing, [*SEARCH, "--fitness", "speed"], USAGE, ["--fitness"]),
    ("fitness without metric", nothing, [*SEARCH, "--fitness", "accuracy"], CONFIG, ["metric"]),
    ("no calibration items", nothing, [*SEARCH, "--calibration-items", "0"], CONFIG, ["calibration_items"]),
    ("layout unknown", nothing, [*SEARCH, "--layout", "NXYZ"], CONFIG, ["layout"]),
    ("channels unknown", nothing, [*SEARCH, "--channels", "CMYK"], CONFIG, ["channels"]),
    ("scale of zero", nothing, [*SEARCH, "--scale", "0"], CONFIG, ["scale"]),
    ("crop of words", nothing, [*SEARCH, "--crop", "all"], USAGE, ["HEIGHTxWIDTH"]),
    (
        "kind of an output that is not there",
        text("job.yaml", JOB + "output_kinds: {logit: logits}\n"),
        ["search", "job.yaml"],
        DATA,
        ["no output 'logit'", "did you mean 'logits'?"],
    ),
    ("gene of no values", text("t.yaml", TARGET + "genes: {preset: []}\n"), OWN_TARGET, CONFIG, ["genes.preset"]),
    ("no layers", text("t.yaml", TARGET + "genes: {layers: {top: 0}}\n"), OWN_TARGET, CONFIG, ["layers.top"]),
    (
        "no visits",
        text("t.yaml", TARGET + "measurement: {ranking: {visits: 0}}\n"),
        [*SEARCH, "--target", "t.yaml"],
        CONFIG,
        ["measurement.ranking"],
    ),
    # Other commands
    ("resume of nothing", nothing, ["resume", "nowhere"], OUTPUT, ["no search was begun there"]),
    ("export of something else", text("study.db", "mine"), ["export", ".", "--trial", "1", "-o", "d"], OUTPUT, ["study.db"]),
    ("pick unknown", nothing, ["export", ".", "--pick", "best", "-o", "d"], USAGE, ["--pick"]),
    ("recipe is a job", text("r.yaml", JOB), [*QUANTIZE, "r.yaml"], CONFIG, ["r.yaml: model: unknown key"]),
    ("target to show is unknown", nothing, ["targets", "show", "cpuu"], CONFIG, ["did you mean 'cpu'?"]),
    ("target to check is broken", text("t.yaml", "name: [\n"), ["targets", "check", "t.yaml"], CONFIG, ["t.yaml:2"]),
    (
        "inspect into a file that is there",
        text("l.json", "x"),
        ["inspect", "model.onnx", "--data", "data.npz", "-o", "l.json"],
        OUTPUT,
        ["there already"],
    ),
    ("unknown command", nothing, ["serach"], USAGE, ["serach"]),
]  # fmt: skip


@pytest.mark.parametrize(("prepare", "arguments", "code", "told"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_bad_input_gets_one_message_and_changes_nothing(
    case: Path, run: Run, prepare: Callable[[], None], arguments: list[str], code: int, told: list[str]
) -> None:
    prepare()
    before = snapshot(case)
    result = run(*arguments, code=code)
    for words in told:
        assert words in result.output
    after = snapshot(case)
    assert {name: after.get(name) for name in before} == before


def test_a_study_of_another_job_is_refused_and_kept(run: Run, searched_copy: Path, conv_case: tuple[Path, Path]) -> None:
    before = snapshot(searched_copy)
    result = run("search", searched_copy / "job.yaml", "--seed", "7", "-o", searched_copy, code=OUTPUT)
    assert "different: seed" in result.output
    assert snapshot(searched_copy) == before


def test_export_never_overwrites(run: Run, searched: Path) -> None:
    Path("taken").mkdir()
    Path("taken/file").write_text("mine")
    result = run("export", searched, "--pick", "fastest", "-o", "taken", code=OUTPUT)
    assert "not empty" in result.output
    assert snapshot(Path("taken")).keys() == {"file"}


@pytest.mark.parametrize(("number", "code", "told"), [(99, USAGE, "no trial 99"), (0, USAGE, "is the float model")])
def test_export_of_a_trial_that_cannot_be(run: Run, searched: Path, number: int, code: int, told: str) -> None:
    assert told in run("export", searched, "--trial", number, "-o", "d", code=code).output
    assert not Path("d").exists()


def test_export_takes_one_way_to_choose(run: Run, searched: Path) -> None:
    run("export", searched, "--trial", "1", "--pick", "knee", "-o", "d", code=USAGE)


def test_errors_are_json_where_json_is_asked_for(run: Run) -> None:
    result = run("search", "no.onnx", "--data", "no.npz", "--json", code=MODEL)
    assert '"exit_code": 5' in result.stdout


def test_one_failing_candidate_does_not_end_a_search(run: Run, case: Path) -> None:
    scopes = "ignored_scope: {none: {}, all: {patterns: ['.*']}}"
    Path("t.yaml").write_text(TARGET + f"genes: {{{scopes}, preset: [performance, mixed]}}\n")
    options = ["--data", "data.npz", "--target", "t.yaml", "--max-divergence", "9", "-o", "out"]
    result = run("search", "model.onnx", *options)
    assert "FAILED at quantize: nothing was quantized" in result.output
    assert "5 trials, 2 failed" in result.output
