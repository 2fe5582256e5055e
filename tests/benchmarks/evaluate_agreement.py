"""Compare what `ovquant evaluate` says with loops written by hand: accuracy, latency, throughput, file size.

    python tests/benchmarks/evaluate_agreement.py JOB MODELS... [--rounds 24] [--spread 120]

JOB is a job file with a folder of images in class folders that are numbers or sorted names, or an ``.npz`` with one array
per input and ``y``; MODELS are IR files with one input of the same shape, the first one the float model. Nothing of
`ovquant` is imported: images are read with Pillow, models are compiled with OpenVINO and run in plain loops. Accuracy must
agree to the last digit, and so must sizes. Speed-ups over the first model and items per second are compared by intervals:
those of `ovquant` must hold the value of the loop.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import yaml
from PIL import Image


def told(job: Path, models: list[Path]) -> dict[str, Any]:
    """Return what the command says."""
    command = [sys.executable, "-m", "ovquant", "evaluate", str(job), *map(str, models[1:]), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def samples(job: Path) -> tuple[list[np.ndarray], list[int]]:
    """Return inputs and labels, read by hand."""
    data = yaml.safe_load(job.read_text())["data"]
    data = {"path": data} if isinstance(data, str) else data
    path, options = job.parent / data["path"], data.get("preprocessing", {})
    mean, scale = (np.array(options.get(key, default), np.float32) for key, default in (("mean", 0), ("scale", 1)))
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            (name,) = [key for key in arrays.files if key != "y"]
            return [row[np.newaxis] for row in arrays[name]], arrays["y"].tolist()
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir())
    is_numbered = all(folder.name.isdecimal() for folder in folders)
    inputs, labels = [], []
    for index, folder in enumerate(folders):
        for file in sorted(folder.iterdir()):
            image = np.asarray(Image.open(file).convert("RGB"), np.float32)
            inputs.append(((image - mean) / scale).transpose(2, 0, 1)[np.newaxis])
            labels.append(int(folder.name) if is_numbered else index)
    return inputs, labels


def accuracy(model: ov.CompiledModel, inputs: list[np.ndarray], labels: list[int]) -> float:
    """Return the share of items whose largest output is their label's."""
    right = sum(int(np.argmax(model(sample)[0])) == label for sample, label in zip(inputs, labels, strict=True))
    return right / len(labels)


def latencies(models: list[ov.CompiledModel], sample: np.ndarray, n_rounds: int, spread: float) -> list[list[float]]:
    """Return the median inference of each model in each round, in ms."""
    requests = [model.create_infer_request() for model in models]
    for request in requests:
        request.set_input_tensor(ov.Tensor(np.ascontiguousarray(sample)))
    found: list[list[float]] = [[] for _ in models]
    for number in range(n_rounds):
        began = time.perf_counter()
        order = list(range(len(models)))[:: 1 if number % 2 else -1]
        for index in order:
            times = []
            for _ in range(60):
                start = time.perf_counter()
                requests[index].infer()
                times.append(time.perf_counter() - start)
            found[index].append(statistics.median(times[10:]) * 1e3)
        time.sleep(max(0.0, spread / n_rounds - (time.perf_counter() - began)))
    return found


def throughputs(models: list[ov.CompiledModel], sample: np.ndarray, n_rounds: int) -> list[list[float]]:
    """Return the items per second of each model in each round, from OpenVINO's own queue of requests."""
    queues = [ov.AsyncInferQueue(model) for model in models]
    found: list[list[float]] = [[] for _ in models]
    for _ in range(n_rounds):
        for index, queue in enumerate(queues):
            n_done, start = 0, time.perf_counter()
            while time.perf_counter() - start < 0.3:
                queue.start_async(sample, share_inputs=True)
                n_done += 1
            queue.wait_all()
            found[index].append(n_done / (time.perf_counter() - start))
    return found


def line(name: str, what: str, ours: str, theirs: str, *, agrees: bool) -> bool:
    """Print a comparison; return whether it agrees."""
    print(f"{name:10s} {what:12s} evaluate {ours:30s} by hand {theirs:12s} {'agrees' if agrees else 'DIFFERS'}")
    return agrees


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--spread", type=float, default=120.0)
    arguments = parser.parse_args()
    found = told(arguments.job, arguments.models)
    rows = [found["rows"][1], *found["rows"][2:]]  # the baseline, and the others
    precisions = [row["description"].rpartition(" at ")[2] for row in rows]
    inputs, labels = samples(arguments.job)
    core = ov.Core()

    def compiled(hint: str) -> list[ov.CompiledModel]:
        options = [{"PERFORMANCE_HINT": hint, "INFERENCE_PRECISION_HINT": precision} for precision in precisions]
        return [core.compile_model(str(path), "CPU", one) for path, one in zip(arguments.models, options, strict=True)]

    quick = compiled("LATENCY")
    by_hand = latencies(quick, inputs[0], arguments.rounds, arguments.spread)
    rates = throughputs(compiled("THROUGHPUT"), inputs[0], arguments.rounds)
    results = []
    for index, (row, path) in enumerate(zip(rows, arguments.models, strict=True)):
        name = row["name"]
        mine, metric = accuracy(quick[index], inputs, labels), row["evaluation"]["metrics"][0]
        results.append(line(name, metric["name"], repr(metric["value"]), repr(mine), agrees=metric["value"] == mine))
        size = path.stat().st_size + path.with_suffix(".bin").stat().st_size
        results.append(
            line(name, "bytes", str(row["evaluation"]["size_bytes"]), str(size), agrees=row["evaluation"]["size_bytes"] == size)
        )
        ratio = statistics.median(own / base for own, base in zip(by_hand[index], by_hand[0], strict=True))
        interval = row["latency"]["ratio"]
        shown = f"{interval['value']:.4f} [{interval['low']:.4f}, {interval['high']:.4f}]"
        results.append(line(name, "latency x", shown, f"{ratio:.4f}", agrees=interval["low"] <= ratio <= interval["high"]))
        print(f"{name:10s} {'latency ms':12s} evaluate {row['latency']['median_ms']:<30.3f} by hand", end=" ")
        print(f"{statistics.median(by_hand[index]):.3f}")
        rate, per_s = statistics.median(rates[index]), row["capacity"]["throughput"]["per_s"]
        shown = f"{per_s['value']:.1f} [{per_s['low']:.1f}, {per_s['high']:.1f}]"
        results.append(line(name, "items/s", shown, f"{rate:.1f}", agrees=per_s["low"] <= rate <= per_s["high"]))
    print(f"{found['device']}, {len(labels)} items: {sum(results)} of {len(results)} agree")


if __name__ == "__main__":
    main()
