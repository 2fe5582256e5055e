"""The durable study: an Optuna study in SQLite, asked for proposals and told outcomes.

Proposals are asked of a copy in memory: Optuna reads all unfinished trials from a file again for each of several questions, which
with hundreds under way takes longer than they do. The file gets each trial when it is told, whole, in one transaction.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import json
import shutil
import sqlite3
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState, create_trial

from ovquant.errors import OutputError, first_line
from ovquant.objectives import Direction, Rules
from ovquant.records import (
    Evaluation,
    Failure,
    Latency,
    Outcome,
    Role,
    Trial,
    outcome_from_json,
    outcome_to_json,
    sharing,
    strategy_from_json,
)
from ovquant.sampler import PROPOSAL, RESULT, GeneticSampler, generation_of, is_abandoned
from ovquant.space import Genome, SearchSpace
from ovquant.strategy import Strategy

optuna.logging.set_verbosity(optuna.logging.ERROR)
STUDY_FILE = "study.db"
_NAME = "ovquant"
_FINGERPRINT = "fingerprint"
_POPULATION = "population"
_OPENINGS = "holdout openings"
_decode = optuna.distributions.json_to_distribution
_LOCKED_S = 60.0  # to wait for a database that another process holds locked
OUTSIDE = "outside"  # user attribute of what is no member of the population, in the form of a proposal


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A strategy to evaluate.

    Attributes:
        number: of the trial.
        generation: it belongs to.
        genome: canonical.
        strategy: what the genome decodes to.
        parents: trial numbers.
    """

    number: int
    generation: int
    genome: Genome
    strategy: Strategy
    parents: tuple[int, ...]


@contextlib.contextmanager
def _storage_faults() -> Iterator[None]:
    """Turn what the database raises (no space left, locked, read-only) into one message."""
    try:
        yield
    except optuna.exceptions.StorageInternalError as error:
        cause = first_line(getattr(error.__cause__, "orig", None) or error.__cause__ or error)  # SQLite's own words
        raise OutputError(
            f"the study cannot be read or written: {cause}; trials recorded before are kept, and the same command continues"
        ) from error


class Study:
    """Trials of one search, kept in a SQLite file."""

    def __init__(
        self,
        path: Path,
        *,
        rules: Rules,
        space: SearchSpace,
        seeds: Sequence[Genome],
        seed: int,
        population: int,
        neighbours: Sequence[Genome] = (),
        recipes: Mapping[Genome, str] | None = None,
    ) -> None:
        """Open the study at `path`, or create it.

        Trials that a stopped process left running are closed: told, if their outcome is there, else they count as never asked
        for. A study keeps the population size that it began with.

        Args:
            path: of the file.
            rules: objectives and constraints.
            space: where strategies come from.
            seeds: genomes to begin with.
            seed: of all chance.
            population: trials per generation.
            neighbours: genomes near the seeds that are worth a try.
            recipes: which seeds earlier searches found, and where each comes from.

        Raises:
            OutputError: the file there is no study.
        """
        if path.exists():
            _require_study(path)
        else:
            _create(path, list(rules.directions))
        self._space = space
        self._recipes = recipes or {}
        self._rules = rules
        self._sampler = GeneticSampler(
            space=space, seeds=seeds, neighbours=neighbours, seed=seed, population_size=population, minimized=rules.minimized
        )
        self._latencies: dict[str | None, Latency] = {}
        self._asked: dict[int, optuna.Trial] = {}
        with warnings.catch_warnings(), _storage_faults(), _many_at_once():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._kept = optuna.load_study(study_name=_NAME, storage=_storage(path))
            self._sampler.population_size = self._kept.user_attrs.get(_POPULATION) or population
            if _POPULATION not in self._kept.user_attrs:
                self._kept.set_user_attr(_POPULATION, population)
            for trial in self._kept.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                self._close(trial)
            self._study = optuna.create_study(directions=self._kept.directions, sampler=self._sampler)
            self._study.add_trials(self._kept.get_trials(deepcopy=False))

    def _close(self, trial: FrozenTrial) -> None:
        """Tell a trial that was left running its outcome, if it got as far as that; else fail it."""
        result = trial.user_attrs.get(RESULT)
        outcome = None if result is None else _outcome(result)
        if outcome is None or isinstance(outcome, Failure):
            self._kept.tell(trial.number, state=TrialState.FAIL)
        else:
            self._kept.tell(trial.number, self._rules.values(outcome))

    @property
    def population_size(self) -> int:
        """Members of a generation."""
        return self._sampler.population_size or 1

    @_storage_faults()
    def open_holdout(self) -> int:
        """Record that the holdout is looked at, and return how often it was, this time included."""
        n_openings = int(self._kept.user_attrs.get(_OPENINGS, 0)) + 1
        self._kept.set_user_attr(_OPENINGS, n_openings)
        return n_openings

    def set_rules(self, rules: Rules) -> None:
        """Use other limits from now on; objectives and directions stay as they are."""
        self._rules = rules

    @property
    def rules(self) -> Rules:
        """The rules in force."""
        return self._rules

    @property
    @_storage_faults()
    def fingerprint(self) -> dict[str, Any] | None:
        """What the study was made of; None for a new one."""
        found: dict[str, Any] | None = self._kept.user_attrs.get(_FINGERPRINT)
        return found

    @_storage_faults()
    def set_fingerprint(self, fingerprint: dict[str, Any]) -> None:
        """Record what the study is made of."""
        self._kept.set_user_attr(_FINGERPRINT, fingerprint)

    @_storage_faults()
    def ask(self) -> Proposal:
        """Return the next proposal.

        Raises:
            LookupError: every strategy of the space was tried.
        """
        # Optuna asks no sampler for a trial without parameters.
        if not self._space.genes and (self._asked or any(trial.code is not None for trial in self.trials())):
            raise LookupError("the only strategy of the search space was tried")
        trial = self._study.ask()
        for gene in self._space.genes:
            trial.suggest_categorical(gene.name, gene.labels)
        child, parents = self._sampler.last_child, tuple(self._sampler.last_parents)
        generation = self._sampler.last_generation
        strategy = self._space.strategy_from_genome(child.genome)
        trial.set_user_attr(
            PROPOSAL,
            {
                "code": self._space.code_from_genome(child.genome),
                "strategy": strategy.as_dict(),
                "parents": list(parents),
                "recipe": self._recipes.get(child.genome),
            },
        )
        self._asked[trial.number] = trial
        return Proposal(number=trial.number, generation=generation, genome=child.genome, strategy=strategy, parents=parents)

    @_storage_faults()
    def n_missing(self) -> int:
        """Return how many members the current generation lacks."""
        size = self.population_size
        evaluated = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        members = [generation for generation in map(generation_of, evaluated) if generation is not None]
        return size - members.count(max(members, default=0)) % size

    @_storage_faults()
    def tell(self, proposal: Proposal, outcome: Outcome, role: Role) -> Trial:
        """Record what came of a proposal; in the order that they were asked for, which is that of their numbers."""
        trial = self._asked.pop(proposal.number)
        trial.set_user_attr(RESULT, self._result(outcome, role))
        if isinstance(outcome, Failure):
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, self._rules.values(outcome))
        self._kept.add_trial(self._study.get_trials(deepcopy=False)[proposal.number])
        return self.trial(proposal.number)

    @_storage_faults()
    def add(self, outcome: Evaluation, role: Role, strategy: Strategy | None) -> Trial:
        """Record a trial that is no member of the population: the float model, or a strategy outside of the space."""
        proposal: dict[str, Any] = {"code": None, "strategy": None if strategy is None else strategy.as_dict(), "parents": []}
        attributes = {OUTSIDE: proposal, RESULT: self._result(outcome, role)}
        trial = create_trial(values=list(self._rules.values(outcome)), user_attrs=attributes)
        for study in (self._study, self._kept):
            study.add_trial(trial)
        return _trial(self._study.get_trials(deepcopy=False)[-1], self._latencies)

    def _result(self, outcome: Outcome, role: Role) -> dict[str, Any]:
        return {
            "role": role,
            # As text: Optuna holds all trials in memory, and lists of floats take five times as much.
            "outcome": json.dumps(outcome_to_json(outcome)),
            "violation": None if isinstance(outcome, Failure) else self._rules.violation(outcome),
            "fitness": None if isinstance(outcome, Failure) else self._rules.fitness(outcome),
        }

    @_storage_faults()
    def trials(self) -> list[Trial]:
        """Return the settled trials in the order of their numbers."""
        return _settled(self._study, self._latencies)

    def trial(self, number: int) -> Trial:
        """Return one settled trial.

        Raises:
            KeyError: no such trial.
        """
        every = self._study.get_trials(deepcopy=False)  # by number
        if number not in range(len(every)) or not every[number].state.is_finished() or is_abandoned(every[number]):
            raise KeyError(number)
        return _trial(every[number], self._latencies)


def _settled(study: optuna.Study, latencies: dict[str | None, Latency]) -> list[Trial]:
    with _many_at_once():
        return [_trial(t, latencies) for t in study.get_trials(deepcopy=False) if t.state.is_finished() and not is_abandoned(t)]


@contextlib.contextmanager
def _many_at_once() -> Iterator[None]:
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


def _trial(frozen: FrozenTrial, latencies: dict[str | None, Latency]) -> Trial:
    """Return a settled trial; equal latencies are held once."""
    result = frozen.user_attrs[RESULT]
    proposal = frozen.user_attrs.get(PROPOSAL) or frozen.user_attrs[OUTSIDE]
    content, outcome = proposal["strategy"], _outcome(result)
    return Trial(
        number=frozen.number,
        role=result["role"],
        generation=generation_of(frozen),
        parents=tuple(proposal["parents"]),
        recipe=proposal.get("recipe"),
        code=proposal["code"],
        strategy=None if content is None else strategy_from_json(content),
        outcome=sharing(outcome, latencies) if isinstance(outcome, Evaluation) else outcome,
        objectives=tuple(frozen.values) if frozen.values is not None else None,
        violation=result["violation"],
        fitness=result["fitness"],
    )


def _outcome(result: Mapping[str, Any]) -> Outcome:
    found = result["outcome"]
    return outcome_from_json(json.loads(found) if isinstance(found, str) else found)  # studies of before have no text


def read_trials(path: Path) -> list[Trial]:
    """Return the settled trials of a study file, for readers; nothing is changed.

    Raises:
        OutputError: no study there, or it cannot be read.
    """
    return _settled(_load(path), {})


def read_fingerprint(path: Path) -> dict[str, Any] | None:
    """Return what a study file was made of; None if it was stopped before that was recorded.

    Raises:
        OutputError: as `read_trials`.
    """
    found: dict[str, Any] | None = _load(path).user_attrs.get(_FINGERPRINT)
    return found


@contextlib.contextmanager
def snapshot(path: Path) -> Iterator[Path]:
    """Yield a copy of a study file as it is at this moment, for readers who want everything of the same moment.

    A process that writes it waits for no longer than the copy takes. What a killed process left half-written is taken back in
    the copy, and the file itself is left as it is.

    Raises:
        OutputError: no study there, or it cannot be read.
    """
    if not path.is_file():
        raise OutputError(f"{path}: no study there; give the output directory of a search")
    with tempfile.TemporaryDirectory(prefix="ovquant-") as folder:
        copy = Path(folder) / path.name
        try:
            _copy(path, copy)
        except (sqlite3.Error, OSError) as error:
            raise OutputError(f"{path}: cannot be read as a study: {first_line(error)}") from error
        _require_study(copy, called=path)
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


def read_genes(path: Path) -> dict[int, dict[str, str]]:
    """Return number -> gene -> label of its value, of the trials in the population of a study file.

    Raises:
        OutputError: as `read_trials`.
    """
    trials = _load(path).get_trials(deepcopy=False)
    return {t.number: {gene: str(label) for gene, label in t.params.items()} for t in trials if t.params}


def _load(path: Path) -> optuna.Study:
    _require_study(path)
    try:
        return optuna.load_study(study_name=_NAME, storage=_storage(path))
    except Exception as error:
        raise OutputError(f"{path}: cannot be read as a study: {first_line(error)}") from error


def _create(path: Path, directions: Sequence[Direction]) -> None:
    """Make an empty study, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    with _storage_faults():
        storage = _storage(partial)
        optuna.create_study(study_name=_NAME, storage=storage, directions=directions)
    storage.remove_session()
    storage.engine.dispose()
    partial.replace(path)


def _require_study(path: Path, called: Path | None = None) -> None:
    """Check that a file is an Optuna database; nothing is changed, but what a killed process left half done is taken back.

    Args:
        path: of the file.
        called: its name for people, where it is a copy.

    Raises:
        OutputError: it is not there, or something else.
    """
    if not path.is_file():
        raise OutputError(f"{path}: no study there; give the output directory of a search")
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
