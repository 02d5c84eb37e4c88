"""Sizes and parts of blobs, as ncnn's mat.h lays them out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexnn_ncnn.records.layout import BlobLayout, align_up, part_view

FLAT = BlobLayout(dims=3, w=5, h=3, d=1, c=32, elemsize=4, elempack=1)


@given(st.integers(0, 10**12), st.integers(1, 10**6))
def test_align_up_gives_the_next_multiple(size: int, alignment: int) -> None:
    assert align_up(size, alignment) % alignment == 0
    assert 0 <= align_up(size, alignment) - size < alignment


def test_channels_begin_at_multiples_of_16_bytes() -> None:
    assert FLAT.cstep == 16
    assert FLAT.size_bytes == 16 * 32 * 4


def test_a_packed_channel_counts_its_lanes() -> None:
    packed = FLAT.with_elempack(16)
    assert (packed.c, packed.elemsize, packed.cstep) == (2, 64, 15)
    assert packed.packed_extent == 32
    assert packed.lane_bytes == 4


@pytest.mark.parametrize("dims", [1, 2])
def test_vectors_and_matrices_have_no_gaps(dims: int) -> None:
    layout = BlobLayout(dims, 5, 3 if dims == 2 else 1, 1, 1, 4, 1)
    assert layout.size_bytes == 5 * (3 if dims == 2 else 1) * 4


@pytest.mark.parametrize(
    ("layout", "axis"),
    [
        (BlobLayout(1, 48, 1, 1, 1, 4, 1), "w"),
        (BlobLayout(2, 5, 48, 1, 1, 4, 1), "h"),
        (BlobLayout(3, 5, 2, 1, 48, 4, 1), "c"),
        (BlobLayout(4, 5, 2, 3, 48, 4, 1), "c"),
    ],
)
def test_the_outermost_dimension_is_packed(layout: BlobLayout, axis: str) -> None:
    packed = layout.with_elempack(8)
    assert getattr(packed, axis) == 6
    assert packed.packed_extent == 48
    assert packed.numpy_shape == layout.numpy_shape
    assert packed.with_elempack(1) == layout


def test_numpy_has_the_outermost_dimension_first() -> None:
    assert BlobLayout(4, 5, 2, 3, 48, 4, 1).numpy_shape == (48, 3, 2, 5)
    assert FLAT.numpy_shape == (32, 3, 5)
    assert BlobLayout(2, 5, 3, 1, 1, 4, 1).numpy_shape == (3, 5)


def test_what_does_not_divide_cannot_be_packed() -> None:
    with pytest.raises(ValueError, match="32 values cannot be packed by 5"):
        FLAT.with_elempack(5)


def test_lanes_can_be_narrowed() -> None:
    assert FLAT.with_elempack(8).with_lane_bytes(2).elemsize == 16


@pytest.mark.parametrize("pack", [1, 4, 16])
def test_channels_are_parts(pack: int) -> None:
    whole = FLAT.with_elempack(pack)
    view = part_view(whole, "c", 16, 32)
    assert view is not None
    assert view.offset_bytes == whole.size_bytes // 2
    assert view.cstep == whole.cstep
    assert view.layout.packed_extent == 16


def test_rows_of_a_matrix_and_values_of_a_vector_are_parts() -> None:
    rows = part_view(BlobLayout(2, 5, 12, 1, 1, 4, 1), "h", 4, 8)
    assert rows is not None
    assert (rows.offset_bytes, rows.layout.h) == (4 * 5 * 4, 4)
    values = part_view(BlobLayout(1, 3, 1, 1, 1, 16, 4), "w", 4, 12)
    assert values is not None
    assert (values.offset_bytes, values.layout.w) == (16, 2)


@pytest.mark.parametrize(
    ("layout", "axis", "begin"),
    [
        (FLAT.with_elempack(16), "c", 8),  # through the lanes
        (FLAT, "h", 1),  # of every channel some rows
        (FLAT, "w", 1),
        (BlobLayout(2, 5, 12, 1, 1, 4, 1), "w", 1),
    ],
)
def test_what_is_not_side_by_side_is_no_part(layout: BlobLayout, axis: str, begin: int) -> None:
    assert part_view(layout, axis, begin, 16) is None
