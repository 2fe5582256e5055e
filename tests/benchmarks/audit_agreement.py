"""Compare the precision audit with the report of OpenVINO's `benchmark_app` on the same models.

    python tests/benchmarks/audit_agreement.py MODELS... [--precision f32] [--seconds 5] [--rounds 3]

MODELS are IR files with one input of a static shape. In every round `benchmark_app` runs each of them with its performance
counters (``-pc -report_type average_counters``), and the audit runs it too. Layers that are run, their types and their
precisions must be the same, but that the device's graph calls some types by a shorter or longer name: Convolution for
GroupConvolution, Reduce for ReduceMean, StridedSlice for Slice. Of the times, the sums and the correlation over layers are
told. Exit code 1 where layers differ.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from ovquant import runtime
from ovquant.audit import Audit, audits
from ovquant.strategy import InferencePrecision

NO_KERNEL = {"Parameter", "Result", "Constant", "Input", "Output", ""}  # no type: the sum of all
Layer = tuple[str, str, float]  # type, precision, milliseconds


def counters(model: Path, precision: str, seconds: int) -> dict[str, Layer]:
    """Return what `benchmark_app` reports of the layers that were executed, by name."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["benchmark_app", "-m", str(model), "-hint", "latency", "-t", str(seconds), "-ip", "f32"]
        report = ["-infer_precision", precision, "-pc", "-report_type", "average_counters", "-report_folder", folder]
        subprocess.run([*command, *report], capture_output=True, text=True, check=True)
        path = next(Path(folder).glob("*average_counters*.csv"))
        rows = list(csv.DictReader(path.read_text().splitlines(), delimiter=";"))
    return {
        row["layerName"]: (row["layerType"], row["execType"].rpartition("_")[2].lower(), float(row["realTime (ms)"]))
        for row in rows
        # A layer below a microsecond may count as not run in the last inference; one that was fused has no kernel.
        if row["layerType"] not in NO_KERNEL and row["execType"] != "undef"
    }


def audited(model: Path, precision: InferencePrecision) -> Audit:
    """Return the audit of a model, run on zeros as `benchmark_app` runs it on noise."""
    loaded = runtime.read_model(model)
    properties = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    port = loaded.inputs[0]
    array = np.random.default_rng(0).random(tuple(port.get_shape())).astype(port.get_element_type().to_dtype())
    return audits([loaded], "CPU", properties, {min(port.get_names()): array}, n_runs=200)[0]


def layers_of(audit: Audit) -> dict[str, Layer]:
    """Return the kernels of an audit in the form of `counters`; it names both kinds of 8 bits alike."""
    eight = {"u8": "i8"}
    return {k.name: (k.kind, eight.get(k.precision, k.precision), k.time_us / 1000) for k in audit.kernels}


def differences(ours: dict[str, Layer], theirs: dict[str, Layer]) -> list[str]:
    """Return where layers, types or precisions are not the same."""
    found = [f"only in benchmark_app: {name}" for name in theirs.keys() - ours.keys()]
    found += [f"only in the audit: {name}" for name in ours.keys() - theirs.keys()]
    for name in sorted(ours.keys() & theirs.keys()):
        mine, other = ours[name][:2], theirs[name][:2]
        is_alike = mine[0] in other[0] or other[0] in mine[0]
        if not is_alike or mine[1] != other[1]:
            found.append(f"{name}: {mine} here, {other} there")
    return found


def main() -> None:
    """Run both, in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    is_same = True
    for model in arguments.models:
        sums, agreements = [], []
        for _ in range(arguments.rounds):
            theirs = counters(model, arguments.precision, arguments.seconds)
            ours = layers_of(audited(model, arguments.precision))
            found = differences(ours, theirs)
            is_same = is_same and not found
            print("\n".join(found), end="\n" if found else "")
            both = sorted(ours.keys() & theirs.keys())
            times = np.array([[ours[name][2], theirs[name][2]] for name in both])
            sums.append(times.sum(axis=0))
            agreements.append(np.corrcoef(times.T)[0, 1])
        mine, other = np.median(sums, axis=0)
        n_integer = sum(layer[1] == "i8" for layer in ours.values())
        print(
            f"{model.name} at {arguments.precision}: {len(ours)} layers run, {n_integer} of them in 8 bits; {len(found)} differ; "
            f"sum {mine:.3f} ms here, {other:.3f} ms by benchmark_app; correlation of times {np.median(agreements):.3f}"
        )
    sys.exit(0 if is_same else 1)


if __name__ == "__main__":
    main()
