"""The C library's heap under our switches, in child processes: glibc's are for a whole process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from flexnn_ncnn.runtime.memory import heap

ROOT = Path(__file__).resolve().parents[2]
MB = 1_000_000
needs_glibc = pytest.mark.skipif(heap._LIBC is None, reason="only glibc has the switches")

PRELUDE = """
import gc, json, sys
import numpy as np
from flexnn_ncnn.runtime.memory import heap
from flexnn_ncnn.runtime import native
from flexnn_ncnn.runtime.memory.process_memory import resident_bytes, peak_bytes, reset_peak
from flexnn_ncnn.records.options import RunOptions

def layer(channels, kernel="sgemm"):
    weights = np.ones(channels * channels * 9, np.float32)
    params = native.make_params([(0, channels), (1, 3), (4, 1), (5, 0), (6, weights.size)])
    return native.LoadedLayer("Convolution", params, [weights], native.make_option(RunOptions(), kernel))

def stream(channels):
    '''Load, compute and release one convolution.'''
    loaded = layer(channels)
    array = np.ones((channels, 16, 16), np.float32)
    loaded.forward(native.mat_from_array(array), native.empty_mat())
    loaded.close()

def growth_of(call):
    before = resident_bytes()
    reset_peak()
    call()
    return peak_bytes() - before
"""


def child(code: str) -> Any:
    """What a fresh process prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


SEQUENCE = "[32, 48, 64, 80, 96, 112, 128, 144, 160, 144, 96, 160, 32, 152]"


@needs_glibc
def test_the_heap_grows_to_the_largest_need_and_not_to_the_sum() -> None:
    found = child(
        f"""
        stream(32)
        heap.trim()
        with heap.return_freed_memory():
            largest = growth_of(lambda: stream(160))
        heap.keep_freed_memory()
        reserve = heap.Reserve(largest)
        def run():
            for channels in {SEQUENCE}:
                reserve.ensure_whole()
                stream(channels)
        first = growth_of(run)
        again = growth_of(lambda: [run() for _ in range(5)])
        print(json.dumps([largest, first, again]))
        """
    )
    largest, first, again = found
    assert largest > 2 * MB
    assert first < 1.25 * largest + MB
    assert again < 0.5 * MB  # what the first run took serves the others


@needs_glibc
def test_small_blocks_in_the_hole_are_mended() -> None:
    found = child(
        """
        heap.keep_freed_memory()
        reserve = heap.Reserve(2_000_000)
        stream(48)
        begin, end = reserve._begin, reserve._end
        kept = [bytearray(3000) for _ in range(200)]  # some of Python's own lie in the hole now
        reserve.ensure_whole()
        print(json.dumps(reserve._is_whole()))
        """
    )
    assert found is True


@needs_glibc
def test_a_tiny_block_left_in_the_hole_is_joined_at_next_to_no_memory() -> None:
    """What aligning a block splits off before it is tiny, and stays in the thread's cache when all else is free."""
    broken, rebuilt, is_whole, growth_bytes = child(
        """
        import ctypes
        align = ctypes.CDLL(None).aligned_alloc
        align.restype, align.argtypes = ctypes.c_size_t, [ctypes.c_size_t] * 2
        heap.keep_freed_memory()
        # or it would be joined at once where the cache is full of blocks of its size
        taken = [heap._malloc(size) for size in range(24, 520, 16) for _ in range(7)]
        reserve = heap.Reserve(2_000_000)
        begin = reserve._begin
        size = 300_000 + (512 - 80 - begin - 300_000 - 16) % 512
        before, aligned = heap._malloc(size), align(512, 512_000)
        assert before == begin and aligned % 512 == 0 and 0 < aligned - before - size < 512
        heap._free(before)
        heap._free(aligned)
        broken = not reserve._is_whole()
        growth = growth_of(reserve.ensure_whole)
        print(json.dumps([broken, reserve._begin != begin, reserve._is_whole(), growth]))
        """
    )
    assert broken
    assert is_whole
    assert not rebuilt
    assert growth_bytes < 0.1 * MB


@needs_glibc
def test_freed_memory_goes_back_when_it_is_to_be_measured() -> None:
    kept_bytes, returned_bytes = child(
        """
        def held_after():
            before = resident_bytes()
            loaded = layer(160)
            loaded.close()
            del loaded
            gc.collect()
            return resident_bytes() - before
        stream(32)
        heap.keep_freed_memory()
        kept = held_after()
        heap.trim()
        with heap.return_freed_memory():
            held_after()
            returned = held_after()
        print(json.dumps([kept, returned]))
        """
    )
    assert kept_bytes > MB
    assert returned_bytes < kept_bytes / 2


@needs_glibc
def test_close_and_trim_give_everything_back() -> None:
    held_bytes, left_bytes = child(
        """
        stream(32)
        heap.keep_freed_memory()
        heap.trim()
        before = resident_bytes()
        reserve = heap.Reserve(8_000_000)
        stream(160)
        held = resident_bytes() - before
        reserve.close()
        reserve.close()
        heap.trim()
        print(json.dumps([held, resident_bytes() - before]))
        """
    )
    assert held_bytes > MB
    assert left_bytes < 0.5 * MB


@needs_glibc
def test_a_reserve_costs_address_space_and_no_memory() -> None:
    assert child("heap.keep_freed_memory(); print(growth_of(lambda: heap.Reserve(500_000_000)))") < MB


@needs_glibc
def test_kernels_answer_the_same_in_a_reserve() -> None:
    different = child(
        """
        def answer():
            loaded = layer(64)
            top, array = native.empty_mat(), np.random.default_rng(0).random((64, 9, 9), np.float32)
            loaded.forward(native.mat_from_array(array), top)
            return native.mat_to_array(top)
        before = answer()
        heap.keep_freed_memory()
        reserve = heap.Reserve(1_000_000)
        reserve.ensure_whole()
        print(json.dumps(float(np.abs(answer() - before).max())))
        """
    )
    assert different == 0


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_LIBC", None)
    assert heap.allocator_name() == ""
    heap.keep_freed_memory()
    heap.trim()
    with heap.return_freed_memory():
        pass
    reserve = heap.Reserve(10**15)
    reserve.ensure_whole()
    reserve.close()
    assert reserve._blocks == []


class Library:
    """A C library with some symbols, that remembers how mallopt was called."""

    def __init__(self, *symbols: str) -> None:
        self.calls: list[tuple[int, int]] = []
        for name in symbols:
            setattr(self, name, lambda *arguments: self.calls.append(arguments))


def test_a_c_library_is_known_by_its_symbols() -> None:
    glibc = Library("gnu_get_libc_version", "mallopt", "malloc_trim", "sbrk", "malloc", "free")
    bionic, musl, old_bionic = Library("mallopt", "__system_property_get"), Library(), Library("__system_property_get")
    assert heap._glibc(glibc) is glibc
    assert [heap._glibc(other) for other in (bionic, musl, old_bionic, None)] == [None] * 4
    assert heap._bionic(bionic) is bionic
    assert [heap._bionic(other) for other in (glibc, musl, old_bionic, None)] == [None] * 4


def test_bionic_is_told_to_keep_and_to_return_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    bionic = Library("mallopt")
    monkeypatch.setattr(heap, "_LIBC", None)
    monkeypatch.setattr(heap, "_BIONIC", bionic)
    assert heap.allocator_name() == "bionic"
    with heap.return_freed_memory():
        assert bionic.calls == [(-101, 0), (-100, 0)]  # purge, and keep nothing
    assert bionic.calls[2:] == [(-100, 1)]
    reserve = heap.Reserve(10**15)
    reserve.ensure_whole()
    reserve.close()
