"""Loads in their order: one at a time, or by a thread within the window that the plan counted."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexnn_ncnn.planning.simulate import Lanes, distances
from flexnn_ncnn.planning.simulate import Load as PlannedLoad
from flexnn_ncnn.records.plan import WeightPiece, places_of
from flexnn_ncnn.runtime.weights.loader import Load, Loader, SerialLoader, ThreadedLoader

PIECES = ((WeightPiece(0, 1, "fp32"),),)
KINDS = [SerialLoader, ThreadedLoader]


class Thing:
    """What a load makes; counts itself while it lives."""

    def __init__(self, number: int, alive: set[Thing]) -> None:
        self.number, self._alive = number, alive
        alive.add(self)

    def close(self) -> None:
        self._alive.remove(self)


@dataclass
class Fake:
    """A stream that gives each load its number, and notes what is done with it."""

    count: int
    events: list[tuple[str, int]] = field(default_factory=list)
    room: Callable[[], bool] = lambda: True
    note: str = ""
    fetched: list[int] = field(default_factory=list)

    def read_ahead(self) -> None:
        self.events.append(("ahead", -1))

    def has_room(self) -> bool:
        return self.room()

    def fetch(self, load: int) -> list[list[npt.NDArray[Any]]]:
        self.events.append(("fetch", load))
        return [[np.array([load])]]

    def release(self, load: int) -> None:
        self.events.append(("release", load))

    def abort(self) -> None:
        self.events.append(("abort", -1))

    def close(self) -> None:
        self.events.append(("close", -1))


@dataclass
class Scene:
    stream: Fake
    alive: set[Thing]
    most_alive: list[int]
    loads: list[Load[Thing]]

    def loader(self, kind: Callable[..., Loader[Thing]]) -> Loader[Thing]:
        return kind(self.loads, self.stream)


def scene(count: int, ahead: int = 1, *, keeps_raw: bool = True, fail_at: int = -1) -> Scene:
    alive: set[Thing] = set()
    most_alive: list[int] = []

    def build(arrays: list[list[npt.NDArray[Any]]]) -> Thing:
        number = int(arrays[0][0][0])
        if number == fail_at:
            raise ValueError(f"load {number} cannot be made")
        thing = Thing(number, alive)
        most_alive.append(len(alive))
        return thing

    return Scene(Fake(count), alive, most_alive, [Load(PIECES, build, keeps_raw, ahead) for _ in range(count)])


def run(loader: Loader[Thing], count: int) -> list[int]:
    found = []
    for load in range(count):
        found.append(loader.acquire(load).number)
        loader.release(load)
    return found


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("ahead", [1, 2, 4])
def test_loads_come_in_order_over_and_over_and_never_more_than_the_window(kind: Any, count: int, ahead: int) -> None:
    ahead = min(ahead, count)
    stage = scene(count, ahead)
    loader = stage.loader(kind)
    for _ in range(20):
        assert run(loader, count) == list(range(count))
    loader.close()
    assert max(stage.most_alive) <= ahead
    assert not stage.alive


def test_a_thread_loads_as_far_ahead_as_it_may() -> None:
    stage = scene(6, 3)
    loader = stage.loader(ThreadedLoader)
    loader.acquire(0)
    built = threading.Event()
    while len(stage.most_alive) < 3:  # the test hangs if it does not
        built.wait(0.001)
    built.wait(0.02)
    assert len(stage.most_alive) == 3
    loader.release(0)
    while len(stage.most_alive) < 4:
        built.wait(0.001)
    loader.close()


def test_the_first_loads_of_the_next_inference_come_before_the_last_is_over() -> None:
    stage = scene(3, 3)
    loader = stage.loader(ThreadedLoader)
    for load in (0, 1):
        loader.acquire(load)
        loader.release(load)
    waited = threading.Event()
    while len(stage.most_alive) < 5:
        waited.wait(0.001)
    fetched = [load for what, load in stage.stream.events if what == "fetch"]
    assert fetched == [0, 1, 2, 0, 1]
    loader.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keeps_raw", [True, False])
def test_arrays_go_back_after_building_or_after_use(kind: Any, keeps_raw: bool) -> None:
    stage = scene(2, keeps_raw=keeps_raw)
    loader = stage.loader(kind)
    loader.acquire(0)
    given_back = ("release", 0) in stage.stream.events
    assert given_back == (not keeps_raw)
    loader.release(0)
    run_on = loader.acquire(1)
    assert run_on.number == 1
    assert ("release", 0) in stage.stream.events
    loader.close()


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_a_load_is_raised_by_who_asks_for_it_every_time(kind: Any) -> None:
    stage = scene(4, 2, fail_at=2)
    loader = stage.loader(kind)
    for _ in range(3):
        with pytest.raises(ValueError, match="load 2"):
            run(loader, 4)
        loader.abort()
        assert not stage.alive
    loader.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop_at", [0, 1, 3])
def test_an_inference_that_ends_early_spoils_nothing(kind: Any, stop_at: int) -> None:
    stage = scene(4, 3)
    loader = stage.loader(kind)
    run(loader, stop_at)
    loader.acquire(stop_at)
    loader.abort()
    assert not stage.alive
    assert stage.stream.events[-1] == ("abort", -1)
    assert run(loader, 4) == [0, 1, 2, 3]
    loader.close()


@pytest.mark.parametrize("kind", KINDS)
def test_closing_frees_all_and_twice_is_fine(kind: Any) -> None:
    stage = scene(3, 3)
    loader = stage.loader(kind)
    loader.acquire(0)
    loader.close()
    loader.close()
    assert not stage.alive


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_without_streamed_layers_has_no_loads(kind: Any) -> None:
    stage = scene(0)
    before = threading.active_count()
    loader = stage.loader(kind)
    assert threading.active_count() == before
    loader.close()


def test_a_thread_waits_where_the_stream_has_no_room() -> None:
    """Room comes when the one load that is in use goes back."""
    stage = scene(4, 4)

    def room() -> bool:
        held: set[int] = set()
        for what, load in stage.stream.events:
            (held.add if what == "fetch" else held.discard)(load)
        return not held

    stage.stream.room = room
    loader = stage.loader(ThreadedLoader)
    for _ in range(3):
        assert run(loader, 4) == [0, 1, 2, 3]
    loader.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
@pytest.mark.parametrize("kind", KINDS)
def test_a_fork_goes_on_by_itself(kind: Any) -> None:
    stage = scene(3, 2)
    loader = stage.loader(kind)
    run(loader, 3)
    child = os.fork()
    if child == 0:  # no assertion may leave the child
        os._exit(0 if run(loader, 3) == [0, 1, 2] and run(loader, 3) == [0, 1, 2] else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert run(loader, 3) == [0, 1, 2]
    loader.close()


def test_a_thread_begins_where_it_is_told_to() -> None:
    seen: list[str] = []
    stage = scene(2)

    class Noted:
        def ensure_whole(self) -> None:
            seen.append("loads")

        def close(self) -> None:
            seen.append("ends")

    def begin() -> Noted:
        seen.append(f"{threading.current_thread().name} begins")
        return Noted()

    loader = ThreadedLoader(stage.loads, stage.stream, begin)
    run(loader, 2)
    loader.close()
    assert seen[:3] == ["flexnn-loader begins", "loads", "loads"]
    assert seen[-1] == "ends"


def test_loads_that_take_each_others_place_are_one_threads() -> None:
    assert places_of([1, 1, 1]) == [0, 0, 0]
    assert places_of([2, 2, 2, 2]) == [0, 1, 0, 1]
    assert places_of([4, 2, 3, 2, 2]) == [0, 1, 2, 1, 2]
    assert places_of([]) == []


@given(st.integers(1, 4), st.integers(0, 3), st.lists(st.integers(1, 9), min_size=1, max_size=12))
def test_places_of_a_plan_are_the_threads_that_load(large: int, small: int, sizes: list[int]) -> None:
    found = [PlannedLoad(0.0, size, size) for size in sizes]
    ahead = distances(found, Lanes(large, small, 0.25))
    own = places_of(ahead)
    assert len(set(own)) <= large + small
    for number, distance in enumerate(ahead):
        taken = [(number - back) % len(found) for back in range(1, distance)]
        assert own[number] not in [own[other] for other in taken], "its place is free"
        assert own[(number - distance) % len(found)] == own[number]


LEAVING = """
import atexit, threading
atexit.register(lambda: print([thread.name for thread in threading.enumerate()]))  # called after those that follow
from tests.unit.test_loader import scene
from flexnn_ncnn.runtime.weights.loader import ThreadedLoader
made = scene(3)
loader = ThreadedLoader(made.loads, made.stream)
loader.acquire(0)
print([thread.name for thread in threading.enumerate()])
"""


def test_no_thread_outlives_the_interpreter() -> None:
    """One that came back from ncnn then would end the process with SIGABRT."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run([sys.executable, "-c", LEAVING], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["['MainThread', 'flexnn-loader']", "['MainThread']"]
