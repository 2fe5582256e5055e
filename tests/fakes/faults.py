"""A data source and a metric of a user's that fail in every way, in the worker process that they are loaded into.

A fault is ordered by a file beside the module and happens once, where it belongs: never to the reference, always to a
candidate. `ORDER` holds its name, `DONE` lists what happened.
"""

from __future__ import annotations

import shutil
from pathlib import Path

ORDER, DONE = "order", "done"
# The stage that fails, and the kind of failure; None: the search gets over it without a failed candidate.
FAULTS: dict[str, tuple[str, str] | None] = {
    "segfault": ("validate", "Crash"),
    "abort": ("validate", "Crash"),
    "kill": ("validate", "Crash"),
    "exit": ("validate", "Crash"),
    "hang": ("validate", "Hang"),
    "memory": ("validate", "OutOfMemory"),
    "raise": ("validate", "DataError"),
    "nan": ("validate", "DataError"),
    "item": ("validate", "OSError"),
    "compile": ("compile", "RuntimeError"),
    "nncf": ("quantize", "RuntimeError"),
    "shared": None,  # an exception where statistics are shared: the plain call takes over
    "leak": None,  # memory that is never given back: the worker is renewed in time
    "calibrate": None,  # killed while it collects for several: each is tried by itself
}


def install(folder: Path, data: Path) -> Path:
    """Write the module into a folder, and its data, a small ``.npz`` of images and labels, beside it."""
    path = folder / "faulty.py"
    path.write_text(MODULE)
    shutil.copy(data, folder / "faulty.npz")
    return path


MODULE = '''
import os, signal, sys, time
from pathlib import Path
import numpy as np
from ovquant import inference
from ovquant.datasets import splits
from ovquant.quantization import passes, shared
from nncf.quantization.algorithms.min_max.algorithm import MinMaxQuantization

HERE = Path(__file__).parent
ARRAYS = np.load(HERE / "faulty.npz")
n_scored = 0
leaked = []


def ordered(*kinds):
    """Return the fault to do now, if it is one of these."""
    order = HERE / "order"
    fault = order.read_text() if order.exists() else ""
    if fault not in kinds or n_scored == 0:  # before the reference was scored there is no candidate
        return ""
    order.unlink()
    with (HERE / "done").open("a") as stream:
        stream.write(fault + "\\n")
    return fault


def callers():
    frame = sys._getframe()
    while frame is not None:
        yield Path(frame.f_code.co_filename).stem
        frame = frame.f_back


def data():
    return [({"image": image}, label) for image, label in zip(ARRAYS["image"], ARRAYS["y"])]


def score(outputs, labels):
    global n_scored
    fault = ordered("segfault", "abort", "kill", "exit", "hang", "memory", "raise", "nan", "leak")
    n_scored += 1
    if fault == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if fault == "abort":
        os.abort()
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "exit":
        os._exit(3)
    if fault == "hang":
        time.sleep(1000)
    if fault == "memory":
        eaten = []
        while True:
            eaten.append(np.ones(1 << 24))
            time.sleep(0.01)
    if fault == "leak":
        leaked.append(np.ones(1 << 25))
    if fault == "raise":
        raise RuntimeError("made to fail")
    scores = np.array([float(np.argmax(output) == label) for output, label in zip(outputs["logits"], labels)])
    return scores * np.nan if fault == "nan" else scores


def before(owner, name, strike):
    """Let something happen before each call of a function."""
    plain = getattr(owner, name)

    def struck(*arguments, **named):
        strike(*arguments)
        return plain(*arguments, **named)

    setattr(owner, name, struck)


def compiling(self, model, *rest):
    if any(node.get_type_name() == "FakeQuantize" for node in model.get_ops()) and ordered("compile"):
        raise RuntimeError("cannot be compiled: made to fail")


def quantizing(*rest):
    if "plain" in callers() and ordered("nncf"):
        raise RuntimeError("cannot be quantized: made to fail")
    if (HERE / "order").exists() and (HERE / "order").read_text() == "nncf":
        raise RuntimeError("goes the plain way")
    if ordered("shared"):
        raise RuntimeError("made to fail")


def reading(*rest):
    if "validation" in callers() and ordered("item"):
        raise OSError("an item cannot be read: made to fail")


def collecting(*rest):
    if ordered("calibrate"):
        os.kill(os.getpid(), signal.SIGKILL)


before(inference.CompiledModel, "__init__", compiling)
before(MinMaxQuantization, "apply", quantizing)
before(splits.Samples, "sample", reading)
before(passes, "run", collecting)
'''
