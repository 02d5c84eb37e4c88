"""Turns: one at a time, and a change before those who only use."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from flexnn_ncnn.errors import UsageError
from flexnn_ncnn.sessions.turns import Turns


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def waits(thread: threading.Thread) -> bool:
    thread.join(0.05)
    return thread.is_alive()


def test_a_change_waits_for_the_use_that_goes_on_and_for_no_other() -> None:
    turns, order = Turns(), list[str]()
    first_ends, in_use = threading.Event(), threading.Event()

    def use_forever() -> None:
        while "changed" not in order:  # as a thread that computes in a loop
            with turns.use():
                order.append("used")
                in_use.set()
                first_ends.wait(120)

    def change() -> None:
        with turns.change():
            order.append("changed")

    user = in_thread(use_forever)
    assert in_use.wait(120)
    changer = in_thread(change)
    assert waits(changer)
    first_ends.set()
    changer.join(120)
    user.join(120)
    assert order[:2] == ["used", "changed"]


def test_two_cannot_use_it_at_once() -> None:
    turns, inside, most = Turns(), list[int](), list[int]()

    def use() -> None:
        for _ in range(50):
            with turns.use():
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [in_thread(use) for _ in range(4)]
    for thread in threads:
        thread.join(120)
    assert len(most) == 200
    assert max(most) == 1


@pytest.mark.parametrize("again", ["use", "change"])
@pytest.mark.parametrize("held", ["use", "change"])
def test_nobody_waits_for_himself(held: str, again: str) -> None:
    turns = Turns()
    with getattr(turns, held)(), pytest.raises(UsageError, match="in the middle of an inference"):
        getattr(turns, again)().__enter__()
    with turns.use():  # and it is free again
        pass


@pytest.mark.parametrize("again", ["use", "change"])
@pytest.mark.parametrize("held", ["use", "change"])
def test_an_error_ends_the_turn(held: str, again: str) -> None:
    turns = Turns()
    with pytest.raises(KeyboardInterrupt), getattr(turns, held)():
        raise KeyboardInterrupt

    def take() -> None:
        with getattr(turns, again)():
            pass

    thread = in_thread(take)
    thread.join(120)
    assert not thread.is_alive()


def test_between_changes_in_a_row_those_who_wait_have_their_use() -> None:
    turns, order, first = Turns(), list[str](), threading.Event()

    def use() -> None:
        first.wait(120)
        for _ in range(3):
            with turns.use():
                order.append("used")

    user = in_thread(use)
    for _ in range(4):
        with turns.change():
            first.set()
            while "used" not in order and not turns._waiting:  # until the user is at the gate
                user.join(0.001)
            order.append("changed")
        turns.let_pass()
    user.join(120)
    assert order[:2] == ["changed", "used"]
    assert not turns._waiting


def test_nobody_waits_for_those_who_came_later() -> None:
    turns = Turns()
    turns.let_pass()
    with turns.use():
        turns.let_pass()  # who has it is not waiting
