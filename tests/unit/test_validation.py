"""The validator: outputs in order, a quicker compilation only where it changes nothing, racing block by block."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import children
import numpy as np
import pytest
import small
from fakes.clock import ScriptedClock
from hypothesis import given
from hypothesis import strategies as st

from ovquant import racing, runtime, validation
from ovquant.errors import DataError, ModelError
from ovquant.inference import CompiledModel
from ovquant.job import OutputKind
from ovquant.metrics import divergence
from ovquant.protocols import Array, Outputs, Sample
from ovquant.racing import Constraint
from ovquant.validation import Columns, Reference, Validator

N_ITEMS, N_CLASSES = 240, 4
LOOKS = racing.blocks(N_ITEMS)
Answer = Callable[[int], dict[str, Array]]


class FakeSamples:
    """Items of which the only input is their number; items of the validation split come in a shuffled order."""

    def __init__(self, n_items: int = N_ITEMS, labels: Sequence[Any] | None = None) -> None:
        self._places = np.random.default_rng(0).permutation(n_items)
        self._labels = labels

    def items(self, split: str) -> tuple[tuple[str, int], ...]:
        return tuple(("main", int(place)) for place in (self._places if split == "validation" else sorted(self._places)))

    def sample(self, item: tuple[str, int]) -> Sample:
        return {"x": np.array([[item[1]]])}

    def labels(self, split: str) -> list[Any] | None:
        return None if self._labels is None else [self._labels[index] for _, index in self.items(split)]

    def name_of(self, item: tuple[str, int]) -> str:
        return f"data.npz[{item[1]}]"


class FakeModel:
    """Gives what `answer` says for an item's number."""

    def __init__(self, answer: Answer, compile_s: float = 0.0) -> None:
        self._answer = answer
        self.compile_s = compile_s
        self.seen: list[int] = []

    def infer_many(self, samples: Iterable[Sample]) -> Iterator[dict[str, Array]]:
        for sample in samples:
            self.seen.append(int(sample["x"].item()))
            yield self._answer(self.seen[-1])


class Accuracy:
    """The share of items whose highest score is that of the label."""

    name = "accuracy"
    direction = "maximize"
    truth = "labels"
    column = None

    def per_item(self, outputs: Outputs, labels: Sequence[Any]) -> np.ndarray | None:
        return np.array([float(array.argmax() == label) for array, label in zip(outputs["y"], labels, strict=True)])

    def value(self, outputs: Outputs, labels: Sequence[Any]) -> float:
        raise AssertionError("it has scores per item")


def right(index: int) -> dict[str, Array]:
    """Return scores by which the label of an item is its number modulo the classes."""
    scores = np.random.default_rng(index).normal(size=(1, N_CLASSES)).astype(np.float32)
    scores[0, index % N_CLASSES] += 20
    return {"y": scores}


def noisy(scale: float, share_wrong: float = 0.0) -> Answer:
    """Return answers that differ from the right ones by that much, some of them wrong."""

    def answer(index: int) -> dict[str, Array]:
        rng = np.random.default_rng([index, 1])
        scores = right(index)["y"] + (scale * rng.normal(size=(1, N_CLASSES))).astype(np.float32)
        return {"y": np.roll(scores, 1) if rng.random() < share_wrong else scores}

    return answer


LABELS = [index % N_CLASSES for index in range(N_ITEMS)]
KINDS: dict[str, OutputKind] = {"y": "logits"}


@pytest.fixture
def validator(tmp_path: Path) -> Validator:
    return Validator(FakeSamples(labels=LABELS), [Accuracy()], ["y"], tmp_path / "references")


@pytest.fixture
def reference(validator: Validator) -> Reference:
    return validator.refer(FakeModel(right), "validation", "", "made")


def drop_limit(reference: Reference, limit: float) -> Constraint:
    return Constraint(name="0", kind="drop", limit=limit, other=reference.items[0], direction="maximize")


def divergence_limit(limit: float) -> Constraint:
    return Constraint(name="divergence", kind="divergence", limit=limit)


def in_order(split: str = "validation", n_items: int = N_ITEMS) -> list[int]:
    return [index for _, index in FakeSamples(n_items).items(split)]


def assert_same(found: Columns, expected: Mapping[str, Sequence[Array]]) -> None:
    assert list(found) == list(expected)
    for name, column in found.items():
        theirs = expected[name]
        assert [(array.dtype, array.shape) for array in column] == [(array.dtype, array.shape) for array in theirs]
        assert [np.asarray(array).tobytes() for array in column] == [np.asarray(array).tobytes() for array in theirs]


# Outputs of real models


class ArraySamples(FakeSamples):
    """Items of arrays."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        super().__init__(len(samples))
        self._samples = samples

    def sample(self, item: tuple[str, int]) -> Sample:
        return self._samples[item[1]]


def convolutional(folder: Path) -> tuple[Path, list[Sample]]:
    pixels = small.normalized(small.images(150))
    return small.conv_model(folder / "conv.onnx"), [{"image": item[np.newaxis]} for item in pixels]


def of_several_lengths(folder: Path) -> tuple[Path, list[Sample]]:
    rng = np.random.default_rng(0)
    samples = [{"tokens": rng.normal(size=(1, 2 + index % 3, 16)).astype(np.float32)} for index in range(110)]
    return small.attention_model(folder / "attention.onnx"), samples


def with_two_outputs(folder: Path) -> tuple[Path, list[Sample]]:
    rng = np.random.default_rng(0)
    shapes = {"frames": (1, 5, 6), "facts": (1, 4)}
    samples = [{name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(110)]
    return small.recurrent_model(folder / "recurrent.onnx"), samples


REAL = {"convolutional": convolutional, "several lengths": of_several_lengths, "two outputs": with_two_outputs}
QUICK = {"PERFORMANCE_HINT": "THROUGHPUT"}


@pytest.mark.parametrize("properties", [{"PERFORMANCE_HINT": "LATENCY"}, QUICK, {}], ids=["latency", "throughput", "default"])
@pytest.mark.parametrize("name", REAL)
def test_outputs_come_in_item_order_and_equal_those_of_single_runs_bit_for_bit(tmp_path, name, properties):
    path, samples = REAL[name](tmp_path)
    model = runtime.read_model(path)
    names = runtime.output_names(model)
    checked = Validator(ArraySamples(samples), [], names, tmp_path)
    compiled = CompiledModel(model, "CPU", properties, "f32")
    alone = CompiledModel(model, "CPU", properties, "f32")
    found = checked.refer(compiled, "validation", "", "made")
    singly = [alone.infer(samples[index]) for index in in_order(n_items=len(samples))]
    assert_same(found.outputs, {output: [results[output] for results in singly] for output in names})
    again = checked.validate(compiled, None, "validation", found, dict.fromkeys(names, "values"))
    assert_same(again.outputs, found.outputs)
    assert again.divergences.tolist() == [0.0] * len(samples)


def test_outputs_after_a_change_to_throughput_equal_those_of_single_runs_bit_for_bit(tmp_path):
    path, samples = convolutional(tmp_path)
    model = runtime.read_model(path)
    checked = Validator(ArraySamples(samples), [], ["logits"], tmp_path)
    compiled = CompiledModel(model, "CPU", {"PERFORMANCE_HINT": "LATENCY"}, "f32")
    compiled.compile_s = 0.0
    made = []

    def recompile() -> CompiledModel:
        made.append(CompiledModel(model, "CPU", QUICK, "f32"))
        return made[-1]

    reference = checked.refer(compiled, "validation", "", "made")
    found = checked.validate(compiled, recompile, "validation", reference, {"logits": "logits"})
    assert len(made) == 1
    assert_same(found.outputs, {"logits": [compiled.infer(samples[index])["logits"] for index in in_order(n_items=150)]})


def of_one_length(folder: Path) -> tuple[Path, list[Sample]]:
    path, samples = of_several_lengths(folder)
    return path, samples[2::3]


@pytest.mark.parametrize("make", [convolutional, of_one_length, with_two_outputs])
def test_running_a_model_writes_to_no_array_that_it_was_not_given_for_it(tmp_path, make):
    """In a process of its own, as it may end with a crash."""
    assert children.in_another_process(children.arrays_written_to, *make(tmp_path)) == 0


def test_sample_that_the_model_cannot_be_run_on_is_a_model_error(tmp_path):
    path, samples = convolutional(tmp_path)
    samples[7] = {"image": np.zeros((1, 4, 9, 9), np.float32)}
    compiled = CompiledModel(runtime.read_model(path), "CPU", {}, "f32")
    with pytest.raises(ModelError, match="inference failed"):
        Validator(ArraySamples(samples), [], ["logits"], tmp_path).refer(compiled, "validation", "", "made")


# The order of items


@pytest.mark.parametrize("split", ["validation", "holdout"])
def test_items_are_run_in_the_order_of_their_split(validator, split):
    model = FakeModel(right)
    found = validator.refer(model, split, "", "made")
    assert model.seen == in_order(split)
    assert_same(found.outputs, {"y": [right(index)["y"] for index in in_order(split)]})
    assert found.values == (1.0,)


# A second compilation


@dataclasses.dataclass
class Shop:
    """Gives a model when it is asked to compile."""

    model: FakeModel
    n_asked: int = 0

    def __call__(self) -> FakeModel:
        self.n_asked += 1
        return self.model


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ScriptedClock:
    scripted = ScriptedClock()
    monkeypatch.setattr(validation.time, "perf_counter", scripted.now)
    return scripted


def taking(clock: ScriptedClock, seconds: float, answer: Answer = right) -> Answer:
    """Return answers that take so long."""

    def answer_later(index: int) -> dict[str, Array]:
        clock.advance(seconds)
        return answer(index)

    return answer_later


N_FIRST = LOOKS[0]


@pytest.mark.parametrize(("compile_s", "n_expected"), [(43.0, 1), (45.0, 0)], ids=["a fourth of what is left", "more"])
def test_model_is_compiled_again_where_what_is_left_takes_four_times_as_long(validator, reference, clock, compile_s, n_expected):
    assert 4 * 43 < N_ITEMS - N_FIRST < 4 * 45
    shop = Shop(FakeModel(right))
    validator.validate(FakeModel(taking(clock, 1.0), compile_s), shop, "validation", reference, KINDS)
    assert shop.n_asked == n_expected


def test_quick_model_runs_what_is_left_where_its_outputs_are_equal(validator, reference, clock):
    deployed, quick = FakeModel(taking(clock, 1.0)), FakeModel(right)
    found = validator.validate(deployed, Shop(quick), "validation", reference, KINDS)
    n_checked = len(quick.seen) - (N_ITEMS - N_FIRST)
    assert 0 < n_checked <= N_FIRST
    assert deployed.seen == in_order()[:N_FIRST]
    assert quick.seen == in_order()[:n_checked] + in_order()[N_FIRST:]
    assert_same(found.outputs, reference.outputs)


def by_a_last_bit(index: int) -> dict[str, Array]:
    return {"y": np.nextafter(right(index)["y"], np.float32(np.inf))}


@pytest.mark.parametrize("constraints", [(), (divergence_limit(10.0),)], ids=["at once", "in blocks"])
def test_quick_model_whose_outputs_differ_is_not_used(validator, reference, clock, constraints):
    deployed, quick = FakeModel(taking(clock, 1.0)), FakeModel(by_a_last_bit)
    found = validator.validate(deployed, Shop(quick), "validation", reference, KINDS, constraints)
    assert 0 < len(quick.seen) < N_FIRST
    assert deployed.seen == in_order()
    assert_same(found.outputs, reference.outputs)


def test_quick_model_whose_outputs_are_not_finite_is_not_used(validator, reference, clock):
    deployed, quick = FakeModel(taking(clock, 1.0)), FakeModel(lambda index: {"y": right(index)["y"] * np.float32(np.nan)})
    found = validator.validate(deployed, Shop(quick), "validation", reference, KINDS)
    assert_same(found.outputs, reference.outputs)


def test_model_that_cannot_be_compiled_again_is_run_as_it_is(validator, reference, clock):
    def fail() -> FakeModel:
        raise ModelError("cannot be compiled for CPU: out of memory")

    found = validator.validate(FakeModel(taking(clock, 1.0)), fail, "validation", reference, KINDS)
    assert_same(found.outputs, reference.outputs)


def test_model_is_not_compiled_again_for_a_few_items(tmp_path, clock):
    n_few = 90
    few = Validator(FakeSamples(n_few), [], ["y"], tmp_path)
    reference = few.refer(FakeModel(right), "validation", "", "made")
    shop = Shop(FakeModel(right))
    found = few.validate(FakeModel(taking(clock, 1.0)), shop, "validation", reference, KINDS)
    assert shop.n_asked == 0
    assert len(found.divergences) == n_few


def test_candidate_that_is_stopped_at_the_first_look_is_not_compiled_again(validator, reference, clock):
    deployed, shop = FakeModel(taking(clock, 1.0, noisy(0.1, share_wrong=1.0))), Shop(FakeModel(right))
    found = validator.validate(deployed, shop, "validation", reference, KINDS, [drop_limit(reference, 0.01)])
    assert found.stop is not None
    assert (shop.n_asked, deployed.seen) == (0, in_order()[:N_FIRST])


class SlowMetric(Accuracy):
    """Takes as long as everything else together."""

    def __init__(self, clock: ScriptedClock) -> None:
        self._clock = clock

    def per_item(self, outputs: Outputs, labels: Sequence[Any]) -> np.ndarray | None:
        self._clock.advance(1000.0)
        return super().per_item(outputs, labels)


def test_time_that_scores_take_does_not_count_as_the_models(tmp_path, clock):
    slow = Validator(FakeSamples(labels=LABELS), [SlowMetric(clock)], ["y"], tmp_path)
    reference = slow.refer(FakeModel(right), "validation", "", "made")
    shop = Shop(FakeModel(right))
    slow.validate(FakeModel(taking(clock, 0.01), 1.0), shop, "validation", reference, KINDS, [drop_limit(reference, 0.5)])
    assert shop.n_asked == 0


# Outputs that are not finite


def spoilt(bad: int, value: float) -> Answer:
    def answer(index: int) -> dict[str, Array]:
        outputs = right(index)
        if index == bad:
            outputs["y"][0, 2] = value
        return outputs

    return answer


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, N_FIRST, N_ITEMS - 1])
def test_output_that_is_not_finite_is_told_with_the_items_name(validator, reference, value, place):
    bad = in_order()[place]
    told = rf"^m\.xml: output 'y' holds NaN or infinity on data\.npz\[{bad}\]$"
    with pytest.raises(ModelError, match=told):
        validator.validate(FakeModel(spoilt(bad, value)), None, "validation", reference, KINDS, what="m.xml: ")
    with pytest.raises(ModelError, match=told):
        validator.refer(FakeModel(spoilt(bad, value)), "validation", "m.xml: ", "of another")


def test_items_behind_the_one_that_is_not_finite_are_not_scored(validator, reference):
    model = FakeModel(spoilt(in_order()[5], np.nan))
    with pytest.raises(ModelError):
        validator.validate(model, None, "validation", reference, KINDS, [divergence_limit(1.0)])
    assert model.seen == in_order()[:6]


def test_whole_numbers_are_finite(tmp_path):
    counted = Validator(FakeSamples(4), [], ["n"], tmp_path)
    found = counted.refer(FakeModel(lambda index: {"n": np.array([index])}), "validation", "", "made")
    assert [int(array[0]) for array in found.outputs["n"]] == in_order(n_items=4)


# Racing


def judged(constraints: Sequence[Constraint], values: Mapping[str, np.ndarray]) -> racing.Stop | None:
    """Return the first stop of a race by its looks."""
    for look in LOOKS:
        stop = racing.judge(N_ITEMS, {name: column[:look] for name, column in values.items()}, constraints)
        if stop is not None:
            return stop
    return None


HOPELESS = {
    "all wrong": noisy(0.1, share_wrong=1.0),
    "half wrong": noisy(0.1, share_wrong=0.5),
    "far off": noisy(30.0),
    "some wrong": noisy(0.1, share_wrong=0.02),
}


@pytest.mark.parametrize("name", HOPELESS)
def test_hopeless_candidate_is_stopped_at_a_look_as_racing_says(validator, reference, name):
    answer = HOPELESS[name]
    constraints = [drop_limit(reference, 0.01), divergence_limit(1e3 if "wrong" in name else 0.1)]
    model = FakeModel(answer)
    found = validator.validate(model, None, "validation", reference, KINDS, constraints)
    every = validator.validate(FakeModel(answer), None, "validation", reference, KINDS)
    scores = Accuracy().per_item(every.outputs, [LABELS[index] for index in in_order()])
    assert found.stop is not None
    assert found.stop == judged(constraints, {"0": scores, "divergence": every.divergences})
    assert found.stop.n_seen == len(found.divergences) == len(found.outputs["y"]) == len(model.seen)
    assert found.stop.n_seen in LOOKS[:-1]
    assert found.divergences == pytest.approx(every.divergences[: found.stop.n_seen], rel=1e-12)


def test_worse_candidates_are_stopped_sooner(validator, reference):
    constraints = [drop_limit(reference, 0.01)]
    looks = []
    for share_wrong in (1.0, 0.02):
        model = FakeModel(noisy(0.1, share_wrong=share_wrong))
        looks.append(validator.validate(model, None, "validation", reference, KINDS, constraints).stop.n_seen)
    assert looks[0] == N_FIRST < looks[1]


def test_candidate_that_is_dominated_is_stopped(validator, reference):
    better = validator.validate(FakeModel(noisy(1.0)), None, "validation", reference, KINDS).divergences
    rival = Constraint(name="rival", kind="rival", limit=float(better.mean()), other=better)
    found = validator.validate(FakeModel(noisy(30.0)), None, "validation", reference, KINDS, [rival])
    assert found.stop is not None
    assert (found.stop.reason, found.stop.name) == ("dominated", "rival")


@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0])
def test_good_candidate_is_run_to_the_end(validator, reference, scale):
    every = validator.validate(FakeModel(noisy(scale)), None, "validation", reference, KINDS)
    mean = float(every.divergences.mean())
    rival = Constraint(name="rival", kind="rival", limit=mean * 1.01, other=every.divergences)
    constraints = [drop_limit(reference, 0.01), divergence_limit(mean * 1.01 + 1e-9), rival]
    found = validator.validate(FakeModel(noisy(scale)), None, "validation", reference, KINDS, constraints)
    assert found.stop is None
    assert len(found.divergences) == N_ITEMS
    assert_same(found.outputs, every.outputs)


def test_candidate_that_is_bad_only_at_the_end_is_run_to_the_end(validator, reference):
    """There is no look at all of the items: its values tell by themselves."""
    last = set(in_order()[LOOKS[-2] :])
    found = validator.validate(
        FakeModel(lambda index: noisy(30.0)(index) if index in last else right(index)),
        None,
        "validation",
        reference,
        KINDS,
        [divergence_limit(1e-6)],
    )
    assert found.stop is None
    assert found.divergences.mean() > 1e-6


def test_hopeless_candidate_without_constraints_is_run_to_the_end(validator, reference):
    found = validator.validate(FakeModel(noisy(30.0, 1.0)), None, "validation", reference, KINDS)
    assert found.stop is None
    assert len(found.divergences) == N_ITEMS


class Forgetful(Accuracy):
    """Has scores per item at first."""

    def __init__(self) -> None:
        self.is_new = True

    def per_item(self, outputs: Outputs, labels: Sequence[Any]) -> np.ndarray | None:
        scores, self.is_new = super().per_item(outputs, labels) if self.is_new else None, False
        return scores


def test_metric_that_has_no_scores_any_more_is_a_data_error(tmp_path):
    unsteady = Validator(FakeSamples(labels=LABELS), [Forgetful()], ["y"], tmp_path)
    reference = unsteady.refer(FakeModel(right), "validation", "", "made")
    with pytest.raises(DataError, match="'accuracy' gave scores per item before, now none"):
        unsteady.validate(FakeModel(right), None, "validation", reference, KINDS, [drop_limit(reference, 0.01)])


def test_metrics_of_a_stopped_candidate_are_those_of_the_items_it_was_run_on(validator, reference):
    answer = noisy(0.1, share_wrong=0.5)
    constraints = [drop_limit(reference, 0.01)]
    found = validator.validate(FakeModel(answer), None, "validation", reference, KINDS, constraints)
    n_seen = len(found.divergences)
    assert n_seen < N_ITEMS
    (result,) = validator.results(found.outputs, reference, "validation", has_intervals=False)
    hits = [answer(index)["y"].argmax() == LABELS[index] for index in in_order()[:n_seen]]
    assert result.value == pytest.approx(np.mean(hits))
    assert result.drop.value == pytest.approx(1 - np.mean(hits))
    assert result.drop.low <= result.drop.value <= result.drop.high


# Divergences block by block


def three_outputs(scale: float, *, is_ragged: bool) -> Answer:
    """Return one output of each kind; where ragged, the values have another length in every item."""

    def answer(index: int) -> dict[str, Array]:
        rng, noise = np.random.default_rng(index), np.random.default_rng([index, 2])
        raw = rng.normal(size=(1, 5)) + scale * noise.normal(size=(1, 5))
        shares = np.exp(rng.normal(size=(1, 3, 6)) + scale * noise.normal(size=(1, 3, 6)))
        length = 1 + index % 4 if is_ragged else 4
        field = rng.normal(size=(1, length)) * (1 + index) + scale * noise.normal(size=(1, length))
        outputs = {"logits": raw, "shares": shares / shares.sum(axis=-1, keepdims=True), "field": field}
        return {name: array.astype(np.float32) for name, array in outputs.items()}

    return answer


THREE: dict[str, OutputKind] = {"logits": "logits", "shares": "probabilities", "field": "values"}


@pytest.mark.parametrize("is_ragged", [False, True], ids=["of one shape", "of several shapes"])
@pytest.mark.parametrize("kinds", [THREE, *({name: kind} for name, kind in THREE.items())], ids="+".join)
def test_divergences_block_by_block_equal_those_at_once(tmp_path, kinds, is_ragged):
    several = Validator(FakeSamples(), [], list(THREE), tmp_path)
    reference = several.refer(FakeModel(three_outputs(0.0, is_ragged=is_ragged)), "validation", "", "made")
    model = FakeModel(three_outputs(0.3, is_ragged=is_ragged))
    found = several.validate(model, None, "validation", reference, kinds, [divergence_limit(1e9)])
    assert found.stop is None
    assert (found.divergences > 0).all()
    at_once = divergence.per_item(reference.outputs, found.outputs, kinds)
    assert found.divergences == pytest.approx(at_once, rel=1e-9)


@given(st.integers(1, 300))
def test_every_number_of_items_is_run_once_each(n_items):
    model = FakeModel(right)
    with tempfile.TemporaryDirectory() as folder:
        any_number = Validator(FakeSamples(n_items), [], ["y"], Path(folder))
        reference = any_number.refer(model, "validation", "", "made")
        found = any_number.validate(FakeModel(right), None, "validation", reference, KINDS, [divergence_limit(1.0)])
    assert model.seen == in_order(n_items=n_items)
    assert found.divergences.tolist() == [0.0] * n_items


# What is kept of the reference


@pytest.mark.parametrize("is_ragged", [False, True], ids=["of one shape", "of several shapes"])
def test_another_validator_takes_over_what_was_kept(tmp_path, is_ragged):
    answer = three_outputs(0.0, is_ragged=is_ragged)
    asked: list[int] = []

    def counted(index: int):
        asked.append(index)
        return answer(index)

    found = []
    for _ in range(2):
        several = Validator(FakeSamples(), [], list(THREE), tmp_path / "references")
        found.append(several.refer(FakeModel(counted), "validation", "", "made"))
    assert_same(found[0].outputs, found[1].outputs)
    n_items = len(in_order())
    assert len(asked) == (2 * n_items if is_ragged else n_items)  # outputs of several shapes are computed again
    validated = [
        several.validate(FakeModel(three_outputs(0.3, is_ragged=is_ragged)), None, "validation", one, THREE).divergences.tolist()
        for one in found
    ]
    assert validated[0] == validated[1]


def test_what_was_kept_of_something_else_is_not_taken(validator):
    first = validator.refer(FakeModel(right), "validation", "", "made")
    other = validator.refer(FakeModel(lambda index: {"y": right(index)["y"] + 1}), "validation", "", "made of something else")
    assert not np.array_equal(first.outputs["y"][0], other.outputs["y"][0])


def test_a_torn_file_is_computed_again(validator, tmp_path):
    validator.refer(FakeModel(right), "validation", "", "made")
    (kept,) = (tmp_path / "references").glob("*.npy")
    torn = kept.read_bytes()[:-8]
    kept.unlink()
    kept.write_bytes(torn)
    again = validator.refer(FakeModel(right), "validation", "", "made")
    assert_same(again.outputs, {"y": [right(index)["y"] for index in in_order()]})


def test_references_of_both_splits_are_kept_side_by_side(validator):
    found = {split: validator.refer(FakeModel(right), split, "", "made") for split in ("validation", "holdout")}
    for split, reference in found.items():
        assert_same(reference.outputs, {"y": [right(index)["y"] for index in in_order(split)]})
        assert reference.values == (1.0,)
