"""What a model takes of memory, found in a process of its own: ``python -m ovquant.footprint`` is that process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ovquant import runtime
from ovquant.errors import ModelError
from ovquant.inference import CompiledModel
from ovquant.protocols import Sample
from ovquant.records import Memory
from ovquant.strategy import InferencePrecision

_STATUS = Path("/proc/self/status")
_TIMEOUT_S = 1800


def footprint(
    model: Path, device: str, properties: Mapping[str, Any], precision: InferencePrecision | None, sample: Sample
) -> Memory | None:
    """Return the memory that a model takes in a process that does nothing else; None where the system does not tell.

    Args:
        model: its file.
        device: OpenVINO device; what is kept in the memory of a GPU or NPU is not seen.
        properties: that it is compiled with.
        precision: goes over that of `properties`.
        sample: that it is run on once.

    Raises:
        ModelError: the process ended without an answer.
    """
    if not _STATUS.exists():
        return None
    with tempfile.TemporaryDirectory(prefix="ovquant-") as folder:
        arrays, answer = Path(folder) / "sample.npz", Path(folder) / "answer.json"
        names = {f"array{index}": name for index, name in enumerate(sample)}
        np.savez(arrays, **{key: sample[name] for key, name in names.items()})  # type: ignore[arg-type]
        task = {
            "model": str(model.absolute()), "device": device, "properties": dict(properties), "precision": precision,
            "sample": str(arrays), "names": names, "answer": str(answer),
        }  # fmt: skip
        # Not from the working directory (-P), but from where this very package is.
        paths = [str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-m", "ovquant.footprint", json.dumps(task)],
                capture_output=True, text=True, errors="replace", check=False, timeout=_TIMEOUT_S,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise ModelError(f"{model}: its memory cannot be measured: it was not loaded within {_TIMEOUT_S:.0f} s") from None
        if done.returncode or not answer.exists():
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise ModelError(f"{model}: its memory cannot be measured: {last}")
        found: dict[str, int] | None = json.loads(answer.read_text(encoding="utf-8"))
    return None if found is None else Memory(peak_bytes=found["peak"], held_bytes=found["held"])


def _measure(task: Mapping[str, Any]) -> dict[str, int] | None:
    """Return by how many bytes the memory of this process grows: its peak while the model is loaded and run, and after that.

    None where the system does not tell, or where an earlier peak cannot be forgotten.
    """
    with np.load(task["sample"], allow_pickle=False) as arrays:
        sample = {name: arrays[key] for key, name in task["names"].items()}
    runtime.device_name(task["device"])  # the plugin is loaded, which all models have in common
    if not _forget_peak() or (at_first := _resident()) is None:
        return None
    _, before = at_first
    compiled = CompiledModel(runtime.read_model(Path(task["model"])), task["device"], task["properties"], task["precision"])
    compiled.runner(sample)()
    peak, held = _resident() or at_first
    return {"peak": max(0, peak - before), "held": max(0, held - before)}


def _forget_peak() -> bool:
    """Let the peak of this process be what it takes now (proc(5), clear_refs); return False where that is forbidden."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _resident() -> tuple[int, int] | None:
    """Return the peak of this process's memory and what it holds, in bytes, of one moment: the peak is no less.

    None where its status does not tell (proc(5)).
    """
    lines = dict(line.split(":", 1) for line in _STATUS.read_text(encoding="ascii").splitlines() if ":" in line)
    try:
        peak, held = (int(lines[name].split()[0]) * 1024 for name in ("VmHWM", "VmRSS"))
    except KeyError:
        return None
    return peak, held


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    Path(given["answer"]).write_text(json.dumps(_measure(given)), encoding="utf-8")
