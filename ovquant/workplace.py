"""The output directory of a search: one process writes it at a time, and what it holds always belongs together."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock
import psutil

from ovquant import export, inspection
from ovquant.errors import (
    AllCandidatesFailedError,
    InterruptedSearchError,
    NoFeasibleStrategyError,
    OutputError,
    OvquantError,
    RefutedError,
)
from ovquant.job import Job, with_absolute_paths
from ovquant.log import log, logging_to
from ovquant.records import Failure, Trial
from ovquant.session import INSPECTION_FILE, JOB_FILE, TARGET_FILE, Session, inspected_on
from ovquant.study import Study, read_fingerprint
from ovquant.studyfile import STUDY_FILE
from ovquant.targets import to_yaml

LOG_FILE = "log.jsonl"
_SPLITS = "splits.json"
WRITER_FILE = "writer.json"
GIVEN = "given"  # Python objects that were handed over, as files, see `ovquant.given`
_LOCK = "lock"
_WORK = "work"
_ENDED = (NoFeasibleStrategyError, AllCandidatesFailedError, RefutedError)
_MODELS_AT_ONCE = 8  # candidates whose files are there at the same time, at least
_ROOM_BYTES = 64 << 20  # for statistics, study and log of a small model


@contextlib.contextmanager
def held(job: Job) -> Iterator[Path]:
    """Hold a job's output directory for this process alone, and log into it; yields a folder for what is computed once.

    That folder is kept when the search is stopped, for the next run to go on from, and removed when it ends. A directory that
    was made for a search that could not begin is removed again.

    Raises:
        OutputError: another process holds it, it holds something else, or there is no room.
    """
    output = Path(job.output)
    if output.exists() and not (output / STUDY_FILE).is_file() and not _was_begun(output):
        export.require_free(output)
    is_new, has_work = not output.exists(), (output / _WORK).exists()
    try:
        with contextlib.ExitStack() as stack:
            work = _opened(output, Path(job.model), stack)
            try:
                yield work
            except _ENDED:
                shutil.rmtree(work, ignore_errors=True)
                raise
            except OvquantError as error:
                if not has_work and not isinstance(error, InterruptedSearchError):
                    shutil.rmtree(work, ignore_errors=True)  # of no use to the search that is there, if one is
                raise
            shutil.rmtree(work, ignore_errors=True)
    finally:
        if is_new and output.is_dir() and not any(output.iterdir()):
            output.rmdir()


def _was_begun(output: Path) -> bool:
    """Return True for what a search left that was killed before it had a study."""
    names = {path.name for path in output.iterdir()} if output.is_dir() else set()
    ours = {_LOCK, WRITER_FILE, _WORK, LOG_FILE, JOB_FILE, TARGET_FILE, INSPECTION_FILE, _SPLITS, GIVEN}
    return (_WORK in names or names == {GIVEN}) and all(name in ours or name.endswith(export.PARTIAL) for name in names)


def _opened(output: Path, model: Path, stack: contextlib.ExitStack) -> Path:
    """Return the folder for what is computed once; the stack gives back what is held.

    Raises:
        OutputError: see `held`.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        _require_room(output, model)
        stack.enter_context(_locked(output))
        work = output / _WORK
        work.mkdir(exist_ok=True)
        stack.callback(_tidy, output)
        _drop_models(work)
        stack.enter_context(logging_to(output / LOG_FILE))
    except OSError as error:
        raise OutputError(f"{output}: cannot be written: {error.strerror or error}") from error
    return work


def _tidy(output: Path) -> None:
    """Remove what a search left that never began."""
    if not (output / STUDY_FILE).exists():
        shutil.rmtree(output / _WORK, ignore_errors=True)
        (output / LOG_FILE).unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Hold the lock of a directory, which the system gives back when the process ends, however it does.

    Raises:
        OutputError: another process holds it.
    """
    lock = filelock.FileLock(output / _LOCK, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise OutputError(
            f"{output}: {_writer(output)} is writing there. Wait for it, or stop it; "
            "ovquant export and report read the directory meanwhile"
        ) from None
    try:
        me = {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now(UTC).isoformat(timespec="seconds")}
        export.write_json(output / WRITER_FILE, me)
        yield
    finally:
        (output / WRITER_FILE).unlink(missing_ok=True)
        (output / _LOCK).unlink(missing_ok=True)
        lock.release()


def _writer(output: Path) -> str:
    try:
        found = json.loads((output / WRITER_FILE).read_text())
        return f"process {found['pid']} on {found['host']}, since {found['since']},"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _drop_models(work: Path) -> None:
    """Remove candidates that a run before left; they are made again from the statistics, which stay."""
    for path in [*work.glob("*.xml"), *work.glob("*.bin"), *work.glob("worker-*.log"), *work.rglob("*.partial*")]:
        path.unlink(missing_ok=True)
    shutil.rmtree(work / "export", ignore_errors=True)


def _require_room(output: Path, model: Path) -> None:
    """Check that there is room on the disk.

    Raises:
        OutputError: there is not.
    """
    size = sum(path.stat().st_size for path in {model, model.with_suffix(".bin")} if path.is_file())
    needed, free = _MODELS_AT_ONCE * size + _ROOM_BYTES, psutil.disk_usage(str(output)).free
    if free < needed:
        raise OutputError(
            f"{output}: {free >> 20} MB are free there, and a search of this model takes about {needed >> 20} MB meanwhile. "
            "Free some, or give another output directory (-o)"
        )


def open_study(session: Session, output: Path) -> Study:
    """Return the study in `output`; a new one gets the resolved job written beside it.

    Raises:
        OutputError: it is the study of something else.
    """
    path = output / STUDY_FILE
    fingerprint = session.fingerprint()
    if path.exists():
        _require_same(output, fingerprint)
    try:
        resolved = with_absolute_paths(session.job, Path.cwd()).model_copy(update={"target": TARGET_FILE})
        export.write_text(output / JOB_FILE, to_yaml(resolved))
        export.write_text(output / TARGET_FILE, to_yaml(session.target))
        export.write_json(output / _SPLITS, session.opened.split.as_dict())
        if session.inspected is not None:
            made_of = inspected_on(session.bench, session.opened)
            kept = {"made_of": made_of, "inspection": inspection.to_json(session.inspected)}
            export.write_json(output / INSPECTION_FILE, kept)
        study = session.open_study(path)
        if study.fingerprint is None:
            study.set_fingerprint(fingerprint)
    except OSError as error:
        raise OutputError(f"{output}: cannot be written: {error.strerror or error}") from error
    return study


def _require_same(output: Path, fingerprint: dict[str, Any]) -> None:
    found = read_fingerprint(output / STUDY_FILE)
    if found is None:
        return
    changed = [key for key in fingerprint if fingerprint[key] != found.get(key)]
    if changed:
        raise OutputError(
            f"{output}: holds the study of another job; different: {', '.join(changed)}. Nothing was changed. "
            "Give another output directory (-o), or the same job to continue"
        )


def note_trial(trial: Trial) -> None:
    """Put a trial into the log."""
    outcome = trial.outcome
    content: dict[str, Any] = {"number": trial.number, "role": trial.role, "code": trial.code, "recipe": trial.recipe}
    if isinstance(outcome, Failure):
        log("failure", **content, stage=outcome.stage, kind=outcome.error, message=outcome.message)
        return
    raced = None if outcome.raced is None else dataclasses.asdict(outcome.raced)
    measured = {"divergence": outcome.divergence.value, "metrics": {m.name: m.value for m in outcome.metrics}}
    speedup = None if outcome.latency is None else outcome.latency.speedup.value
    log(
        "trial",
        **content,
        **measured,
        speedup=speedup,
        is_feasible=trial.is_feasible,
        raced=raced,
        same_as=outcome.same_as,
        seconds=outcome.seconds,
        peak_bytes=outcome.peak_bytes,
    )
