"""Weights read to memory of the plan."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flexnn_ncnn.records.plan import Plan, WeightPiece
from flexnn_ncnn.records.staging import SMALL_BYTES, positions_in_scratch
from flexnn_ncnn.runtime.executor import Executor
from flexnn_ncnn.runtime.weights.staged_load import StagedLoad
from flexnn_ncnn.runtime.weights.streams import MappedStream, open_stream
from flexnn_ncnn.runtime.weights.weight_source import WeightSource
from param_tools.errors import ModelFormatError
from tests.integration.pipeline import Prepared, assert_close, feed, prepared

LARGE = 20_000
DATA = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
PIECES = {
    "one after the other": (WeightPiece(40, LARGE, "fp32"), WeightPiece(40 + 4 * LARGE, 100, "fp32")),
    "apart": (WeightPiece(4, LARGE, "fp32"), WeightPiece(500_000, 100, "fp32"), WeightPiece(300_000, LARGE, "fp32")),
    "small": (WeightPiece(4, 10, "fp32"),),
    "bytes": (WeightPiece(3, 4 * LARGE, "int8"),),
    "table": (WeightPiece(2048, 4 * LARGE, "table", 1024), WeightPiece(400_000, 10, "fp32")),
}


@pytest.fixture
def source(tmp_path: Path) -> WeightSource:
    (tmp_path / "w.bin").write_bytes(DATA.tobytes())
    return WeightSource(tmp_path / "w.bin")


def memory_for(pieces: tuple[WeightPiece, ...]) -> np.ndarray:  # type: ignore[type-arg]
    return np.zeros(positions_in_scratch(pieces)[1], np.uint8)


@pytest.mark.parametrize("name", PIECES)
def test_it_is_what_lies_there_and_only_small_arrays_have_memory_of_their_own(name: str, source: WeightSource) -> None:
    pieces = PIECES[name]
    memory = memory_for(pieces)
    staged = StagedLoad(source, pieces, memory)
    for _ in range(2):
        memory[:] = 255
        found = staged.fetch()
        for array, expected, piece in zip(found, source.load(pieces), pieces, strict=True):
            np.testing.assert_array_equal(array, expected)
            in_memory = piece.stored_bytes >= SMALL_BYTES and piece.encoding != "table"  # that is widened to elsewhere
            assert np.shares_memory(array, memory) == in_memory


def test_half_precision_is_widened(tmp_path: Path) -> None:
    halves = DATA[: 2 * LARGE].astype(np.float16)
    (tmp_path / "h.bin").write_bytes(halves.tobytes())
    pieces = (WeightPiece(0, halves.size, "fp16"),)
    (found,) = StagedLoad(WeightSource(tmp_path / "h.bin"), pieces, memory_for(pieces)).fetch()
    np.testing.assert_array_equal(found, halves.astype(np.float32))


def test_a_file_that_ends_before_is_refused_at_once_and_one_cut_short_later_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    path.write_bytes(DATA.tobytes())
    source, pieces = WeightSource(path), PIECES["one after the other"]
    with pytest.raises(ModelFormatError, match="ends before"):
        StagedLoad(source, [WeightPiece(DATA.nbytes - 4, 2, "fp32")], memory_for(pieces))
    staged = StagedLoad(source, pieces, memory_for(pieces))
    staged.fetch()
    with path.open("r+b") as file:
        file.truncate(50_000)
    with pytest.raises(ModelFormatError, match="shorter while it was read"):
        staged.fetch()


LAYERS = [
    "Input in 0 1 in",
    "Convolution c0 1 1 in a 0=32 1=3 4=1 5=1 6=864 9=1",
    "Convolution c1 1 1 a b 0=64 1=3 4=1 5=1 6=18432 9=1",
    "Convolution c2 1 1 b c 0=128 1=3 4=1 5=1 6=73728",
    "InnerProduct fc 1 1 c out 0=24 1=1 2=786432",
]


def streamed(found: Prepared) -> Plan:
    """All weights streamed, in turn, and those read to the scratch that may be."""
    plan = found.plan(found.least_bytes)
    assert {part.ahead for step in plan.steps for part in step.parts} == {1}
    return plan


def test_a_plan_reads_weights_to_the_scratch_and_answers_as_one_that_maps_them() -> None:
    with prepared(LAYERS, {"in": feed(3, 16, 16)}) as found:
        plan = streamed(found)
        read = [step for step in plan.steps if step.reads_to_scratch]
        assert {"c1", "c2"} & {step.name for step in read}
        for step in read:
            assert max(positions_in_scratch(part.pieces)[1] for part in step.parts) <= step.scratch_bytes
        mapped = replace(plan, steps=tuple(replace(step, reads_to_scratch=False) for step in plan.steps))
        with Executor(plan, found.opened.bin_path) as executor:
            stream = executor._streaming._stream
            assert isinstance(stream, MappedStream)
            assert len(stream._staged) == sum(len(step.parts) for step in read)
            answers = [executor.run(found.inputs)["out"] for _ in range(3)]
        expected = found.run(mapped)["out"]
        for answer in answers:
            np.testing.assert_array_equal(answer, expected)
        assert_close({"out": expected}, found.stock(), 1e-4)


def test_closed_nothing_holds_the_arena() -> None:
    """Whoever closed an executor may keep it, and has the memory back at once."""
    with prepared(LAYERS, {"in": feed(3, 16, 16)}) as found:
        executor = Executor(streamed(found), found.opened.bin_path)
        executor.run(found.inputs)
        arena = weakref.ref(executor._arena.base)
        executor.close()
        assert arena() is None


def test_a_thread_that_loads_leaves_the_scratch_alone() -> None:
    with prepared(LAYERS, {"in": feed(3, 16, 16)}) as found:
        plan = streamed(found)
        with Executor(plan, found.opened.bin_path, threaded=True) as executor:
            assert executor._streaming._staged == {}
            assert_close(executor.run(found.inputs), found.stock(), 1e-4)


def test_past_a_short_page_cache_weights_take_what_is_mapped_otherwise_and_no_more(source: WeightSource) -> None:
    """Memory to read to is planned for loads that are mapped: a smaller load that is read to the scratch has room."""
    large, small = (WeightPiece(0, 4 * LARGE, "fp32"),), (WeightPiece(500_000, LARGE, "fp32"),)
    staged = {1: StagedLoad(source, small, memory_for(small))}
    past = open_stream(source, [[large], [small]], "mmap", 0, 1000, None, staged)
    assert not isinstance(past, MappedStream)
    past.close()
    through = open_stream(source, [[small], [small]], "mmap", 0, 1000, None, {0: staged[1], 1: staged[1]})
    assert isinstance(through, MappedStream)
    through.close()
