"""Where weights land that are read for a load.

Past the page cache, reads begin and end at pages, in the file and in memory, so a load takes a little more than its
weights. Through it, weights may be read to the scratch of the step that needs them, where nothing is yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flexnn_ncnn.records.layout import OVERREAD_BYTES, align_up
from flexnn_ncnn.records.plan import WeightPiece

__all__ = [
    "SMALL_BYTES",
    "TABLE_BYTES",
    "Extent",
    "extents_of",
    "position_of",
    "positions_in_scratch",
    "staged_bytes",
]

SMALL_BYTES = 64 * 1024
"""Less are biases and scales: every kernel reads them in place, long after they are loaded, in memory of their own."""
_ALIGNMENT_BYTES = 64
TABLE_BYTES = 256 * 4  # the values that the indices of a "table" piece stand for


@dataclass(frozen=True, slots=True)
class Extent:
    """Neighbouring pages of a file that are read together.

    Attributes:
        offset_bytes: in the file.
        size_bytes: how many; the file may end earlier.
        at_bytes: where they land, from the begin of the load's memory.
    """

    offset_bytes: int
    size_bytes: int
    at_bytes: int

    @property
    def end_bytes(self) -> int:
        """Where it ends in the file."""
        return self.offset_bytes + self.size_bytes


def extents_of(pieces: Sequence[WeightPiece], page_bytes: int) -> tuple[Extent, ...]:
    """The pages that hold `pieces`, each page once, in the order of the file."""
    ranges = [(piece.offset_bytes, piece.offset_bytes + piece.stored_bytes) for piece in pieces]
    ranges += [
        (piece.table_offset_bytes, piece.table_offset_bytes + TABLE_BYTES)
        for piece in pieces
        if piece.table_offset_bytes >= 0
    ]
    found: list[Extent] = []
    for begin, end in sorted(ranges):
        begin, end = begin // page_bytes * page_bytes, align_up(end, page_bytes)
        if found and begin <= found[-1].end_bytes:
            last = found[-1]
            end = max(end, last.end_bytes)
            found[-1] = Extent(last.offset_bytes, end - last.offset_bytes, last.at_bytes)
        else:
            at_bytes = found[-1].at_bytes + found[-1].size_bytes if found else 0
            found.append(Extent(begin, end - begin, at_bytes))
    return tuple(found)


def staged_bytes(pieces: Sequence[WeightPiece], page_bytes: int) -> int:
    """Memory that reading `pieces` together takes."""
    return sum(extent.size_bytes for extent in extents_of(pieces, page_bytes))


def position_of(offset_bytes: int, extents: Sequence[Extent]) -> int:
    """Where a byte of the file lies in the load's memory."""
    extent = next(e for e in extents if e.offset_bytes <= offset_bytes < e.end_bytes)
    return extent.at_bytes + offset_bytes - extent.offset_bytes


def positions_in_scratch(pieces: Sequence[WeightPiece]) -> tuple[list[int], int]:
    """Where pieces land that are read to the scratch of a step, -1 for small ones, and how much of it they take."""
    positions, at_bytes = [], 0
    for piece in pieces:
        is_small = piece.stored_bytes < SMALL_BYTES
        positions.append(-1 if is_small else at_bytes)
        at_bytes += 0 if is_small else align_up(piece.stored_bytes + OVERREAD_BYTES, _ALIGNMENT_BYTES)
    return positions, at_bytes
