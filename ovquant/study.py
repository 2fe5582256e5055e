"""The durable study: an Optuna study in SQLite, asked for proposals and told outcomes.

Proposals are asked of a copy in memory: Optuna reads all unfinished trials from a file again for each of several questions, which
with hundreds under way takes longer than they do. The file gets each trial when it is told, whole, in one transaction; what is
held in memory of one is what proposals depend on.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from ovquant.objectives import Rules
from ovquant.records import (
    Evaluation,
    Failure,
    Latency,
    Outcome,
    Role,
    Trial,
    latency_from_json,
    outcome_from_json,
    outcome_to_json,
    strategy_from_json,
)
from ovquant.sampler import CODE, VIOLATION, GeneticSampler, generation_of, is_abandoned
from ovquant.space import Genome, SearchSpace
from ovquant.strategy import Strategy
from ovquant.studyfile import StudyFile, create, many_at_once, opened, require_study, storage_faults

_FINGERPRINT = "fingerprint"
_POPULATION = "population"
_OPENINGS = "holdout openings"
# User attributes of a trial in the file.
PROPOSAL = "proposal"
OUTSIDE = "outside"  # the same of what is no member of the population
RESULT = "result"


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
            require_study(path)
        else:
            create(path, list(rules.directions))
        self._space = space
        self._recipes = recipes or {}
        self._rules = rules
        self._sampler = GeneticSampler(
            space=space, seeds=seeds, neighbours=neighbours, seed=seed, population_size=population, minimized=rules.minimized
        )
        self._asked: dict[int, tuple[optuna.Trial, dict[str, Any]]] = {}
        with warnings.catch_warnings(), storage_faults(), many_at_once():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._file = StudyFile(path)
            kept = self._file.attributes
            self._sampler.population_size = kept.get(_POPULATION) or population
            if _POPULATION not in kept:
                self._file.set_attribute(_POPULATION, population)
            for trial in self._file.trials(TrialState.RUNNING):
                self._close(trial)
            self._study = optuna.create_study(directions=self._file.directions, sampler=self._sampler)
            self._study.add_trials(map(_remembered, self._file.trials()))

    def _close(self, trial: FrozenTrial) -> None:
        """Tell a trial that was left running its outcome, if it got as far as that; else fail it."""
        result = trial.user_attrs.get(RESULT)
        outcome = None if result is None else _Latencies().outcome(result)
        if outcome is None or isinstance(outcome, Failure):
            self._file.close(trial.number, TrialState.FAIL)
        else:
            self._file.close(trial.number, TrialState.COMPLETE, self._rules.values(outcome))

    @property
    def population_size(self) -> int:
        """Members of a generation."""
        return self._sampler.population_size or 1

    @property
    def n_settled(self) -> int:
        """Trials with an outcome."""
        every = self._study.get_trials(deepcopy=False)
        return sum(trial.state.is_finished() and not is_abandoned(trial) for trial in every)

    @storage_faults()
    def open_holdout(self) -> int:
        """Record that the holdout is looked at, and return how often it was, this time included."""
        n_openings = int(self._file.attributes.get(_OPENINGS, 0)) + 1
        self._file.set_attribute(_OPENINGS, n_openings)
        return n_openings

    def set_rules(self, rules: Rules) -> None:
        """Use other limits from now on; objectives and directions stay as they are."""
        self._rules = rules

    @property
    def rules(self) -> Rules:
        """The rules in force."""
        return self._rules

    @property
    @storage_faults()
    def fingerprint(self) -> dict[str, Any] | None:
        """What the study was made of; None for a new one."""
        found: dict[str, Any] | None = self._file.attributes.get(_FINGERPRINT)
        return found

    @storage_faults()
    def set_fingerprint(self, fingerprint: dict[str, Any]) -> None:
        """Record what the study is made of."""
        self._file.set_attribute(_FINGERPRINT, fingerprint)

    @storage_faults()
    def ask(self) -> Proposal:
        """Return the next proposal.

        Raises:
            LookupError: every strategy of the space was tried.
        """
        # Optuna asks no sampler for a trial without parameters.
        every = self._study.get_trials(deepcopy=False)
        if not self._space.genes and any(CODE in trial.user_attrs and not is_abandoned(trial) for trial in every):
            raise LookupError("the only strategy of the search space was tried")
        trial = self._study.ask()
        for gene in self._space.genes:
            trial.suggest_categorical(gene.name, gene.labels)
        child, parents = self._sampler.last_child, tuple(self._sampler.last_parents)
        generation = self._sampler.last_generation
        strategy = self._space.strategy_from_genome(child.genome)
        code = self._space.code_from_genome(child.genome)
        trial.set_user_attr(CODE, code)
        recipe = self._recipes.get(child.genome)
        self._asked[trial.number] = (
            trial,
            {"code": code, "strategy": strategy.as_dict(), "parents": list(parents), "recipe": recipe},
        )
        return Proposal(number=trial.number, generation=generation, genome=child.genome, strategy=strategy, parents=parents)

    @storage_faults()
    def n_missing(self) -> int:
        """Return how many members the current generation lacks."""
        size = self.population_size
        evaluated = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        members = [generation for generation in map(generation_of, evaluated) if generation is not None]
        return size - members.count(max(members, default=0)) % size

    @storage_faults()
    def tell(self, proposal: Proposal, outcome: Outcome, role: Role) -> Trial:
        """Record what came of a proposal; in the order that they were asked for, which is that of their numbers."""
        trial, asked = self._asked.pop(proposal.number)
        result = self._result(outcome, role)
        trial.set_user_attr(VIOLATION, result["violation"])
        if isinstance(outcome, Failure):
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, self._rules.values(outcome))
        held = self._study.get_trials(deepcopy=False)[proposal.number]
        whole = copy.copy(held)
        whole.user_attrs = {PROPOSAL: asked, RESULT: result}
        self._file.add(whole)
        held.params, held.distributions = {}, {}
        return _trial(whole, outcome)

    @storage_faults()
    def add(self, outcome: Evaluation, role: Role, strategy: Strategy | None) -> Trial:
        """Record a trial that is no member of the population: the float model, or a strategy outside of the space."""
        proposal: dict[str, Any] = {"code": None, "strategy": None if strategy is None else strategy.as_dict(), "parents": []}
        attributes = {OUTSIDE: proposal, RESULT: self._result(outcome, role)}
        trial = create_trial(values=list(self._rules.values(outcome)), user_attrs=attributes)
        self._file.add(trial)
        trial.number = len(self._study.get_trials(deepcopy=False))
        self._study.add_trial(_remembered(trial))
        return _trial(trial, outcome)

    def _result(self, outcome: Outcome, role: Role) -> dict[str, Any]:
        content = outcome_to_json(outcome)
        latency = content.pop("latency", None)
        return {
            "role": role,
            "outcome": json.dumps(content),
            "latency": None if latency is None else json.dumps(latency),  # apart: most are equal to another
            "violation": None if isinstance(outcome, Failure) else self._rules.violation(outcome),
            "fitness": None if isinstance(outcome, Failure) else self._rules.fitness(outcome),
        }

    @storage_faults()
    def trials(self) -> list[Trial]:
        """Return the settled trials in the order of their numbers, from the file."""
        return _settled(self._file.trials())


class _Latencies:
    """Latencies of a study's trials, the most part of an outcome: kernels are timed once, so that most are equal to another."""

    def __init__(self) -> None:
        self._by_text: dict[str, Latency] = {}

    def outcome(self, result: Mapping[str, Any]) -> Outcome:
        """Return the outcome in a trial's result; studies of before have it as one text, or none."""
        found = result["outcome"]
        content = json.loads(found) if isinstance(found, str) else found
        text = result.get("latency")
        if text is None:
            return outcome_from_json(content)
        outcome = outcome_from_json({**content, "latency": None})
        return dataclasses.replace(outcome, latency=self._known(text)) if isinstance(outcome, Evaluation) else outcome

    def _known(self, text: str) -> Latency:
        if text not in self._by_text:
            self._by_text[text] = latency_from_json(json.loads(text))
        return self._by_text[text]


def _remembered(trial: FrozenTrial) -> FrozenTrial:
    """Return of a trial in the file what proposals depend on: all of it takes ten times as much of memory."""
    light, proposal, result = copy.copy(trial), trial.user_attrs.get(PROPOSAL), trial.user_attrs.get(RESULT)
    light.user_attrs = {} if proposal is None else {CODE: proposal["code"]}
    if result is not None:
        light.user_attrs[VIOLATION] = result["violation"]
    light.params, light.distributions = {}, {}
    return light


def _settled(trials: Sequence[FrozenTrial]) -> list[Trial]:
    """Return the settled ones; equal latencies are held once."""
    latencies = _Latencies()
    settled = [trial for trial in trials if trial.state.is_finished() and RESULT in trial.user_attrs]
    with many_at_once():
        return [_trial(trial, latencies.outcome(trial.user_attrs[RESULT])) for trial in settled]


def _trial(frozen: FrozenTrial, outcome: Outcome) -> Trial:
    """Return a settled trial."""
    result = frozen.user_attrs[RESULT]
    proposal = frozen.user_attrs.get(PROPOSAL) or frozen.user_attrs[OUTSIDE]
    content = proposal["strategy"]
    return Trial(
        number=frozen.number,
        role=result["role"],
        generation=generation_of(frozen),
        parents=tuple(proposal["parents"]),
        recipe=proposal.get("recipe"),
        code=proposal["code"],
        strategy=None if content is None else strategy_from_json(content),
        outcome=outcome,
        objectives=tuple(frozen.values) if frozen.values is not None else None,
        violation=result["violation"],
        fitness=result["fitness"],
    )


def read_trials(path: Path) -> list[Trial]:
    """Return the settled trials of a study file, for readers; nothing is changed.

    Raises:
        OutputError: no study there, or it cannot be read.
    """
    return _settled(opened(path).trials())


def read_fingerprint(path: Path) -> dict[str, Any] | None:
    """Return what a study file was made of; None if it was stopped before that was recorded.

    Raises:
        OutputError: as `read_trials`.
    """
    found: dict[str, Any] | None = opened(path).attributes.get(_FINGERPRINT)
    return found


def read_genes(path: Path) -> dict[int, dict[str, str]]:
    """Return number -> gene -> label of its value, of the trials in the population of a study file.

    Raises:
        OutputError: as `read_trials`.
    """
    trials = opened(path).trials()
    return {t.number: {gene: str(label) for gene, label in t.params.items()} for t in trials if t.params}
