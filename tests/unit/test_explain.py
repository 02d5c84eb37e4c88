from __future__ import annotations

import re
from dataclasses import replace

import pytest

from flexnn_ncnn.planning.planner import schedule
from flexnn_ncnn.records.capabilities import STOCK
from flexnn_ncnn.scheduling.explain import Explanation, explain, sentences
from flexnn_ncnn.scheduling.forecast import smallest
from tests.unit.small_profiles import BASE_BYTES, small_workload

WORK = small_workload()
LEAST = smallest(WORK, BASE_BYTES).budget_bytes


def explained(budget_bytes: int) -> Explanation:
    return explain(WORK, schedule(WORK, budget_bytes, BASE_BYTES), BASE_BYTES)


def test_a_tight_budget_streams_slices_and_runs_another_kernel() -> None:
    found = explained(LEAST)
    assert found.binding[0] == "memory"
    assert found.streamed_bytes == 11_000
    assert found.resident_layers == ()
    (swap,) = found.swaps
    assert (swap.kernel, swap.layers) == ("sgemm", ("convolution1",))
    assert swap.slower_seconds == pytest.approx(0.014 + 0.001 - 0.010 - 0.002)
    assert (swap.fewer_weights_bytes, swap.less_workspace_bytes) == (30_000, 1_000)
    text = "\n".join(sentences(found))
    assert "All weights are streamed: 11.0 kB ('convolution1', 'innerproduct3'), in each inference." in text
    assert "'convolution1' into 10" in text
    assert (
        "'convolution1' runs sgemm instead of ncnn's own choice: 30.0 kB less of transformed weights, "
        "up to 1.0 kB less workspace, 3 ms more time." in text
    )


def test_with_room_for_everything_compute_binds_and_more_buys_nothing() -> None:
    found = explained(1_000_000)
    assert found.binding == ("compute",)
    assert found.saved_by_memory_seconds == pytest.approx(0.0)
    assert found.more.saved_seconds == 0.0
    text = "\n".join(sentences(found))
    assert "All weights stay resident: 41.0 kB ('convolution1', 'innerproduct3')." in text
    assert "Compute binds" in text
    assert "A tenth more budget, 1.1 MB, would buy nothing worth having." in text
    assert "instead of ncnn's own" not in text


def test_what_a_tenth_more_would_save_is_what_it_saves() -> None:
    budget_bytes = next(size for size in range(LEAST, 80_000, 500) if explained(size).more.saved_seconds > 0.001)
    found, better = explained(budget_bytes), explained(budget_bytes + budget_bytes // 10)
    assert found.more.saved_seconds == pytest.approx(found.time.seconds - better.time.seconds)
    assert found.more.more_resident_bytes == better.memory.resident_bytes - found.memory.resident_bytes
    assert found.more.less_streamed_bytes == found.streamed_bytes - better.streamed_bytes


@pytest.mark.parametrize("budget_bytes", [LEAST, 25_000, 60_000])
def test_the_shares_of_the_time_make_a_whole(budget_bytes: int) -> None:
    text = " ".join(sentences(explained(budget_bytes)))
    (sentence,) = re.findall(r"One inference takes .*? one by one\.", text)
    assert sum(int(share) for share in re.findall(r"(\d+)%", sentence)) == pytest.approx(100, abs=2)


def test_loads_beside_computing_take_less_than_their_parts_together() -> None:
    work = small_workload(replace(STOCK, cpus_beside=2))
    decided = next(
        one for size in range(LEAST, 80_000, 500) if (one := schedule(work, size, BASE_BYTES)).lanes is not None
    )
    found = explain(work, decided, BASE_BYTES)
    assert found.time.beside_seconds > 0
    assert found.time.seconds == pytest.approx(decided.predicted_seconds)
    text = " ".join(sentences(found))
    assert "Loads go on beside computing, which hides" in text
    assert "what is loaded beside computing counts twice" in text
    assert decided.predicted_seconds < schedule(WORK, decided.budget_bytes, BASE_BYTES).predicted_seconds
