"""What trials of plans teach about the next ones, without a trial."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from flexnn_ncnn.errors import BudgetError
from flexnn_ncnn.planning.planner import Schedule, Workload, smallest_budget, with_code_returned, without_releases
from flexnn_ncnn.preparing import trials
from flexnn_ncnn.preparing.preparation import PlanCache
from flexnn_ncnn.preparing.trials import Trials
from flexnn_ncnn.records.plan import Plan
from param_tools.model_io import NcnnModel
from tests.unit.plans import good_plan
from tests.unit.small_profiles import small_workload


def learned(gave_back: bool, more_bytes: int, base_bytes: int = 5_000_000, code_bytes: int = 2_000_000) -> Trials:
    model = NcnnModel.__new__(NcnnModel)  # nothing is run
    learning = Trials(model, with_code_returned(small_workload(), code_bytes), {}, None, Path())
    learning._learn(base_bytes, more_bytes, gave_back)
    return learning


@pytest.mark.parametrize("more_bytes", [3_000_000, 400_000, -1_000_000])
def test_a_plan_that_keeps_memory_says_nothing_about_those_that_give_it_back(more_bytes: int) -> None:
    found = learned(False, more_bytes)
    assert found.base_bytes == 5_000_000 + more_bytes
    assert found.base_bytes - found.code_bytes == 3_000_000


@pytest.mark.parametrize("more_bytes", [1_500_000, -1_000_000])
def test_nor_the_other_way_round(more_bytes: int) -> None:
    found = learned(True, more_bytes)
    assert found.base_bytes == 5_000_000
    assert found.base_bytes - found.code_bytes == 3_000_000 + more_bytes


def test_giving_memory_back_never_needs_more() -> None:
    found = learned(True, 3_000_000)
    assert (found.base_bytes, found.code_bytes) == (6_000_000, 0)
    found = learned(False, -3_000_000)
    assert (found.base_bytes, found.code_bytes) == (2_000_000, 0)


@pytest.mark.parametrize("text", ["", "5000000", "5000000 x", "1 2 3"])
def test_what_was_learned_is_kept_and_damage_is_nothing_known(tmp_path: Path, text: str) -> None:
    cache = PlanCache(tmp_path, "model", "machine")
    assert cache.base() is None
    cache.write_base(6_400_000, 3_700_000)
    assert cache.base() == (6_400_000, 3_700_000)
    (tmp_path / "base").write_text(text)
    assert cache.base() is None


def planning_with(
    monkeypatch: pytest.MonkeyPatch, code_bytes: int, gave_back: list[bool]
) -> Callable[[Workload], Trials]:
    """Trials of plans that hold what is predicted, `code_bytes` more where they keep memory; notes which did not."""

    def assembled(_: NcnnModel, decided: Schedule) -> Plan:
        gave_back.append(decided.gives_back)
        peak_bytes = decided.predicted_peak_bytes
        return replace(good_plan(), predicted_peak_bytes=peak_bytes, budget_bytes=max(peak_bytes, decided.budget_bytes))

    def tried(_: Trials, plan: Plan) -> trials._Trial:
        margin_bytes = trials._NOISE_BYTES + trials._BASE_MARGIN_BYTES
        held_bytes = max(0, plan.predicted_peak_bytes - margin_bytes + (0 if gave_back[-1] else code_bytes))
        return trials._Trial(held_bytes, held_bytes, 0, {})

    monkeypatch.setattr(trials, "assemble_plan", assembled)
    monkeypatch.setattr(trials.Trials, "_try", tried)
    monkeypatch.setattr(trials.TransformedFile, "supply", lambda _, plan, path: plan)
    model = cast("NcnnModel", SimpleNamespace(bin_path=Path()))
    return lambda work: Trials(model, work, {}, None, Path())


def test_where_a_budget_asks_for_memory_back_a_plan_that_keeps_it_shows_first_what_code_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work, base_bytes, code_bytes = small_workload(), 1_000_000, 500_000
    least_bytes, _ = smallest_budget(work, base_bytes)
    assert least_bytes < smallest_budget(without_releases(work), base_bytes)[0]
    gave_back: list[bool] = []
    planning = planning_with(monkeypatch, code_bytes, gave_back)
    found = planning(work)
    found.plan(least_bytes, base_bytes)
    assert gave_back[:2] == [False, True]
    assert (found.base_bytes, found.code_bytes) == (base_bytes + code_bytes, code_bytes)
    gave_back.clear()
    planning(with_code_returned(work, code_bytes)).plan(least_bytes, base_bytes + code_bytes)
    assert gave_back[0], "it is known"


def test_a_refusal_has_tried_to_give_memory_back_though_only_code_is_gained(monkeypatch: pytest.MonkeyPatch) -> None:
    work, base_bytes = small_workload(), 1_000_000
    work = replace(work, joint=copy(work.in_turn))
    least_bytes = smallest_budget(work, base_bytes)[0]
    assert least_bytes == smallest_budget(without_releases(work), base_bytes)[0], "it gains nothing itself"
    gave_back: list[bool] = []
    with pytest.raises(BudgetError) as refused:
        planning_with(monkeypatch, 500_000, gave_back)(work).plan(1_000, base_bytes)
    assert gave_back[-1]
    assert refused.value.smallest_bytes < least_bytes + trials._TRIALS_DIFFER_BYTES + trials._FIRST_CODE_BYTES
