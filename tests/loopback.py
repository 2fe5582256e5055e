"""A machine to measure on that is this one: an sshd of the tests' own, on the loopback, with its own keys and temporary files."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
_START_S = 10.0


def find_sshd() -> str | None:
    """Return the daemon's path; None where there is none, and none can be had.

    It is installed where that starts no service: as root, on a Debian that systemd does not run.
    """

    def found() -> str | None:
        return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:{_SBIN}")

    is_container = os.geteuid() == 0 and shutil.which("apt-get") and not Path("/run/systemd/system").exists()
    if found() is None and is_container:
        for command in ("update", "install -y --no-install-recommends openssh-server openssh-client"):
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            subprocess.run(["apt-get", "-q", *command.split()], env=environment, capture_output=True, timeout=300, check=False)
    return found()


def until(is_done: Callable[[], object], seconds: float = 10.0) -> bool:
    """Wait until something holds; return whether it does."""
    end = time.monotonic() + seconds
    while not is_done():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


class Loopback:
    """An sshd; `start` and `stop` as often as you like, on the same port and with the same keys.

    Attributes:
        folder: of all its files.
        temporary: where temporary files go of what is run through it.
        config: configuration for ssh that knows its key and logs in with the user's.
    """

    def __init__(self, folder: Path, sshd: str) -> None:
        self.folder, self._sshd = folder, sshd
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        for name in ("host", "user", "other"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        settings = {
            "Port": self.port,
            "ListenAddress": "127.0.0.1",
            "HostKey": folder / "host",
            "AuthorizedKeysFile": folder / "user.pub",
            "PidFile": "none",
            "UsePAM": "no",
            "StrictModes": "no",
            "SetEnv": f"TMPDIR={self.temporary}",
        }
        (folder / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
        self.config = self.configured("ssh_config", "host")
        self._process: subprocess.Popen[bytes] | None = None

    def configured(self, name: str, host_key: str | None, user_key: str = "user") -> Path:
        """Write a configuration for ssh that holds a key for the host's, or knows none; return its path."""
        known = self.folder / f"{name}.known"
        key = "" if host_key is None else " ".join((self.folder / f"{host_key}.pub").read_text().split()[:2])
        known.write_text(f"[127.0.0.1]:{self.port} {key}\n" if key else "")
        path = self.folder / name
        identity = f"  IdentityFile {self.folder / user_key}\n  IdentitiesOnly yes\n  IdentityAgent none\n"
        path.write_text(f"Host *\n{identity}  UserKnownHostsFile {known}\n  GlobalKnownHostsFile none\n")
        return path

    def url(self, *, config: Path | None = None, port: int | None = None) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{port or self.port}?config={config or self.config}"

    def options(self) -> list[str]:
        """Return the options of the command line that measure there, with this Python."""
        return ["--measure-on", self.url(), "--remote-python", sys.executable]

    def start(self) -> None:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # root's sshd asks for it
        command = [self._sshd, "-D", "-e", "-f", str(self.folder / "sshd_config")]
        with (self.folder / "sshd.log").open("ab") as log:
            self._process = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
        if not until(self._answers, _START_S):
            pytest.fail(f"sshd does not start:\n{(self.folder / 'sshd.log').read_text()}")

    def stop(self) -> None:
        """End the daemon and all connections at once, as a machine without power does."""
        if self._process is not None:
            connections = self._connections()
            self._process.kill()
            self._process.wait()
            _kill(connections)
            self._process = None

    def drop(self) -> int:
        """Cut all connections; return how many processes served them."""
        connections = self._connections()
        _kill(connections)
        return len(connections)

    def left_behind(self) -> list[str]:
        """Return what is left in the temporary folder a while after the last connection."""
        until(lambda: not any(self.temporary.iterdir()))
        return [path.name for path in self.temporary.iterdir()]

    def _connections(self) -> list[psutil.Process]:
        if self._process is None:
            return []
        children = psutil.Process(self._process.pid).children(recursive=True)
        return [child for child in children if child.name().startswith("sshd")]

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue


def run_loopback(folder: Path) -> Iterator[Loopback]:
    """Yield a machine that is running; skip where there is no sshd."""
    sshd = find_sshd()
    if sshd is None or shutil.which("ssh") is None:
        pytest.skip("no sshd here, and none can be installed")
    machine = Loopback(folder, sshd)
    machine.start()
    yield machine
    machine.stop()
