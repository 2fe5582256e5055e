"""The file of a study: Optuna's tables in SQLite."""

from __future__ import annotations

import contextlib
import functools
import gc
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from ovquant.errors import OutputError, first_line
from ovquant.objectives import Direction

optuna.logging.set_verbosity(optuna.logging.ERROR)
STUDY_FILE = "study.db"
_NAME = "ovquant"
_decode = optuna.distributions.json_to_distribution
_LOCKED_S = 60.0  # to wait for a database that another process holds locked


@contextlib.contextmanager
def storage_faults() -> Iterator[None]:
    """Turn what the database raises (no space left, locked, read-only) into one message."""
    try:
        yield
    except optuna.exceptions.StorageInternalError as error:
        cause = first_line(getattr(error.__cause__, "orig", None) or error.__cause__ or error)  # SQLite's own words
        raise OutputError(
            f"the study cannot be read or written: {cause}; trials recorded before are kept, and the same command continues"
        ) from error


class StudyFile:
    """The study in its file, by Optuna's storage: a second `optuna.Study` would hold every trial in memory once more."""

    def __init__(self, path: Path) -> None:
        """Open the study at `path`, which is there."""
        self._storage = _storage(path)
        self._id = self._storage.get_study_id_from_name(_NAME)

    @property
    def attributes(self) -> dict[str, Any]:
        """What was set for the study as a whole."""
        return self._storage.get_study_user_attrs(self._id)

    def set_attribute(self, name: str, value: Any) -> None:
        """Set one of them."""
        self._storage.set_study_user_attr(self._id, name, value)

    @property
    def directions(self) -> list[optuna.study.StudyDirection]:
        """Of the objectives."""
        return self._storage.get_study_directions(self._id)

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials in these states, or all."""
        with many_at_once():
            return self._storage.get_all_trials(self._id, deepcopy=False, states=states or None)

    def add(self, trial: FrozenTrial) -> None:
        """Write a trial, whole, in one transaction; it gets the next number."""
        self._storage.create_new_trial(self._id, template_trial=trial)

    def close(self, number: int, state: TrialState, values: Sequence[float] | None = None) -> None:
        """End a trial that was left running."""
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._id, number)
        self._storage.set_trial_state_values(trial_id, state, values)


@contextlib.contextmanager
def many_at_once() -> Iterator[None]:
    """Read many trials without what takes longer than to read them.

    Python would look for garbage among them again and again, and Optuna decode the choices of a gene for every trial anew.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    optuna.distributions.json_to_distribution = functools.cache(_decode)
    try:
        yield
    finally:
        optuna.distributions.json_to_distribution = _decode
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def snapshot(path: Path) -> Iterator[Path]:
    """Yield a copy of a study file as it is at this moment, for readers who want everything of the same moment.

    A process that writes it waits for no longer than the copy takes. What a killed process left half-written is taken back in
    the copy, and the file itself is left as it is.

    Raises:
        OutputError: no study there, or it cannot be read.
    """
    _require_there(path)
    with tempfile.TemporaryDirectory(prefix="ovquant-") as folder:
        copy = Path(folder) / path.name
        try:
            _copy(path, copy)
        except (sqlite3.Error, OSError) as error:
            raise OutputError(f"{path}: cannot be read as a study: {first_line(error)}") from error
        require_study(copy, called=path)
        yield copy


def _copy(path: Path, copy: Path) -> None:
    """Copy a database. A read-only connection cannot take back what a killed process left: then the copy does."""
    deadline = time.monotonic() + _LOCKED_S

    def give_up(status: int, remaining: int, total: int) -> None:
        if time.monotonic() > deadline:  # else it is tried again without end
            raise _LockedError("another process holds it locked")

    with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(_connect(path, "ro")) as source:
        with contextlib.closing(sqlite3.connect(copy)) as target:
            source.backup(target, progress=give_up)
        return
    for suffix in ("", "-journal"):
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")


class _LockedError(OSError):
    """A database stays locked."""


def opened(path: Path) -> StudyFile:
    """Return a study file, for readers.

    Raises:
        OutputError: no study there, or it cannot be read.
    """
    require_study(path)
    try:
        return StudyFile(path)
    except Exception as error:
        raise OutputError(f"{path}: cannot be read as a study: {first_line(error)}") from error


def create(path: Path, directions: Sequence[Direction]) -> None:
    """Make an empty study, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    with storage_faults():
        storage = _storage(partial)
        optuna.create_study(study_name=_NAME, storage=storage, directions=directions)
    storage.remove_session()
    storage.engine.dispose()
    partial.replace(path)


def _require_there(path: Path) -> None:
    if not path.is_file():
        raise OutputError(f"{path}: no study there; give the output directory of a search")


def require_study(path: Path, called: Path | None = None) -> None:
    """Check that a file is an Optuna database; nothing is changed, but what a killed process left half done is taken back.

    Args:
        path: of the file.
        called: its name for people, where it is a copy.

    Raises:
        OutputError: it is not there, or something else.
    """
    _require_there(path)
    try:
        try:
            names = _tables(path, "ro")
        except sqlite3.OperationalError:  # a journal that has to be rolled back first
            names = _tables(path, "rw")
    except sqlite3.Error as error:
        raise OutputError(f"{called or path}: cannot be read as a study: {first_line(error)}") from error
    if "studies" not in names:
        raise OutputError(f"{called or path}: is no study of ovquant; nothing was changed")


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode={mode}", uri=True)


def _tables(path: Path, mode: str) -> set[str]:
    with contextlib.closing(_connect(path, mode)) as database:
        return {name for (name,) in database.execute("select name from sqlite_master where type = 'table'")}


def _storage(path: Path) -> optuna.storages.RDBStorage:
    """Open a database, with patience: a viewer may hold it locked for a while."""
    url = sqlalchemy.URL.create("sqlite", database=str(path)).render_as_string()
    storage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": _LOCKED_S}})
    # Optuna ends a session after every use: what was read need not be marked as out of date before.
    storage.remove_session()
    storage.scoped_session.configure(expire_on_commit=False)
    return storage
