"""Who gets which step, and what happens when a worker is lost: on a crew that is made up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ovquant import dispatch
from ovquant.crew import Member
from ovquant.dispatch import Dispatcher, Need, Run, Steps
from ovquant.errors import DeviceError, ModelError
from ovquant.records import Failure
from ovquant.station import Order, Unknown
from ovquant.worker import Raised


class Answer:
    """A future that a test answers."""

    def __init__(self) -> None:
        self.status = "pending"
        self.value: Any = None
        self.tell: Callable[[Answer], None] | None = None

    def add_done_callback(self, tell: Callable[[Answer], None]) -> None:
        self.tell = tell

    def answer(self, value: Any, status: str = "finished") -> None:
        self.value, self.status = value, status
        assert self.tell is not None
        self.tell(self)

    def result(self, timeout: float) -> Any:
        if self.status == "cancelled":
            raise asyncio.CancelledError
        return self.value

    exception = result

    def cancel(self) -> None:
        self.status = "cancelled"


class FakeCrew:
    """Notes what is handed to whom."""

    address = "tcp://made-up:1"
    is_connected = True

    def __init__(self, n_timing: int, n_others: int) -> None:
        self.members = [
            Member(address=f"w{index}", host="h", is_timing=index < n_timing, is_ready=True)
            for index in range(n_timing + n_others)
        ]
        self.given: list[tuple[str, str, Any, Answer]] = []
        self.gone: list[Member] = []

    def submit(self, order: Order, member: Member, model: Any, n: str) -> tuple[Answer, Any]:
        answer = Answer()
        self.given.append((member.address, order.what, model, answer))
        return answer, answer if order.what == "make" else None

    def look(self) -> list[Member]:
        gone, self.gone = self.gone, []
        return gone

    def drop(self, member: Member) -> None:
        if member in self.members:
            self.members.remove(member)

    def wait_for(self, n_given: int) -> list[tuple[str, str]]:
        """Return who was given what, once that are so many orders."""
        end = time.monotonic() + 5
        while len(self.given) < n_given and time.monotonic() < end:
            time.sleep(0.002)
        assert len(self.given) == n_given
        return [(address, what) for address, what, _, _ in self.given]

    def answer(self, index: int, value: Any, status: str = "finished") -> None:
        self.given[index][3].answer(value, status)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_LOOK_S", 0.02)


@pytest.fixture
def crew() -> FakeCrew:
    return FakeCrew(1, 2)


@pytest.fixture
def dispatcher(crew: FakeCrew) -> Iterator[Dispatcher]:
    running = Dispatcher(crew, patience_s=0.1)  # type: ignore[arg-type]
    yield running
    running.close()


def steps(run: Run) -> Steps:
    made = yield Need(what="make", shipment="s")
    timed = yield Need(what="structure", shipment="s", is_timing=True)
    return made, timed, (yield Need(what="submit", shipment="s"))


def test_who_measures_is_left_for_that_and_who_has_the_model_goes_on(dispatcher: Dispatcher, crew: FakeCrew) -> None:
    run = dispatcher.begin(steps)
    assert crew.wait_for(1) == [("w1", "make")]
    crew.answer(0, "model")
    assert crew.wait_for(2)[1] == ("w0", "structure")
    assert crew.given[1][2] is crew.given[0][3]
    crew.answer(1, "kernels")
    assert crew.wait_for(3)[2] == ("w1", "submit")
    crew.answer(2, "outcome")
    assert run.wait() == ("model", "kernels", "outcome")


def test_each_worker_does_one_thing_at_a_time_and_all_are_busy(dispatcher: Dispatcher, crew: FakeCrew) -> None:
    runs = [dispatcher.begin(steps) for _ in range(5)]
    assert crew.wait_for(3) == [("w1", "make"), ("w2", "make"), ("w0", "make")]
    crew.answer(1, "model")
    assert crew.wait_for(4)[3] == ("w2", "make")  # the kernels wait for the worker that measures
    crew.answer(2, "model")
    assert crew.wait_for(5)[4] == ("w0", "structure")  # before another model is made
    assert crew.given[4][2] is crew.given[1][3]
    assert not any(run.result.done() for run in runs)


def test_what_a_lost_worker_was_at_and_what_it_alone_had_begins_anew(dispatcher: Dispatcher, crew: FakeCrew) -> None:
    first, second = dispatcher.begin(steps), dispatcher.begin(steps)
    crew.wait_for(2)
    crew.answer(0, "model")
    crew.wait_for(3)  # the first one is at w0, its model at w1; the second one is at w2
    lost = next(member for member in crew.members if member.address == crew.given[0][0])
    crew.gone = [lost]
    assert crew.wait_for(4)[3][1] == "make"
    assert (first.n_lost, second.n_lost) == (0, 0)
    crew.answer(2, "of no interest any more")
    crew.answer(3, "made again")
    crew.wait_for(5)
    assert first.notes == []


@pytest.mark.parametrize("how", ["gone", "unknown"])
def test_a_candidate_that_loses_three_workers_is_a_crash(dispatcher: Dispatcher, crew: FakeCrew, how: str) -> None:
    run = dispatcher.begin(steps)
    for n_given in (1, 2, 3):
        crew.wait_for(n_given)
        at = next(member for member in crew.members if member.address == crew.given[-1][0])
        if how == "gone":
            crew.gone = [at]
        else:
            crew.answer(n_given - 1, Unknown())
    failure = run.wait()
    assert isinstance(failure, Failure)
    assert (failure.stage, failure.error) == ("quantize", "Crash")
    assert "3 workers were lost while they were at it" in failure.message


def test_an_exception_of_a_step_is_its_answer(dispatcher: Dispatcher, crew: FakeCrew) -> None:
    run = dispatcher.begin(steps)
    crew.wait_for(1)
    crew.answer(0, OSError("no space"), "error")
    crew.wait_for(2)
    crew.answer(1, "kernels")
    crew.wait_for(3)
    crew.answer(2, "outcome")
    assert run.wait()[0] == Failure(stage="quantize", error="OSError", message="no space")


def test_an_error_that_ends_a_search_is_raised_where_one_waits(dispatcher: Dispatcher, crew: FakeCrew) -> None:
    run = dispatcher.begin(steps)
    crew.wait_for(1)
    crew.answer(0, Raised(error=ModelError("no model")))
    with pytest.raises(ModelError, match="no model"):
        run.wait()


def test_where_nobody_is_left_to_measure_the_search_ends_after_a_while(dispatcher: Dispatcher, crew: FakeCrew) -> None:
    run = dispatcher.begin(steps)
    crew.wait_for(1)
    crew.drop(crew.members[0])
    crew.answer(0, "model")
    with pytest.raises(DeviceError, match="no worker that measures latency for 0 s; trials recorded before are kept"):
        run.wait()


def test_without_a_scheduler_nobody_is_blamed_and_the_search_ends_after_a_while(dispatcher: Dispatcher, crew: FakeCrew) -> None:
    run = dispatcher.begin(steps)
    crew.wait_for(1)
    crew.is_connected = False
    crew.answer(0, None, "cancelled")
    with pytest.raises(DeviceError, match="there has been no scheduler for 0 s"):
        run.wait()
    assert run.n_lost == 0


def test_what_is_dropped_frees_its_worker(dispatcher: Dispatcher, crew: FakeCrew) -> None:
    runs = [dispatcher.begin(steps) for _ in range(4)]
    crew.wait_for(3)
    dispatcher.drop(runs[0])
    assert crew.given[0][3].status == "cancelled"
    dispatcher.begin(steps)
    assert len(crew.wait_for(4)) == 4
