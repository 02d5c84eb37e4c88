"""Memory that is given back while an output is copied out of it."""

from __future__ import annotations

import mmap
from dataclasses import replace

import numpy as np
import pytest

from flexnn_ncnn.records.layout import BlobLayout
from flexnn_ncnn.runtime import native
from flexnn_ncnn.runtime.memory.blob_memory import Blob
from flexnn_ncnn.runtime.memory.pages import SMALLEST_RELEASE_BYTES, anonymous_pages, release_pages

LARGE = BlobLayout(dims=3, w=100, h=100, d=1, c=128, elemsize=4, elempack=1)


def test_pages_within_a_range_are_given_back_and_the_others_kept() -> None:
    memory = anonymous_pages(8_000_000)
    memory[:] = 7
    begin, end = 1_000_001, 5_000_001
    release_pages(memory, begin, end)
    zeros = np.flatnonzero(memory == 0)
    assert zeros.size >= end - begin - 2 * mmap.PAGESIZE
    assert begin <= zeros.min() < begin + mmap.PAGESIZE
    assert end - mmap.PAGESIZE <= zeros.max() + 1 <= end


@pytest.mark.parametrize(("begin", "end"), [(0, SMALLEST_RELEASE_BYTES - 1), (-5_000_000, 3_000_000), (0, 9_000_000)])
def test_small_ranges_and_those_outside_are_left_alone(begin: int, end: int) -> None:
    memory = anonymous_pages(8_000_000)
    memory[:] = 7
    release_pages(memory, begin, end)
    assert (memory[:8_000_000] == 7).all()


@pytest.mark.parametrize("elempack", [1, 4, 16])
@pytest.mark.parametrize("hand_out", [native.mat_to_array, native.extracted])
def test_an_output_is_the_same_when_it_is_copied_bit_by_bit(elempack: int, hand_out: native.HandOut) -> None:
    layout = replace(LARGE).with_elempack(elempack)
    memory = anonymous_pages(layout.size_bytes + 4096)
    blob = Blob(memory, 0, layout)
    np.copyto(native.array_view(blob.mat), np.random.default_rng(3).standard_normal(native.array_view(blob.mat).shape))
    expected = native.mat_to_array(blob.mat)
    told: list[tuple[int, int]] = []
    found = hand_out(blob.mat, False, lambda begin, end: told.append((begin, end)))
    values = found if isinstance(found, np.ndarray) else native.mat_to_array(found)
    np.testing.assert_array_equal(values, expected)
    address = int(memory.ctypes.data)
    assert told[0][0] == address
    assert told[-1][1] == address + layout.size_bytes
    assert [begin for begin, _ in told[1:]] == [end for _, end in told[:-1]], "each part once, in order"
    assert len(told) > 1
