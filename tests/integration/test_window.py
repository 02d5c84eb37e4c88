"""Weights that stay mapped while their pages come and go."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flexnn_ncnn.records.plan import Plan, WeightPiece
from flexnn_ncnn.runtime.executor import Executor
from flexnn_ncnn.runtime.memory.process_memory import GrowthMeter
from flexnn_ncnn.runtime.weights import window as window_module
from flexnn_ncnn.runtime.weights.weight_source import WeightSource
from flexnn_ncnn.runtime.weights.window import Window
from tests.integration.pipeline import Prepared, assert_close, feed, prepared

COUNT = 4096 * 732  # whole pages
INNER = ["Input in 0 1 in", "InnerProduct it 1 1 in out 0=500 1=1 2=1000000"]
pytestmark = [pytest.mark.patched, pytest.mark.skipif(not Window.is_possible(), reason="this system has no madvise")]


@pytest.fixture
def source(tmp_path: Path) -> Iterator[WeightSource]:
    path = tmp_path / "weights.bin"
    np.arange(COUNT + 4096, dtype=np.float32).tofile(path)
    with closing(WeightSource(path)) as opened:
        yield opened


def resident_pages(array: np.ndarray) -> int:
    """Pages of the array that this process has mapped."""
    first = int(array.ctypes.data) // mmap.PAGESIZE
    last = (int(array.ctypes.data) + array.nbytes - 1) // mmap.PAGESIZE
    with open("/proc/self/pagemap", "rb") as file:
        file.seek(8 * first)
        entries = np.frombuffer(file.read(8 * (last + 1 - first)), np.uint64)
    return int((entries >> np.uint64(63)).sum())


def test_pages_are_there_between_filling_and_emptying(source: WeightSource) -> None:
    found = source.standing([WeightPiece(4, COUNT, "fp32")])
    assert found is not None
    arrays, mapped = found
    pages = -(-(COUNT * 4 + 4) // mmap.PAGESIZE)
    window = Window(mapped)
    assert resident_pages(arrays[0]) == 0
    for _ in range(2):
        window.fill()
        assert resident_pages(arrays[0]) == pages
        window.empty()
        assert resident_pages(arrays[0]) == 0
        np.testing.assert_array_equal(arrays[0][[0, COUNT - 1]], [1, COUNT])  # read all the same
        window.empty()


def test_an_older_kernel_has_every_page_touched(source: WeightSource, monkeypatch: pytest.MonkeyPatch) -> None:
    found = source.standing([WeightPiece(0, COUNT, "fp32")])
    assert found is not None
    monkeypatch.setattr(window_module, "_POPULATE_READ", 12345)  # advice that no kernel knows
    window = Window(found[1])
    window.fill()
    assert resident_pages(found[0][0]) == -(-COUNT * 4 // mmap.PAGESIZE)


@pytest.mark.parametrize(
    "pieces",
    [
        [WeightPiece(0, 100, "fp32")],
        [WeightPiece(0, 100_000, "fp16")],
        [WeightPiece(0, 100_000, "fp32"), WeightPiece(0, 100_000, "table", 0)],
        [WeightPiece(0, COUNT + 4096, "fp32")],  # nothing after it to read on into
    ],
    ids=["small", "fp16", "table", "end"],
)
def test_what_is_not_as_ncnn_takes_it_does_not_stand(pieces: list[WeightPiece], source: WeightSource) -> None:
    assert source.standing(pieces) is None


def test_memory_that_small_weights_are_decoded_to_is_no_window(source: WeightSource) -> None:
    found = source.standing([WeightPiece(0, 100_000, "fp32"), WeightPiece(0, 30_000, "fp16")])
    assert found is not None
    arrays, mapped = found
    assert arrays[1].nbytes > 100_000
    assert mapped == [arrays[0]]


def streamed(found: Prepared) -> Plan:
    plan = found.plan_of([replace(found.work.choices[0][0], resident=False, part_units=250, kept_bytes=0)])
    plan = replace(plan, options=replace(plan.options, packing=False))
    return replace(plan, steps=tuple(replace(step, resident=False, reads_raw=True) for step in plan.steps))


def test_a_layer_that_reads_weights_in_place_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from flexnn_ncnn.runtime import native

    made: list[str] = []
    real = native.LoadedLayer.__init__

    def counted(self: native.LoadedLayer, layer_type: str, *args: object, **named: object) -> None:
        made.append(layer_type)
        real(self, layer_type, *args, **named)  # type: ignore[arg-type]

    with prepared(INNER, {"in": feed(2000)}, cut_all=True) as found:
        plan, stock = streamed(found), found.stock()
        monkeypatch.setattr(native.LoadedLayer, "__init__", counted)
        with Executor(plan, found.opened.bin_path) as executor:
            assert made == ["InnerProduct"] * 2
            for _ in range(3):
                assert_close(executor.run(found.inputs), stock, 1e-5)
            assert made == ["InnerProduct"] * 2


def test_no_more_than_one_part_is_held_at_once() -> None:
    with prepared(INNER, {"in": feed(2000)}, cut_all=True) as found:
        plan = streamed(found)
        with Executor(plan, found.opened.bin_path) as executor:
            executor.run(found.inputs)
            meter = GrowthMeter()
            executor.run(found.inputs)
            held = meter.peak_bytes()
    if meter.exact:
        assert 1_500_000 <= held < 2_700_000  # of 4 MB
