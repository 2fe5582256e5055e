"""What tests run in other processes: a child imports it by name, which it cannot do with a test module."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ovquant import runtime, worker
from ovquant.inference import CompiledModel
from ovquant.protocols import Sample
from ovquant.quantization.shared import SharedQuantizer
from ovquant.quantization.store import ArrayStore
from ovquant.strategy import Strategy

Found = TypeVar("Found")


def in_another_process(function: Callable[..., Found], *arguments: Any) -> Found:
    """Return what a function of this module returns in a new interpreter."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result(timeout=120)


def put(folder: Path, key: str, array: np.ndarray) -> None:
    ArrayStore(folder).put({key: [array]})


def n_arenas(is_worker: bool) -> int:
    """Return how many arenas glibc has after eight threads took memory at a time."""
    os.environ.pop("MALLOC_ARENA_MAX", None)
    if is_worker:
        worker.share_arenas()
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    together = threading.Barrier(8)

    def take() -> None:
        together.wait()
        libc.malloc(1000)
        together.wait()

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with tempfile.NamedTemporaryFile() as told:
        libc.fopen.restype = ctypes.c_void_p
        stream = ctypes.c_void_p(libc.fopen(told.name.encode(), b"w"))
        libc.malloc_info(0, stream)
        libc.fclose(stream)
        return told.read().count(b"<heap nr=")


def quantize(path: Path, samples: list[Sample], store: Path, strategies: Sequence[Strategy]) -> tuple[list[str], int, str | None]:
    """Return the models' digests, how many passes they took, and why statistics were not shared."""
    model = runtime.read_model(path)
    quantizer = SharedQuantizer(model, runtime.operations(model), samples, ArrayStore(store))
    digests = [runtime.graph_digest(quantizer.quantize(strategy)) for strategy in strategies]
    return digests, quantizer.n_passes, quantizer.fallback


def arrays_written_to(path: Path, samples: list[Sample]) -> int:
    """Run a model in several ways in turns; return how many arrays that are nobody's business were changed meanwhile."""
    compiled = CompiledModel(runtime.read_model(path), "CPU", {}, "f32")
    before = [{key: array.copy() for key, array in sample.items()} for sample in samples]
    n_changed = 0
    for start in range(0, 30, 5):
        if start % 2:
            list(compiled.infer_many(samples[start : start + 5]))
        else:
            compiled.runner(samples[start])()
        # In place of what was freed.
        others = [np.full_like(array, 7) for _ in range(6) for array in samples[start].values()]
        compiled.infer(samples[start + 5])
        n_changed += sum(bool((array != 7).any()) for array in others)
    for sample, kept in zip(samples, before, strict=True):
        n_changed += sum(not np.array_equal(sample[key], kept[key]) for key in sample)
    return n_changed
