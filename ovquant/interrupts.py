"""Ctrl-C and termination: the first one stops in order, the second one at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

_INTERRUPTED = 130
_asked = threading.Event()


def terminate_like_interrupt() -> None:
    """Let SIGTERM stop a command as Ctrl-C does."""
    _asked.clear()
    if threading.current_thread() is threading.main_thread():
        sys.unraisablehook = _quietly
        signal.signal(signal.SIGTERM, _interrupt)
        if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
            signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _asked.set()
    raise KeyboardInterrupt


def _end_by_signals() -> None:
    """Let signals end a child that some library forks: what these handlers do is for the command."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, signal.SIG_DFL)


def _quietly(dropped: sys.UnraisableHookArgs) -> None:
    """Say nothing of an interrupt that was raised in a finalizer: `raise_if_asked` raises it again."""
    if not (_asked.is_set() and issubclass(dropped.exc_type, KeyboardInterrupt)):
        sys.__unraisablehook__(dropped)


def raise_if_asked() -> None:
    """Raise what an interrupt raised before, in case it went astray: Python drops what is raised in a finalizer or a callback.

    Raises:
        KeyboardInterrupt: there was one.
    """
    if _asked.is_set():
        raise KeyboardInterrupt


@contextlib.contextmanager
def handlers_kept() -> Iterator[None]:
    """Give the handlers of interrupts back at the end: a notebook goes on after a search that was interrupted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # else it is not Python's
                signal.signal(number, handler)


def at_once_next_time() -> None:
    """Let the next interrupt end the process without a word; workers end with it."""
    _asked.clear()

    def end(number: int, frame: FrameType | None) -> None:
        os._exit(_INTERRUPTED)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, end)
        signal.signal(signal.SIGTERM, end)


os.register_at_fork(after_in_child=_end_by_signals)
