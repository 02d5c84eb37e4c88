"""Budgets that change while a session is open."""

from __future__ import annotations

import gc
import itertools
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flexnn_ncnn
from flexnn_ncnn.errors import BudgetError, PlanError, SizeError, UsageError
from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.runtime.advance import LoadAhead
from flexnn_ncnn.runtime.native import StockNet, mat_to_array
from flexnn_ncnn.sessions import active_plan, changing
from tests.integration.quick_plans import plans_made_here

SMALL, MIDDLE, LARGE = 5_000_000, 9_000_000, 60_000_000  # nothing stays, some weights stay, stock ncnn
UNPLANNED = itertools.count(MIDDLE + 1)
"""Budgets like `MIDDLE` that no plan is there for."""
PICTURE = np.random.default_rng(5).random((3, 32, 32), np.float32)
SECONDS = 120  # far more than anything here takes


@pytest.fixture(scope="module")
def expected(planned_folder: Path) -> np.ndarray:
    net = StockNet(str(planned_folder / "model.param"), str(planned_folder / "model.bin"), RunOptions())
    try:
        return net.run({"in0": PICTURE}, ["out0"])["out0"]
    finally:
        net.close()


Open = Callable[..., flexnn_ncnn.Session]


@pytest.fixture
def open_session(planned_folder: Path, quick_cache: Path) -> Iterator[Open]:
    opened = []

    def make(budget: int, **options: Any) -> flexnn_ncnn.Session:
        param = planned_folder / "model.param"
        opened.append(flexnn_ncnn.open_session(param, budget=budget, cache_dir=quick_cache, **options))
        return opened[-1]

    yield make
    for session in opened:
        session.close()


def answer(session: flexnn_ncnn.Session) -> np.ndarray:
    found: np.ndarray = session.run({"in0": PICTURE})["out0"]
    return found


def same(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max())


class Held:
    """A progress callback that stops whoever makes a plan until it is let go on."""

    def __init__(self) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()

    def __call__(self, what: str, done: int, of: int) -> None:
        self.reached.set()
        assert self.go_on.wait(SECONDS)


def test_the_answer_stays_the_same_through_all_budgets(open_session: Open, expected: np.ndarray) -> None:
    session = open_session(SMALL)
    assert session.last_change is None
    seen = []
    for budget in (SMALL, MIDDLE, LARGE, MIDDLE, SMALL, LARGE):
        assert session.set_budget(budget).done()
        assert session.budget_bytes == budget
        for _ in range(3):
            assert same(answer(session), expected)
        assert session.plan.budget_bytes == budget
        seen.append((session.plan.vehicle, session.plan.streamed_bytes > 0))
    assert seen[:3] == [("layers", True), ("layers", True), ("net", False)]
    assert seen[3:] == [seen[1], seen[0], seen[2]]


def test_what_stays_loaded_and_what_is_loaded_is_told(open_session: Open, expected: np.ndarray) -> None:
    session = open_session(SMALL)
    answer(session)
    session.set_budget(MIDDLE)
    grown = session.last_change
    assert grown is not None
    assert (grown.before_bytes, grown.after_bytes) == (SMALL, MIDDLE)
    assert grown.loaded_bytes > 1_000_000
    assert grown.seconds > 0
    session.set_budget(MIDDLE + 500_000)
    assert session.last_change is not None
    assert session.last_change.kept_bytes >= grown.loaded_bytes // 2
    session.set_budget(SMALL)
    assert session.last_change is not None
    assert session.last_change.loaded_bytes < 1_000_000
    assert same(answer(session), expected)


def test_before_the_first_inference_a_budget_is_only_noted(open_session: Open, expected: np.ndarray) -> None:
    session = open_session(SMALL)
    session.set_budget("9MB")
    assert session.budget_bytes == MIDDLE
    assert same(answer(session), expected)
    assert session.plan.budget_bytes == MIDDLE
    assert session.last_change is None


def test_a_budget_that_cannot_work_leaves_the_old_one(open_session: Open, expected: np.ndarray) -> None:
    session = open_session(SMALL)
    answer(session)
    with pytest.raises(BudgetError) as refused:
        session.set_budget(1000)
    assert refused.value.smallest_bytes < SMALL
    assert (session.budget_bytes, session.plan.budget_bytes) == (SMALL, SMALL)
    assert same(answer(session), expected)


@pytest.mark.parametrize("budget", [0, -1, None, "some", 1.5, True])
def test_what_is_no_budget_is_refused_at_once(budget: Any, open_session: Open) -> None:
    session = open_session(SMALL)
    for wait in (True, False):
        with pytest.raises(SizeError):
            session.set_budget(budget, wait=wait)
    assert session.budget_bytes == SMALL


def test_inference_goes_on_while_the_plan_is_made(open_session: Open, expected: np.ndarray) -> None:
    held = Held()
    held.go_on.set()
    session = open_session(SMALL, progress=held)
    answer(session)
    held.reached.clear()
    held.go_on.clear()
    budget = next(UNPLANNED)
    change = session.set_budget(budget, wait=False)
    assert held.reached.wait(SECONDS)
    for _ in range(3):
        assert same(answer(session), expected)
        assert session.plan.budget_bytes == SMALL
    assert not change.done()
    held.go_on.set()
    change.result(SECONDS)
    assert same(answer(session), expected)
    assert session.plan.budget_bytes == budget


def test_budgets_from_one_thread_while_others_compute(open_session: Open, expected: np.ndarray) -> None:
    session, stop, wrong = open_session(SMALL), threading.Event(), list[object]()
    answer(session)
    runs = [0, 0]

    def compute(number: int) -> None:
        try:
            while not stop.is_set():
                if not same(answer(session), expected):
                    wrong.append("another answer")
                if session.plan.budget_bytes not in (SMALL, MIDDLE, LARGE) or session.trace.seconds < 0:
                    wrong.append("no plan, or no trace, of its own")
                runs[number] += 1
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=compute, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    changes: list[Future[None]] = []
    for budget in (MIDDLE, SMALL, LARGE, SMALL, MIDDLE) * 3:
        changes.append(session.set_budget(budget, wait=len(changes) % 2 == 0))
    for change in changes:
        change.result(SECONDS)
    stop.set()
    for thread in threads:
        thread.join(SECONDS)
    assert wrong == []
    assert min(runs) > 0
    assert session.budget_bytes == MIDDLE


def test_the_last_of_several_budgets_counts(open_session: Open, expected: np.ndarray) -> None:
    held = Held()
    for budget in (SMALL, LARGE):  # their plans are there now
        answer(open_session(budget))
    session = open_session(LARGE, progress=held)
    answer(session)
    first = session.set_budget(next(UNPLANNED), wait=False)
    assert held.reached.wait(SECONDS)
    session.set_budget(SMALL)
    held.go_on.set()
    first.result(SECONDS)
    assert session.budget_bytes == SMALL
    assert same(answer(session), expected)


def test_another_shape_may_come_while_the_plan_is_made(open_session: Open, expected: np.ndarray) -> None:
    held = Held()
    held.go_on.set()
    session = open_session(SMALL, progress=held)
    wide = np.random.default_rng(6).random((3, 16, 64), np.float32)
    answer(session)
    before = session.run({"in0": wide})["out0"]
    answer(session)
    held.reached.clear()
    held.go_on.clear()
    budget = next(UNPLANNED)
    change = session.set_budget(budget, wait=False)
    assert held.reached.wait(SECONDS)
    np.testing.assert_array_equal(session.run({"in0": wide})["out0"], before)
    held.go_on.set()
    change.result(SECONDS)
    assert same(session.run({"in0": wide})["out0"], before)
    assert session.plan.budget_bytes == budget
    assert same(answer(session), expected)


def test_a_session_that_was_closed_meanwhile(open_session: Open) -> None:
    held = Held()
    held.go_on.set()
    session = open_session(SMALL, progress=held)
    answer(session)
    held.reached.clear()
    held.go_on.clear()
    change = session.set_budget(next(UNPLANNED), wait=False)
    assert held.reached.wait(SECONDS)
    session.close()
    held.go_on.set()
    assert isinstance(change.exception(SECONDS), UsageError)
    with pytest.raises(UsageError, match="closed"):
        session.set_budget(SMALL)


def test_a_budget_set_from_within_an_inference_must_not_wait_for_it(open_session: Open) -> None:
    found: list[object] = []

    def progress(what: str, done: int, of: int) -> None:
        if not found:
            with pytest.raises(UsageError, match="wait=False"):
                session.set_budget(SMALL)
            found.append(session.set_budget(SMALL, wait=False))

    session = open_session(next(UNPLANNED), progress=progress)
    answer(session)
    (change,) = found
    assert isinstance(change, Future)
    change.result(SECONDS)
    assert session.budget_bytes == SMALL
    answer(session)
    assert session.plan.budget_bytes == SMALL


@pytest.mark.parametrize("fault", [MemoryError("no"), KeyboardInterrupt(), OSError(5, "Input/output error")])
def test_a_change_that_fails_half_way_leaves_a_session_that_works(
    fault: BaseException, open_session: Open, expected: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session(SMALL)
    answer(session)
    session.set_budget(MIDDLE)

    def broken(*arguments: object) -> None:
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr(active_plan, "open_plan", broken)
        with pytest.raises(type(fault)):
            session.set_budget(SMALL)
    assert session.budget_bytes == MIDDLE
    assert same(answer(session), expected)
    assert session.plan.budget_bytes == MIDDLE
    session.set_budget(SMALL)
    assert same(answer(session), expected)


def test_a_plan_that_was_made_ahead_is_there_when_it_is_wanted(open_session: Open, expected: np.ndarray) -> None:
    said: list[str] = []
    session, budget = open_session(SMALL, progress=lambda what, done, of: said.append(what)), next(UNPLANNED)
    with pytest.raises(PlanError, match="shapes"):
        session.plan_ahead(budget)
    answer(session)
    assert isinstance(session.plan_ahead(1002, wait=False).exception(SECONDS), BudgetError)
    said.clear()
    session.plan_ahead(budget, wait=False).result(SECONDS)
    assert said
    assert session.budget_bytes == SMALL
    said.clear()
    session.plan_ahead(budget)
    session.set_budget(budget)
    assert said == []
    assert same(answer(session), expected)


def test_what_was_in_force_is_gone_at_once(open_session: Open) -> None:
    session = open_session(SMALL)
    answer(session)
    gc.collect()
    gc.disable()  # nothing may be left to the collector: it comes when it comes
    try:
        for budget in (MIDDLE, SMALL, LARGE, SMALL):
            before = weakref.ref(session._active.vehicle)
            session.set_budget(budget)
            assert before() is None
            answer(session)
    finally:
        gc.enable()


def test_inferences_go_on_between_the_loads_of_a_larger_budget(
    planned_folder: Path, expected: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: list[active_plan.BudgetChange] = []
    events: list[str] = []
    sessions: list[flexnn_ncnn.Session] = []
    load = LoadAhead.load

    def noted(self: LoadAhead, seconds: float) -> bool:
        events.append("load")
        more = load(self, seconds)
        while more and not sessions[0]._turns._waiting:  # until the next inference waits for its turn
            time.sleep(0.001)
        return more

    def in_its_turn(*output: Any) -> Any:
        events.append("run")
        return mat_to_array(*output)

    monkeypatch.setattr(LoadAhead, "load", noted)
    monkeypatch.setattr(changing, "_MOST_SECONDS", 0.0)  # one layer in each turn
    param = planned_folder / "model.param"
    with (
        plans_made_here(stock_more_bytes=2 * LARGE),
        flexnn_ncnn.open_session(param, budget=SMALL, cache_dir=tmp_path, on_change=changes.append) as session,
    ):
        sessions.append(session)
        answer(session)
        session.plan_ahead(LARGE)
        change = session.set_budget(LARGE, wait=False)
        while not change.done():
            assert same(session.run({"in0": PICTURE}, in_its_turn)["out0"], expected)
        change.result()
        first = events.index("load")
        assert events[first + 1] == "run"
        assert "load" in events[first + 2 :]
        assert [(one.before_bytes, one.after_bytes) for one in changes] == [(SMALL, LARGE)]
        assert changes[0].ahead_seconds > 0
        assert changes[0].loaded_bytes > 1_000_000
        assert same(answer(session), expected)
