"""`budget="auto"` with memory that a test sets: real plans and inferences, an invented system."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import flexnn_ncnn
from flexnn_ncnn.errors import BudgetError, UsageError
from flexnn_ncnn.runtime.memory import memory_limits
from flexnn_ncnn.runtime.memory.memory_limits import MemoryState
from flexnn_ncnn.sessions import following
from flexnn_ncnn.sessions.auto_budget import AutoBudget
from flexnn_ncnn.sessions.following import Follower, held_bytes

MB = 10**6
LIMIT = 64 * MB  # which keeps 4 MB in reserve
SECONDS = 120
PICTURE = np.random.default_rng(5).random((3, 32, 32), np.float32)


class System:
    """Memory that is free, and a clock; what the session holds comes and goes by its plans."""

    def __init__(self, free_bytes: int) -> None:
        self.free_bytes, self.now, self.pressure = free_bytes, 0.0, 0.0
        self.session: flexnn_ncnn.Session | None = None

    def read(self) -> MemoryState:
        vehicle = self.session._active.vehicle if self.session else None
        held = held_bytes(vehicle.plan) if vehicle else 0
        return MemoryState(self.free_bytes - held, LIMIT, "invented", self.pressure)


@pytest.fixture
def system() -> System:
    return System(21 * MB)


@pytest.fixture
def session(
    planned_folder: Path, quick_cache: Path, system: System, monkeypatch: pytest.MonkeyPatch
) -> Iterator[flexnn_ncnn.Session]:
    monkeypatch.setattr(following, "_PLANNING_BYTES", 0)
    with flexnn_ncnn.open_session(planned_folder / "model.param", budget="auto", cache_dir=quick_cache) as opened:
        system.session = opened
        opened._follower = Follower(opened._active, opened._turns, AutoBudget(system.read, lambda: system.now))
        yield opened


def run(session: flexnn_ncnn.Session, system: System, seconds: float = 1.0) -> np.ndarray:
    system.now += seconds
    found: np.ndarray = session.run({"in0": PICTURE})["out0"]
    return found


def settle(session: flexnn_ncnn.Session) -> None:
    """Let what goes on in the background end."""
    follower = session._follower
    assert follower is not None
    if follower._thread is not None:
        follower._thread.join(SECONDS)
        assert not follower._thread.is_alive()


def test_it_shrinks_at_once_and_grows_when_memory_has_been_free_for_a_while(
    session: flexnn_ncnn.Session, system: System
) -> None:
    assert session.budget_bytes == 0
    expected = run(session, system)
    assert session.budget_bytes == 16 * MB
    run(session, system)  # and the plans below it are made
    settle(session)
    system.free_bytes = 13 * MB
    np.testing.assert_allclose(run(session, system), expected, rtol=1e-4, atol=1e-5)
    assert session.budget_bytes == 6_300_000
    assert session.plan.budget_bytes == 6_300_000
    system.free_bytes = 21 * MB
    for _ in range(9):
        run(session, system)
    settle(session)
    assert session.budget_bytes == 6_300_000
    run(session, system, 5)
    settle(session)
    np.testing.assert_allclose(run(session, system), expected, rtol=1e-4, atol=1e-5)
    assert session.budget_bytes == 10 * MB  # 16 MB would just fit, with nothing to spare
    assert session.plan.budget_bytes == 10 * MB


def test_it_does_not_grow_beyond_what_the_model_can_use(session: flexnn_ncnn.Session, system: System) -> None:
    system.free_bytes = 60 * MB
    run(session, system)
    assert session.plan.streamed_bytes == 0
    settle(session)
    budget = session.budget_bytes
    system.free_bytes = 600 * MB
    for _ in range(4):
        run(session, system, 20)
        settle(session)
    assert session.budget_bytes == budget


def test_where_no_plan_is_there_memory_is_given_back_before_one_is_made(
    session: flexnn_ncnn.Session, system: System, planned_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_LEVELS_SEARCHED", 0)
    for plan in planned_folder.rglob("4000000.plan.json"):
        plan.unlink()
    system.free_bytes = 14_400_000
    run(session, system)
    assert session.budget_bytes == 10 * MB
    loaded: list[bool] = []
    monkeypatch.setattr(session._active, "_progress", lambda *_: loaded.append(session._active.vehicle is not None))
    system.free_bytes = 8_200_000
    run(session, system)
    assert session.budget_bytes == 4 * MB
    assert session.plan.budget_bytes == 4 * MB
    assert set(loaded) == {False}


def test_no_budget_at_all_is_refused_and_named_when_there_is_nothing(
    session: flexnn_ncnn.Session, system: System
) -> None:
    system.free_bytes = 4_900_000  # 0.9 MB beside the reserve
    with pytest.raises(BudgetError) as refused:
        run(session, system)
    assert refused.value.smallest_bytes > 1_000_000
    system.free_bytes = 21 * MB
    run(session, system)
    assert session.budget_bytes == 16 * MB


def test_below_what_works_the_smallest_budget_stays_in_force(session: flexnn_ncnn.Session, system: System) -> None:
    run(session, system)
    settle(session)
    system.free_bytes = 2 * MB
    expected = run(session, system)
    smallest = session.budget_bytes
    assert smallest < 4 * MB
    for _ in range(3):
        settle(session)
        np.testing.assert_allclose(run(session, system), expected, rtol=1e-4, atol=1e-5)
    assert session.budget_bytes <= smallest


def test_a_budget_set_by_hand_ends_following_and_auto_begins_it(
    session: flexnn_ncnn.Session, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(session, system)
    settle(session)
    follower = session._follower
    session.set_budget(10 * MB)
    system.free_bytes = 5 * MB
    run(session, system)
    assert session.budget_bytes == 10 * MB
    settle_thread = follower._thread if follower else None
    if settle_thread is not None:
        settle_thread.join(SECONDS)
    session.set_budget("auto")
    assert session._follower is not None
    assert session._follower is not follower


def test_a_plan_that_is_being_made_to_grow_does_not_hinder_shrinking(
    session: flexnn_ncnn.Session, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    system.free_bytes = 11 * MB
    run(session, system)
    run(session, system)
    settle(session)
    assert session.budget_bytes == 6_300_000
    begun, go_on = threading.Event(), threading.Event()
    prepare_ahead = session._active.prepare_ahead

    def held(*arguments: object) -> None:
        begun.set()
        assert go_on.wait(SECONDS)
        prepare_ahead(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(session._active, "prepare_ahead", held)
    system.free_bytes = 40 * MB
    run(session, system, 20)
    assert begun.wait(SECONDS)
    system.free_bytes = 8_200_000
    run(session, system)
    assert session.budget_bytes == 4 * MB
    go_on.set()
    settle(session)
    assert session.budget_bytes == 4 * MB  # what it was to grow from is no more


def test_a_system_that_does_not_tell_its_memory(
    planned_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent(memory_limits.MemoryLimits):
        def __init__(self) -> None:
            super().__init__(tmp_path)

    monkeypatch.setattr(memory_limits, "MemoryLimits", Silent)
    with pytest.raises(UsageError, match="how much memory"):
        flexnn_ncnn.open_session(planned_folder / "model.param", budget="auto", cache_dir=planned_folder / "cache")
