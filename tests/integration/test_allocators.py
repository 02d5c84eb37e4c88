"""Layers allocate from memory of ours: where, how much, and what does not fit."""

from __future__ import annotations

import numpy as np
import pytest

from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.runtime import native
from flexnn_ncnn.runtime.memory.blob_memory import Blob, aligned_bytes

pytestmark = pytest.mark.patched

OPTION = native.make_option(RunOptions())
RNG = np.random.default_rng(5)


def scratch(size_bytes: int) -> tuple[native.ScratchAllocator, native.Option]:
    allocator = native.ScratchAllocator(aligned_bytes(size_bytes))
    allocator.use(0, size_bytes)
    return allocator, allocator.attach(native.make_option(RunOptions()))


def convolution(run_option: native.Option | None) -> native.LoadedLayer:
    """3x3 over 16 channels, padded: a copy of its input and winograd's tiles are its workspace."""
    weights = np.random.default_rng(1).standard_normal(16 * 16 * 9).astype(np.float32)
    params = native.make_params([(0, 16), (1, 3), (4, 1), (5, 0), (6, weights.size)])
    return native.LoadedLayer("Convolution", params, [weights], OPTION, "conv", run_option)


def plane() -> native.Mat:
    values = RNG.standard_normal((16, 20, 20)).astype(np.float32)
    return native.copy_of(native.mat_from_array(values))


def computed(layer: native.LoadedLayer, bottom: native.Mat, allocator: native.ScratchAllocator | None) -> np.ndarray:
    top = native.empty_mat()
    convolution(None).forward(bottom, top)
    blob = Blob.alone(native.layout_of(top), allocator)
    blob.bytes().fill(0)
    address = native.data_address(blob.mat)
    layer.forward(bottom, blob.mat)
    assert native.data_address(blob.mat) == address, "the layer made an output of its own"
    return np.array(native.array_view(blob.mat))


def test_a_layer_works_in_the_region_and_leaves_it_free() -> None:
    allocator, option = scratch(4_000_000)
    bottom = plane()
    expected = computed(convolution(None), bottom, None)
    np.testing.assert_array_equal(computed(convolution(option), bottom, allocator), expected)
    assert 16 * 22 * 22 * 4 <= allocator.peak_bytes < 4_000_000, "the padded copy at least"
    assert (allocator.overflow_bytes, allocator.blocks_in_use) == (0, 0)


def test_what_was_needed_is_enough_and_less_is_not() -> None:
    allocator, option = scratch(4_000_000)
    layer, bottom = convolution(option), plane()
    expected = computed(layer, bottom, allocator)
    needed = allocator.peak_bytes
    allocator.use(0, needed)
    np.testing.assert_array_equal(computed(layer, bottom, allocator), expected)
    assert (allocator.peak_bytes, allocator.overflow_bytes, allocator.missing_bytes) == (needed, 0, 0)
    allocator.use(0, needed - 64)
    np.testing.assert_array_equal(computed(layer, bottom, allocator), expected)
    assert allocator.overflow_bytes > 64 == allocator.missing_bytes
    assert allocator.peak_bytes < needed


def test_events_are_what_the_layer_asked_for() -> None:
    allocator, option = scratch(4_000_000)
    allocator.events = []
    computed(convolution(option), plane(), allocator)
    assert sum(allocator.events) == 0, "all was given back"
    live = np.cumsum(allocator.events)
    assert live.min() >= 0
    assert 0 < live.max() <= allocator.peak_bytes


def test_holes_are_filled_from_the_lowest() -> None:
    allocator, _ = scratch(10_000)
    first, second, third = (allocator.fastMalloc(1_000) for _ in range(3))
    high = allocator.peak_bytes
    allocator.fastFree(second)
    again = allocator.fastMalloc(900)
    assert allocator.peak_bytes == high, "the hole was used"
    larger = allocator.fastMalloc(2_000)
    assert allocator.peak_bytes > high
    for block in (first, third, again, larger):
        allocator.fastFree(block)
    allocator.use(64, 1_000)


def test_a_block_in_use_is_not_given_again() -> None:
    allocator, _ = scratch(10_000)
    kept = allocator.fastMalloc(100)
    allocator.use(0, 10_000)
    others = [allocator.fastMalloc(100) for _ in range(3)]
    assert allocator.blocks_in_use == 4
    assert allocator.peak_bytes == 4 * 192, "beside the one that is kept"
    for block in (kept, *others):
        allocator.fastFree(block)
    assert allocator.blocks_in_use == 0


@pytest.mark.parametrize(("offset", "size"), [(-64, 10), (0, 1_000_000), (10_100, 100)])
def test_a_region_outside_is_refused(offset: int, size: int) -> None:
    allocator, _ = scratch(10_000)
    with pytest.raises(native.NcnnError, match="do not lie in"):
        allocator.use(offset, size)


def test_layers_that_allocate_in_threads_are_known() -> None:
    assert native.may_call_back("MultiHeadAttention", 1)
    assert not native.may_call_back("MultiHeadAttention", 2)
    assert native.may_call_back("Convolution", 2)


def test_repacking_into_a_blob_with_an_allocator_stays_in_place() -> None:
    allocator, _ = scratch(10_000)
    bottom = plane()
    target = Blob.alone(native.layout_of(bottom).with_elempack(4), allocator)
    address = native.data_address(target.mat)
    native.convert(bottom, target.mat, OPTION)
    assert native.data_address(target.mat) == address
    assert allocator.peak_bytes == 0
    np.testing.assert_array_equal(native.mat_to_array(target.mat), native.mat_to_array(bottom))
