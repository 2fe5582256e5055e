"""What is read of an output directory, whatever state it is in."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ovquant.errors import OutputError
from ovquant.report.source import read
from ovquant.study import read_trials
from ovquant.studyfile import snapshot


def note_writer(output: Path, pid: int, *, host: str | None = None, ago_s: float = 0.0) -> None:
    since = datetime.now(UTC) - timedelta(seconds=ago_s)
    content = {"pid": pid, "host": host or socket.gethostname(), "since": since.isoformat(timespec="seconds")}
    (output / "writer.json").write_text(json.dumps(content))


def test_a_finished_search(searched: Path) -> None:
    found = read(searched)
    assert (found.state, found.faults, found.n_candidates) == ("finished", (), 10)
    assert found.verdict is not None
    assert found.winner_kernels is not None
    assert {kernel.precision for kernel in found.winner_kernels.kernels} & {"i8", "u8"}
    assert found.baseline_kernels is not None
    assert set(found.genes) == set(range(1, 11))


def test_a_search_is_running_while_the_process_that_it_notes_is_alive(searched_copy: Path) -> None:
    (searched_copy / "result.json").unlink()
    assert read(searched_copy).state == "stopped"
    note_writer(searched_copy, os.getpid())
    assert read(searched_copy).state == "running"
    assert read(searched_copy, is_written_by_us=True).state == "stopped"
    note_writer(searched_copy, os.getpid(), ago_s=1e6)  # that process is gone, and its number is another one's
    assert read(searched_copy).state == "stopped"
    note_writer(searched_copy, 1, host="another", ago_s=1e6)
    assert read(searched_copy).state == "running"


@pytest.mark.parametrize("damaged", ["{", "[]", '{"verdict": {}}'])
def test_damaged_results_are_noted_and_left_out(searched_copy: Path, damaged: str) -> None:
    (searched_copy / "result.json").write_text(damaged)
    (searched_copy / "best/manifest.json").write_text(damaged[:1])
    found = read(searched_copy)
    assert (found.state, found.verdict, found.result) == ("stopped", None, {})
    assert [fault.split()[0] for fault in found.faults] == ["result.json", "manifest.json"]


def test_what_is_no_search_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no such directory"):
        read(tmp_path / "none")
    with pytest.raises(OutputError, match=r"study\.db: no study there"):
        read(tmp_path)
    (tmp_path / "study.db").write_text("text, and not a database, of more than a hundred bytes" * 10)
    with pytest.raises(OutputError, match=r"study\.db: cannot be read as a study"):
        read(tmp_path)


def test_a_snapshot_holds_what_was_told_and_changes_nothing(searched_copy: Path) -> None:
    """A process that was killed within a transaction left a journal: only a copy may take the rest of it back."""
    path = searched_copy / "study.db"
    before = len(read_trials(path))
    killed = (
        "import os, sqlite3, sys\n"
        "database = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "database.execute('pragma cache_size = 1')\n"
        "database.execute('begin')\n"
        "database.execute('delete from trial_user_attributes')\n"
        "database.execute('create table filler (x)')\n"
        "database.executemany('insert into filler values (?)', [('x' * 4000,)] * 500)\n"
        "os._exit(1)\n"
    )
    subprocess.run([sys.executable, "-c", killed, path], check=False)
    journal = Path(f"{path}-journal")
    assert journal.stat().st_size > 0
    left = (path.read_bytes(), journal.read_bytes())
    with snapshot(path) as copy:
        assert len(read_trials(copy)) == before
    assert (path.read_bytes(), journal.read_bytes()) == left


def test_a_reader_does_not_keep_a_writer_waiting(searched_copy: Path) -> None:
    path = searched_copy / "study.db"
    with snapshot(path) as copy, sqlite3.connect(path, timeout=0) as writer:
        writer.execute("create table mine (x int)")
        assert read_trials(copy)
