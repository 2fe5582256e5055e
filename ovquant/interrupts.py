"""Ctrl-C and termination: the first one stops in order, the second one at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

_INTERRUPTED = 130


def terminate_like_interrupt() -> None:
    """Let SIGTERM stop a command as Ctrl-C does."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def at_once_next_time() -> None:
    """Let the next interrupt end the process without a word; workers end with it."""

    def end(number: int, frame: FrameType | None) -> None:
        os._exit(_INTERRUPTED)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, end)
        signal.signal(signal.SIGTERM, end)
