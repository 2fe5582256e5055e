"""The workbench: one model -> Outcome, on small real models."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import small
from onnx import numpy_helper

from ovquant import quantization, runtime
from ovquant.contained import ContainedExecutor
from ovquant.errors import DataError, ModelError
from ovquant.evaluation import Workbench, open_bench
from ovquant.job import DataSpec, Drop, MetricSpec, Objective, Source
from ovquant.objectives import Rules
from ovquant.records import (
    Comparison,
    Evaluation,
    Failure,
    FloatModel,
    ModelFile,
    outcome_from_json,
    outcome_to_json,
)
from ovquant.selectors import ScopeSelector
from ovquant.strategy import Strategy
from ovquant.targets import Measurement, MeasurementPlan, Target
from ovquant.tasks import BenchSpec, ComparisonTask, Race, Rival, Task

F32 = FloatModel(inference_precision="f32")
SHORT = MeasurementPlan(visits=6, burst=4, discard=1, seconds=0.05)
TARGET = Target(version=1, name="test", device="CPU", measurement=Measurement(ranking=SHORT, verdict=SHORT))
EVERYTHING = Strategy(ignored_scope=ScopeSelector(patterns=(".*",)))
NOTHING = Strategy(ignored_scope=ScopeSelector(types=("LSTMSequence",)))
COUNT_WRONG = """
def count_wrong(outputs, labels):
    return float(sum(o.argmax() != y for o, y in zip(outputs["logits"], labels)))

def is_wrong(outputs, labels):
    return [float(o.argmax() != y) for o, y in zip(outputs["logits"], labels)]
"""


def bench_spec(model: Path, data: Path | str, model_dir: Path, **changes) -> BenchSpec:
    settings = {
        "model": str(model),
        "target": TARGET,
        "device": "CPU",
        "data": DataSpec(path=str(data)),
        "seed": 0,
        "metrics": (MetricSpec(name="accuracy"),),
        "output_kinds": {},
        "model_dir": str(model_dir),
    }
    return BenchSpec(**settings | changes)


def task(bench: BenchSpec, subject: Strategy | FloatModel | ModelFile, **options) -> Task:
    return Task(bench=bench, subject=subject, **{"is_timed": False} | options)


@pytest.fixture(scope="module")
def bench(conv_case: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    return Workbench(bench_spec(*conv_case, tmp_path_factory.mktemp("models")))


@pytest.fixture(scope="module")
def default(bench: Workbench) -> Evaluation:
    """The outcome of NNCF's default, with intervals."""
    outcome = bench.evaluate(task(bench.spec, Strategy(), has_intervals=True))
    assert isinstance(outcome, Evaluation), outcome
    return outcome


def resaved(data: Path, path: Path, **changes: np.ndarray | None) -> Path:
    """Write the arrays of an ``.npz`` with changes; None leaves an array out."""
    arrays = dict(np.load(data)) | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


# The reference


def test_reference_has_no_drop_and_no_divergence(bench):
    outcome = bench.evaluate(task(bench.spec, F32, has_intervals=True))
    assert (outcome.divergence.low, outcome.divergence.value, outcome.divergence.high) == (0, 0, 0)
    assert outcome.metrics[0].drop.value == 0
    assert outcome.n_fake_quantize == 0
    assert outcome.size_bytes == Path(bench.spec.model).stat().st_size


def test_reference_value_is_the_accuracy_of_the_float_model(bench, conv_case):
    arrays = np.load(conv_case[1])
    picked = [index for _, index in bench.samples.items("holdout")]
    hits = small.float_logits(conv_case[0], arrays["image"][picked]).argmax(axis=1) == arrays["y"][picked]
    outcome = bench.evaluate(task(bench.spec, F32, split="holdout"))
    assert outcome.metrics[0].value == pytest.approx(hits.mean())
    assert (outcome.split, outcome.n_items) == ("holdout", len(picked))


def test_reference_that_gives_infinity_is_a_model_error(conv_case, tmp_path):
    model, data = conv_case
    huge = resaved(
        data, tmp_path / "huge.npz", image=np.full((30, 3, small.SIDE, small.SIDE), 3e38, np.float32), y=np.zeros(30, int)
    )
    spec = bench_spec(model, huge, tmp_path)
    with pytest.raises(ModelError, match=r"model\.onnx at f32: output 'logits' holds NaN or infinity on .*huge\.npz\[\d+\]"):
        Workbench(spec).evaluate(task(spec, F32))


def test_label_out_of_range_is_a_data_error(conv_case, tmp_path):
    model, data = conv_case
    spec = bench_spec(model, resaved(data, tmp_path / "bad.npz", y=np.load(data)["y"] + small.N_CLASSES), tmp_path)
    with pytest.raises(DataError, match=r"metric 'accuracy': label \d is out of range: the output has 5 classes, 0\.\.4"):
        Workbench(spec).evaluate(task(spec, F32))


def test_fault_of_the_reference_is_raised_for_a_strategy_too(conv_case, tmp_path):
    model, data = conv_case
    spec = bench_spec(model, resaved(data, tmp_path / "bad.npz", y=np.load(data)["y"] + small.N_CLASSES), tmp_path)
    with pytest.raises(DataError, match="is out of range"):
        Workbench(spec).evaluate(task(spec, Strategy()))


# What cannot be opened together


def test_metric_without_labels_is_a_data_error(conv_case, tmp_path):
    model, data = conv_case
    with pytest.raises(DataError, match=r"bare\.npz: metric 'accuracy' needs labels, and the validation items have none"):
        Workbench(bench_spec(model, resaved(data, tmp_path / "bare.npz", y=None), tmp_path))


def test_metric_without_holdout_labels_is_a_data_error(conv_case, tmp_path):
    model, data = conv_case
    bare = resaved(data, tmp_path / "bare.npz", y=None, image=None, image_holdout=np.load(data)["image"][:10])
    sources = DataSpec(path=str(data), holdout=Source(path=str(bare)))
    spec = dataclasses.replace(bench_spec(model, data, tmp_path), data=sources)
    with pytest.raises(DataError, match="metric 'accuracy' needs labels, and the holdout items have none"):
        Workbench(spec).evaluate(task(spec, F32, split="holdout"))


def test_data_without_labels_serves_a_search_by_divergence(conv_case, tmp_path):
    model, data = conv_case
    spec = bench_spec(model, resaved(data, tmp_path / "bare.npz", y=None), tmp_path, metrics=())
    outcome = Workbench(spec).evaluate(task(spec, Strategy()))
    assert outcome.metrics == ()
    assert outcome.divergence.value > 0


def test_unknown_output_in_output_kinds_gets_a_hint(conv_case, tmp_path):
    with pytest.raises(DataError, match=r"output_kinds: no output 'logit' \(did you mean 'logits'\?\); outputs: logits"):
        Workbench(bench_spec(*conv_case, tmp_path, output_kinds={"logit": "values"}))


# Candidates


def test_candidate_differs_from_the_reference(bench, default):
    """By 0.01 or so with VNNI; without it, where sums of pairs saturate, by 0.8."""
    assert 0 < default.divergence.value < 2
    assert default.n_fake_quantize > 0
    assert default.graph_digest != bench.evaluate(task(bench.spec, F32)).graph_digest
    assert default.latency is None


def test_divergence_interval_holds_the_mean(default):
    assert default.divergence.low < default.divergence.value < default.divergence.high


def test_intervals_are_left_out_unless_asked_for(bench, default):
    quick = bench.evaluate(task(bench.spec, Strategy())).divergence
    assert quick.low == quick.value == quick.high == default.divergence.value


def test_drop_is_the_reference_minus_the_candidate(bench, default):
    reference = bench.evaluate(task(bench.spec, F32)).metrics[0]
    assert default.metrics[0].drop.value == pytest.approx(reference.value - default.metrics[0].value)
    assert default.metrics[0].has_interval


def test_kept_model_is_the_one_that_was_evaluated(bench, default):
    path = bench.build(Strategy())
    assert path == Path(bench.spec.model_dir) / f"{Strategy().digest}.xml"
    assert runtime.graph_digest(runtime.read_model(path)) == default.graph_digest
    assert runtime.size_bytes(path) == default.size_bytes


def test_strategies_of_one_canonical_form_share_a_model(bench):
    assert bench.build(Strategy(smooth_quant_alpha_matmul=0.2)) == bench.build(Strategy())


def test_strategy_is_calibrated_with_the_first_calibration_items(bench):
    strategy = Strategy(subset_size=2)
    picked = {name: list(bench.samples.samples(name, 2)) for name in ("calibration", "validation")}
    by_hand = {
        name: runtime.graph_digest(quantization.quantize(bench.model, strategy, samples, bench.operations))
        for name, samples in picked.items()
    }
    assert bench.evaluate(task(bench.spec, strategy)).graph_digest == by_hand["calibration"] != by_hand["validation"]


def test_scope_that_covers_everything_fails_at_quantization(bench):
    assert bench.evaluate(task(bench.spec, EVERYTHING)) == Failure(
        stage="quantize",
        error="ModelError",
        message="nothing was quantized: the ignored scope covers all that NNCF would quantize",
    )


def test_scope_that_matches_nothing_fails_at_quantization(bench):
    assert bench.evaluate(task(bench.spec, NOTHING)) == Failure(
        stage="quantize", error="ValueError", message="types 'LSTMSequence' matches nothing in this model"
    )


def test_failed_candidate_leaves_no_model_behind(bench):
    bench.evaluate(task(bench.spec, EVERYTHING))
    assert not list(Path(bench.spec.model_dir).glob(f"{EVERYTHING.digest}*"))


def test_kept_model_of_which_only_the_weights_were_written_is_made_anew(conv_case, tmp_path):
    spec = bench_spec(*conv_case, tmp_path)
    (tmp_path / f"{Strategy().digest}.bin").write_bytes(b"cut off")
    assert isinstance(Workbench(spec).evaluate(task(spec, Strategy())), Evaluation)


# Metrics that are minimized or no mean over items


@pytest.fixture
def wrong_bench(conv_case: tuple[Path, Path], tmp_path: Path) -> Workbench:
    (tmp_path / "mine.py").write_text(COUNT_WRONG)
    metrics = tuple(
        MetricSpec(name=f"{tmp_path / 'mine.py'}:{name}", direction="minimize") for name in ("count_wrong", "is_wrong")
    )
    return Workbench(bench_spec(*conv_case, tmp_path, metrics=(*metrics, MetricSpec(name="f1_macro"))))


def model_file(path: Path) -> ModelFile:
    return ModelFile(path=str(path), inference_precision="f32")


def worse_model(conv_case: tuple[Path, Path], path: Path) -> ModelFile:
    """Write a model with the same inputs and outputs and other weights, which is wrong more often."""
    return model_file(small.conv_model(path, seed=5))


def test_drop_of_a_minimized_metric_is_positive_where_the_candidate_is_worse(wrong_bench, conv_case, tmp_path):
    outcome = wrong_bench.evaluate(task(wrong_bench.spec, worse_model(conv_case, tmp_path / "worse.onnx")))
    reference = wrong_bench.evaluate(task(wrong_bench.spec, F32))
    for mine, theirs in list(zip(outcome.metrics, reference.metrics, strict=True))[:2]:
        assert mine.value > theirs.value
        assert mine.drop.value == pytest.approx(mine.value - theirs.value)


def test_interval_of_a_minimized_metric_mirrors_that_of_the_maximized_one(wrong_bench, bench, conv_case, tmp_path):
    worse = worse_model(conv_case, tmp_path / "worse.onnx")
    wrong = wrong_bench.evaluate(task(wrong_bench.spec, worse)).metrics[1].drop
    right = bench.evaluate(task(bench.spec, worse)).metrics[0].drop
    assert (wrong.low, wrong.value, wrong.high) == pytest.approx((right.low, right.value, right.high))


def test_metric_over_all_items_has_an_interval_only_where_asked_for(wrong_bench, conv_case, tmp_path):
    worse = worse_model(conv_case, tmp_path / "worse.onnx")
    quick = wrong_bench.evaluate(task(wrong_bench.spec, worse)).metrics[0]
    slow = wrong_bench.evaluate(task(wrong_bench.spec, worse, has_intervals=True)).metrics[0]
    assert not quick.has_interval
    assert quick.drop.low == quick.drop.value == quick.drop.high == slow.drop.value
    assert slow.has_interval
    assert slow.drop.low < slow.drop.value < slow.drop.high


def test_metric_over_all_items_has_no_interval_where_no_resample_differs(wrong_bench):
    found = wrong_bench.evaluate(task(wrong_bench.spec, F32, has_intervals=True)).metrics[0]
    assert not found.has_interval
    assert found.drop.low == found.drop.value == found.drop.high == 0


# Model files


def test_other_model_file_is_scored_against_the_reference(bench, conv_case, tmp_path):
    outcome = bench.evaluate(task(bench.spec, worse_model(conv_case, tmp_path / "worse.onnx")))
    assert outcome.divergence.value > 0.1
    assert outcome.metrics[0].drop.value > 0


def test_missing_model_file_is_a_model_error(bench, tmp_path):
    with pytest.raises(ModelError, match=r"nope\.xml: no such model file"):
        bench.evaluate(task(bench.spec, model_file(tmp_path / "nope.xml")))


def test_model_file_with_other_inputs_is_a_model_error(bench, tmp_path):
    other = model_file(small.two_input_model(tmp_path / "other.onnx"))
    with pytest.raises(ModelError, match=r"other\.onnx: its inputs and outputs differ from those of .*model\.onnx"):
        bench.evaluate(task(bench.spec, other))


def test_model_file_with_more_classes_is_a_model_error(bench, tmp_path):
    with pytest.raises(ModelError, match="differ"):
        bench.evaluate(task(bench.spec, model_file(wider_model(tmp_path / "wider.onnx"))))


def wider_model(path: Path) -> Path:
    """Write the convolutional model with one more class."""
    model = onnx.load(str(small.conv_model(path)))
    head = next(weights for weights in model.graph.initializer if weights.name == "w4")
    wider = np.pad(numpy_helper.to_array(head), ((0, 0), (0, 1)))
    head.CopyFrom(numpy_helper.from_array(wider, "w4"))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = small.N_CLASSES + 1
    onnx.save(model, str(path))
    return path


# Several inputs and outputs


def test_outputs_of_two_kinds_are_told_apart(tmp_path):
    model = small.two_input_model(tmp_path / "two.onnx")
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(40, 8)).astype(np.float32), rng.normal(size=(40, 4)).astype(np.float32)
    np.savez(tmp_path / "two.npz", left=left, right=right)
    spec = bench_spec(model, tmp_path / "two.npz", tmp_path, metrics=())
    opened = Workbench(spec)
    assert opened.output_kinds() == {"scores": "probabilities", "distance": "values"}
    assert opened.evaluate(task(spec, Strategy())).divergence.value > 0


def test_dynamic_shapes_are_compiled_for_those_of_the_items_where_many_are_to_be_run(tmp_path):
    """Requests with dynamic shapes run one at a time; those of a copy with static ones do not."""
    model = small.two_input_model(tmp_path / "two.onnx")
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(40, 8)).astype(np.float32), rng.normal(size=(40, 4)).astype(np.float32)
    np.savez(tmp_path / "two.npz", left=left, right=right)
    opened = Workbench(bench_spec(model, tmp_path / "two.npz", tmp_path, metrics=()))
    quick = opened._compile_quick(opened.model, "f32", "validation")
    plain = opened._compile(opened.model, "f32")
    assert sorted(tuple(port.shape) for port in quick.compiled.inputs) == [(1, 4), (1, 8)]
    assert all(port.partial_shape.is_dynamic for port in plain.compiled.inputs)
    for sample in opened.samples.samples("validation"):
        for name, array in plain.infer(sample).items():
            np.testing.assert_allclose(quick.infer(sample)[name], array, rtol=1e-5)


def test_kind_as_told_wins(conv_case, tmp_path):
    opened = Workbench(bench_spec(*conv_case, tmp_path, output_kinds={"logits": "values"}))
    assert opened.output_kinds() == {"logits": "values"}


# Latency


def test_timed_task_has_a_latency_over_the_baseline(bench):
    latency = bench.evaluate(task(bench.spec, Strategy(), is_timed=True)).latency
    assert latency.n_visits == 6
    assert latency.n_inferences == 6 * 3
    assert latency.median_ms > 0
    assert latency.ratio.low <= latency.ratio.value <= latency.ratio.high


def test_comparison_times_all_models_and_the_first_is_one(bench):
    subjects = (F32, Strategy(), Strategy(subset_size=5))
    outcome = bench.compare(ComparisonTask(bench=bench.spec, subjects=subjects))
    assert isinstance(outcome, Comparison)
    assert len(outcome.latencies) == 3
    assert outcome.latencies[0].ratio.value == 1


def test_comparison_times_the_same_kernels_once(bench, monkeypatch):
    timed = []
    time_all = bench._time
    monkeypatch.setattr(bench, "_time", lambda models, plan: timed.append(len(models)) or time_all(models, plan))
    other = Strategy(activations_range_estimator="MINMAX")  # other ranges, the same kernels
    outcome = bench.compare(ComparisonTask(bench=bench.spec, subjects=(F32, Strategy(), F32, other)))
    assert isinstance(outcome, Comparison)
    baseline, first, again, second = outcome.latencies
    assert timed == [2]
    assert baseline == again
    assert first == second
    assert first != baseline


def test_comparison_with_a_failing_strategy_is_a_failure(bench):
    outcome = bench.compare(ComparisonTask(bench=bench.spec, subjects=(F32, NOTHING)))
    assert isinstance(outcome, Failure)
    assert outcome.stage == "quantize"


# Values that travel


SUBJECTS = {"strategy": Strategy(subset_size=20), "float model": F32, "failing strategy": EVERYTHING}


@pytest.mark.parametrize("name", SUBJECTS)
def test_task_survives_pickling(bench, name):
    sent = task(bench.spec, SUBJECTS[name], has_intervals=True)
    assert pickle.loads(pickle.dumps(sent)) == sent


@pytest.mark.parametrize("name", SUBJECTS)
def test_outcome_survives_pickling_and_json(bench, name):
    outcome = bench.evaluate(task(bench.spec, SUBJECTS[name], has_intervals=True))
    assert pickle.loads(pickle.dumps(outcome)) == outcome
    assert outcome_from_json(json.loads(json.dumps(outcome_to_json(outcome)))) == outcome


def test_timed_outcome_survives_json(bench):
    outcome = bench.evaluate(task(bench.spec, Strategy(), is_timed=True))
    assert outcome_from_json(json.loads(json.dumps(outcome_to_json(outcome)))) == outcome


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainedExecutor]:
    """Yield a worker process."""
    executor = ContainedExecutor(tmp_path_factory.mktemp("worker"))
    yield executor
    executor.close()


@pytest.mark.parametrize("name", SUBJECTS)
def test_child_process_gives_the_same_outcome(bench, child, tmp_path, name):
    here = bench.evaluate(task(bench.spec, SUBJECTS[name]))
    elsewhere = dataclasses.replace(bench.spec, model_dir=str(tmp_path))  # so that the child quantizes for itself
    there = child.submit([task(elsewhere, SUBJECTS[name])])[0]
    if isinstance(here, Failure):
        assert there == here
    else:
        assert (there.graph_digest, there.outputs_digest) == (here.graph_digest, here.outputs_digest)
        assert (there.divergence, there.metrics, there.n_items) == (here.divergence, here.metrics, here.n_items)


def test_one_bench_stays_open_until_another_is_asked_for(bench, tmp_path):
    other = dataclasses.replace(bench.spec, model_dir=str(tmp_path))
    opened = open_bench(bench.spec)
    assert open_bench(bench.spec) is opened
    assert open_bench(other) is not opened
    assert open_bench(bench.spec) is not opened


# Several at once: equal models, equal kernels, races, screening


def rules(max_drop: float, max_divergence: float | None = None) -> Rules:
    metrics = (MetricSpec(name="accuracy", max_drop=Drop(amount=max_drop)),)
    return Rules(objective=Objective(), metrics=metrics, metric_directions=("maximize",), max_divergence=max_divergence)


@pytest.fixture(scope="module")
def long_bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """Return a bench with enough validation items for races."""
    case = small.conv_case(tmp_path_factory.mktemp("long"), n_items=900)
    return Workbench(bench_spec(*case, tmp_path_factory.mktemp("models")))


HOPELESS = Strategy(activations_range_estimator="MEAN_QUANTILE", subset_size=10)


def test_equal_models_are_evaluated_once(long_bench):
    twins = [
        Strategy(subset_size=12, overflow_fix="disable"),
        Strategy(subset_size=12, overflow_fix="enable", target_device="GPU"),
    ]
    built = [runtime.graph_digest(runtime.read_model(long_bench.build(strategy))) for strategy in twins]
    first, second = long_bench.evaluate_all([task(long_bench.spec, strategy) for strategy in twins])
    assert first.same_as is None
    assert (second.same_as == twins[0].digest) == (built[0] == built[1])
    again = long_bench.evaluate(task(long_bench.spec, twins[0]))
    assert dataclasses.replace(again, seconds={}) == dataclasses.replace(first, seconds={})


def test_equal_kernels_are_timed_once(long_bench, monkeypatch):
    timed = []
    measured = Workbench._time
    monkeypatch.setattr(Workbench, "_time", lambda self, models, plan: timed.append(len(models)) or measured(self, models, plan))
    strategies = [Strategy(subset_size=n) for n in (5, 15, 25)]
    outcomes = long_bench.evaluate_all([task(long_bench.spec, s, is_timed=True) for s in strategies])
    assert len({outcome.structure for outcome in outcomes}) == 1
    assert timed == [2]  # the baseline and one of the three
    assert outcomes[0].latency == outcomes[1].latency == outcomes[2].latency
    other = long_bench.evaluate(task(long_bench.spec, Strategy(ignored_scope=ScopeSelector(types=("MatMul",))), is_timed=True))
    assert other.structure != outcomes[0].structure
    assert timed == [2, 2]


def test_new_kernels_share_one_round(long_bench, monkeypatch):
    timed = []
    measured = Workbench._time
    monkeypatch.setattr(Workbench, "_time", lambda self, models, plan: timed.append(len(models)) or measured(self, models, plan))
    scopes = [ScopeSelector(types=("GroupConvolution",)), ScopeSelector(roles=("first_convolution",))]
    long_bench.evaluate_all([task(long_bench.spec, Strategy(ignored_scope=scope), is_timed=True) for scope in scopes])
    assert timed == [3]


def test_a_candidate_that_breaks_its_limit_is_stopped_with_a_bound_and_is_infeasible(long_bench):
    strict = rules(0.5, max_divergence=1e-6)
    outcome = long_bench.evaluate(task(long_bench.spec, HOPELESS, is_timed=True, race=Race(rules=strict)))
    assert outcome.raced.reason == "limit"
    assert outcome.raced.name == "divergence"
    assert outcome.raced.bound > outcome.raced.limit == 1e-6
    assert outcome.n_items < outcome.raced.n_items == len(long_bench.samples.items("validation"))
    assert strict.violation(outcome) > 0


def test_a_candidate_within_its_limits_is_run_on_all_items(long_bench):
    outcome = long_bench.evaluate(task(long_bench.spec, Strategy(subset_size=20), is_timed=True, race=Race(rules=rules(0.9))))
    assert outcome.raced is None
    assert outcome.n_items == len(long_bench.samples.items("validation"))


def test_a_candidate_that_is_worse_than_a_rival_and_no_faster_is_stopped(long_bench):
    goal = rules(0.9)
    rival = Rival(digest="other", divergence=1e-7, ratio=0.0)
    worse = Strategy(subset_size=21, preset="mixed")
    outcome = long_bench.evaluate(task(long_bench.spec, worse, is_timed=True, race=Race(rules=goal, rivals=(rival,))))
    assert outcome.raced.reason == "dominated"
    assert goal.violation(outcome) > 0
    slow = Rival(digest="other", divergence=1e-7, ratio=1e9)
    kept = Strategy(subset_size=22, preset="mixed")
    assert long_bench.evaluate(task(long_bench.spec, kept, is_timed=True, race=Race(rules=goal, rivals=(slow,)))).raced is None


def test_the_holdout_is_never_raced(long_bench):
    race = Race(rules=rules(0.5, max_divergence=1e-6))
    outcome = long_bench.evaluate(task(long_bench.spec, HOPELESS, split="holdout", race=race))
    assert outcome.raced is None


def test_accurate_bias_correction_is_not_run_where_the_fast_one_is_hopeless(long_bench, monkeypatch):
    built = []
    build = Workbench.build
    monkeypatch.setattr(Workbench, "build", lambda self, subject: built.append(subject) or build(self, subject))
    accurate = dataclasses.replace(HOPELESS, fast_bias_correction=False)
    race = Race(rules=rules(0.5, max_divergence=1e-6))
    outcome = long_bench.evaluate(task(long_bench.spec, accurate, is_timed=True, race=race))
    assert outcome.raced.reason == "screened"
    assert race.rules.violation(outcome) > 0
    assert built == [HOPELESS]


def test_accurate_bias_correction_is_run_where_the_fast_one_is_not(long_bench, monkeypatch):
    accurate = Strategy(subset_size=10, fast_bias_correction=False)
    outcome = long_bench.evaluate(task(long_bench.spec, accurate, is_timed=True, race=Race(rules=rules(0.9))))
    assert outcome.raced is None
    path = long_bench.build(accurate)
    assert runtime.graph_digest(runtime.read_model(path)) == outcome.graph_digest


def test_what_is_not_raced_is_run_on_all_items_though_its_accurate_twin_was_screened_beside_it(long_bench):
    default = dataclasses.replace(HOPELESS, subset_size=11)
    accurate = dataclasses.replace(default, fast_bias_correction=False)
    race = Race(rules=rules(0.5, max_divergence=1e-6))
    told = {}
    tasks = [task(long_bench.spec, default, is_timed=True), task(long_bench.spec, accurate, is_timed=True, race=race)]
    whole, screened = long_bench.evaluate_all(tasks, told.__setitem__)
    assert screened.raced.reason == "screened"
    assert whole.raced is None
    assert whole.n_items == len(long_bench.samples.items("validation"))
    assert told == {0: whole, 1: screened}


def test_one_failing_candidate_leaves_the_others_alone(long_bench):
    good, bad = Strategy(subset_size=9), dataclasses.replace(NOTHING, subset_size=9)
    outcomes = long_bench.evaluate_all([task(long_bench.spec, s, is_timed=True) for s in (bad, good, EVERYTHING)])
    assert [isinstance(outcome, Failure) for outcome in outcomes] == [True, False, True]


def test_many_large_models_are_not_open_at_once(long_bench, monkeypatch):
    monkeypatch.setattr("ovquant.evaluation._COMPILED_BYTES", 1)
    timed = []
    measured = Workbench._time
    monkeypatch.setattr(Workbench, "_time", lambda self, models, plan: timed.append(len(models)) or measured(self, models, plan))
    scopes = [ScopeSelector(roles=("last_matmul",)), ScopeSelector(types=("Convolution",))]
    strategies = [Strategy(ignored_scope=scope, subset_size=8, preset="mixed") for scope in scopes]
    outcomes = long_bench.evaluate_all([task(long_bench.spec, s, is_timed=True) for s in strategies])
    assert len(outcomes) == 2
    assert set(timed) == {2}
