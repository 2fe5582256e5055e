"""A connection to another machine, over ssh, on which what measures here is sent, and run by a Python that has OpenVINO.

The system's `ssh` makes the connection. It knows the user's configuration, agents, hardware keys, jump hosts and known hosts,
is kept by whoever keeps the system, and passes on the end of this process as the end of the other one's input. (asyncssh and
paramiko would have to be told all that again, and bring an event loop or threads, and a copy of the cryptography.)
"""

from __future__ import annotations

import collections
import contextlib
import importlib.resources
import io
import json
import shlex
import subprocess
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

from ovquant.address import Address
from ovquant.errors import DeviceError, OvquantError

# What is sent: `agent`, and all of ovquant that it imports.
SENT = (
    "__init__",
    "agent",
    "audit",
    "environment",
    "errors",
    "inference",
    "loading",
    "machine",
    "metering",
    "operations",
    "protocols",
    "quantizers",
    "runtime",
    "structure",
    "turns",
)
# Takes what is sent from standard input and runs it, or tells what is missing; written for any Python 3.
BOOT = """\
import json, os, shutil, sys, tempfile
def lack(what):
    print(json.dumps({"lacks": what}))
    sys.exit(0)
if sys.version_info < (3, 11):
    lack("Python 3.11 or later; it is " + sys.version.split()[0])
size = int(sys.argv[2])
sent = sys.stdin.buffer.read(size)
if len(sent) < size:
    sys.exit(1)
folder = tempfile.mkdtemp(prefix=sys.argv[1])
try:
    path = os.path.join(folder, "ovquant.zip")
    with open(path, "wb") as file:
        file.write(sent)
    sys.path[:] = [path] + [entry for entry in sys.path if entry]
    try:
        from ovquant import runtime
        runtime.openvino()
    except Exception as error:
        lack("OpenVINO (" + type(error).__name__ + ": " + str(error).split("\\n")[0] + ")")
    from ovquant.agent import serve
    serve(folder, sys.argv[1])
finally:
    shutil.rmtree(folder, ignore_errors=True)
"""
_SSH = (
    "ssh",
    "-Tax",
    *("-o", "BatchMode=yes"),
    *("-o", "StrictHostKeyChecking=yes"),  # an unknown host is refused, whatever the user's configuration says
    *("-o", "ConnectTimeout=10"),
    *("-o", "ServerAliveInterval=5"),
    *("-o", "ServerAliveCountMax=3"),
    *("-o", "ControlMaster=no"),
    *("-o", "ControlPath=none"),
    *("-o", "ClearAllForwardings=yes"),
    *("-o", "LogLevel=ERROR"),
)
_BEGIN_S = 60.0  # until the other machine answers: log in, import OpenVINO
_QUICK, _QUICK_S = frozenset({"describe", "forget"}), 120.0
_ANSWER_S = 3600.0  # to compile and run the largest models on the slowest devices
_END_S = 5.0
_TOLD_LINES = 20


class LostError(Exception):
    """The connection is gone, or could not be made."""


class Connection:
    """The agent on another machine, as long as it answers."""

    def __init__(self, address: Address, search: str) -> None:
        """Log in, send what measures, and wait for its first answer.

        Raises:
            LostError: that does not work.
            DeviceError: something is missing that will not come by itself.
        """
        self._address = address
        self._told: collections.deque[str] = collections.deque(maxlen=_TOLD_LINES)
        sent, prefix = package(), f"ovquant-{search}-"
        home, rest = ("~/", address.python[2:]) if address.python.startswith("~/") else ("", address.python)
        remote = f"exec {home}{shlex.quote(rest)} -c {shlex.quote(BOOT)} {prefix} {len(sent)}"
        try:
            # In a session of its own: Ctrl-C is for this process, which ends the other one in order.
            self._process = subprocess.Popen(
                [*_SSH, *_options(address), "--", address.host, remote],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise DeviceError(f"{address}: ssh cannot be run here ({error.strerror}); install OpenSSH's client") from error
        self._input, self._output, errors = (
            cast("IO[bytes]", pipe) for pipe in (self._process.stdin, self._process.stdout, self._process.stderr)
        )
        self._listener = threading.Thread(target=self._listen, args=(errors,), daemon=True)
        self._listener.start()
        try:
            lacks = self._begin(sent)
        except BaseException:
            self.close()
            raise
        if lacks is not None:
            self.close()
            raise DeviceError(
                f"{address}: {address.python} there lacks {lacks}. Install it there, or name a Python that has it with "
                "--remote-python PATH"
            )

    def _begin(self, sent: bytes) -> str | None:
        """Send what measures; return what it lacks there.

        Raises:
            LostError, DeviceError: it does not answer.
        """
        try:
            with self._within(_BEGIN_S):
                self._write([sent])
                return cast("str | None", self._first_answer()["lacks"])
        except LostError as lost:
            raise self._refusal() or lost from None

    @contextlib.contextmanager
    def _within(self, seconds: float) -> Iterator[None]:
        """Give the connection up where it takes longer: a machine can be alive and its device driver not.

        Raises:
            LostError: it was given up.
        """
        alarm = threading.Timer(seconds, self._process.kill)
        alarm.daemon = True
        alarm.start()
        try:
            yield
        except LostError:
            if not alarm.is_alive():
                raise LostError(f"there was no answer within {seconds:.0f} s") from None
            raise
        finally:
            alarm.cancel()

    def ask(
        self,
        what: str,
        content: Mapping[str, Any],
        files: Mapping[str, Path | bytes] | None = None,
        fault: type[OvquantError] = DeviceError,
    ) -> Any:
        """Return the answer to a question; files go along.

        Raises:
            LostError: the connection is gone.
            OvquantError: it cannot be done there; of the class `fault`.
        """
        files = files or {}
        sizes = {name: len(file) if isinstance(file, bytes) else file.stat().st_size for name, file in files.items()}
        self._write([json.dumps({"ask": what, "content": content, "files": sizes}).encode() + b"\n"])
        for file in files.values():
            self._write([file] if isinstance(file, bytes) else _chunks(file))
        with self._within(_QUICK_S if what in _QUICK else _ANSWER_S):
            answer = self._answer()
        if "fault" in answer:
            raise fault(f"{self._address}: {answer['fault']}")
        return answer["answer"]

    def close(self) -> None:
        """End what runs there: its input ends, and it removes its files and goes."""
        for pipe in (self._input, self._output):
            with contextlib.suppress(OSError):
                pipe.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _write(self, parts: Sequence[bytes] | Iterator[bytes]) -> None:
        try:
            for part in parts:
                self._input.write(part)
            self._input.flush()
        except (OSError, ValueError):
            raise self._lost() from None

    def _first_answer(self) -> dict[str, Any]:
        """Return the first line that is an answer: what runs at log-in may print before."""
        while True:
            with contextlib.suppress(ValueError):
                answer = self._answer()
                if "lacks" in answer:
                    self._told.clear()  # what was said at log-in explains nothing that happens later
                    return answer

    def _answer(self) -> dict[str, Any]:
        try:
            line = self._output.readline()
        except (OSError, ValueError):
            raise self._lost() from None
        if not line.endswith(b"\n"):
            raise self._lost()
        answer = json.loads(line)
        return answer if isinstance(answer, dict) else {}

    def _listen(self, errors: IO[bytes]) -> None:
        with errors:
            for line in errors:
                if text := line.decode(errors="replace").strip():
                    self._told.append(text)

    def _lost(self) -> LostError:
        self.close()
        self._listener.join(_END_S)
        return LostError(self._told[-1] if self._told else f"ssh ended with exit code {self._process.returncode}")

    def _refusal(self) -> DeviceError | None:
        """Return why trying again will not help, by ssh's own words and exit code; None where it may.

        The code is 255 for what is wrong with the connection, else that of the command, see ssh(1).
        """
        address, code, told = self._address, self._process.returncode, " ".join(self._told)
        last = self._told[-1] if self._told else ""
        if "IDENTIFICATION HAS CHANGED" in told:
            return DeviceError(
                f"{address}: its host key is not the one in known_hosts, so nothing was sent. If the machine was set up anew, "
                "remove the old key (ssh-keygen -R HOST) and accept the new one"
            )
        if "host key is known" in told or "Host key verification failed" in told:
            login = shlex.join(["ssh", *_options(address), address.host])
            return DeviceError(f"{address}: its host key is not in known_hosts. Compare and accept it once by: {login}")
        if code == 255 and "Permission denied" in told:
            return DeviceError(f"{address}: logging in was refused ({last}). Let ssh log in with a key, without questions")
        if code in {126, 127}:
            return DeviceError(f"{address}: no Python can be run there as {address.python!r} ({last}); see --remote-python PATH")
        return None


def _options(address: Address) -> list[str]:
    named = {"-F": address.config, "-l": address.user, "-p": address.port}
    return [word for option, value in named.items() if value is not None for word in (option, str(value))]


def package() -> bytes:
    """Return what is sent, as a zip file."""
    root, packed = importlib.resources.files("ovquant"), io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in SENT:
            archive.writestr(f"ovquant/{name}.py", (root / f"{name}.py").read_bytes())
    return packed.getvalue()


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            yield chunk
