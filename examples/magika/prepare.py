"""Make an ovquant job of the file-type classifier in the PyPI package ``magika`` and a folder of your own files.

    pip install magika
    python prepare.py FOLDER -o magika-job
    ovquant search magika-job/job.yaml -o magika-out

Files are labelled by their extension, as far as exactly one of the classifier's types has it. The same number is taken of
each type, and at least eight types are needed. What the classifier scores depends on your files: an extension may lie.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_TYPES = 8
MIN_FILES_PER_TYPE = 12
MODEL_VERSION = 3  # the input features below are those of this version of the classifier
JOB = """\
version: 1
model: model.onnx
target: cpu
data: data.npz
metrics:
  - {name: accuracy, max_drop: 0.01}
max_trials: 40
"""


def features(content: bytes, config: dict[str, Any]) -> list[int]:
    """Return the classifier's input: the first and the last bytes without white space around, padded between them.

    Args:
        content: of the file.
        config: of the classifier: sizes and padding.
    """
    block, padding = config["block_size"], config["padding_token"]
    begin = list(content[:block].lstrip()[: config["beg_size"]])
    end = list(content[-block:].rstrip()[-config["end_size"] :])
    return [
        *begin,
        *[padding] * (config["beg_size"] - len(begin)),
        *[padding] * (config["end_size"] - len(end)),
        *end,
    ]


def type_by_extension(knowledge: dict[str, dict[str, Any]], types: list[str]) -> dict[str, int]:
    """Return extension -> index of the one type that has it."""
    owners: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(types):
        for extension in knowledge.get(name, {}).get("extensions", []):
            owners[extension].append(index)
    return {extension: indices[0] for extension, indices in owners.items() if len(indices) == 1}


def collect(folder: Path, extensions: dict[str, int], min_size: int) -> dict[int, list[Path]]:
    """Return type index -> files below `folder`, sorted."""
    found: dict[int, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        index = extensions.get(path.suffix.lower().lstrip("."))
        if index is not None and path.is_file() and path.stat().st_size >= min_size:
            found[index].append(path)
    return found


def balance(found: dict[int, list[Path]], per_type: int | None, seed: int) -> list[tuple[Path, int]]:
    """Return the same number of files of each type that has enough of them, as (file, type) pairs."""
    enough = {index: files for index, files in found.items() if len(files) >= (per_type or MIN_FILES_PER_TYPE)}
    if len(enough) < MIN_TYPES:
        counts = ", ".join(str(len(files)) for files in sorted(found.values(), key=len, reverse=True)[:12]) or "none"
        sys.exit(
            f"error: {len(enough)} types have at least {per_type or MIN_FILES_PER_TYPE} files, {MIN_TYPES} are needed "
            f"(files of the most frequent types: {counts}); give a larger folder"
        )
    n_taken = per_type or sorted((len(files) for files in enough.values()), reverse=True)[MIN_TYPES - 1]
    rng = np.random.default_rng(seed)
    return [
        (files[position], index)
        for index, files in sorted(enough.items())
        if len(files) >= n_taken
        for position in sorted(rng.permutation(len(files))[:n_taken])
    ]


def package_folder() -> Path:
    """Return the folder of the installed ``magika`` package, without importing it."""
    spec = importlib.util.find_spec("magika")
    if spec is None or spec.origin is None:
        sys.exit("error: the package magika is not installed; pip install magika")
    return Path(spec.origin).parent


def main() -> None:
    """Read the folder, write ``model.onnx``, ``data.npz`` and ``job.yaml``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="your files; sub-folders are searched")
    parser.add_argument("-o", "--output", type=Path, default=Path("magika-job"), help="new folder for the job")
    parser.add_argument("--per-type", type=int, help="files of each type (default: as many as eight types have)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not arguments.folder.is_dir():
        sys.exit(f"error: {arguments.folder}: no such folder")
    if arguments.output.exists():
        sys.exit(f"error: {arguments.output}: exists already; give a new folder with -o")

    package = package_folder()
    model_folder = next(iter(sorted(package.glob("models/*/model.onnx")))).parent
    config = json.loads((model_folder / "config.min.json").read_text(encoding="utf-8"))
    if config["version_major"] != MODEL_VERSION or config["mid_size"] or config["use_inputs_at_offsets"]:
        sys.exit(f"error: {model_folder.name} is not a version {MODEL_VERSION} model; install magika 1.0")
    knowledge = json.loads((package / "config" / "content_types_kb.min.json").read_text(encoding="utf-8"))
    extensions = type_by_extension(knowledge, config["target_labels_space"])
    pairs = balance(collect(arguments.folder, extensions, config["min_file_size_for_dl"]), arguments.per_type, arguments.seed)

    inputs: NDArray[np.int32] = np.array([features(path.read_bytes(), config) for path, _ in pairs], dtype=np.int32)
    labels: NDArray[np.int64] = np.array([index for _, index in pairs], dtype=np.int64)
    arguments.output.mkdir(parents=True)
    shutil.copyfile(model_folder / "model.onnx", arguments.output / "model.onnx")
    np.savez_compressed(arguments.output / "data.npz", bytes=inputs, y=labels)
    (arguments.output / "job.yaml").write_text(JOB, encoding="utf-8")
    names = sorted({config["target_labels_space"][index] for index in labels})
    print(f"{len(pairs)} files of {len(names)} types ({', '.join(names)})")
    print(f"Wrote {arguments.output}: model.onnx, data.npz, job.yaml")


if __name__ == "__main__":
    main()
