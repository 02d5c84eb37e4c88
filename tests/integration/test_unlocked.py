"""Layers called past the bindings: the same results, other threads run meanwhile, and nothing is called unproven."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from flexnn_ncnn.planning.planner import schedule, workload
from flexnn_ncnn.planning.simulate import Lanes
from flexnn_ncnn.preparing.assemble import assemble_plan
from flexnn_ncnn.records.capabilities import STOCK
from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.records.plan import Plan
from flexnn_ncnn.runtime import native
from flexnn_ncnn.runtime.executor import Executor
from flexnn_ncnn.runtime.memory import heap
from flexnn_ncnn.runtime.memory.process_memory import peak_is_exact
from flexnn_ncnn.runtime.native import proof
from flexnn_ncnn.runtime.weights.loader import SerialLoader
from tests.integration.cli import ROOT
from tests.integration.pipeline import Prepared, feed, prepared

unlocks = pytest.mark.skipif(not native.capabilities().unlocks_calls, reason="calls cannot be unlocked here")
CONVOLUTION = [(0, 256), (1, 3), (4, 1), (5, 0), (6, 256 * 256 * 9)]
WEIGHTS = np.random.default_rng(1).standard_normal(256 * 256 * 9).astype(np.float32)
# as many as show that loads and computing overlap, each large enough to be streamed
DEEP = [
    "Input in 0 1 in",
    *(f"Convolution c{i} 1 1 {f'b{i - 1}' if i else 'in'} b{i} 0=192 1=3 4=1 6=331776" for i in range(8)),
]


def convolution(lets_others_run: bool) -> native.LoadedLayer:
    option = native.make_option(RunOptions(num_threads=1))
    params = native.make_params(CONVOLUTION)
    return native.LoadedLayer("Convolution", params, [WEIGHTS], option, lets_others_run=lets_others_run)


def in_child(script: str, *arguments: str) -> str:
    """What a process of its own prints."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def blob(*shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(2).standard_normal(shape).astype(np.float32)


@unlocks
def test_a_layer_computes_the_same_to_the_bit() -> None:
    values = blob(256, 14, 14)
    tops = []
    for lets_others_run in (False, True):
        layer, top = convolution(lets_others_run), native.empty_mat()
        layer.forward(native.mat_from_array(values), top)
        tops.append(native.mat_to_array(top))
        layer.close()
    np.testing.assert_array_equal(*tops)


@unlocks
def test_a_layer_in_place_computes_the_same_to_the_bit() -> None:
    values, option = blob(16, 9, 9), native.make_option(RunOptions(num_threads=1))
    found = []
    for lets_others_run in (False, True):
        layer = native.LoadedLayer("TanH", native.make_params([]), [], option, lets_others_run=lets_others_run)
        copy = native.mat_from_array(values).clone()
        layer.forward_inplace(copy)
        found.append(native.mat_to_array(copy))
        layer.close()
    np.testing.assert_array_equal(*found)


@unlocks
def test_what_ncnn_refuses_is_an_error_all_the_same() -> None:
    option = native.make_option(RunOptions(num_threads=1))
    layer = native.LoadedLayer("Reshape", native.make_params([(0, 7)]), [], option, lets_others_run=True)
    with pytest.raises(native.NcnnError, match="empty"):
        layer.forward(native.empty_mat(), native.empty_mat())
    layer.close()


@unlocks
@pytest.mark.parametrize("lets_others_run", [False, True])
def test_other_threads_run_meanwhile_if_they_are_let(lets_others_run: bool) -> None:
    layer, values, top = convolution(lets_others_run), blob(256, 56, 56), native.empty_mat()
    bottom = native.mat_from_array(values)
    turns, ended = 0, False

    def count() -> None:
        nonlocal turns
        while not ended:
            turns += 1
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    during = 0
    for _ in range(20):
        before = turns
        layer.forward(bottom, top)
        during += turns - before
    ended = True
    thread.join()
    layer.close()
    # some 30 ms each time; one turn may come as the interpreter lock is taken again
    assert (during > 60) == lets_others_run


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where it is noted whether calls work, with nothing noted."""
    monkeypatch.setenv("FLEXNN_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv(proof.UNLOCKED_VARIABLE, raising=False)
    proof.is_proven.cache_clear()
    yield tmp_path / "unlocked"
    monkeypatch.undo()
    proof.is_proven.cache_clear()


def asked_again() -> bool:
    proof.is_proven.cache_clear()
    return proof.is_proven()


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str) -> None:
    """A Python whose process ends otherwise than one that compares calls."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{does}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


@unlocks
def test_it_is_proven_once_and_noted(noted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert proof.is_proven()
    (note,) = noted.iterdir()
    assert note.read_bytes() == b"yes\n"
    stand_in(tmp_path, monkeypatch, "exit 3")
    assert asked_again(), "the note is believed"
    note.write_bytes(b"yes but damaged")
    assert not asked_again(), "a damaged one is not"
    assert note.read_bytes() == b"no\n"


@pytest.mark.parametrize(("does", "noted_as"), [("kill -SEGV $$", b"no\n"), ("exit 3", b"no\n"), ("exit 1", None)])
def test_a_process_that_crashes_or_differs_proves_that_it_does_not_work(
    does: str, noted_as: bytes | None, noted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, does)
    assert not proof.is_proven()
    assert [note.read_bytes() for note in noted.glob("*")] == ([noted_as] if noted_as else [])


def test_a_process_that_hangs_is_ended_and_proves_the_same(
    noted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "_PATIENCE_SECONDS", 0.1)
    stand_in(tmp_path, monkeypatch, f"echo $$ > '{tmp_path}/id'; exec sleep 60")
    assert not proof.is_proven()
    assert [note.read_bytes() for note in noted.glob("*")] == [b"no\n"]
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "id").read_text()), 0)


@unlocks
@pytest.mark.skipif(not peak_is_exact(), reason="needs a kernel that resets VmHWM")
def test_asking_takes_no_memory_of_a_budget(noted: Path) -> None:
    code = """
import flexnn_ncnn.runtime.worker
from flexnn_ncnn.runtime.memory.process_memory import GrowthMeter
from flexnn_ncnn.runtime.native.proof import is_proven
meter = GrowthMeter()
proven = is_proven()
print(proven, meter.peak_bytes())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    proven, peak_bytes = done.stdout.split()
    assert proven == "True"
    assert int(peak_bytes) < 150_000, "an import of subprocess takes 300 kB"


def test_nobody_asks_where_it_is_not_wanted(noted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(proof.UNLOCKED_VARIABLE, "0")
    assert not proof.is_proven()
    assert not noted.exists()


def test_nowhere_to_note_it_is_no_error(noted: Path, tmp_path: Path) -> None:
    noted.write_bytes(b"a file where the folder would be")
    assert not proof.is_proven()


@pytest.fixture(scope="module")
def deep() -> Iterator[Prepared]:
    with prepared(DEEP, {"in": feed(192, 14, 14)}) as made:
        yield made


@pytest.fixture(scope="module")
def overlapped(deep: Prepared) -> Plan:
    """The loads of a plan that has too little memory to keep anything, beside computing."""
    work = workload(deep.profile, replace(STOCK, cpus_beside=2))
    for share in range(2, 40):
        decided = schedule(work, deep.least_bytes * share // 2, 0)
        if decided.lanes is not None:
            break
    assert decided.lanes is not None
    plan = deep._valid(assemble_plan(deep.opened, decided))
    assert {part.ahead for step in plan.steps if not step.resident for part in step.parts} - {1}
    return plan


def test_a_plan_on_one_cpu_or_with_all_threads_busy_loads_in_turn(deep: Prepared) -> None:
    for cpus in (0, 1):
        work = workload(deep.profile, replace(STOCK, cpus_beside=cpus))
        assert schedule(work, 3 * deep.least_bytes, 0).lanes is None
    assert not replace(STOCK, cpus_beside=2).loads_beside(2)
    assert replace(STOCK, cpus_beside=2).loads_beside(1)


@unlocks
def test_loads_beside_computing_give_the_same_answer(deep: Prepared, overlapped: Plan) -> None:
    expected = deep.run(overlapped)
    with Executor(overlapped, deep.opened.bin_path, threaded=True) as executor:
        for _ in range(5):
            np.testing.assert_array_equal(executor.run(deep.inputs)["b7"], expected["b7"])


@unlocks
@pytest.mark.parametrize("heap_of", [0, 1])
def test_threads_without_a_heap_of_their_own_leave_loading_to_the_caller(
    heap_of: int, deep: Prepared, overlapped: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    if heap.allocator_name() != "glibc":
        pytest.skip("heaps are told apart with glibc")
    monkeypatch.setattr(heap, "own_heap", lambda: heap_of)
    expected = deep.run(overlapped)
    with Executor(overlapped, deep.opened.bin_path, threaded=True) as executor:
        for _ in range(3):
            np.testing.assert_array_equal(executor.run(deep.inputs)["b7"], expected["b7"])
        assert isinstance(executor._streaming._loader, SerialLoader)


HEAPS = """
import threading
from flexnn_ncnn.runtime.memory import heap
from flexnn_ncnn.runtime.memory.process_memory import peak_is_exact
heap.keep_freed_memory()
heap.let_threads_have_heaps()
found, both = [heap.own_heap()], threading.Barrier(2)

def look():
    found.append(heap.own_heap())
    both.wait()

threads = [threading.Thread(target=look) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(found[0], len(set(found)))
"""


def test_a_thread_has_a_heap_of_its_own() -> None:
    if heap.allocator_name() != "glibc":
        pytest.skip("heaps are told apart with glibc")
    assert in_child(HEAPS) == "0 3\n"


INTERRUPTED = """
import os, signal, sys, threading
import numpy as np
from flexnn_ncnn.records.formats import read_plan
from flexnn_ncnn.runtime.executor import Executor
plan, bin_path, inputs = read_plan(sys.argv[1]), sys.argv[2], {"in": np.ones((192, 14, 14), np.float32)}
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell runs in the background ignores it
with Executor(plan, bin_path, threaded=True) as executor:
    expected = executor.run(inputs)["b7"]
    for number in range(20):
        try:
            threading.Timer(0.05 + 0.002 * number, os.kill, (os.getpid(), signal.SIGINT)).start()
            while True:
                executor.run(inputs)
        except KeyboardInterrupt:
            pass
    assert (executor.run(inputs)["b7"] == expected).all()
print("right")
"""


@unlocks
def test_ctrl_c_between_any_two_moments_harms_nothing(overlapped: Plan, deep: Prepared, tmp_path: Path) -> None:
    """No C++ code would catch what a handler raises in an allocator: the process would end with SIGABRT."""
    from flexnn_ncnn.records.formats import write_plan

    write_plan(overlapped, tmp_path / "plan.json")
    arguments = [str(tmp_path / "plan.json"), str(deep.opened.bin_path)]
    assert in_child(INTERRUPTED, *arguments) == "right\n"


HELD = """
import sys, threading
import numpy as np
from flexnn_ncnn.records.formats import read_plan
from flexnn_ncnn.runtime import native
from flexnn_ncnn.runtime.executor import Executor
from flexnn_ncnn.runtime.memory.process_memory import GrowthMeter, resident_bytes
plan, inputs = read_plan(sys.argv[1]), {"in": np.ones((192, 14, 14), np.float32)}
native.capabilities()
meter, before_bytes = GrowthMeter(), resident_bytes()
with Executor(plan, sys.argv[2], threaded=True) as executor:
    for _ in range(30):
        executor.run(inputs)
    peak_bytes = meter.peak_bytes()
    loader = type(executor._streaming._loader).__name__
left_bytes = resident_bytes() - before_bytes
larger, current = read_plan(sys.argv[3]), None

def change(to):
    global current
    kept = current.hand_over() if current is not None else None
    current = Executor(to, sys.argv[2], kept, threaded=True)

for number in range(10):
    thread = threading.Thread(target=change, args=((plan, larger)[number % 2],))
    thread.start()
    thread.join()
    for _ in range(2):
        current.run(inputs)
current.close()
again_bytes = resident_bytes() - before_bytes
print(loader, peak_bytes if meter.exact else 0, left_bytes, again_bytes)
"""


@unlocks
def test_loads_side_by_side_hold_what_was_planned(overlapped: Plan, deep: Prepared, tmp_path: Path) -> None:
    from flexnn_ncnn.records.formats import write_plan

    write_plan(overlapped, tmp_path / "plan.json")
    write_plan(deep.plan(), tmp_path / "larger.json")
    done = in_child(HELD, str(tmp_path / "plan.json"), str(deep.opened.bin_path), str(tmp_path / "larger.json"))
    # code pages and Python objects are not in this plan, nor are stacks
    loader, *sizes = done.split()
    assert loader == "ThreadedLoader"
    held, left, left_by_more = map(int, sizes)
    assert left < 4_000_000
    assert left_by_more < left + 1_000_000
    assert held <= overlapped.predicted_peak_bytes + 5_000_000
    assert isinstance(overlapped.heap_bytes, int)
    assert Lanes(2, 2, 0.25).depth == 2.5
