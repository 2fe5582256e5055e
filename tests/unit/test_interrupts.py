"""An interrupt that Python dropped is raised again at the next safe place."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from ovquant.interrupts import at_once_next_time, raise_if_asked, terminate_like_interrupt


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Give the handlers back."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_goes_astray_is_raised_again(number: int) -> None:
    class Finalized:
        def __del__(self) -> None:
            signal.raise_signal(number)

    terminate_like_interrupt()
    raise_if_asked()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.unraisablehook", lambda dropped: None)
        Finalized()  # what it raises is dropped
    with pytest.raises(KeyboardInterrupt):
        raise_if_asked()
    at_once_next_time()
    raise_if_asked()


def test_interrupts_that_are_ignored_stay_so() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    terminate_like_interrupt()
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
