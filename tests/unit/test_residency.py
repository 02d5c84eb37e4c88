"""Choosing for all layers at once: within the memory, near the optimum, better with more memory."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexnn_ncnn.planning.candidates import Candidates, Row
from flexnn_ncnn.planning.choices import Choice
from flexnn_ncnn.planning.residency import Selection, select
from flexnn_ncnn.planning.tightest import ONCE, least_bytes, smallest
from tests.examples import examples
from tests.unit.profiles import choice

Layers = list[list[Choice]]
ARENA, RESULT = 40, 5


def candidates(found: Layers) -> Candidates:
    """Layers over an arena of 40 bytes whose blobs end at 30, with a hole of 10."""
    return Candidates([Row(tuple(ways), 10, 30) for ways in found], ARENA, RESULT)


@st.composite
def layers(draw: st.DrawFn, most: int = 5, most_load_bytes: int = ARENA, may_slice: bool = True) -> Layers:
    """Per layer: stream it whole, stream it in slices, or keep it.

    As with real layers, slices need little, and computing with kept weights no less heap than that.
    """
    found = []
    for _ in range(draw(st.integers(1, most))):
        seconds, least = draw(st.integers(50, 100)), draw(st.integers(0, 20))
        slower, sliced_raw = draw(st.integers(0, 60)), draw(st.integers(0, RESULT))
        whole = choice(
            seconds / 1e3,
            heap_bytes=least + draw(st.integers(0, 40)),
            raw_bytes=draw(st.integers(0, 60)),
            scratch_bytes=draw(st.integers(0, 40)),
        )
        sliced = choice((seconds + slower) / 1e3, heap_bytes=least, raw_bytes=sliced_raw)
        kept = choice(
            draw(st.integers(1, 60)) / 1e3,
            resident=True,
            kept_bytes=draw(st.integers(1, 100)),
            heap_bytes=least,
            scratch_bytes=draw(st.integers(0, 40)),
            load_bytes=draw(st.integers(0, most_load_bytes)),
        )
        found.append([whole, sliced, kept] if may_slice else [kept, whole])
    return found


def needed_bytes(chosen: tuple[Choice, ...]) -> int:
    """What the choices hold together, loading left out."""
    return sum(one.kept_bytes for one in chosen) + shared_bytes(chosen)


def shared_bytes(chosen: tuple[Choice, ...]) -> int:
    """The arena, the heap and the mapped weights of whichever layer needs most."""
    arena = max(ARENA, *(30 + one.scratch_bytes for one in chosen if one.scratch_bytes > 10), 0)
    return arena + max(one.heap_bytes for one in chosen) + max(RESULT, *(one.raw_bytes for one in chosen))


def may_load(chosen: tuple[Choice, ...], memory: int) -> bool:
    """Weights are loaded before anything else is in memory."""
    return all(sum(one.kept_bytes for one in chosen) + one.load_bytes <= memory for one in chosen)


def optimum(found: Layers, memory: int) -> float | None:
    fitting = [one for one in product(*found) if needed_bytes(one) <= memory and may_load(one, memory)]
    return min((sum(one.seconds for one in chosen) for chosen in fitting), default=None)


def chosen_of(found: Layers, selection: Selection) -> tuple[Choice, ...]:
    return tuple(ways[column] for ways, column in zip(found, selection.chosen, strict=True))


@settings(max_examples=examples(60), deadline=None)
@given(layers(), st.integers(0, 400))
def test_a_selection_fits_and_says_what_it_needs(found: Layers, memory: int) -> None:
    selection = select(candidates(found), memory)
    if selection is None:
        assert memory < smallest(candidates(found))[0]
        return
    chosen = chosen_of(found, selection)
    assert needed_bytes(chosen) <= memory
    assert may_load(chosen, memory)
    assert selection.seconds == pytest.approx(sum(one.seconds for one in chosen))
    assert selection.kept_bytes == sum(one.kept_bytes for one in chosen)
    assert selection.heap_bytes == max(one.heap_bytes for one in chosen)
    assert selection.arena_bytes + selection.heap_bytes + selection.raw_bytes == shared_bytes(chosen)
    assert selection.raw_bytes == max(RESULT, *(one.raw_bytes for one in chosen))


@settings(max_examples=examples(200), deadline=None)
@given(layers(), st.integers(0, 400))
def test_a_selection_is_near_the_optimum(found: Layers, memory: int) -> None:
    selection, best = select(candidates(found), memory), optimum(found, memory)
    if selection is not None:
        assert best is not None
        assert best - 1e-9 <= selection.seconds <= 2 * best + 1e-9


def test_limits_that_only_help_together_rise_together() -> None:
    """Loading whole weights needs a byte more heap and a byte more mapped; keeping them does not fit."""
    whole, sliced = choice(0.05, heap_bytes=21, raw_bytes=RESULT + 1), choice(0.101, heap_bytes=20)
    kept = choice(0.001, resident=True, kept_bytes=3, heap_bytes=20)
    selection = select(candidates([[whole, sliced, kept]]), ARENA + 21 + RESULT + 1)
    assert selection is not None
    assert selection.chosen == (0,)


def test_selections_are_the_optimum_nearly_always() -> None:
    ratios: list[float] = []

    @settings(max_examples=examples(200), deadline=None, derandomize=True, database=None)
    @given(layers(), st.integers(0, 400))
    def collect(found: Layers, memory: int) -> None:
        selection, best = select(candidates(found), memory), optimum(found, memory)
        if selection is not None and best is not None:
            ratios.append(selection.seconds / best)

    collect()
    assert sum(ratios) / len(ratios) < 1.02


@settings(max_examples=examples(60), deadline=None)
@given(layers(), st.integers(0, 300), st.integers(1, 100))
def test_more_memory_is_hardly_slower(found: Layers, memory: int, more: int) -> None:
    little, much = select(candidates(found), memory), select(candidates(found), memory + more)
    if little is not None:
        assert much is not None
        assert much.seconds <= 1.05 * little.seconds


@settings(max_examples=examples(60), deadline=None)
@given(layers(), st.integers(0, 400))
def test_the_same_problem_has_the_same_answer(found: Layers, memory: int) -> None:
    assert select(candidates(found), memory) == select(candidates([list(ways) for ways in found]), memory)


@settings(max_examples=examples(60), deadline=None)
@given(layers())
def test_the_smallest_memory_works_and_is_no_more_than_streaming_needs(found: Layers) -> None:
    least, culprit, _ = smallest(candidates(found))
    streamed = [[one for one in ways if not one.kept_bytes] for ways in found]
    assert least <= min(map(needed_bytes, product(*streamed)))
    assert select(candidates(found), least) is not None
    assert select(candidates(found), least - 1) is None
    assert 0 <= culprit < len(found)


@settings(max_examples=examples(100), deadline=None)
@given(layers())
def test_no_selection_needs_less_than_what_is_not_worth_a_search(found: Layers) -> None:
    assert least_bytes(candidates(found), ONCE) <= min(map(needed_bytes, product(*found)))


@settings(max_examples=examples(100), deadline=None)
@given(layers(most_load_bytes=400, may_slice=False))
def test_the_smallest_memory_works_where_loading_what_stays_needs_much(found: Layers) -> None:
    least, _, _ = smallest(candidates(found))
    selection = select(candidates(found), least)
    assert selection is not None
    chosen = [ways[column] for ways, column in zip(found, selection.chosen, strict=True)]
    assert selection.kept_bytes + max(one.load_bytes for one in chosen) <= least


def test_plenty_of_memory_takes_the_fastest_of_all() -> None:
    found = [[choice(2.0, raw_bytes=9), choice(1.0, resident=True, kept_bytes=50)]] * 3
    selection = select(candidates(found), 1000)
    assert selection is not None
    assert selection.chosen == (1, 1, 1)


def test_layers_alike_may_be_run_differently() -> None:
    found = [[choice(2.0, raw_bytes=9), choice(1.0, resident=True, kept_bytes=50)]] * 3
    selection = select(candidates(found), ARENA + 9 + 120)
    assert selection is not None
    assert sorted(selection.chosen) == [0, 1, 1]


def test_no_layers_need_no_memory() -> None:
    nothing = Candidates([], 0, 0)
    assert select(nothing, 0) == Selection((), 0.0, 0, 0, 0, 0)
    assert select(nothing, -1) is None
    assert smallest(nothing) == (0, -1, False)
