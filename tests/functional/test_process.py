"""What only shows in processes of their own: start-up, interrupts, the built wheel."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import termios
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("nncf", "openvino", "optuna", "sklearn", "numpy", "torch")


def ovquant(*arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ovquant", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=env)


def test_import_and_help_load_nothing_heavy() -> None:
    code = (
        "import sys, ovquant, ovquant.cli\n"
        "from typer.testing import CliRunner\n"
        "assert CliRunner().invoke(ovquant.cli.app, ['search', '--help']).exit_code == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_telemetry_is_loaded() -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from ovquant import quantization, runtime\n"
        "runtime.available_devices(), quantization._nncf()\n"
        "print([name for name, module in sys.modules.items() if 'openvino_telemetry' in name and module is not None])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_ctrl_c_in_a_terminal_keeps_the_study_and_a_search_continues(conv_case: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "out"
    arguments = ["search", conv_case[0], "--data", conv_case[1], "--budget", "5m", "--population", "4", "-o", output]
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (40, 120))
    before = termios.tcgetattr(follower)
    process = subprocess.Popen(
        [sys.executable, "-c", IN_A_TERMINAL, *map(str, arguments)],
        stdin=follower, stdout=follower, stderr=follower, start_new_session=True,
        env={**os.environ, "TERM": "xterm", "CI": "", "NO_COLOR": ""},
    )  # fmt: skip
    seen = read_until(leader, "trial   3")
    seen += read_until(leader, "latency / baseline")  # the board with its sketch below
    os.write(leader, b"\x03")
    seen += read_until(leader, "exports the best so far.")
    assert process.wait(timeout=60) == 130, seen
    assert termios.tcgetattr(follower) == before
    os.close(follower)
    os.close(leader)
    assert "(budget 5:00)" in seen
    assert "Traceback" not in seen
    assert "\x1b[" not in seen[seen.rfind("error: interrupted") :]
    assert seen.rfind("\x1b[?25h") > seen.rfind("\x1b[?25l")  # the cursor is there
    exported = ovquant("export", output, "--pick", "fastest", "-o", tmp_path / "best-so-far")
    assert exported.returncode == 0, exported.stderr
    assert (tmp_path / "best-so-far" / "model.xml").exists()
    continued = ovquant(*arguments[:4], "--max-trials", 6, "--population", 4, "-o", output)
    assert continued.returncode == 0, continued.stdout + continued.stderr
    assert "continuing a study of" in continued.stdout
    assert "\x1b" not in continued.stdout  # a pipe


# The terminal becomes the process's own; tests that a shell runs in the background ignore interrupts, and hand that on.
IN_A_TERMINAL = """
import fcntl, runpy, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path[0] = ""
runpy.run_module("ovquant", run_name="__main__", alter_sys=True)
"""


def read_until(file: int, text: str, timeout_s: float = 120) -> str:
    """Return what a terminal shows up to a text."""
    seen, end = b"", time.monotonic() + timeout_s
    while text.encode() not in seen:
        if not select.select([file], [], [], max(0.0, end - time.monotonic()))[0]:
            raise TimeoutError(seen.decode())
        seen += os.read(file, 65536)
    return seen.decode(errors="replace")


def test_the_wheel_works_outside_of_the_checkout(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(wheels), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = wheels.glob("ovquant-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    listed = ovquant("targets", "list", cwd=tmp_path, env=env)
    assert listed.returncode == 0, listed.stderr
    assert [line.split()[0] for line in listed.stdout.splitlines()] == sorted(p.stem for p in (ROOT / "targets").glob("*.yaml"))
    where = subprocess.run(
        [sys.executable, "-c", "import ovquant; print(ovquant.__file__)"],
        capture_output=True, text=True, check=True, cwd=tmp_path, env=env,
    )  # fmt: skip
    assert where.stdout.strip().startswith(str(tmp_path))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_closed_or_full_standard_output_is_no_traceback() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "ovquant", "targets", "list"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
