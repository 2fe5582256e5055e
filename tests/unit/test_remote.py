"""What is sent to another machine, what is kept there, and what becomes of a connection that is lost."""

from __future__ import annotations

import ast
import dataclasses
import io
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
from fakes.clock import ScriptedClock
from loopback import Loopback, until

from ovquant import connection, remote, runtime
from ovquant.address import parse_address
from ovquant.agent import _save
from ovquant.connection import Connection
from ovquant.errors import DeviceError
from ovquant.metering import Ready
from ovquant.remote import RemoteMeter, Site, site_at

SAMPLE = {"image": np.zeros((1, 3, 12, 12), np.float32)}
# Imports what is sent as the other machine does, where nothing else of ovquant, and of other libraries none but two, can be had.
IMPORTING = """
import sys
class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {"ovquant", "openvino", "numpy", *sys.stdlib_module_names}:
            raise ImportError("not there: " + name)
sys.meta_path.insert(0, Refusing())
sys.path.insert(0, sys.argv[1])
import ovquant.agent
assert ovquant.agent.__file__.startswith(sys.argv[1]), ovquant.agent.__file__
print(*sorted(name for name in sys.modules if name.startswith("ovquant")))
"""


def test_what_is_sent_is_what_the_agent_imports_and_needs_openvino_alone(tmp_path: Path) -> None:
    (tmp_path / "sent.zip").write_bytes(connection.package())
    command = [sys.executable, "-c", IMPORTING, str(tmp_path / "sent.zip")]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == ["ovquant", *(f"ovquant.{name}" for name in connection.SENT if name != "__init__")]


def test_what_begins_there_can_be_read_by_any_python_3_to_say_that_it_is_too_old() -> None:
    ast.parse(connection.BOOT, feature_version=(3, 4))


@pytest.fixture(scope="module")
def site(loopback: Loopback, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return site_at(parse_address(loopback.url(), sys.executable), "CPU", tmp_path_factory.mktemp("search"), "test")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what is asked of other machines, in order."""
    found: list[str] = []
    ask = Connection.ask

    def noting(self: Connection, what: str, *arguments: Any, **options: Any) -> Any:
        found.append(what)
        return ask(self, what, *arguments, **options)

    monkeypatch.setattr(Connection, "ask", noting)
    return found


@pytest.fixture
def clock() -> ScriptedClock:
    return ScriptedClock()


@pytest.fixture
def meter(site: Site, clock: ScriptedClock, tmp_path: Path, loopback: Loopback) -> Iterator[RemoteMeter]:
    made = RemoteMeter(site, {}, lambda: SAMPLE, tmp_path, clock)
    yield made
    made.close()
    assert loopback.left_behind() == []


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Ready]:
    """Return a small model by its number."""
    folder = tmp_path_factory.mktemp("models")

    def model(number: int) -> Ready:
        path = small.conv_model(folder / f"{number}.onnx", seed=number)
        return Ready(path=path, model=runtime.read_model(path), precision="f32")

    return model


def models_there(loopback: Loopback) -> int:
    return len(list(loopback.temporary.glob("*/*.xml")))


def test_a_model_travels_once_however_often_it_is_asked_about(
    meter: RemoteMeter, ready: Callable[[int], Ready], asked: list[str]
) -> None:
    one = ready(0)
    for precision in ("f32", "bf16", "f32"):
        meter.structure(dataclasses.replace(one, precision=precision))
    assert asked == ["begin", "take", "structure", "structure", "structure"]


def test_models_that_were_not_used_for_long_are_removed_there(
    meter: RemoteMeter, ready: Callable[[int], Ready], loopback: Loopback, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [ready(number) for number in range(3)]
    meter.structure(models[0])
    (size,) = meter._sent.values()
    monkeypatch.setattr(remote, "_SENT_BYTES", int(2.5 * size))
    meter.structure(models[1])
    meter.structure(models[0])  # so that the second one is the oldest
    meter.structure(models[2])
    assert models_there(loopback) == 2
    asked.clear()
    meter.structure(models[0])
    assert "take" not in asked
    meter.structure(models[1])
    assert "take" in asked


def test_a_connection_that_is_cut_is_made_again_and_nothing_is_lost(
    meter: RemoteMeter, ready: Callable[[int], Ready], loopback: Loopback, clock: ScriptedClock, asked: list[str]
) -> None:
    key = meter.structure(ready(0))
    assert loopback.drop() > 0
    assert meter.structure(ready(0)) == key
    assert asked.count("begin") == 2
    assert clock.now() == 1


def test_a_machine_that_is_gone_is_told_after_a_few_attempts_and_found_when_it_is_back(
    meter: RemoteMeter, ready: Callable[[int], Ready], loopback: Loopback, clock: ScriptedClock
) -> None:
    key = meter.structure(ready(0))
    loopback.stop()
    try:
        with pytest.raises(DeviceError, match=r"the connection was lost 4 times in a row: .*Connection refused"):
            meter.structure(ready(0))
    finally:
        loopback.start()
    assert clock.now() == 1 + 2 + 4
    assert meter.structure(ready(0)) == key


def test_what_another_connection_of_the_same_search_left_is_swept_and_that_of_others_is_not(
    meter: RemoteMeter, ready: Callable[[int], Ready], site: Site, loopback: Loopback
) -> None:
    mine, other = (loopback.temporary / f"ovquant-{search}-left" for search in (site.search, "0" * 16))
    live = loopback.temporary / f"ovquant-{site.search}-live"
    for folder in (mine, other, live):
        folder.mkdir()
        (folder / "model.bin").write_bytes(b"1")
    (live / "pid").write_text(str(os.getpid()))
    meter.structure(ready(0))
    assert (mine.exists(), other.exists(), live.exists()) == (False, True, True)
    shutil.rmtree(other)
    shutil.rmtree(live)


def test_files_go_when_this_process_is_killed(site: Site, loopback: Loopback, tmp_path: Path) -> None:
    program = (
        "import sys, time, pickle; from ovquant.connection import Connection\n"
        "site = pickle.loads(bytes.fromhex(sys.argv[1])); c = Connection(site.address, site.search)\n"
        "print('on', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", program, pickle.dumps(site).hex()], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"on\n"
    assert any(loopback.temporary.iterdir())
    child.kill()
    child.wait()
    child.stdout.close()
    assert until(lambda: not any(loopback.temporary.iterdir()))


def test_models_make_room_for_the_next_one(
    meter: RemoteMeter, ready: Callable[[int], Ready], loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [meter.structure(ready(index)) for index in range(2)]
    asked, plain = [], Connection.ask

    def full(self: Connection, what: str, *rest: object, **named: object) -> object:
        asked.append(what)
        if asked.count("take") == 1 and what == "take":
            raise DeviceError("model.bin cannot be written there: No space left on device")
        return plain(self, what, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Connection, "ask", full)
    assert meter.structure(ready(2))
    assert asked == ["take", "forget", "take", "structure"]
    assert [meter.structure(ready(index)) for index in range(2)] == keys


def test_what_cannot_be_written_whole_leaves_nothing(tmp_path: Path) -> None:
    content = bytes(range(256)) * 8192  # 2 MiB
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    stream = io.BytesIO(content + b"next")
    try:
        with pytest.raises(OSError):
            _save(stream, tmp_path, f"{'0' * 64}.bin", len(content))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []
    assert stream.read() == b"next"  # what follows is read as it should be


def test_where_no_answer_comes_the_connection_is_given_up_and_made_again(
    meter: RemoteMeter, ready: Callable[[int], Ready], loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = meter.structure(ready(0))
    (folder,) = loopback.temporary.iterdir()
    agent = int((folder / "pid").read_text())
    os.kill(agent, signal.SIGSTOP)  # as one that waits for a driver
    monkeypatch.setattr(connection, "_ANSWER_S", 5.0)
    try:
        assert meter.structure(ready(0)) == key
    finally:
        os.kill(agent, signal.SIGCONT)
    assert until(lambda: not folder.exists())


def test_a_disk_without_room_there_is_told(
    meter: RemoteMeter, ready: Callable[[int], Ready], loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = meter.structure(ready(0))
    (folder,) = loopback.temporary.iterdir()
    (name,) = (path.stem for path in folder.glob("*.xml"))
    new = ready(1)
    monkeypatch.setattr(meter, "_sent", {})
    for path in folder.glob("*.xml"):
        path.unlink()
    (folder / f"{name}.xml").mkdir()  # cannot be written to
    with pytest.raises(DeviceError, match=rf"{name}.xml cannot be written there: Is a directory"):
        meter.structure(ready(0))
    (folder / f"{name}.xml").rmdir()
    assert meter.structure(ready(0)) == key
    assert meter.structure(new)
