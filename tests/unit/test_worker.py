"""What a process does to itself to become a worker."""

from __future__ import annotations

import platform

import pytest
from children import in_another_process, n_arenas


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no arenas")
def test_threads_share_arenas() -> None:
    assert in_another_process(n_arenas, False) > 4
    assert in_another_process(n_arenas, True) <= 2
