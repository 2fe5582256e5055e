"""Same seed and same measured values, same proposals: with made-up measurements, in milliseconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.executor import TableExecutor

from ovquant import commands
from ovquant.console import Console
from ovquant.job import Job
from ovquant.records import Trial
from ovquant.study import read_trials
from ovquant.studyfile import STUDY_FILE


@pytest.fixture
def job(conv_case: tuple[Path, Path], tmp_path: Path) -> Job:
    content: dict[str, Any] = {
        "version": 1,
        "model": str(conv_case[0]),
        "data": str(conv_case[1]),
        "metrics": [{"name": "accuracy", "max_drop": 0.03}],
        "max_trials": 24,
        "population": 6,
        "output": str(tmp_path / "out"),
    }
    return Job.model_validate(content)


def proposals(trials: list[Trial]) -> list[tuple[Any, ...]]:
    return [(t.code, t.generation, len(t.parents)) for t in trials if t.strategy is not None]


def search(job: Job, executor: TableExecutor, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> list[Trial]:
    monkeypatch.setattr(commands, "package", lambda *arguments, **options: None)
    changed = job.model_copy(update=changes)
    commands.search(changed, Console(is_quiet=True), executor)
    return read_trials(Path(changed.output) / STUDY_FILE)


def test_the_same_seed_gives_the_same_proposals(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = search(job, TableExecutor(), monkeypatch)
    second = search(job, TableExecutor(), monkeypatch, output=str(tmp_path / "second"))
    assert proposals(first) == proposals(second)
    assert [t.parents for t in first] == [t.parents for t in second]


def test_another_seed_gives_other_proposals(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = search(job, TableExecutor(), monkeypatch)
    second = search(job, TableExecutor(), monkeypatch, seed=1, output=str(tmp_path / "second"))
    assert proposals(first) != proposals(second)


def test_most_of_what_is_bred_has_two_parents(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    later = [t for t in search(job, TableExecutor(), monkeypatch) if t.generation]
    assert len(later) == 18
    bred = [t for t in later if t.parents]
    assert len(bred) >= 12  # the first and each third place are for neighbours of the seeds
    assert sum(len(t.parents) == 2 for t in bred) > 0.8 * len(bred)


class Stopping(TableExecutor):
    """Stops, as by Ctrl-C, when it is asked for the n-th time."""

    def __init__(self, n_tasks: int) -> None:
        super().__init__()
        self._left: Iterator[int] = iter(range(n_tasks))

    def submit(self, task: Any) -> Any:
        if next(self._left, None) is None:
            raise KeyboardInterrupt
        return super().submit(task)


@pytest.mark.parametrize("n_tasks", [1, 7, 16])
def test_a_stopped_search_continues_with_the_same_proposals(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_tasks: int
) -> None:
    whole = search(job, TableExecutor(), monkeypatch)
    with pytest.raises(commands.InterruptedSearchError):
        search(job, Stopping(n_tasks), monkeypatch, output=str(tmp_path / "stopped"))
    continued = search(job, TableExecutor(), monkeypatch, output=str(tmp_path / "stopped"))
    assert proposals(continued) == proposals(whole)


def test_failed_candidates_are_counted_and_replaced(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = search(job, TableExecutor(), monkeypatch)
    failing = frozenset(t.strategy.digest for t in whole[3:6] if t.strategy is not None)
    trials = search(job, TableExecutor(failing=failing), monkeypatch, output=str(tmp_path / "failing"))
    assert sum(t.objectives is None for t in trials) == 3
    assert sum(t.generation == 0 for t in trials) == 6 + 3
    assert len(trials) == 25
