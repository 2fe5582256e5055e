"""Finalists, holdout, words: with hand-made measurements."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from fakes.records import evaluation, interval, latency, metric, trial

from ovquant.job import DataSpec, Drop, MetricSpec, Objective, StopAt
from ovquant.objectives import Rules
from ovquant.records import Comparison, Evaluation, Failure, FloatModel, Latency, Outcome, Trial
from ovquant.strategy import Strategy
from ovquant.targets import Target
from ovquant.tasks import BenchSpec, ComparisonTask, Task
from ovquant.verdict import decide, judge

ACCURACY = (MetricSpec(name="accuracy", max_drop=Drop(amount=0.02)),)
BENCH = BenchSpec(
    model="model.onnx",
    target=Target(version=1, name="t", device="CPU"),
    device="CPU",
    data=DataSpec(path="data.npz"),
    seed=0,
    metrics=ACCURACY,
    output_kinds={},
    model_dir=str(Path("models")),
)


def rules(metrics: tuple[MetricSpec, ...] = ACCURACY, max_divergence: float | None = None) -> Rules:
    return Rules(
        objective=Objective(),
        metrics=metrics,
        metric_directions=("maximize",) * len(metrics),
        max_divergence=max_divergence,
    )


def strategy(number: int) -> Strategy:
    return Strategy(subset_size=number)


def finalist(number: int, **measured: float) -> Trial:
    return trial(number, strategy=strategy(number), **measured)


class Holdout:
    """Answers with drops and latency ratios by subset size (the trial's number); 0 is the baseline, -1 the reference."""

    def __init__(self, drops: dict[int, tuple[float, float]], ratios: dict[int, float]) -> None:
        self.drops, self.ratios = drops, ratios
        self.divergences: dict[int, tuple[float, ...]] = {}
        self.order: list[str] = []

    n_together = 1
    announce = close = None

    def submit(self, tasks: Sequence[Task]) -> list[Outcome]:
        return [self._outcome(task) for task in tasks]

    def _outcome(self, task: Task) -> Outcome:
        self.order.append("holdout")
        assert task.split == "holdout"
        assert not task.is_timed
        drop, half = self.drops.get(self._key(task.subject), (0.0, 0.0))
        metrics = [metric(0.9 - drop, drop, half_width=half or 1e-9)] if task.bench.metrics else []
        done = evaluation(divergence=0.01, metrics=metrics, ratio=None)
        return dataclasses.replace(done, split="holdout", divergences=self.divergences.get(self._key(task.subject)))

    def compare(self, task: ComparisonTask) -> Comparison | Failure:
        self.order.append("latency")
        return Comparison(latencies=tuple(self._latency(subject) for subject in task.subjects))

    def _latency(self, subject: object) -> Latency:
        return latency(self.ratios.get(self._key(subject), 1.0), 0.001)

    @staticmethod
    def _key(subject: object) -> int:
        if isinstance(subject, FloatModel):
            return 0 if subject.inference_precision == "bf16" else -1
        assert isinstance(subject, Strategy)
        return subject.subset_size


def test_latency_is_measured_together_and_before_the_holdout_is_opened():
    executor = Holdout({}, {1: 0.5, 2: 0.6, -1: 1.5})
    decide(BENCH, executor, rules(), [finalist(1), finalist(2)], None, "bf16")
    assert executor.order == ["latency", *["holdout"] * 4]


def test_of_those_that_share_a_latency_the_least_divergence_wins_and_they_are_said_to_run_the_same_kernels() -> None:
    default = finalist(1, divergence=0.3)
    finalists = [default, finalist(2, divergence=0.1), finalist(3, divergence=0.0)]
    verdict = decide(BENCH, Holdout({}, {1: 0.5, 2: 0.5, 3: 0.7}), rules(), finalists, default, "bf16")
    assert verdict.winner == 2
    assert any("at its speed, as it runs the same kernels" in sentence for sentence in verdict.sentences)


def test_the_order_follows_the_latencies_measured_at_the_end():
    executor = Holdout({}, {1: 0.7, 2: 0.5})
    verdict = decide(BENCH, executor, rules(), [finalist(1), finalist(2)], None, "bf16")
    assert verdict.winner == 2
    assert [row.trial for row in verdict.rows] == [None, None, 2, 1]


def test_the_first_that_is_not_refuted_wins():
    executor = Holdout({1: (0.1, 0.01), 2: (0.03, 0.02)}, {1: 0.5, 2: 0.6})
    verdict = decide(BENCH, executor, rules(), [finalist(1), finalist(2)], None, "bf16")
    assert (verdict.winner, verdict.judgement) == (2, "inconclusive")
    assert {row.trial: row.judgement for row in verdict.rows if row.judgement} == {2: "inconclusive", 1: "refuted"}
    assert verdict.sentences[-1] == "The holdout refuted 1 of 2 finalists before it, so it took part in the choice."


def test_where_all_are_refuted_the_verdict_warns():
    executor = Holdout({1: (0.1, 0.01)}, {1: 0.5})
    verdict = decide(BENCH, executor, rules(), [finalist(1)], None, "bf16")
    assert verdict.judgement == "refuted"
    assert not verdict.is_worth_it
    assert "do not deploy it" in verdict.sentences[-1]


class Unsteady(Holdout):
    """Bursts of every model but the float ones take 0.8 to 1.1 of what the median says, in turns."""

    def _latency(self, subject: object) -> Latency:
        steady = super()._latency(subject)
        if isinstance(subject, FloatModel):
            return steady
        return dataclasses.replace(
            steady, samples_ms=tuple((steady.median_ms * (0.8, 1.1)[visit % 2],) * 3 for visit in range(12))
        )


@pytest.mark.parametrize("ratio", [0.95, 1.1], ids=["faster by its median", "slower by its median"])
def test_what_cannot_be_told_from_the_float_model_by_speed_is_neither_faster_nor_not_worth_it(ratio: float):
    verdict = decide(BENCH, Unsteady({}, {1: ratio, 9: ratio}), rules(), [finalist(1)], finalist(9), "bf16")
    assert verdict.sentences[0].startswith("Trial 1 cannot be told from the float model at bf16 by speed: ")
    assert not verdict.is_worth_it
    assert any(sentence.startswith("Neither is shown to be faster") for sentence in verdict.sentences)


@pytest.mark.parametrize(
    ("drop", "ratio", "expected"),
    [
        ((0.001, 0.001), 0.5, "drop of 0.0050 at most confirmed, 1.5x the baseline's speed confirmed."),
        ((0.015, 0.004), 0.8, "drop of 0.0050 at most refuted, 1.5x the baseline's speed refuted."),
        ((0.004, 0.004), 0.667, "drop of 0.0050 at most inconclusive, 1.5x the baseline's speed inconclusive."),
    ],
)
def test_what_ended_the_search_is_judged_by_the_final_measurements(drop, ratio: float, expected: str):
    stop_at = StopAt(max_drop=Drop(amount=0.005), min_speedup=1.5)
    verdict = decide(BENCH, Holdout({1: drop}, {1: ratio}), rules(), [finalist(1)], None, "bf16", stop_at)
    assert verdict.sentences[-1].startswith("Trial 1 met stop_at by point estimates on validation items")
    assert verdict.sentences[-1].endswith(expected)
    unasked = decide(BENCH, Holdout({1: drop}, {1: ratio}), rules(), [finalist(1)], None, "bf16")
    assert not any("stop_at" in sentence for sentence in unasked.sentences)


def test_the_fitness_that_ended_the_search_is_told_as_it_is_now():
    fittest = dataclasses.replace(rules(), objective=Objective(fitness="accuracy", latency_weight=0.1))
    found = finalist(1, metrics=[metric(0.93)])
    verdict = decide(BENCH, Holdout({1: (0.01, 0.005)}, {1: 0.5}), fittest, [found], None, "bf16", StopAt(fitness=0.88))
    assert verdict.sentences[-1].endswith("final timing: fitness of 0.88 now 0.84.")


def test_nncf_default_is_judged_though_it_is_no_finalist():
    default = trial(9, strategy=strategy(9), role="default")
    verdict = decide(BENCH, Holdout({9: (0.1, 0.01)}, {1: 0.5, 9: 0.5}), rules(), [finalist(1)], default, "bf16")
    assert {row.name: row.judgement for row in verdict.rows if row.judgement} == {
        "winner": "confirmed",
        "NNCF default": "refuted",
    }


def test_a_slower_model_is_said_not_to_be_worth_it():
    verdict = decide(BENCH, Holdout({}, {1: 1.1}), rules(), [finalist(1)], None, "bf16")
    assert not verdict.is_worth_it
    assert verdict.sentences[0].startswith("Quantization is not worth it here: trial 1")


def test_where_the_baseline_breaks_the_limits_the_rival_is_the_reference():
    executor = Holdout({0: (0.05, 0.01)}, {1: 1.1, -1: 2.2})
    verdict = decide(BENCH, executor, rules(), [finalist(1)], None, "bf16")
    assert "float model at bf16 breaks the limits itself" in verdict.sentences[0]
    assert "2.00x [2.00, 2.00] as fast as the float model at f32" in verdict.sentences[1]
    assert verdict.is_worth_it


def test_nncf_default_as_winner_is_measured_once_and_said():
    default = trial(1, strategy=strategy(1), role="default")
    executor = Holdout({}, {1: 0.5})
    verdict = decide(BENCH, executor, rules(), [default], default, "bf16")
    assert executor.order.count("holdout") == 3
    assert [row.name for row in verdict.rows] == ["reference", "baseline", "NNCF default", "winner"]
    assert any("found nothing that is better" in sentence for sentence in verdict.sentences)


def test_without_metrics_nncf_defaults_divergence_on_the_holdout_is_the_limit():
    default = trial(1, strategy=strategy(1), role="default")
    bench = dataclasses.replace(BENCH, metrics=())
    verdict = decide(bench, Holdout({}, {1: 0.5, 2: 0.5}), rules(()), [finalist(2)], default, "bf16")
    assert any("limit 0.01, that of NNCF's default on the same items: confirmed" in sentence for sentence in verdict.sentences)
    assert verdict.judgement == "confirmed"


@pytest.mark.parametrize(
    ("more", "expected"),
    [((-0.01,) * 40, "confirmed"), ((0.01,) * 40, "refuted"), ((-0.01, 0.01) * 20, "inconclusive"), ((0.0,) * 40, "confirmed")],
    ids=["less on each item", "more on each item", "less on some", "the same"],
)
def test_a_limit_that_nncf_default_sets_is_judged_item_by_item(more: tuple[float, ...], expected: str):
    theirs = tuple(np.linspace(0.01, 1.0, 40).tolist())  # the interval of their mean is wide
    executor = Holdout({}, {1: 0.5, 2: 0.5})
    executor.divergences = {1: theirs, 2: tuple(np.add(theirs, more).tolist())}
    default = trial(1, strategy=strategy(1), role="default")
    verdict = decide(dataclasses.replace(BENCH, metrics=()), executor, rules(()), [finalist(2)], default, "bf16")
    assert verdict.judgement == expected


@pytest.mark.parametrize(
    ("value", "half", "expected"),
    [(0.0, 0.01, "confirmed"), (0.02, 0.01, "inconclusive"), (0.05, 0.01, "refuted"), (0.01, 0.01, "confirmed")],
)
def test_judgement_follows_the_interval(value: float, half: float, expected: str):
    assert judge(evaluation(metrics=[metric(0.9, value, half_width=half)]), rules()) == expected


def test_a_model_that_is_nncf_default_item_by_item_is_said_to_be_no_better():
    executor = Holdout({}, {1: 0.5, 2: 0.5})
    executor.divergences = {1: NOISY, 2: NOISY}
    default = trial(1, strategy=strategy(1), role="default")
    verdict = decide(dataclasses.replace(BENCH, metrics=()), executor, rules(()), [finalist(2)], default, "bf16")
    assert any(sentence.startswith("No difference is beyond chance") for sentence in verdict.sentences)


def test_one_refuted_limit_refutes_all():
    two = (*ACCURACY, MetricSpec(name="f1", max_drop=Drop(amount=0.02)))
    measured = evaluation(metrics=[metric(0.9, 0.0, half_width=0.001), metric(0.5, 0.3, name="f1", half_width=0.01)])
    assert judge(measured, rules(two)) == "refuted"


def test_a_metric_without_interval_is_inconclusive():
    assert judge(evaluation(metrics=[metric(0.9, 0.0)]), rules()) == "inconclusive"


def test_a_divergence_limit_is_judged_too():
    measured = dataclasses.replace(evaluation(), divergence=interval(0.5, 0.1))
    assert judge(measured, rules((), 0.45)) == "inconclusive"
    assert judge(measured, rules((), 0.3)) == "refuted"


def test_a_finalist_that_cannot_be_timed_any_more_is_an_error():
    class Broken(Holdout):
        def compare(self, task: ComparisonTask) -> Comparison | Failure:
            return Failure(stage="compile", error="RuntimeError", message="gone")

    with pytest.raises(RuntimeError, match="cannot be timed \\(compile\\): gone"):
        decide(BENCH, Broken({}, {}), rules(), [finalist(1)], None, "bf16")


def test_the_holdout_evaluation_is_what_the_rows_hold():
    verdict = decide(BENCH, Holdout({1: (0.01, 0.005)}, {1: 0.5}), rules(), [finalist(1)], None, "bf16")
    row = verdict.winner_row
    assert isinstance(row.evaluation, Evaluation)
    assert row.evaluation.split == "holdout"
    assert row.evaluation.metrics[0].drop.value == 0.01


NOISY = tuple(0.01 + 0.005 * (-1) ** (index // 2) for index in range(100))
LIKE_NOISY = tuple(value + 0.001 * (-1) ** index for index, value in enumerate(NOISY))
LESS = tuple(value - 0.001 + 0.0005 * (-1) ** index for index, value in enumerate(NOISY))  # paired, beyond chance


@pytest.mark.parametrize(
    ("theirs", "ratio", "default_drop", "is_alike"),
    [
        (LIKE_NOISY, 0.5, 0.0, True),
        (LESS, 0.5, 0.0, False),
        (LIKE_NOISY, 0.4, 0.0, False),
        (LIKE_NOISY, 0.5, 0.05, False),
        (None, 0.5, 0.0, False),
    ],
    ids=["alike", "closer to the float model", "faster", "the default breaks the limit", "not known item by item"],
)
def test_what_is_not_beyond_chance_is_said_to_be_no_better_than_the_default(theirs, ratio, default_drop, is_alike):
    default = finalist(9)
    executor = Holdout({9: (default_drop, 0.001)}, {1: ratio, 9: 0.5})
    executor.divergences = {9: NOISY} | ({} if theirs is None else {1: theirs})
    found = decide(BENCH, executor, rules(), [finalist(1)], default, "bf16")
    assert found.winner == 1
    told = " ".join(found.sentences)
    assert ("No difference is beyond chance" in told) == is_alike
    assert ("ovquant export OUT --trial 9" in told) == is_alike
    assert ("item by item" in told) == (theirs is not None)


@pytest.mark.parametrize(
    ("ours", "theirs", "is_kept"), [(1.1, 1.1, True), (1.0, 1.2, True), (0.5, 1.1, False), (1.1, 0.5, False)]
)
def test_where_neither_is_faster_the_float_model_is_recommended_and_not_the_default(ours, theirs, is_kept):
    executor = Holdout({}, {1: ours, 9: theirs})
    executor.divergences = {9: NOISY, 1: LIKE_NOISY}
    told = " ".join(decide(BENCH, executor, rules(), [finalist(1)], finalist(9), "bf16").sentences)
    kept = "Neither is shown to be faster than the float model at bf16: unless size is what counts, keep that one."
    assert (kept in told) == is_kept
    if is_kept:
        assert "ovquant export OUT --trial 9" not in told


@pytest.mark.parametrize(("n_better", "is_alike"), [(1, True), (12, False)])
def test_the_metric_is_compared_with_the_defaults_item_by_item(n_better: int, is_alike: bool):
    class Scored(Holdout):
        def _outcome(self, task: Task) -> Outcome:
            done = super()._outcome(task)
            n_wrong = 5 if self._key(task.subject) == 1 else 5 + n_better
            assert isinstance(done, Evaluation)
            scored = dataclasses.replace(done.metrics[0], scores=(0.0,) * n_wrong + (1.0,) * (100 - n_wrong))
            return dataclasses.replace(done, metrics=(scored,), divergences=NOISY)

    found = decide(BENCH, Scored({}, {1: 0.5, 9: 0.5}), rules(), [finalist(1)], finalist(9), "bf16")
    told = " ".join(found.sentences)
    assert f"item by item: +{n_better / 100:.4f} [" in told
    assert f"exact McNemar test: p = {2 / 2**n_better:.2g}." in told
    assert ("No difference is beyond chance" in told) == is_alike
