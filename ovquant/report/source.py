"""What an output directory holds, read without a word to the search that may be writing there."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias

import psutil
from pydantic import ValidationError

from ovquant import audit, inspection, verdict
from ovquant.audit import Audit
from ovquant.errors import OutputError, first_line
from ovquant.inspection import Inspection
from ovquant.job import Job, load_job
from ovquant.records import Trial
from ovquant.session import INSPECTION_FILE, JOB_FILE, TARGET_FILE
from ovquant.study import read_genes, read_trials
from ovquant.studyfile import STUDY_FILE, snapshot
from ovquant.targets import Target, load_target
from ovquant.verdict import Verdict
from ovquant.workplace import LOG_FILE, WRITER_FILE

RESULT_FILE = "result.json"
MANIFEST_FILE = "best/manifest.json"
_PROCESS_OLDER_S = 5.0  # than the note of it, which has whole seconds

State: TypeAlias = Literal["finished", "running", "stopped"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """All that is known of a search.

    Attributes:
        output: its directory.
        job: as it was resolved.
        target: profile.
        trials: settled ones.
        genes: number of a trial -> gene -> label of its value, of members of the population.
        state: whether there is a verdict on all trials, a process is at it, or neither.
        verdict: None where there is none yet.
        result: content of the file that the verdict is from, else empty.
        manifest: of the exported winner, else empty.
        ended: why the search ended, by its log, where it did without a verdict.
        inspection: sensitivity of layers, where it was asked for.
        baseline_kernels, winner_kernels: what the device runs of the float model and of the winner, where it was told.
        faults: files that are there and cannot be read, and why.
    """

    output: Path
    job: Job
    target: Target
    trials: tuple[Trial, ...]
    genes: dict[int, dict[str, str]]
    state: State
    verdict: Verdict | None = None
    result: dict[str, Any] = dataclasses.field(default_factory=dict)
    manifest: dict[str, Any] = dataclasses.field(default_factory=dict)
    ended: str | None = None
    inspection: Inspection | None = None
    baseline_kernels: Audit | None = None
    winner_kernels: Audit | None = None
    faults: tuple[str, ...] = ()

    @property
    def n_candidates(self) -> int:
        """Strategies that were tried, failures included."""
        return sum(trial.role != "baseline" for trial in self.trials)

    def trial(self, number: int) -> Trial | None:
        """Return a trial by its number."""
        return next((trial for trial in self.trials if trial.number == number), None)


def read(output: Path, *, is_written_by_us: bool = False) -> Source:
    """Return what a directory holds now.

    Args:
        output: of a search that ended, is running, or was stopped.
        is_written_by_us: the process at work there is this one, and it has done its work.

    Raises:
        OvquantError: there is no study, or it cannot be read.
    """
    if not output.is_dir():
        raise OutputError(f"{output}: no such directory; give the output directory of a search")
    with snapshot(output / STUDY_FILE) as study:
        trials, genes = tuple(read_trials(study)), read_genes(study)
    if not (output / JOB_FILE).is_file():
        raise OutputError(f"{output}: there is a study and no {JOB_FILE}; is it the output directory of a search?")
    job = load_job(output / JOB_FILE, {})
    faults: list[str] = []
    result = _json(output / RESULT_FILE, faults)
    decided: Verdict | None = None
    floats: Audit | None = None
    winner: Audit | None = None
    with _noted(output / RESULT_FILE, faults):
        decided = verdict.from_json(result["verdict"]) if result else None
        told = result.get("kernels")
        if told:
            floats, winner = audit.from_json(told["baseline"]), audit.from_json(told["winner"])
    is_whole = decided is not None and result.get("n_trials") == len(trials)
    is_running = not is_written_by_us and _is_written(output)
    state: State = "running" if is_running else "finished" if is_whole else "stopped"
    return Source(
        output=output,
        job=job,
        target=load_target(str(output / TARGET_FILE)),
        trials=trials,
        genes=genes,
        state=state,
        verdict=decided,
        result=result if decided is not None else {},
        manifest=_json(output / MANIFEST_FILE, faults),
        ended=_ended(output / LOG_FILE),
        inspection=inspection.read(output / INSPECTION_FILE),
        baseline_kernels=floats,
        winner_kernels=winner,
        faults=tuple(faults),
    )


def _json(path: Path, faults: list[str]) -> dict[str, Any]:
    """Return a file's object; nothing where there is no such file, or it cannot be read, which is noted."""
    with _noted(path, faults):
        if path.exists():
            content = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise ValueError("holds no JSON object")
            return content
    return {}


@contextlib.contextmanager
def _noted(path: Path, faults: list[str]) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        faults.append(f"{path.name} cannot be read ({first_line(error)}); what it would tell is left out")


def _is_written(output: Path) -> bool:
    """Return whether a process is at work in a directory, by its own note; another one may have its number by now."""
    try:
        found = json.loads((output / WRITER_FILE).read_text())
        since = datetime.datetime.fromisoformat(found["since"]).timestamp()
        if found["host"] != socket.gethostname():
            return True  # the note is removed at the end, and there is no looking at the process from here
        begun: float = psutil.Process(found["pid"]).create_time()
        return begun <= since + _PROCESS_OLDER_S
    except (OSError, ValueError, KeyError, TypeError, OverflowError, psutil.Error):
        return False


def _ended(path: Path) -> str | None:
    """Return the reason by which the last run of a search ended before it was decided; None if it did not get as far."""
    reason = None
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if event.get("event") in {"search ended", "trial", "failure"}:
                    reason = event.get("reason")
    return reason
