"""`flexnn bench`: every configuration runs the model rightly, and is what it says."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flexnn_ncnn.cli.bench import bench
from flexnn_ncnn.errors import UsageError
from flexnn_ncnn.measuring.benchmark import benchmark
from flexnn_ncnn.measuring.contestants import CONFIGS
from flexnn_ncnn.planning.ablation import (
    without_kernel_choice,
    without_memory_plan,
    without_preloading,
    without_slicing,
)
from flexnn_ncnn.planning.on_demand import on_demand
from flexnn_ncnn.planning.planner import schedule, smallest_budget, workload
from flexnn_ncnn.planning.validate import validate_plan
from flexnn_ncnn.preparing.assemble import assemble_plan
from flexnn_ncnn.preparing.preparation import Request
from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.runtime.memory import heap
from tests.integration import tiny_models
from tests.integration.cli import flexnn, flexnn_here
from tests.integration.pipeline import Prepared, assert_close, feed, prepared
from tests.integration.quick_plans import plans_made_here

# a bit of everything: a branch, slices, slabs, list inputs, a shared input
LAYERS = [
    "Input in 0 1 in",
    "Convolution c1 1 1 in a 0=64 1=3 4=1 5=1 6=27648 9=1",
    "Split s 1 2 a x y",
    "Convolution c2 1 1 x b 0=64 1=3 4=1 5=1 6=36864",
    "BinaryOp add 2 1 b y sum 0=0",
    "Split t 1 2 sum v w",
    "Convolution c3 1 1 v d 0=32 1=1 5=1 6=2048",
    "Convolution c4 1 1 w e 0=32 1=1 5=1 6=2048",
    "Concat join 2 1 d e f",
    "ReLU relu 1 1 f r",
    "Pooling pool 1 1 r p 0=0 1=2 2=2",
    "InnerProduct fc 1 1 p out 0=200 1=1 2=460800",
]


@pytest.fixture(scope="module")
def model() -> object:
    with prepared([*LAYERS], {"in": feed(48, 12, 12)}) as found:
        yield found


def test_on_demand_answers_as_stock_and_streams_all(model: Prepared) -> None:
    plan = assemble_plan(model.opened, on_demand(model.work, 0))
    weights = sum(step.weight_bytes for step in plan.steps)
    assert plan.streamed_bytes == weights > 0
    for one in (plan, without_memory_plan(plan)):
        validate_plan(one)
        with heap.return_freed_memory():
            assert_close(model.run(one), model.stock(), 1e-5)


@pytest.mark.parametrize("extra_bytes", [0, 300_000, 100_000_000])
def test_plans_with_a_thing_taken_away_answer_as_before(extra_bytes: int, model: Prepared) -> None:
    plan = model.plan(model.least_bytes + extra_bytes)
    for taken_away in (without_memory_plan, without_preloading):
        changed = taken_away(plan)
        validate_plan(changed)
        assert changed.streamed_bytes == plan.streamed_bytes
        assert_close(model.run(changed), model.run(plan), 0)


def test_planned_from_a_profile_that_hides_something_it_answers_as_stock(model: Prepared) -> None:
    for narrow in (without_kernel_choice, without_slicing):
        work = workload(narrow(model.profile))
        for budget_bytes in (smallest_budget(work, 0)[0], 100_000_000):
            plan = assemble_plan(model.opened, schedule(work, budget_bytes, 0))
            validate_plan(plan)
            assert_close(model.run(plan), model.stock(), 1e-5)
            if narrow is without_slicing:
                assert all(len(step.parts) <= 1 for step in plan.steps)


def request(folder: Path, budget_bytes: int = 5_000_000) -> Request:
    param = tiny_models.fully_connected(folder)
    return Request(param, param.with_suffix(".bin"), budget_bytes, RunOptions())


INPUTS = {"in0": np.zeros((3, 32, 32), np.float32)}


@pytest.mark.parametrize("together", [True, False])
def test_all_configurations_are_measured(together: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXNN_CACHE_DIR", str(tmp_path / "cache"))
    said: list[str] = []
    found = benchmark(
        request(tmp_path),
        INPUTS,
        tuple(CONFIGS) if together else ("stock", "flexnn"),
        loops=2,
        warmup=1,
        together=together,
        progress=lambda what, done, of: said.append(what),
    )
    rows = {one.config: one for one in found.measured}
    assert list(rows) == (list(CONFIGS) if together else ["stock", "flexnn"])
    assert ("measuring" in said) == together
    assert ("measuring flexnn" in said) != together
    for one in found.measured:
        assert 0 < one.latency_ms_min <= one.latency_ms_median <= one.latency_ms_max
        assert len(one.latencies_ms) == 2
        assert (one.weights_resident_bytes is None) == one.config.startswith("stock")
    assert rows["flexnn"].peak_bytes <= 5_000_000 or not found.peak_exact
    if together:
        assert rows["ondemand"].weights_streamed_bytes > 8_800_000
        assert rows["ondemand"].weights_resident_bytes == 0
        assert rows["flexnn-no-memplan"].weights_streamed_bytes == rows["flexnn"].weights_streamed_bytes > 0


def test_what_cannot_keep_the_budget_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXNN_CACHE_DIR", str(tmp_path / "cache"))
    found = benchmark(request(tmp_path), INPUTS, ("flexnn", "flexnn-no-slicing"), loops=1, warmup=0)
    sliced, whole = found.measured
    assert sliced.note == ""
    assert whole.note.startswith("cannot keep the budget; within ")


def test_where_taking_away_changes_nothing_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXNN_CACHE_DIR", str(tmp_path / "cache"))
    with plans_made_here():
        found = benchmark(request(tmp_path, 100_000_000), INPUTS, ("flexnn-no-preload",), loops=1, warmup=0)
    assert found.measured[0].note == "the same as flexnn: its plan does stock ncnn throughout"


@pytest.mark.parametrize("configs", [(), ("stock", "stock"), ("stock", "fast")])
def test_configurations_that_make_no_sense(configs: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="configuration"):
        benchmark(replace(request(tmp_path)), INPUTS, configs)


def test_the_command_has_the_same_configurations() -> None:
    (option,) = (one for one in bench.params if one.name == "configs")
    assert tuple(option.type.choices) == tuple(CONFIGS)  # type: ignore[attr-defined]


def test_the_command(tmp_path: Path) -> None:
    param = tiny_models.classifier(tmp_path)
    table = tmp_path / "out.csv"
    arguments = ("bench", param, "--loops", 3, "--warmup", 0, "--csv", table)
    done = flexnn(*arguments, "--json", "--config", "stock-direct", "--config", "stock", cache=tmp_path / "cache")
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert (found["budget_bytes"], found["loops"], found["warmup"], found["threads"]) == (None, 3, 0, 1)
    assert [one["config"] for one in found["measured"]] == ["stock-direct", "stock"]
    assert found["machine"].keys() == {"load_average", "others_running", "cpus", "busy"}
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["config"] for row in rows] == ["stock-direct", "stock"]
    assert [float(row["latency_ms_median"]) for row in rows] == [one["latency_ms_median"] for one in found["measured"]]
    assert rows[0]["model"] == str(param)
    again = flexnn_here(*arguments, cache=tmp_path / "cache")
    assert again.status == 1
    assert "exists already" in again.err
    text = flexnn_here(*arguments, "--force", "--cooling", "0.01", cache=tmp_path / "cache")
    assert text.status == 0, text.err
    assert "3 inferences after 0, 0.01 s before each round" in text.out
    assert text.out.count("stock ") == 1


def test_without_a_budget_there_is_nothing_to_keep(tmp_path: Path) -> None:
    param = tiny_models.classifier(tmp_path)
    done = flexnn_here("bench", param, "--config", "flexnn", cache=tmp_path / "cache")
    assert done.status == 2
    assert "--budget" in done.err
    done = flexnn_here("bench", param, "--config", "fast", cache=tmp_path / "cache")
    assert done.status == 2
    with plans_made_here():
        done = flexnn_here("bench", param, "--budget", "1kB", "--config", "flexnn", cache=tmp_path / "cache")
    assert done.status == 3
