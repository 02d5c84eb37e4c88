"""Memory given back within an inference, reckoned by hand and on random needs."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from flexnn_ncnn.planning.planner import schedule, smallest_budget, with_code_returned, workload
from flexnn_ncnn.planning.releases import StepNeed, releases
from flexnn_ncnn.records.profile import ModelProfile
from flexnn_ncnn.scheduling.forecast import memory_shares
from tests.unit.profiles import PLANE, cost, layer, model

EARLY, LATE = StepNeed(((0, 900),), 100, 50), StepNeed(((0, 100),), 700, 50)

needs = st.builds(
    StepNeed,
    st.tuples(st.integers(0, 500), st.integers(1, 500)).map(lambda pair: ((pair[0], sum(pair)),)),
    st.integers(0, 500),
    st.integers(0, 200),
)


def held(need: StepNeed) -> int:
    return sum(end - begin for begin, end in need.arena) + need.heap_bytes + need.raw_bytes


def test_nothing_is_given_back_where_all_fits() -> None:
    found = releases([EARLY, LATE], 1650)
    assert (found.arena_steps, found.heap_steps, found.seconds) == (frozenset(), frozenset(), 0.0)
    assert found.held_bytes == 900 + 700 + 50


def test_only_what_is_too_much_is_given_back() -> None:
    found = releases([EARLY, LATE], 1600)
    assert (found.arena_steps, found.heap_steps) == ({1}, {0})
    assert found.held_bytes == 900 + 100 + 50
    assert (found.arena_bytes, found.heap_bytes, found.raw_bytes) == (900, 100, 50)
    assert found.seconds > 0


@given(st.lists(needs, min_size=1, max_size=8), st.integers(0, 2000))
def test_what_the_largest_step_needs_is_always_enough(steps: list[StepNeed], more: int) -> None:
    least = max(map(held, steps))
    found = releases(steps, least + more)
    assert least <= found.held_bytes <= least + more


@given(st.lists(needs, min_size=1, max_size=8), st.integers(0, 2000))
def test_what_is_held_is_what_a_run_would_hold(steps: list[StepNeed], limit: int) -> None:
    found = releases(steps, limit)
    pages: set[int] = set()
    heap = most = 0
    for number, need in list(enumerate(steps)) * 4:
        used = {page for begin, end in need.arena for page in range(begin, end)}
        pages = set() if number in found.arena_steps else pages
        heap = 0 if number in found.heap_steps else heap
        pages, heap = pages | used, max(heap, need.heap_bytes)
        most = max(most, len(pages) + heap + need.raw_bytes)
    assert most == found.held_bytes


@given(st.lists(needs, min_size=1, max_size=8), st.integers(0, 2000), st.integers(0, 300))
def test_code_of_layers_before_counts_where_nothing_is_given_back(steps: list[StepNeed], more: int, code: int) -> None:
    least = max(map(held, steps)) - code
    found = releases(steps, least + more, code)
    assert found.held_bytes <= least + more
    pages: set[int] = set()
    heap, most = 0, -code
    for number, need in list(enumerate(steps)) * 4:
        used = {page for begin, end in need.arena for page in range(begin, end)}
        pages = set() if number in found.arena_steps else pages
        heap = 0 if number in found.heap_steps else heap
        pages, heap = pages | used, max(heap, need.heap_bytes)
        gone = code if number in found.arena_steps | found.heap_steps else 0
        most = max(most, len(pages) + heap + need.raw_bytes - gone)
    assert most == found.held_bytes


def wide_then_heavy() -> ModelProfile:
    """A layer with large blobs, then one with large weights."""
    wide = replace(PLANE, w=400, h=400)
    first = layer("wide", "in", output_layouts=(wide,), kernels=(cost(compute_seconds=0.001),))
    small = layer("small", "wide", input_layouts=(wide,), kernels=(cost(compute_seconds=0.001),))
    kernel = cost(load_peak_bytes=8_000_000, kept_bytes=8_000_000, compute_seconds=0.001, load_seconds=0.001)
    return model(first, small, layer("heavy", "small", raw_bytes=4_000_000, kernels=(kernel,)))


def test_blobs_and_weights_of_different_steps_are_not_held_together() -> None:
    work = workload(wide_then_heavy())
    least, _ = smallest_budget(work, 0)
    kept = smallest_budget(replace(work, joint=None), 0)[0]
    assert least < kept - 3_000_000
    tight, loose = schedule(work, least, 0), schedule(work, 2 * kept, 0)
    assert tight.releases is not None
    assert tight.releases.arena_steps or tight.releases.heap_steps
    assert tight.predicted_peak_bytes <= least
    assert loose.releases is None or not (loose.releases.arena_steps or loose.releases.heap_steps)
    assert loose.predicted_seconds <= tight.predicted_seconds


def test_a_budget_less_by_the_code_that_is_given_back_works() -> None:
    work = workload(wide_then_heavy())
    base_bytes, code_bytes = 2_000_000, 1_500_000
    least, _ = smallest_budget(work, base_bytes)
    less = with_code_returned(work, code_bytes)
    assert smallest_budget(less, base_bytes)[0] == least - code_bytes
    tight = schedule(less, least - code_bytes, base_bytes)
    assert tight.gives_back
    assert tight.predicted_peak_bytes <= least - code_bytes
    assert tight.returned_code_bytes == code_bytes
    assert memory_shares(tight, base_bytes).peak_bytes == tight.predicted_peak_bytes
    loose = schedule(less, 3 * least, base_bytes)
    assert not loose.gives_back
    assert loose.returned_code_bytes == 0
    assert loose.predicted_peak_bytes == schedule(work, 3 * least, base_bytes).predicted_peak_bytes
