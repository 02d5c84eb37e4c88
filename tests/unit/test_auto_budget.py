"""Which budget the memory of the moment allows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexnn_ncnn.runtime.memory.memory_limits import MemoryState
from flexnn_ncnn.sessions.auto_budget import (
    AutoBudget,
    Situation,
    budget_for,
    level_at_most,
    levels_below,
    reserve_bytes,
)

MB = 10**6


def memory(available: int, limit: int = 640 * MB, pressure: float = 0.0) -> MemoryState:
    return MemoryState(available, limit, "test", pressure)  # a limit of 640 MB keeps 40 MB in reserve


@pytest.mark.parametrize(
    ("room", "level"),
    [
        (-5, 0),
        (0, 0),
        (999_999, 0),
        (1_000_000, 1_000_000),
        (1_599_999, 1_000_000),
        (9_999_999, 6_300_000),
        (10_000_000, 10_000_000),
        (99 * MB, 63 * MB),
        (100 * MB, 100 * MB),
        (159 * MB, 100 * MB),
        (16_000 * MB, 16_000 * MB),
    ],
)
def test_levels(room: int, level: int) -> None:
    assert level_at_most(room) == level


def test_levels_below_a_budget() -> None:
    assert levels_below(100 * MB, 3) == [63 * MB, 40 * MB, 25 * MB]
    assert levels_below(101 * MB, 1) == [100 * MB]
    assert levels_below(2 * MB, 5) == [1_600_000, 1_000_000]


@given(st.integers(-(10**12), 10**14))
def test_a_level_is_within_the_room_and_the_next_is_not_far(room: int) -> None:
    level = level_at_most(room)
    assert level <= max(0, room)
    assert level_at_most(level) == level
    assert room < 10**6 or level * 1.65 > room


@pytest.mark.parametrize(
    ("limit", "pressure", "reserve"),
    [
        (640 * MB, 0, 40 * MB),
        (640 * MB, 20, 80 * MB),
        (640 * MB, 60, 160 * MB),
        (640 * MB, 100, 160 * MB),
        (16 * MB, 0, 4 * MB),
        (64_000 * MB, 0, 256 * MB),
    ],
)
def test_the_reserve(limit: int, pressure: float, reserve: int) -> None:
    assert reserve_bytes(memory(0, limit, pressure)) == reserve


@pytest.mark.parametrize(
    ("what", "situation", "budget"),
    [
        ("the first takes what is there", Situation(0, 0, memory(300 * MB)), 250 * MB),
        ("the first leaves more where others wait", Situation(0, 0, memory(300 * MB, pressure=60)), 100 * MB),
        ("a smallest between levels is used", Situation(0, 0, memory(300 * MB), smallest_bytes=255 * MB), 255 * MB),
        ("one there is no room for is not", Situation(0, 0, memory(300 * MB), smallest_bytes=261 * MB), 250 * MB),
        ("nothing is there", Situation(0, 0, memory(-50 * MB)), 1),
        ("enough is left", Situation(100 * MB, 90 * MB, memory(50 * MB)), 100 * MB),
        ("too little is left", Situation(100 * MB, 90 * MB, memory(49 * MB)), 63 * MB),
        ("far too little", Situation(100 * MB, 90 * MB, memory(-20 * MB)), 25 * MB),
        ("above the limit already", Situation(100 * MB, 90 * MB, memory(-200 * MB)), 1),
        ("others wait", Situation(100 * MB, 90 * MB, memory(60 * MB, pressure=40)), 25 * MB),
        ("never below the smallest", Situation(100 * MB, 90 * MB, memory(0), smallest_bytes=58 * MB), 58 * MB),
        ("at the smallest it stays", Situation(58 * MB, 50 * MB, memory(0), smallest_bytes=58 * MB), 58 * MB),
        ("a smallest above does not grow", Situation(50 * MB, 50 * MB, memory(0), smallest_bytes=58 * MB), 50 * MB),
        ("no growth before it has settled", Situation(100 * MB, 90 * MB, memory(400 * MB), 9.9), 100 * MB),
        ("then it grows", Situation(100 * MB, 90 * MB, memory(400 * MB), 10), 250 * MB),
        ("but not where others wait", Situation(100 * MB, 90 * MB, memory(400 * MB, pressure=5), 60), 100 * MB),
        ("nor for what it cannot use", Situation(100 * MB, 90 * MB, memory(400 * MB), 60, True), 100 * MB),
        ("nor to what just fits", Situation(100 * MB, 90 * MB, memory(115 * MB), 60), 100 * MB),
        ("to what fits with some to spare", Situation(100 * MB, 90 * MB, memory(134 * MB), 60), 160 * MB),
        ("a budget between levels grows too", Situation(99 * MB, 90 * MB, memory(66 * MB), 60), 100 * MB),
    ],
)
def test_decisions(what: str, situation: Situation, budget: int) -> None:
    assert budget_for(situation) == budget, what


@given(
    budget=st.integers(1, 10**10),
    held=st.integers(0, 10**10),
    available=st.integers(-(10**10), 10**10),
    limit=st.integers(10**6, 10**11),
    pressure=st.floats(0, 100),
    settled=st.floats(0, 1e6),
    smallest=st.integers(0, 10**9),
)
def test_a_change_is_stable(
    budget: int, held: int, available: int, limit: int, pressure: float, settled: float, smallest: int
) -> None:
    found = MemoryState(available, limit, "", pressure)
    room = held + available - reserve_bytes(found)
    chosen = budget_for(Situation(budget, held, found, settled, False, smallest))
    assert chosen >= 1
    if chosen > budget:
        assert chosen <= room
    if chosen < budget:
        assert chosen <= max(1, room, smallest)
    # once it is in force and its memory is taken or given back, there is nothing more to change
    taken = MemoryState(available - (chosen - held), limit, "", pressure)
    assert budget_for(Situation(chosen, chosen, taken, 0.0, False, smallest)) == chosen


class Script:
    """A clock, and memory that a test sets."""

    def __init__(self, state: MemoryState | None) -> None:
        self.now, self.state, self.reads = 0.0, state, 0

    def read(self) -> MemoryState | None:
        self.reads += 1
        return self.state

    def budget(self) -> AutoBudget:
        return AutoBudget(self.read, lambda: self.now)


def test_the_system_is_read_now_and_then_only() -> None:
    script = Script(memory(140 * MB))
    auto = script.budget()
    assert auto.wanted(0, 0, False) == 100 * MB
    for step in range(10):
        script.now = step * 0.1
        auto.wanted(100 * MB, 90 * MB, False)
    assert script.reads == 2  # at 0.0 and at 0.5
    script.now, script.state = 1.2, memory(30 * MB)
    assert auto.wanted(100 * MB, 90 * MB, False) == 63 * MB


def test_a_budget_must_have_lasted_before_it_grows() -> None:
    script = Script(memory(400 * MB))
    auto = script.budget()
    answers = {}
    for second in range(30):
        script.now = float(second)
        if second == 15:
            auto.postpone()
        answers[second] = auto.wanted(100 * MB, 90 * MB, False)
    growing = [second for second, budget in answers.items() if budget > 100 * MB]
    assert growing == [10, 11, 12, 13, 14, 25, 26, 27, 28, 29]
    assert auto.wanted(250 * MB, 240 * MB, False) == 250 * MB  # which begins anew


def test_a_system_that_falls_silent_changes_nothing() -> None:
    script = Script(None)
    assert script.budget().wanted(70 * MB, 0, False) == 70 * MB


def test_what_was_left_at_the_last_look_is_told() -> None:
    auto = Script(memory(300 * MB)).budget()
    auto.wanted(0, 0, False)
    assert auto.spare_bytes == 260 * MB
