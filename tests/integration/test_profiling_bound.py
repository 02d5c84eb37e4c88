"""Profiles made within a bound on memory: plans for budgets up to it are as good, larger ones have another made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from flexnn_ncnn.planning.planner import schedule, smallest_budget, workload
from flexnn_ncnn.planning.validate import validate_plan
from flexnn_ncnn.preparing.assemble import assemble_plan
from flexnn_ncnn.preparing.preparation import PlanCache, Request
from flexnn_ncnn.profiling.facts import ProfileLimits
from flexnn_ncnn.profiling.floor import least_bound
from flexnn_ncnn.profiling.profiler import profile_model
from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.records.profile import ModelProfile
from flexnn_ncnn.runtime.executor import Executor
from flexnn_ncnn.runtime.memory import process_memory
from param_tools.model_io import NcnnModel, open_model
from tests.integration.cli import flexnn_here
from tests.integration.pipeline import assert_close, feed, stock_outputs
from tests.property.slicing_stock import model_of, write_random

# a large workspace first, large transformed weights last
LINES = [
    "Input in0 0 1 in0 0=128 1=128 2=16",
    "Convolution wide 1 1 in0 a 0=32 1=3 4=1 5=1 6=4608 9=1",
    "Convolution wider 1 1 a b 0=32 1=3 4=1 5=1 6=9216 9=1",
    "Pooling half 1 1 b c 0=0 1=3 2=2 3=1",
    "Split s 1 2 c c1 c2",
    "BinaryOp add 2 1 c1 c2 d 0=0",
    "Convolution down 1 1 d e 0=256 1=8 3=8 5=0 6=524288",
    "Convolution deep 1 1 e f 0=256 1=3 4=1 5=1 6=589824",
    "InnerProduct fc 1 1 f out 0=64 1=1 2=1048576",
]
INPUTS = {"in0": feed(16, 128, 128)}


@pytest.fixture(scope="module")
def param(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bound") / "m.param"
    write_random(model_of(LINES), path)
    return path


@contextmanager
def profiled(param: Path, bound_bytes: int | None, idle_bytes: int = 0) -> Iterator[tuple[NcnnModel, ModelProfile]]:
    limits = ProfileLimits(bound_bytes=bound_bytes, idle_bytes=idle_bytes, least_rounds=1, most_rounds=1)
    with open_model(param) as model:
        yield model, profile_model(model, "model", None, INPUTS, RunOptions(), limits)


def test_budgets_up_to_the_bound_are_planned_for_as_without_one(param: Path) -> None:
    with open_model(param) as model:
        bound_bytes, _ = least_bound(model, INPUTS, RunOptions())
    wanted = stock_outputs(param, param.with_suffix(".bin"), RunOptions(), INPUTS, ["out"])
    with profiled(param, None) as (_, free):
        least_bytes, _ = smallest_budget(workload(free), 0)
    with profiled(param, bound_bytes) as (model, bounded):
        assert bounded.bound_bytes == bound_bytes
        assert [layer.output_layouts for layer in bounded.layers] == [layer.output_layouts for layer in free.layers]
        assert [layer.mode for layer in bounded.layers] == [layer.mode for layer in free.layers]
        work = workload(bounded)
        assert smallest_budget(work, 0)[0] <= 1.1 * least_bytes
        for budget_bytes in np.linspace(1.1 * least_bytes, bound_bytes, 4).astype(int):
            decided = schedule(work, int(budget_bytes), 0)
            assert decided.predicted_peak_bytes <= budget_bytes
            plan = assemble_plan(model, decided)
            validate_plan(plan, model.bin_path.stat().st_size)
            with Executor(plan, model.bin_path) as executor:
                assert_close(executor.run(INPUTS), wanted, 1e-4)


def test_what_is_measured_by_slabs_is_not_told_too_small(param: Path) -> None:
    with profiled(param, None) as (_, free), profiled(param, 1, idle_bytes=1) as (_, bounded):
        pass
    for one, other in zip(free.layers, bounded.layers, strict=True):
        for cost, tight in zip(one.kernels, other.kernels, strict=True):
            assert tight.reads_raw == cost.reads_raw
            assert tight.run_peak_bytes.at(one.units) >= 0.9 * cost.run_peak_bytes.at(one.units)
            if process_memory.peak_is_exact():
                # what is rounded up in a small part counts more, and blocks that were free before do not
                assert tight.kept_bytes.at(one.units) >= 0.7 * cost.kept_bytes.at(one.units) - 1000
            if cost.slabs is not None:
                assert tight.slabs is not None
                assert tight.slabs.run_peak_bytes.sizes[0] <= 12


def test_a_bound_that_holds_everything_changes_nothing(param: Path) -> None:
    with profiled(param, 500_000_000) as (_, profile):
        assert profile.bound_bytes == 0
        assert profile.serves(0)


def test_a_bound_too_small_is_refused_with_one_that_works(param: Path, tmp_path: Path) -> None:
    done = flexnn_here("profile", param, "--budget", "3MB", cache=tmp_path)
    assert done.status == 3
    assert "a budget of 3.0 MB cannot work: profiling layer '" in done.err
    assert done.err.count("\n") == 1
    enough = done.err.split("; give ")[1].split(" or more")[0]
    done = flexnn_here("profile", param, "--budget", enough, "--top", "0", cache=tmp_path)
    assert (done.status, done.err) == (0, "")
    assert "measured again for larger budgets" in done.out


def test_a_larger_budget_has_another_profile_made(param: Path, tmp_path: Path) -> None:
    with open_model(param) as model:
        bound_bytes, _ = least_bound(model, INPUTS, RunOptions())
    request = Request(param, param.with_suffix(".bin"), 0, RunOptions())
    cache = PlanCache.of(request, INPUTS, tmp_path)

    def planned(budget_bytes: int) -> ModelProfile:
        done = flexnn_here("schedule", param, "--budget", budget_bytes, cache=tmp_path)
        assert done.status == 0, done.err
        found = cache.read_profile()
        assert found is not None
        return found

    first = planned(bound_bytes)
    assert first.bound_bytes == bound_bytes
    assert planned(bound_bytes - 1_000_000) == first
    larger = planned(200_000_000)
    assert (larger.bound_bytes, larger.serves(0)) == (0, True)
    assert planned(bound_bytes) == larger
