"""The builder: ahead in a thread, in order, never while something is timed; every test ends, whatever hangs."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import small

from ovquant import building, quantization, runtime
from ovquant.building import Builder
from ovquant.errors import ModelError
from ovquant.selectors import ScopeSelector
from ovquant.strategy import Strategy

T = TypeVar("T")
WAIT_S = 20.0  # for what happens in any case
SHORT_S = 0.2  # for what should not happen
STRATEGIES = [Strategy(subset_size=size) for size in range(1, 9)]
A, B, C, D, E, F, *_ = STRATEGIES


class Workshop:
    """What the quantizers of one test have in common: what they did in order, where they wait, and what fails."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.begun: list[Strategy] = []
        self.ended: list[Strategy] = []
        self.prepared: list[list[Strategy]] = []
        self.n_at_work = self.n_most_at_work = 0
        self.threads: dict[Strategy, str] = {}
        self.errors: dict[Strategy, Exception] = {}
        self.gates: dict[Strategy, threading.Event] = {}
        self.empty: set[Strategy] = set()

    def hold(self, strategy: Strategy) -> threading.Event:
        """Let the next making of a strategy wait for the event."""
        self.gates[strategy] = threading.Event()
        return self.gates[strategy]

    def wait_for(self, condition: Callable[[], bool], seconds: float = WAIT_S) -> bool:
        with self.changed:
            return self.changed.wait_for(condition, seconds)

    def wait_begun(self, strategy: Strategy) -> None:
        assert self.wait_for(lambda: strategy in self.begun)

    def wait_ended(self, *strategies: Strategy) -> None:
        assert self.wait_for(lambda: set(strategies) <= set(self.ended))

    def free(self) -> None:
        for gate in self.gates.values():
            gate.set()


class FakeQuantizer:
    """Makes a strategy of a strategy."""

    fallback = None
    n_passes = 3
    workshop: Workshop

    def __init__(self, *arguments: object) -> None:
        pass

    def prepare(self, strategies: Iterable[Strategy]) -> None:
        self.workshop.prepared.append(list(strategies))

    def quantize(self, strategy: Strategy) -> Strategy:
        shop = self.workshop
        with shop.changed:
            shop.begun.append(strategy)
            shop.threads[strategy] = threading.current_thread().name
            shop.n_at_work += 1
            shop.n_most_at_work = max(shop.n_most_at_work, shop.n_at_work)
            shop.changed.notify_all()
        if strategy in shop.gates:
            shop.gates[strategy].wait(WAIT_S)
        with shop.changed:
            shop.ended.append(strategy)
            shop.n_at_work -= 1
            shop.changed.notify_all()
        if strategy in shop.errors:
            raise shop.errors[strategy]
        return strategy


@pytest.fixture
def workshop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Workshop]:
    shop = Workshop()
    monkeypatch.setattr(FakeQuantizer, "workshop", shop, raising=False)
    monkeypatch.setattr(building, "SharedQuantizer", FakeQuantizer)
    monkeypatch.setattr(building.runtime, "count_fake_quantize", lambda model: 0 if model in shop.empty else 1)
    monkeypatch.setattr(building.runtime, "save_model", save)
    yield shop
    shop.free()


def save(model: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".bin").write_bytes(bytes(100))
    path.write_text(repr(model))


@pytest.fixture
def builder(workshop: Workshop, tmp_path: Path) -> Iterator[Builder]:
    made = Builder(None, [], [], tmp_path / "models")
    yield made
    workshop.free()
    made.close()


def begin(work: Callable[[], T]) -> Future[T]:
    """Run something in a thread of its own, so that it may hang."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def in_time(work: Callable[[], T]) -> T:
    return begin(work).result(WAIT_S / 2)


# In the thread


def test_announced_strategies_are_built_in_order(builder, workshop):
    builder.announce([C, A, D, B])
    workshop.wait_ended(A, B, C, D)
    assert workshop.begun == [C, A, D, B]
    assert set(workshop.threads.values()) == {"ovquant-builder"}


def test_all_announced_strategies_are_prepared_together_before_the_first_is_made(builder, workshop):
    gate = workshop.hold(A)
    builder.announce([A, B, C])
    workshop.wait_begun(A)
    assert workshop.prepared == [[A, B, C]]
    gate.set()
    workshop.wait_ended(B, C)
    assert [one for one in workshop.prepared if one] == [[A, B, C]]


def test_build_waits_for_what_is_being_made(builder, workshop):
    gate = workshop.hold(A)
    builder.announce([A])
    workshop.wait_begun(A)
    path = begin(lambda: builder.build(A))
    with pytest.raises(TimeoutError):
        path.result(SHORT_S)
    gate.set()
    assert path.result(WAIT_S) == builder.path(A)
    assert workshop.begun == [A]


def test_build_waits_for_what_is_announced_and_not_begun(builder, workshop):
    gate = workshop.hold(A)
    builder.announce([A, B])
    workshop.wait_begun(A)
    path = begin(lambda: builder.build(B))
    gate.set()
    assert path.result(WAIT_S) == builder.path(B)
    assert workshop.begun == [A, B]


def test_built_file_holds_the_strategys_model(builder):
    builder.announce([A, B])
    for strategy in (A, B):
        assert in_time(lambda strategy=strategy: builder.build(strategy)).read_text() == repr(strategy)


def test_what_is_built_is_not_made_again(builder, workshop):
    builder.announce([A])
    for _ in range(3):
        in_time(lambda: builder.build(A))
    builder.announce([A])
    in_time(lambda: builder.build(A))
    assert workshop.begun == [A]


def test_strategy_that_nobody_announced_is_built_at_once(builder, workshop):
    assert in_time(lambda: builder.build(A)).exists()
    assert workshop.threads[A] != "ovquant-builder"


def test_unannounced_strategy_is_built_beside_the_threads_work_one_at_a_time(builder, workshop):
    gate = workshop.hold(A)
    builder.announce([A, B, C])
    workshop.wait_begun(A)
    path = begin(lambda: builder.build(F))
    gate.set()
    assert path.result(WAIT_S) == builder.path(F)
    workshop.wait_ended(A, B, C)
    assert workshop.n_most_at_work == 1


def test_many_builds_in_every_order_come_to_an_end(builder, workshop):
    for start in range(len(STRATEGIES)):
        announced = STRATEGIES[start:] + STRATEGIES[:start]
        builder.announce(announced)
        for strategy in (announced[0], announced[-1], *announced[1:-1]):
            assert in_time(lambda strategy=strategy: builder.build(strategy)).exists()
            builder.path(strategy).unlink()
    assert workshop.n_most_at_work == 1


def test_last_of_many_announced_strategies_can_be_asked_for_first(builder):
    builder.announce(STRATEGIES)
    assert in_time(lambda: builder.build(STRATEGIES[-1])) == builder.path(STRATEGIES[-1])


def test_strategies_that_differ_in_precision_alone_share_a_file(builder, workshop):
    half = dataclasses.replace(A, inference_precision="bf16")
    assert half.digest != A.digest
    builder.announce([A, half])
    assert in_time(lambda: builder.build(half)) == in_time(lambda: builder.build(A)) == builder.path(A)
    assert len(workshop.begun) == 1


def test_strategies_of_one_canonical_form_share_a_file(builder, workshop):
    same = dataclasses.replace(A, overflow_fix="first_layer_only", target_device="NPU")
    in_time(lambda: builder.build(A))
    assert in_time(lambda: builder.build(same)) == builder.path(A)
    assert workshop.begun == [A]


# Faults


def test_exception_comes_out_of_the_build_of_its_own_strategy_alone(builder, workshop):
    workshop.errors[B] = RuntimeError("no such layer")
    builder.announce([A, B, C])
    assert in_time(lambda: builder.build(A)).exists()
    with pytest.raises(RuntimeError, match="no such layer"):
        in_time(lambda: builder.build(B))
    assert in_time(lambda: builder.build(C)).exists()
    assert not builder.path(B).exists()


def test_failed_strategy_is_tried_again_when_it_is_asked_for_again(builder, workshop):
    workshop.errors[A] = RuntimeError("for now")
    builder.announce([A])
    with pytest.raises(RuntimeError, match="for now"):
        in_time(lambda: builder.build(A))
    del workshop.errors[A]
    assert in_time(lambda: builder.build(A)).exists()


def test_exception_of_an_unannounced_strategy_leaves_the_thread_at_work(builder, workshop):
    workshop.errors[A] = RuntimeError("no such layer")
    with pytest.raises(RuntimeError, match="no such layer"):
        in_time(lambda: builder.build(A))
    builder.announce([B])
    assert in_time(lambda: builder.build(B)).exists()
    assert workshop.threads[B] == "ovquant-builder"


@pytest.mark.parametrize("is_announced", [True, False], ids=["announced", "not announced"])
def test_model_without_quantizers_is_an_error(builder, workshop, is_announced):
    workshop.empty.add(A)
    builder.announce([A] if is_announced else [])
    with pytest.raises(ModelError, match="nothing was quantized"):
        in_time(lambda: builder.build(A))
    assert not builder.path(A).exists()


def test_file_that_cannot_be_written_is_an_error_of_its_strategy(builder, workshop, monkeypatch):
    def fail(model: Strategy, path: Path) -> None:
        if model == A:
            raise OSError("no space left")
        save(model, path)

    monkeypatch.setattr(building.runtime, "save_model", fail)
    builder.announce([A, B])
    with pytest.raises(OSError, match="no space left"):
        in_time(lambda: builder.build(A))
    assert in_time(lambda: builder.build(B)).exists()


# Pauses


def test_pause_waits_for_what_is_under_way(builder, workshop):
    gate = workshop.hold(A)
    builder.announce([A, B])
    workshop.wait_begun(A)
    is_inside, is_over = threading.Event(), threading.Event()

    def pause() -> None:
        with builder.paused():
            is_inside.set()
            is_over.wait(WAIT_S)

    paused = begin(pause)
    assert not is_inside.wait(SHORT_S)
    gate.set()
    assert is_inside.wait(WAIT_S)
    assert workshop.ended == [A]
    assert not workshop.wait_for(lambda: B in workshop.begun, SHORT_S)
    is_over.set()
    paused.result(WAIT_S)
    workshop.wait_ended(B)


def test_nothing_is_begun_while_paused(builder, workshop):
    with builder.paused():
        builder.announce([A, B])
        assert not workshop.wait_for(lambda: bool(workshop.begun), SHORT_S)
    workshop.wait_ended(A, B)


def test_thread_goes_on_after_an_exception_within_a_pause(builder, workshop):
    with pytest.raises(KeyError), builder.paused():
        builder.announce([A])
        raise KeyError
    workshop.wait_ended(A)


def test_pause_on_an_idle_builder_begins_at_once(builder):
    def pause() -> bool:
        with builder.paused():
            return True

    assert in_time(pause)


def test_pauses_and_work_never_overlap(builder, workshop):
    n_overlaps = []
    for start in range(0, len(STRATEGIES), 2):
        builder.announce(STRATEGIES[start : start + 2])
        with builder.paused():
            n_overlaps.append(workshop.n_at_work)
            workshop.wait_for(lambda: workshop.n_at_work > 0, 0.02)
            n_overlaps.append(workshop.n_at_work)
        workshop.wait_ended(*STRATEGIES[start : start + 2])
        for strategy in STRATEGIES[start : start + 2]:
            in_time(lambda strategy=strategy: builder.build(strategy))
    assert not any(n_overlaps)


# Announcements


def test_announcing_replaces_what_was_announced_before(builder, workshop):
    gate = workshop.hold(A)
    builder.announce([A, B, C])
    workshop.wait_begun(A)
    builder.announce([D, B])
    gate.set()
    workshop.wait_ended(A, D, B)
    assert workshop.begun == [A, D, B]
    assert not workshop.wait_for(lambda: C in workshop.begun, SHORT_S)


def test_what_is_no_longer_announced_can_be_built_all_the_same(builder, workshop):
    gate = workshop.hold(A)
    builder.announce([A, B])
    workshop.wait_begun(A)
    builder.announce(())
    path = begin(lambda: builder.build(B))
    gate.set()
    assert path.result(WAIT_S).exists()
    assert in_time(lambda: builder.build(A)).exists()
    assert workshop.begun == [A, B]


def test_strategy_that_is_announced_again_while_it_is_made_is_made_once(builder, workshop):
    gate = workshop.hold(A)
    builder.announce([A])
    workshop.wait_begun(A)
    builder.announce([A, B])
    gate.set()
    workshop.wait_ended(A, B)
    for strategy in (A, B):
        assert in_time(lambda strategy=strategy: builder.build(strategy)).exists()
    builder.announce([C])
    assert in_time(lambda: builder.build(C)).exists()
    assert workshop.begun == [A, B, C]


def test_strategy_that_failed_while_it_was_announced_again_is_told(builder, workshop):
    gate = workshop.hold(A)
    workshop.errors[A] = RuntimeError("no such layer")
    builder.announce([A])
    workshop.wait_begun(A)
    builder.announce([A, B])
    gate.set()
    with pytest.raises(RuntimeError, match="no such layer"):
        in_time(lambda: builder.build(A))
    assert in_time(lambda: builder.build(B)).exists()


def test_only_a_few_models_are_built_ahead(builder, workshop):
    builder.announce(STRATEGIES)
    ahead = STRATEGIES[: building._MAX_AHEAD]
    workshop.wait_ended(*ahead)
    assert not workshop.wait_for(lambda: len(workshop.begun) > len(ahead), SHORT_S)
    assert workshop.begun == ahead


def test_thread_goes_on_when_one_that_is_ahead_is_asked_for(builder, workshop):
    builder.announce(STRATEGIES)
    for index, strategy in enumerate(STRATEGIES):
        last = min(index + building._MAX_AHEAD, len(STRATEGIES))
        workshop.wait_ended(*STRATEGIES[:last])
        assert in_time(lambda strategy=strategy: builder.build(strategy)).exists()
    assert workshop.begun == STRATEGIES


def test_failures_that_nobody_asks_for_do_not_keep_later_announcements_waiting(builder, workshop):
    workshop.errors |= {strategy: RuntimeError("fails") for strategy in STRATEGIES[:6]}
    builder.announce(STRATEGIES[:6])
    workshop.wait_ended(*STRATEGIES[: building._MAX_AHEAD])
    builder.announce(STRATEGIES[6:])
    assert in_time(lambda: builder.build(STRATEGIES[-1])).exists()


def test_fallback_and_passes_are_the_quantizers(builder, monkeypatch):
    monkeypatch.setattr(FakeQuantizer, "fallback", "another version")
    assert (builder.fallback, builder.n_passes) == ("another version", 3)


# Files


def test_oldest_files_are_dropped_above_the_limit_and_built_again_when_asked_for(builder, workshop, monkeypatch):
    in_time(lambda: builder.build(A))
    monkeypatch.setattr(building, "_MODELS_BYTES", 2 * runtime.size_bytes(builder.path(A)) + 50)
    for strategy in (B, C):
        in_time(lambda strategy=strategy: builder.build(strategy))
    assert [builder.path(strategy).exists() for strategy in (A, B, C)] == [False, True, True]
    assert not builder.path(A).with_suffix(".bin").exists()
    assert in_time(lambda: builder.build(A)).exists()
    assert workshop.begun == [A, B, C, A]


def test_file_that_was_dropped_while_it_was_ahead_is_built_again(builder, workshop):
    builder.announce([A, B])
    workshop.wait_ended(A, B)
    with builder.paused():
        builder.path(A).unlink()
    assert in_time(lambda: builder.build(A)).exists()
    assert workshop.begun == [A, B, A]


def test_newest_file_stays_however_large(builder, workshop, monkeypatch):
    monkeypatch.setattr(building, "_MODELS_BYTES", 1)
    for strategy in (A, B):
        assert in_time(lambda strategy=strategy: builder.build(strategy)).exists()
    assert not builder.path(A).exists()


# The end


def close_in_time(builder: Builder) -> None:
    in_time(builder.close)


def test_nothing_is_built_after_closing(builder, workshop):
    gate = workshop.hold(A)
    builder.announce([A, B, C])
    workshop.wait_begun(A)
    closing = begin(builder.close)
    with pytest.raises(TimeoutError):
        closing.result(SHORT_S)
    gate.set()
    closing.result(WAIT_S)
    assert not workshop.wait_for(lambda: len(workshop.begun) > 1, SHORT_S)
    assert workshop.ended == [A]


def test_closing_does_not_wait_for_long(builder, workshop, monkeypatch):
    monkeypatch.setattr(building, "_LONGEST_WAIT_S", 0.05)
    workshop.hold(A)
    builder.announce([A])
    workshop.wait_begun(A)
    close_in_time(builder)
    assert workshop.ended == []


def test_idle_builder_closes_at_once_and_more_than_once(builder):
    close_in_time(builder)
    close_in_time(builder)


def test_builder_closes_within_what_it_has_ahead(builder, workshop):
    builder.announce(STRATEGIES)
    workshop.wait_ended(*STRATEGIES[: building._MAX_AHEAD])
    close_in_time(builder)
    assert not workshop.wait_for(lambda: len(workshop.begun) > building._MAX_AHEAD, SHORT_S)


def test_closed_builder_still_builds_what_it_is_asked_for(builder, workshop):
    builder.announce([A])
    workshop.wait_ended(A)
    close_in_time(builder)
    builder.announce([B])
    for strategy in (A, B):
        assert in_time(lambda strategy=strategy: builder.build(strategy)).exists()
    assert workshop.threads[B] != "ovquant-builder"


def test_build_that_waits_ends_when_the_builder_is_closed(builder, workshop):
    gate = workshop.hold(A)
    builder.announce([A, B])
    workshop.wait_begun(A)
    waiting = begin(lambda: builder.build(B))
    closing = begin(builder.close)
    gate.set()
    closing.result(WAIT_S)
    refused = waiting.exception(WAIT_S / 2)  # it may be refused or built, but not be left waiting
    assert refused is not None or waiting.result().exists()


# With NNCF


def test_files_hold_the_models_of_a_plain_call(tmp_path):
    model = runtime.read_model(small.conv_model(tmp_path / "model.onnx"))
    samples = [{"image": item[np.newaxis]} for item in small.normalized(small.images(8))]
    operations = runtime.operations(model)
    real = Builder(model, operations, samples, tmp_path / "models")
    ahead, unannounced = Strategy(subset_size=4), Strategy(subset_size=4, preset="mixed")
    everything = Strategy(ignored_scope=ScopeSelector(patterns=(".*",)))
    nothing = Strategy(ignored_scope=ScopeSelector(types=("LSTMSequence",)))
    real.announce([everything, ahead, nothing])
    for strategy in (ahead, unannounced):
        built = runtime.read_model(in_time(lambda strategy=strategy: real.build(strategy)))
        plain = quantization.quantize(model, strategy, samples, operations)
        assert runtime.graph_digest(built) == runtime.graph_digest(plain)
    with pytest.raises(ModelError, match="nothing was quantized"):
        in_time(lambda: real.build(everything))
    with pytest.raises(ValueError, match="matches nothing"):
        in_time(lambda: real.build(nothing))
    assert real.fallback is None
    assert 0 < real.n_passes < 4
    close_in_time(real)
