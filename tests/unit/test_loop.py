"""The loop, the study and the sampler together, on made-up measurements and a scripted clock."""

from __future__ import annotations

import contextlib
import gc
import json
import sqlite3
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest
from fakes.clock import ScriptedClock
from fakes.executor import TableExecutor

from ovquant.choices import ModelFacts, build_space, nncf_default
from ovquant.errors import OutputError
from ovquant.job import DataSpec, Drop, MetricSpec, Objective, StopAt
from ovquant.loop import Plan, Progress, StopReason, run_search
from ovquant.objectives import Rules
from ovquant.records import Evaluation, Failure, Outcome
from ovquant.space import SearchSpace
from ovquant.study import Study, read_trials
from ovquant.targets import Genes, Target
from ovquant.tasks import BenchSpec, Task, best_rival, rival_of

GENES = {"preset": ["performance", "mixed"], "model_type": [None, "transformer"], "subset_size": [10, 20, 30]}
FACTS = ModelFacts(operations=(), n_calibration=30, own_precision="f32", device_precisions=frozenset({"f32"}))
METRICS = (MetricSpec(name="accuracy", max_drop=Drop(amount=0.03)),)


def target(genes: dict[str, object]) -> Target:
    return Target(version=1, name="t", device="CPU", genes=Genes.model_validate(genes))


class Case:
    """One search with everything made up."""

    def __init__(
        self,
        folder: Path,
        *,
        genes: dict[str, object] | None = None,
        metrics: tuple[MetricSpec, ...] = METRICS,
        population: int = 4,
        max_trials: int | None = 12,
        budget_s: float | None = None,
        stop_at: StopAt | None = None,
        objective: Objective | None = None,
        recipes: Sequence[str] = (),
    ) -> None:
        profile = target(GENES if genes is None else genes)
        self.space: SearchSpace = build_space(profile, FACTS)
        default = nncf_default(profile, FACTS)
        try:
            seeds, is_in_space = (self.space.genome_from_strategy(default),), True
        except ValueError:
            seeds, is_in_space = (), False
        rules = Rules(
            objective=objective or Objective(),
            metrics=metrics,
            metric_directions=("maximize",) * len(metrics),
            max_divergence=None,
        )
        folder.mkdir(exist_ok=True)
        known = {self.space.genome_from_code(code): f"recipe {code}" for code in recipes}
        self.study = Study(
            folder / "study.db",
            rules=rules,
            space=self.space,
            seeds=(*seeds, *known),
            seed=0,
            population=population,
            recipes=known,
        )
        bench = BenchSpec(
            model="m", target=profile, device="CPU", data=DataSpec(path="d"), seed=0, metrics=metrics, output_kinds={},
            model_dir="models",
        )  # fmt: skip
        self.plan = Plan(
            bench=bench, rules=rules, default=default, is_default_in_space=is_in_space, own_precision="f32",
            max_trials=max_trials, budget_s=budget_s, stop_at=stop_at,
        )  # fmt: skip
        self.clock = ScriptedClock()
        self.seen: list[Progress] = []

    def run(self, executor: TableExecutor | None = None, seconds: float = 1.0, n_together: int = 1) -> StopReason:
        slow = Slow(executor or TableExecutor(), self.clock, seconds)
        slow.n_together = n_together
        return run_search(self.plan, self.study, slow, self.clock, self.seen.append)


class Slow:
    """Lets the clock run on with every task."""

    def __init__(self, executor: TableExecutor, clock: ScriptedClock, seconds: float) -> None:
        self._executor, self._clock, self._seconds = executor, clock, seconds

    n_together = 1
    compare = close = None

    def announce(self, bench: BenchSpec, tasks: Sequence[Task]) -> None:
        pass

    def submit(self, tasks: Sequence[Task]) -> list[Outcome]:
        self._clock.advance(self._seconds * len(tasks))
        return self._executor.submit(tasks)


def digests(case: Case) -> Sequence[str]:
    return [trial.strategy.digest for trial in case.study.trials() if trial.strategy is not None]


def test_it_ends_at_max_trials_not_counting_the_float_model(tmp_path: Path):
    case = Case(tmp_path, max_trials=7)
    assert case.run() == "max_trials reached"
    assert len(digests(case)) == 7
    assert len(case.study.trials()) == 8


def test_it_ends_when_the_budget_is_used_up(tmp_path: Path):
    case = Case(tmp_path, max_trials=None, budget_s=5)
    assert case.run() == "budget used up"
    assert len(case.study.trials()) == 5


def test_what_was_evaluated_when_the_budget_ran_out_counts(tmp_path: Path):
    case = Case(tmp_path, max_trials=None, budget_s=1.5)
    assert case.run(n_together=4) == "budget used up"
    assert len(case.study.trials()) == 5
    assert [progress.trial.number for progress in case.seen] == [0, 1, 2, 3, 4]


def test_a_target_that_is_met_ends_a_search_at_once_whatever_was_evaluated_with_it(tmp_path: Path):
    numbers = []
    for n_together in (1, 4):
        case = Case(tmp_path / str(n_together), budget_s=100, stop_at=StopAt(min_speedup=1.2))
        assert case.run(n_together=n_together) == "stop_at met"
        numbers.append([trial.number for trial in case.study.trials()])
    assert numbers[0] == numbers[1]


def test_a_target_that_is_met_when_the_budget_had_run_out_ends_the_search_as_met(tmp_path: Path):
    case = Case(tmp_path / "until", budget_s=100, stop_at=StopAt(min_speedup=1.2))
    case.run()
    n_trials = len(case.study.trials())
    assert n_trials < 5  # within the first four that are evaluated together
    short = Case(tmp_path / "short", budget_s=0.1, stop_at=StopAt(min_speedup=1.2))
    assert short.run(n_together=4) == "stop_at met"
    assert len(short.study.trials()) == n_trials


def test_nncf_default_is_tried_however_short_the_budget(tmp_path: Path):
    case = Case(tmp_path, budget_s=0.1)
    assert case.run() == "budget used up"
    assert [trial.role for trial in case.study.trials()] == ["baseline", "default"]


def test_every_strategy_of_a_small_space_is_tried_once(tmp_path: Path):
    case = Case(tmp_path, max_trials=100)
    assert case.run() == "search space exhausted"
    assert sorted(digests(case)) == sorted(case.space.strategy_from_genome(g).digest for g in case.space.genomes())


def test_a_space_without_free_genes_is_one_strategy(tmp_path: Path):
    case = Case(tmp_path, genes={"preset": "mixed"})
    assert case.run() == "search space exhausted"
    assert [trial.role for trial in case.study.trials()] == ["baseline", "default", "candidate"]


def test_all_candidates_failing_ends_with_the_budget_not_with_an_exception(tmp_path: Path):
    case = Case(tmp_path, max_trials=6)
    every = frozenset(case.space.strategy_from_genome(genome).digest for genome in case.space.genomes())
    assert case.run(TableExecutor(failing=every)) == "max_trials reached"
    assert all(isinstance(trial.outcome, Failure) for trial in case.study.trials()[1:])


def test_what_ended_a_search_may_have_been_put_right_when_it_goes_on(tmp_path: Path):
    case = Case(tmp_path, max_trials=30)
    every = frozenset(case.space.strategy_from_genome(genome).digest for genome in case.space.genomes())
    assert case.run(TableExecutor(failing=every)) == "one failure after the other"
    n_failed = len(case.study.trials())
    assert case.run() in {"max_trials reached", "search space exhausted"}
    assert len(case.study.trials()) > n_failed


def test_without_metrics_nncf_default_sets_the_limit(tmp_path: Path):
    case = Case(tmp_path, metrics=())
    case.run()
    trials = case.study.trials()
    limit = trials[1].evaluation.divergence.value
    assert case.study.rules.max_divergence == limit
    assert [t.is_feasible for t in trials[1:]] == [t.evaluation.divergence.value <= limit for t in trials[1:]]


def test_the_limit_is_found_again_when_a_search_continues(tmp_path: Path):
    Case(tmp_path, metrics=(), max_trials=5).run()
    again = Case(tmp_path, metrics=(), max_trials=10)
    again.run()
    trials = again.study.trials()
    assert again.study.rules.max_divergence == trials[1].evaluation.divergence.value
    assert len(trials) == 11


@pytest.mark.parametrize("stop_at", [StopAt(min_speedup=1.5), StopAt(max_drop=Drop(amount=0.01)), StopAt(min_speedup=9.0)])
def test_stop_at_is_met_by_the_last_trial_and_by_none_before(tmp_path: Path, stop_at: StopAt):
    case = Case(tmp_path, stop_at=stop_at)
    reason = case.run()
    met = []
    for trial in case.study.trials()[1:]:
        evaluation = trial.evaluation
        is_fast = stop_at.min_speedup is None or 1 / evaluation.latency.ratio.value >= stop_at.min_speedup
        is_exact = stop_at.max_drop is None or evaluation.metrics[0].drop.value <= stop_at.max_drop.amount
        met.append(trial.is_feasible and is_fast and is_exact)
    assert (reason == "stop_at met") == met[-1]
    assert not any(met[:-1])


def test_a_fitness_to_stop_at(tmp_path: Path):
    case = Case(tmp_path, objective=Objective(fitness="accuracy"), stop_at=StopAt(fitness=0.8))
    assert case.run() == "stop_at met"
    assert case.study.trials()[-1].fitness >= 0.8


def test_progress_tells_numbers_and_an_estimate(tmp_path: Path):
    case = Case(tmp_path, max_trials=6)
    case.run()
    last = case.seen[-1]
    assert (last.n_candidates, last.max_trials, last.elapsed_s, last.remaining_s) == (6, 6, 7.0, 0.0)
    assert case.seen[3].remaining_s == pytest.approx(4 / 3 * 3)


def test_the_best_so_far_is_feasible_and_never_a_default_that_the_target_forbids(tmp_path: Path):
    case = Case(tmp_path, genes={"preset": "mixed", "subset_size": [10, 20, 30]})
    case.run()
    for progress in case.seen:
        assert progress.best is None or (progress.best.is_feasible and progress.best.role == "candidate")


def test_generations_have_the_size_of_the_population(tmp_path: Path):
    case = Case(tmp_path, max_trials=10)
    case.run()
    generations = [trial.generation for trial in case.study.trials()[1:]]
    assert generations == [0] * 4 + [1] * 4 + [2] * 2


def test_recipes_come_right_after_the_default_also_where_a_generation_has_no_room_for_them(tmp_path: Path):
    codes = ["111", "001", "110", "012"]
    case = Case(tmp_path, population=2, max_trials=7, recipes=codes)
    case.run()
    trials = read_trials(tmp_path / "study.db")[1:]
    assert trials[0].role == "default"
    assert [trial.code for trial in trials[1:5]] == codes
    assert [trial.recipe for trial in trials] == [None, *(f"recipe {code}" for code in codes), None, None]
    assert [trial.generation for trial in trials] == [0, 0, 1, 1, 2, 2, 3]
    assert trials[1].description.endswith("; f32 (from recipe 111)")


def test_parents_come_from_earlier_generations(tmp_path: Path):
    case = Case(tmp_path, max_trials=12)
    case.run()
    trials = {trial.number: trial for trial in case.study.trials()}
    for trial in trials.values():
        assert all(trials[parent].generation < trial.generation for parent in trial.parents)


def test_readers_see_the_same_trials(tmp_path: Path):
    case = Case(tmp_path, max_trials=6)
    case.run()
    assert read_trials(tmp_path / "study.db") == case.study.trials()


@pytest.mark.parametrize("content", [b"", b"no database at all", None])
def test_what_is_no_study_is_told(tmp_path: Path, content: bytes | None):
    path = tmp_path / "study.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(OutputError, match="study"):
        read_trials(path)


def test_single_objective_studies_are_maximized(tmp_path: Path):
    case = Case(tmp_path, objective=Objective(fitness="weighted", divergence_weight=0.5, latency_weight=0.2))
    case.run()
    for trial in case.study.trials():
        evaluation = trial.evaluation
        quality = evaluation.metrics[0].value - 0.5 * evaluation.divergence.value
        assert trial.objectives == (pytest.approx(quality - 0.2 * evaluation.latency.ratio.value),)
    best = case.seen[-1].best
    feasible = [trial for trial in case.study.trials()[1:] if trial.is_feasible]
    assert best.fitness == max(trial.fitness for trial in feasible)


class Watching(TableExecutor):
    """Keeps the tasks it was given."""

    def __init__(self, n_together: int = 1) -> None:
        super().__init__()
        self.n_together = n_together
        self.tasks: list[Task] = []
        self.batches: list[int] = []
        self.announced: list[int] = []

    def announce(self, bench: BenchSpec, tasks: Sequence[Task]) -> None:
        self.announced.append(len(tasks))

    def submit(self, tasks: Sequence[Task]) -> list[Outcome]:
        self.tasks += tasks
        self.batches.append(len(tasks))
        return super().submit(tasks)


def watched(case: Case, n_together: int = 1) -> Watching:
    executor = Watching(n_together)
    run_search(case.plan, case.study, executor, case.clock, case.seen.append)
    return executor


@pytest.mark.parametrize("n_together", [1, 3])
def test_candidates_race_against_the_feasible_ones_of_earlier_generations(tmp_path: Path, n_together: int):
    case = Case(tmp_path)
    tasks = watched(case, n_together).tasks
    assert tasks[0].race is tasks[1].race is None  # the float model, and NNCF's default
    trials = case.study.trials()[1:]
    for trial, task in zip(trials[1:], tasks[2:], strict=True):
        earlier = [other for other in trials if other.generation < trial.generation and other.is_feasible]
        rivals = [rival_of(other.strategy, other.evaluation, task.race.rules) for other in earlier]
        assert {rival.digest for rival in task.race.rivals} <= {rival.digest for rival in rivals}
        for other in trials:
            if isinstance(other.outcome, Evaluation):
                assert best_rival(task.race.rivals, other.outcome.latency) == best_rival(rivals, other.outcome.latency)


def test_a_single_fitness_has_no_rivals(tmp_path: Path):
    tasks = watched(Case(tmp_path, objective=Objective(fitness="accuracy"))).tasks
    assert all(task.race.rivals == () for task in tasks[2:])


def test_for_a_candidate_that_fails_another_one_is_asked_for_at_once(tmp_path: Path):
    whole = Case(tmp_path / "whole", population=5, max_trials=12)
    watched(whole)
    case = Case(tmp_path / "failing", population=5, max_trials=12)
    executor = Watching(3)
    executor.failing = frozenset(digests(whole)[1:3])
    run_search(case.plan, case.study, executor, case.clock, case.seen.append)
    assert executor.announced == [5, 4, 5, 0]  # two wait, and two in place of those that failed
    assert [trial.generation for trial in case.study.trials()[1:]] == [0] * 7 + [1] * 5


def test_generations_are_announced_whole_and_submitted_in_parts(tmp_path: Path):
    executor = watched(Case(tmp_path, population=5, max_trials=12), n_together=3)
    assert executor.announced == [5, 5, 2, 0]
    assert executor.batches == [1, 3, 2, 3, 2, 2]


@pytest.mark.parametrize("n_together", [2, 3, 5])
def test_proposals_do_not_depend_on_how_many_are_submitted_together(tmp_path: Path, n_together: int):
    alone, together = Case(tmp_path / "alone"), Case(tmp_path / "together")
    watched(alone)
    watched(together, n_together)
    assert digests(together) == digests(alone)


def test_a_study_whose_outcomes_are_not_text_is_read_all_the_same(tmp_path: Path):
    case = Case(tmp_path, max_trials=4)
    case.run()
    path = tmp_path / "study.db"
    trials = read_trials(path)
    with contextlib.closing(sqlite3.connect(path)) as database:
        query = "select trial_user_attribute_id, value_json from trial_user_attributes where key = 'result'"
        for number, text in database.execute(query).fetchall():
            content = json.loads(text)
            changed = json.dumps({**content, "outcome": json.loads(content["outcome"])})
            database.execute(
                "update trial_user_attributes set value_json = ? where trial_user_attribute_id = ?", (changed, number)
            )
        database.commit()
    assert read_trials(path) == trials


def test_memory_grows_little_with_the_trials(tmp_path: Path):
    genes = {
        **GENES,
        "subset_size": list(range(10, 31)),
        "activations_range_estimator": [None, "MINMAX", "MEAN_MINMAX", "MEDIAN_MINMAX"],
        "overflow_fix": ["first_layer_only", "enable", "disable"],
        "disable_bias_correction": [False, True],
    }
    case = Case(tmp_path, genes=genes, population=16, max_trials=600)
    held: dict[int, int] = {}

    def measure(progress: Progress) -> None:
        if progress.n_candidates in {300, 600}:
            gc.collect()
            held[progress.n_candidates] = tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        assert run_search(case.plan, case.study, TableExecutor(), case.clock, measure) == "max_trials reached"
    finally:
        tracemalloc.stop()
    assert (held[600] - held[300]) / 300 < 3000
