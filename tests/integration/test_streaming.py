"""Streamed plans, however their weights come: the same answer to the bit, after errors and forks too."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import flexnn_ncnn
from flexnn_ncnn.errors import UsageError
from flexnn_ncnn.planning.planner import workload
from flexnn_ncnn.records.capabilities import STOCK
from flexnn_ncnn.records.plan import Plan
from flexnn_ncnn.records.storage import Storage
from flexnn_ncnn.runtime.executor import Executor
from param_tools.errors import ModelFormatError
from tests.integration import tiny_models
from tests.integration.pipeline import Prepared, assert_close, feed, prepared

pytestmark = pytest.mark.patched

LAYERS = [
    "Input in 0 1 in",
    "Convolution c1 1 1 in a 0=64 1=3 4=1 5=1 6=27648 9=1",
    "Split s 1 2 a x y",
    "Convolution c2 1 1 x b 0=64 1=3 4=1 5=1 6=36864",
    "BinaryOp add 2 1 b y sum 0=0",
    "Pooling pool 1 1 sum p 0=0 1=2 2=2",
    "MemoryData table 0 1 m 0=6 1=6 2=64",
    "BinaryOp plus 2 1 p m q 0=0",
    "InnerProduct fc 1 1 q f 0=400 1=1 2=921600",
    "InnerProduct out 1 1 f out 0=50 1=1 2=20000",
]
TABLE_BYTES = 4 * 6 * 6 * 64  # read where it is wanted, and no load
WAYS = [("mmap", False), ("mmap", True), ("direct", False), ("direct", True)]


@pytest.fixture(scope="module")
def found() -> Iterator[Prepared]:
    with prepared(LAYERS, {"in": feed(48, 12, 12)}, cut_all=True, part_bytes=200_000) as made:
        yield made


@pytest.fixture(scope="module")
def plan(found: Prepared) -> Plan:
    """Everything is streamed, in slices where that is smaller."""
    made = found.plan(found.least_bytes)
    assert sum(not step.resident for step in made.steps) >= 4
    assert max(len(step.parts) for step in made.steps) > 1
    return made


def several(executor: Executor, found: Prepared) -> None:
    """Inferences enough that nothing is left of what was read ahead of them."""
    for _ in range(3):
        executor.run(found.inputs)


def variant(plan: Plan, page_cache: str, ahead: int = 3) -> Plan:
    """The same, loaded as far ahead as `ahead` says: memory is no matter here."""
    steps = tuple(replace(s, parts=tuple(replace(part, ahead=ahead) for part in s.parts)) for s in plan.steps)
    return replace(plan, steps=steps, page_cache=page_cache, read_ahead_bytes=5_000_000)


@pytest.mark.parametrize(("page_cache", "threaded"), WAYS)
def test_the_answer_is_the_same_each_time(found: Prepared, plan: Plan, page_cache: str, threaded: bool) -> None:
    before = threading.active_count()
    expected = found.run(plan)["out"]
    assert_close({"out": expected}, found.stock(), 1e-5)
    with Executor(variant(plan, page_cache), found.opened.bin_path, threaded=threaded) as executor:
        for _ in range(5):
            np.testing.assert_array_equal(executor.run(found.inputs)["out"], expected)
        assert executor.trace.streamed_bytes == plan.streamed_bytes + TABLE_BYTES
    assert threading.active_count() == before


@pytest.mark.parametrize(("page_cache", "threaded"), WAYS)
def test_an_inference_that_is_broken_off_anywhere_spoils_no_other(
    found: Prepared, plan: Plan, page_cache: str, threaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = found.run(plan)["out"]
    with Executor(variant(plan, page_cache), found.opened.bin_path, threaded=threaded) as executor:
        actions = list(executor._actions)
        for number in range(len(actions)):

            def broken(mats: object) -> None:
                raise KeyboardInterrupt

            executor._actions[number] = broken
            with pytest.raises(KeyboardInterrupt):
                executor.run(found.inputs)
            executor._actions[number] = actions[number]
            np.testing.assert_array_equal(executor.run(found.inputs)["out"], expected)


@pytest.mark.parametrize(("page_cache", "threaded"), WAYS)
def test_a_file_cut_short_is_an_error_until_it_is_whole_again(
    found: Prepared, plan: Plan, page_cache: str, threaded: bool, tmp_path: Path
) -> None:
    expected, copy = found.run(plan)["out"], tmp_path / "copy.bin"
    whole = found.opened.bin_path.read_bytes()
    copy.write_bytes(whole)
    with Executor(variant(plan, page_cache), copy, threaded=threaded) as executor:
        executor.run(found.inputs)
        os.truncate(copy, len(whole) // 2)
        for _ in range(2):
            with pytest.raises(ModelFormatError):
                several(executor, found)
    with Executor(variant(plan, page_cache), found.opened.bin_path, threaded=threaded) as executor:
        np.testing.assert_array_equal(executor.run(found.inputs)["out"], expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
@pytest.mark.parametrize(("page_cache", "threaded"), WAYS)
def test_a_fork_infers_by_itself(found: Prepared, plan: Plan, page_cache: str, threaded: bool) -> None:
    with Executor(variant(plan, page_cache), found.opened.bin_path, threaded=threaded) as executor:
        expected = executor.run(found.inputs)["out"]
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = not all((executor.run(found.inputs)["out"] == expected).all() for _ in range(2))
            finally:
                os._exit(status)
        np.testing.assert_array_equal(executor.run(found.inputs)["out"], expected)
        _, ended = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(ended) == 0


@pytest.mark.parametrize(("page_cache", "threaded"), WAYS)
def test_nothing_is_left_of_many_inferences(found: Prepared, plan: Plan, page_cache: str, threaded: bool) -> None:
    def counts() -> tuple[int, int]:
        gc.collect()
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    before = counts()
    for _ in range(3):
        with Executor(variant(plan, page_cache), found.opened.bin_path, threaded=threaded) as executor:
            for _ in range(20):
                executor.run(found.inputs)
    assert counts() == before


def test_a_plan_for_direct_reads_has_room_to_read_to(found: Prepared) -> None:
    work = workload(found.profile, STOCK, Storage("direct", 1e8))
    direct = replace(found, work=work)
    for factor in (1.0, 1.3, 2.0):
        plan = direct.plan(int(direct.least_bytes * factor))
        assert plan.page_cache == "direct"
        assert plan.read_ahead_bytes > 0 or not plan.streamed_bytes
        assert_close(found.run(plan), found.stock(), 1e-5)


def test_a_session_reads_as_it_is_told_and_keeps_both_plans(tmp_path: Path) -> None:
    param = tiny_models.convolutions(tmp_path)
    inputs = {"in0": np.ones((3, 16, 16), np.float32)}
    outputs = []
    for page_cache in ("mmap", "direct"):
        with flexnn_ncnn.open_session(param, budget="20MB", page_cache=page_cache, cache_dir=tmp_path) as session:
            outputs.append(session.run(inputs)["out0"])
            assert session.plan.page_cache == page_cache
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-3, atol=1e-3 * np.abs(outputs[0]).max())
    assert len(list((tmp_path / "plans").glob("*/20000000*.plan.json"))) == 2


def test_there_is_no_third_way(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give 'mmap' or 'direct'"):
        flexnn_ncnn.open_session(tmp_path / "m.param", budget="1MB", page_cache="odirect")
    with pytest.raises(UsageError):
        flexnn_ncnn.Net(budget="1MB", page_cache="")
