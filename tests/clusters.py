"""Dask clusters for tests: a scheduler in this process, workers in processes of their own or in threads."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from distributed import Client, LocalCluster

QUIET = {"dashboard_address": None, "silence_logs": 50}


@contextlib.contextmanager
def cluster(folder: Path, n_workers: int, resources: dict[str, float], *, processes: bool = True) -> Iterator[LocalCluster]:
    """Yield a cluster whose workers have one thread each."""
    with LocalCluster(
        n_workers=n_workers,
        threads_per_worker=1,
        processes=processes,
        resources=resources,
        local_directory=str(folder),
        memory_limit=0,
        **QUIET,
    ) as running:
        yield running
