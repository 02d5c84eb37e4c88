"""Which pages a direct read takes, and where each byte lands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexnn_ncnn.records.plan import WeightPiece
from flexnn_ncnn.records.staging import TABLE_BYTES, Extent, extents_of, position_of, staged_bytes

PAGE = 4096
PIECES = st.lists(
    st.builds(
        WeightPiece,
        st.integers(0, 50_000).map(lambda i: 4 * i),
        st.integers(1, 20_000),
        st.sampled_from(["fp32", "fp16", "int8"]),
    ),
    min_size=1,
    max_size=6,
)


def test_whole_pages_of_file_and_memory() -> None:
    assert extents_of([WeightPiece(PAGE + 4, 10, "fp32")], PAGE) == (Extent(PAGE, PAGE, 0),)
    assert extents_of([WeightPiece(PAGE - 4, 2, "fp32")], PAGE) == (Extent(0, 2 * PAGE, 0),)
    assert extents_of([], PAGE) == ()


def test_neighbours_are_read_together_and_a_shared_page_once() -> None:
    weights, bias = WeightPiece(8, 2000, "fp32"), WeightPiece(8008, 64, "fp32")
    assert extents_of([weights, bias], PAGE) == (Extent(0, 3 * PAGE, 0),)


def test_what_lies_apart_is_read_apart_side_by_side() -> None:
    found = extents_of([WeightPiece(10 * PAGE, 1, "fp32"), WeightPiece(0, 1, "fp32")], PAGE)
    assert found == (Extent(0, PAGE, 0), Extent(10 * PAGE, PAGE, PAGE))


def test_a_table_is_read_with_its_indices() -> None:
    piece = WeightPiece(TABLE_BYTES + 100 * PAGE, 500, "table", 100)
    first, second = extents_of([piece], PAGE)
    assert position_of(100, (first, second)) == 100
    assert position_of(piece.offset_bytes, (first, second)) == PAGE + TABLE_BYTES


@pytest.mark.parametrize("page_bytes", [4096, 16384, 65536])
@given(pieces=PIECES)
def test_every_byte_has_one_place_and_no_place_has_two(page_bytes: int, pieces: list[WeightPiece]) -> None:
    extents = extents_of(pieces, page_bytes)
    assert all(value % page_bytes == 0 for e in extents for value in (e.offset_bytes, e.size_bytes, e.at_bytes))
    at_bytes = 0
    for extent, following in zip(extents, (*extents[1:], None), strict=True):
        assert extent.at_bytes == at_bytes
        at_bytes += extent.size_bytes
        assert following is None or extent.end_bytes < following.offset_bytes
    assert at_bytes == staged_bytes(pieces, page_bytes)
    for piece in pieces:
        first, last = piece.offset_bytes, piece.offset_bytes + piece.stored_bytes - 1
        assert position_of(last, extents) - position_of(first, extents) == last - first
    touched = {
        page
        for piece in pieces
        for page in range(piece.offset_bytes // page_bytes, -(-(piece.offset_bytes + piece.stored_bytes) // page_bytes))
    }
    assert at_bytes == len(touched) * page_bytes
