"""Dask clusters for tests: a scheduler in this process, workers in processes of their own or in threads."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import dask

# Before distributed is imported: workers are forked from a process that has imported what takes seconds. Dask watches each
# worker's stack and system by default, which many workers in one process have no time for.
dask.config.set(
    {
        "distributed.worker.multiprocessing-method": "forkserver",
        "distributed.worker.profile.enabled": False,
        "distributed.admin.system-monitor.interval": "60s",
    }
)
from distributed import LocalCluster  # noqa: E402
from distributed.utils import get_mp_context  # noqa: E402

from ovquant.worker import PRELOADED  # noqa: E402


@contextlib.contextmanager
def cluster(folder: Path, n_workers: int, resources: dict[str, float], *, processes: bool = True) -> Iterator[LocalCluster]:
    """Yield a cluster whose workers have one thread each."""
    get_mp_context()  # once, it sets what it has imported itself
    multiprocessing.set_forkserver_preload([*PRELOADED, "distributed", "ovquant.station"])
    with LocalCluster(
        n_workers=n_workers,
        threads_per_worker=1,
        processes=processes,
        resources=resources,
        local_directory=str(folder),
        memory_limit=0,
        dashboard_address=None,
        silence_logs=50,
    ) as running:
        yield running
