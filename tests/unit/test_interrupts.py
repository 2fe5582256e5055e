"""An interrupt that Python dropped is raised again at the next safe place.

Signals are raised in a process of their own. OpenVINO's CPU plugin gives the thread that loads it another stack for signal
handlers and may free it while the kernel still uses it, if several `Core` come and go in no order, as they do in a test
process: the next signal that Python handles then ends it. The commands keep one `Core` for good.
"""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

DROPPED = """
import signal
from ovquant.interrupts import at_once_next_time, raise_if_asked, terminate_like_interrupt

class Finalized:
    def __del__(self):
        signal.raise_signal(signal.{name})

terminate_like_interrupt()
raise_if_asked()
Finalized()
try:
    raise_if_asked()
except KeyboardInterrupt:
    print("raised again")
at_once_next_time()
raise_if_asked()
print("told once")
signal.raise_signal(signal.{name})
print("still there")
"""

FORKED = """
import os, signal, time
from ovquant.interrupts import terminate_like_interrupt

terminate_like_interrupt()
theirs, ours = os.pipe()
child = os.fork()
if child == 0:
    os.write(ours, b"begun")  # signals that come while it is forked are dropped
    time.sleep(30)
    os._exit(0)
os.read(theirs, 5)
os.kill(child, signal.SIGTERM)
print(os.waitpid(child, 0)[1])
"""

IGNORED = """
import signal
from ovquant.interrupts import terminate_like_interrupt

signal.signal(signal.SIGINT, signal.SIG_IGN)
terminate_like_interrupt()
print(signal.getsignal(signal.SIGINT).name)
"""


def run(program: str) -> tuple[int, list[str]]:
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + program
    done = subprocess.run([sys.executable, "-u", "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupt_that_goes_astray_is_raised_again_and_the_next_one_ends_the_process(name: str) -> None:
    assert run(DROPPED.format(name=name)) == (130, ["raised again", "told once"])


def test_interrupts_that_are_ignored_stay_so() -> None:
    assert run(IGNORED) == (0, ["SIG_IGN"])


def test_a_forked_child_ends_without_a_word() -> None:
    assert run(FORKED) == (0, [str(int(signal.SIGTERM))])


def test_other_faults_of_finalizers_are_told() -> None:
    program = """
from ovquant.interrupts import terminate_like_interrupt

class Finalized:
    def __del__(self):
        raise ValueError("a fault")

terminate_like_interrupt()
Finalized()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "ValueError: a fault" in done.stderr


def test_handlers_are_given_back() -> None:
    program = """
import signal
from ovquant.interrupts import at_once_next_time, handlers_kept

with handlers_kept():
    at_once_next_time()
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.getsignal(signal.SIGTERM).name)
"""
    assert run(program) == (0, ["True SIG_DFL"])
