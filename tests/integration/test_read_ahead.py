"""What is read into the page cache for streamed weights: all of them, once, and nothing else."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from flexnn_ncnn.records.layout import OVERREAD_BYTES
from flexnn_ncnn.records.plan import WeightPiece
from flexnn_ncnn.runtime.weights.page_cache import Range, drop
from flexnn_ncnn.runtime.weights.streams import MappedStream
from flexnn_ncnn.runtime.weights.weight_source import WeightSource

MB = 1024 * 1024
FILE_BYTES = 40 * MB
Load = list[list[WeightPiece]]
SOME = [[[WeightPiece(begin + 4 * begin // MB, MB // 4, "fp32")]] for begin in range(0, FILE_BYTES, 4 * MB)]
"""A megabyte of every four; the first ends where a page does, and what kernels read past it is on the next one."""
ALL_BUT_LITTLE = [[[WeightPiece(begin, MB - 4096, "fp32")]] for begin in range(0, FILE_BYTES, 4 * MB)]


class Cached:
    """Which pages of a file the system has in memory; looking at them brings in none."""

    def __init__(self, path: Path) -> None:
        self._mincore = ctypes.CDLL(None).mincore
        self._mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)

    def pages(self) -> np.ndarray:
        view = np.frombuffer(self._map, np.uint8)
        found = np.zeros(-(-view.nbytes // mmap.PAGESIZE), np.uint8)
        assert self._mincore(view.ctypes.data, view.nbytes, found.ctypes.data) == 0
        return (found & 1).astype(bool)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("read-ahead") / "model.bin"
    with open(path, "wb") as file:
        file.write(np.random.default_rng(1).bytes(FILE_BYTES))
        file.flush()
        os.fsync(file.fileno())  # what is not written cannot be dropped
    return path


@pytest.fixture
def cached(path: Path) -> Cached:
    found = Cached(path)
    forget(path)
    if found.pages().any():
        pytest.skip("the file system of the temporary folder keeps what it is told to drop")
    return found


@pytest.fixture
def source(path: Path) -> Iterator[WeightSource]:
    source = WeightSource(path)
    yield source
    source.close()


def forget(path: Path) -> None:
    with open(path, "rb") as file:
        drop(Range(file.fileno(), 0, FILE_BYTES))


def wanted(loads: list[Load]) -> np.ndarray:
    pages = np.zeros(FILE_BYTES // mmap.PAGESIZE, bool)
    for piece in (piece for load in loads for layer in load for piece in layer):
        end = min(piece.offset_bytes + piece.stored_bytes + OVERREAD_BYTES, FILE_BYTES)
        pages[piece.offset_bytes // mmap.PAGESIZE : -(-end // mmap.PAGESIZE)] = True
    return pages


def check(found: np.ndarray, loads: list[Load]) -> None:
    """Nothing else was read; of what was, the system may have let go of a page already."""
    pages = wanted(loads)
    assert not (found & ~pages).any()
    assert (found & pages).sum() >= 0.99 * pages.sum()


def infer(stream: MappedStream, loads: list[Load]) -> None:
    for number in range(len(loads)):
        for layer in stream.fetch(number):
            assert sum(int(array.view(np.uint8)[-1]) for array in layer) >= 0
        stream.release(number)


@pytest.mark.parametrize("window_bytes", [2 * MB, 32 * MB])
def test_nothing_but_what_is_streamed_is_read(
    path: Path, source: WeightSource, cached: Cached, window_bytes: int
) -> None:
    stream = MappedStream(source, SOME, window_bytes)
    stream.read_ahead()
    infer(stream, SOME)
    stream.close()
    check(cached.pages(), SOME)


def test_what_was_pushed_out_between_inferences_is_read_again_and_nothing_else(
    path: Path, source: WeightSource, cached: Cached
) -> None:
    stream = MappedStream(source, SOME, 8 * MB)
    stream.read_ahead()
    for _ in range(3):
        infer(stream, SOME)
        check(cached.pages(), SOME)
        forget(path)
    infer(stream, SOME)
    stream.close()
    check(cached.pages(), SOME)


def test_a_file_streamed_nearly_whole_is_read_as_the_system_does_it_best(
    path: Path, source: WeightSource, cached: Cached, monkeypatch: pytest.MonkeyPatch
) -> None:
    advised: list[int] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *arguments: advised.append(arguments[-1]))
    for loads in (ALL_BUT_LITTLE, SOME):
        stream = MappedStream(source, loads, 8 * MB)
        infer(stream, loads)
        stream.close()
        assert (wanted(loads) & cached.pages()).sum() >= 0.99 * wanted(loads).sum()
    assert advised == [os.POSIX_FADV_RANDOM]


def test_ranges_that_overlap_or_follow_each_other_are_read_as_one() -> None:
    first = Range(3, 0, 1000)
    for begin, end in ((10, 900), (990, 2000), (1000, 2000), (1100, 2000)):
        assert first.reaches(Range(3, begin, end))
        assert first.and_up_to(end) == Range(3, 0, max(1000, end))
    assert not first.reaches(Range(3, 1000 + mmap.PAGESIZE, 9000))
    assert not first.reaches(Range(4, 1000, 2000))
    assert not Range(3, 500, 600).reaches(Range(3, 0, 550))
