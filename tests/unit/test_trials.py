"""What trials of plans teach about the next ones, without a trial."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexnn_ncnn.planning.planner import with_code_returned
from flexnn_ncnn.preparing.preparation import PlanCache
from flexnn_ncnn.preparing.trials import Trials
from param_tools.model_io import NcnnModel
from tests.unit.small_profiles import small_workload


def learned(gave_back: bool, more_bytes: int, base_bytes: int = 5_000_000, code_bytes: int = 2_000_000) -> Trials:
    model = NcnnModel.__new__(NcnnModel)  # nothing is run
    trials = Trials(model, with_code_returned(small_workload(), code_bytes), {}, None, Path())
    trials._learn(base_bytes, more_bytes, gave_back)
    return trials


@pytest.mark.parametrize("more_bytes", [3_000_000, 400_000, -1_000_000])
def test_a_plan_that_keeps_memory_says_nothing_about_those_that_give_it_back(more_bytes: int) -> None:
    trials = learned(False, more_bytes)
    assert trials.base_bytes == 5_000_000 + more_bytes
    assert trials.base_bytes - trials.code_bytes == 3_000_000


@pytest.mark.parametrize("more_bytes", [1_500_000, -1_000_000])
def test_nor_the_other_way_round(more_bytes: int) -> None:
    trials = learned(True, more_bytes)
    assert trials.base_bytes == 5_000_000
    assert trials.base_bytes - trials.code_bytes == 3_000_000 + more_bytes


def test_giving_memory_back_never_needs_more() -> None:
    trials = learned(True, 3_000_000)
    assert (trials.base_bytes, trials.code_bytes) == (6_000_000, 0)
    trials = learned(False, -3_000_000)
    assert (trials.base_bytes, trials.code_bytes) == (2_000_000, 0)


@pytest.mark.parametrize("text", ["", "5000000", "5000000 x", "1 2 3"])
def test_what_was_learned_is_kept_and_damage_is_nothing_known(tmp_path: Path, text: str) -> None:
    cache = PlanCache(tmp_path, "model", "machine")
    assert cache.base() is None
    cache.write_base(6_400_000, 3_700_000)
    assert cache.base() == (6_400_000, 3_700_000)
    (tmp_path / "base").write_text(text)
    assert cache.base() is None
