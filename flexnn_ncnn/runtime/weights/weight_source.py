"""Weights from a .bin, piece by piece: mapped where large, read where small, widened where packed."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from flexnn_ncnn.records.layout import OVERREAD_BYTES, align_up
from flexnn_ncnn.records.plan import TRANSFORMED_OFFSET_BYTES, WeightPiece
from flexnn_ncnn.records.staging import SMALL_BYTES, TABLE_BYTES
from flexnn_ncnn.runtime.memory import process_memory
from flexnn_ncnn.runtime.memory.pages import anonymous_pages, mapped_pages
from flexnn_ncnn.runtime.weights.page_cache import Range, drop
from param_tools.errors import ModelFormatError

__all__ = ["WeightSource", "decoded", "own_memory", "owned"]

_DTYPES: dict[str, np.dtype[Any]] = {
    "fp32": np.dtype("<f4"),
    "fp16": np.dtype("<f2"),
    "bf16": np.dtype("<u2"),
    "int8": np.dtype("i1"),
    "table": np.dtype("u1"),
}
# Below this a read is cheaper than a mapping of its own; a mapping copies nothing and leaves no dirty page.
_MAP_FROM_BYTES = 256 * 1024
_READ_THROUGH_BYTES = 4 * 1024 * 1024
_LARGE_PAGE_BYTES, _SAMPLED_EVERY_BYTES = 2 * 1024 * 1024, 32 * 1024 * 1024
_POPULATE = getattr(mmap, "MAP_POPULATE", 0)


def decoded(piece: WeightPiece, stored: Callable[[int, int], npt.NDArray[np.uint8]]) -> npt.NDArray[Any]:
    """An array as ncnn takes it: flat float32, or int8 as stored.

    Args:
        piece: where it lies and how it is stored.
        stored: (offset, size), both bytes -> what the file has there; the array may be a view of it.
    """
    values: npt.NDArray[Any] = stored(piece.offset_bytes, piece.stored_bytes).view(_DTYPES[piece.encoding])
    if piece.encoding == "fp16":
        return values.astype(np.float32)
    if piece.encoding == "bf16":
        bits: npt.NDArray[np.uint32] = np.left_shift(values, 16, dtype=np.uint32)
        return bits.view(np.float32)
    if piece.encoding == "table":
        table = stored(piece.table_offset_bytes, TABLE_BYTES).view(np.float32)
        widened: npt.NDArray[np.float32] = table[values]
        return widened
    return values


def own_memory(size_bytes: int) -> npt.NDArray[np.uint8]:
    """Memory for an array, with room for what kernels read past its end."""
    return np.empty(size_bytes + OVERREAD_BYTES, np.uint8)[:size_bytes]


def owned(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A copy in memory of its own."""
    copy = own_memory(array.nbytes).view(array.dtype)
    copy[:] = array
    return copy


def _rest(buffers: list[npt.NDArray[np.uint8]], done_bytes: int) -> list[npt.NDArray[np.uint8]]:
    """What is left to be filled of buffers."""
    left = []
    for buffer in buffers:
        left.append(buffer[min(done_bytes, buffer.nbytes) :])
        done_bytes = max(0, done_bytes - buffer.nbytes)
    return left


class WeightSource:
    """A .bin opened for streaming.

    Every large piece gets a mapping of its own, exactly its pages: the kernel may map far more than the page that
    is touched (its fault-around), but never beyond the mapping, so the resident set stays what the plan says.
    Dropping the array unmaps it.

    Args:
        path: the .bin.
        transformed_path: the file that pieces from `TRANSFORMED_OFFSET_BYTES` on are of, or "".
        page_cache: "mmap", or "direct" to have everything in memory of its own and leave nothing in the page cache.

    Raises:
        ModelFormatError: it cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str], transformed_path: str = "", page_cache: str = "mmap") -> None:
        self.path, self._maps = os.fspath(path), page_cache == "mmap"
        self._transformed = WeightSource(transformed_path, page_cache=page_cache) if transformed_path else None
        try:
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - lives as long as the source
        except OSError as error:
            raise ModelFormatError(f"cannot be read: {error.strerror}", path=path) from error
        self.size_bytes = os.fstat(self._file.fileno()).st_size

    def load(self, pieces: Sequence[WeightPiece]) -> list[npt.NDArray[Any]]:
        """The arrays of one part as ncnn takes them: flat float32, or int8 as stored.

        Raises:
            ModelFormatError: the file is shorter than it was, or cannot be read.
        """
        return [decoded(piece, self.stored) for piece in pieces]

    def mapped(self, pieces: Sequence[WeightPiece]) -> list[npt.NDArray[Any] | None]:
        """Of each piece its array over a mapping that stays and has no page in memory; None of what is to be read:
        small, stored otherwise than ncnn takes it, or cannot be mapped."""
        return [self._standing(piece) if self._can_stand(piece) else None for piece in pieces]

    def standing(self, pieces: Sequence[WeightPiece]) -> tuple[list[npt.NDArray[Any]], list[npt.NDArray[Any]]] | None:
        """The arrays of a part, large ones over mappings that stay and have no page in memory, small ones read.

        Returns:
            All arrays, and those that are mapped; or None where there are none of these, or a large one is stored
            otherwise than ncnn takes it or cannot be mapped.
        """
        mapped = self.mapped(pieces)
        there = [one for one in mapped if one is not None]
        large = sum(piece.stored_bytes >= SMALL_BYTES for piece in pieces)
        return (self.completed(pieces, mapped), there) if 0 < large == len(there) else None

    def completed(
        self, pieces: Sequence[WeightPiece], mapped: Sequence[npt.NDArray[Any] | None]
    ) -> list[npt.NDArray[Any]]:
        """What `mapped` gave for the pieces, and the others read; errors as of `load`."""
        return [decoded(piece, self.stored) if one is None else one for piece, one in zip(pieces, mapped, strict=True)]

    def _standing(self, piece: WeightPiece) -> npt.NDArray[Any] | None:
        self.check(piece)
        file, at_bytes = self.file_of(piece.offset_bytes)
        begin, end = file._span(at_bytes, piece.stored_bytes)
        pages = mapped_pages(file.file_descriptor, begin, end - begin)
        return None if pages is None else decoded(piece, lambda _, size: pages[at_bytes - begin :][:size])

    def _can_stand(self, piece: WeightPiece) -> bool:
        file, at_bytes = self.file_of(piece.offset_bytes)
        return piece.encoding in ("fp32", "int8") and file._is_mapped(at_bytes, piece.stored_bytes, SMALL_BYTES)

    def rows(self, piece: WeightPiece, row_count: int, indices: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Some rows of a matrix, flat, reading nothing else.

        Args:
            piece: the whole matrix, `row_count` rows of equal length.
            row_count: rows of the matrix.
            indices: rows wanted, each in [0, row_count).
        """
        width = piece.count // row_count
        row_bytes = piece.stored_bytes // row_count
        first, table = piece.offset_bytes, piece.table_offset_bytes
        pieces = [WeightPiece(first + int(i) * row_bytes, width, piece.encoding, table) for i in indices]
        rows = self.load(pieces)
        return np.concatenate(rows) if rows else np.empty(0, np.float32)

    def read_through(self) -> None:
        """Read the file once from begin to end, so that the system caches it as it does best.

        Read ahead in one go it lies in the page cache in large pages, and mapping those costs a tenth of mapping what
        faults brought in piece by piece, or what was written. So what is cached is forgotten first, unless it lies
        there in large pages already.
        """
        if self._is_in_large_pages():
            return
        drop(Range(self._file.fileno(), 0, self.size_bytes))
        buffer: Any = np.empty(_READ_THROUGH_BYTES, np.uint8)
        offset = 0
        while count := os.preadv(self._file.fileno(), [buffer], offset):
            offset += count

    def _is_in_large_pages(self) -> bool:
        """Whether half of some samples of the file, or more, are mapped as large pages; False if nothing tells."""
        offsets = range(_LARGE_PAGE_BYTES, self.size_bytes - _LARGE_PAGE_BYTES, _SAMPLED_EVERY_BYTES)
        found = 0
        for offset in offsets:
            before = process_memory.large_file_pages_bytes()
            sample = self._mapped(offset, _LARGE_PAGE_BYTES)
            found += process_memory.large_file_pages_bytes() - before >= _LARGE_PAGE_BYTES
            del sample
        return found * 2 >= len(offsets) > 0

    @property
    def file_descriptor(self) -> int:
        """Of the .bin."""
        return self._file.fileno()

    def file_of(self, offset_bytes: int) -> tuple[WeightSource, int]:
        """The file that has what a piece calls `offset_bytes`, and where in it."""
        if offset_bytes < TRANSFORMED_OFFSET_BYTES or self._transformed is None:
            return self, offset_bytes
        return self._transformed, offset_bytes - TRANSFORMED_OFFSET_BYTES

    def close(self) -> None:
        """Close the file; mappings in use stay until they are dropped."""
        self._file.close()
        if self._transformed is not None:
            self._transformed.close()

    def ends_of(self, pieces: Iterable[WeightPiece]) -> dict[WeightSource, int]:
        """How long each file has to be to have the pieces, in bytes."""
        ends: dict[WeightSource, int] = {}
        for piece in pieces:
            file, at_bytes = self.file_of(piece.offset_bytes)
            ends[file] = max(ends.get(file, 0), at_bytes + piece.stored_bytes)
        return ends

    def check_again(self, end_bytes: int) -> None:
        """Whether this file still is that long: what is mapped beyond must not be touched.

        Raises:
            ModelFormatError: it is not.
        """
        if os.fstat(self._file.fileno()).st_size < end_bytes:
            raise self._shortened(end_bytes)

    def check(self, piece: WeightPiece) -> None:
        """Whether the file has the piece.

        Raises:
            ModelFormatError: it ends before.
        """
        self._check(piece.offset_bytes, piece.stored_bytes)
        if piece.encoding == "table":
            self._check(piece.table_offset_bytes, TABLE_BYTES)

    def _check(self, offset_bytes: int, size_bytes: int) -> None:
        file, at_bytes = self.file_of(offset_bytes)
        if at_bytes < 0 or at_bytes + size_bytes > file.size_bytes:
            raise ModelFormatError(
                f"ends before the weights at {at_bytes}, {size_bytes} bytes",
                path=file.path,
                hint="build or copy the model again",
            )

    def stored(self, offset_bytes: int, size_bytes: int) -> npt.NDArray[np.uint8]:
        """Bytes as they lie in the file: mapped, or read to memory of their own.

        Raises:
            ModelFormatError: the file is shorter than it was, or cannot be read.
        """
        file, at_bytes = self.file_of(offset_bytes)
        if file is not self:
            return file.stored(at_bytes, size_bytes)
        self._check(offset_bytes, size_bytes)
        try:
            if self._is_mapped(offset_bytes, size_bytes, _MAP_FROM_BYTES):
                return self._mapped(offset_bytes, size_bytes)
        except OSError as error:
            raise self._unreadable(error, offset_bytes) from error
        return self._read(offset_bytes, size_bytes)

    def read_to(self, buffers: list[npt.NDArray[np.uint8]], offset_bytes: int, size_bytes: int) -> None:
        """Fill buffers of together `size_bytes` with what this file has from an offset on.

        Raises:
            ModelFormatError: it ends before, or cannot be read.
        """
        done, unread = 0, cast("list[Any]", buffers)
        while done < size_bytes:
            try:
                count = os.preadv(self._file.fileno(), unread, offset_bytes + done)
            except OSError as error:
                raise self._unreadable(error, offset_bytes) from error
            if count == 0:
                raise self._shortened(offset_bytes + done)
            done += count
            if done < size_bytes:
                unread = _rest(unread, count)

    def _read(self, offset_bytes: int, size_bytes: int) -> npt.NDArray[np.uint8]:
        if self._maps or size_bytes < _MAP_FROM_BYTES:
            read = own_memory(size_bytes)
        else:
            read = anonymous_pages(size_bytes + OVERREAD_BYTES)[:size_bytes]
        self.read_to([read], offset_bytes, size_bytes)
        if not self._maps:
            drop(Range(self._file.fileno(), offset_bytes, offset_bytes + size_bytes))
        return read

    def _unreadable(self, error: OSError, offset_bytes: int) -> ModelFormatError:
        return ModelFormatError(f"cannot be read: {error.strerror}", path=self.path, offset_bytes=offset_bytes)

    def _shortened(self, offset_bytes: int) -> ModelFormatError:
        return ModelFormatError("became shorter while it was read", path=self.path, offset_bytes=offset_bytes)

    def _is_mapped(self, offset_bytes: int, size_bytes: int, least_bytes: int) -> bool:
        return self._maps and size_bytes >= least_bytes and self._may_overread(offset_bytes + size_bytes)

    def _may_overread(self, end: int) -> bool:
        """Whether the bytes after `end` that a kernel may read belong to a page of the file."""
        return end + OVERREAD_BYTES <= align_up(self.size_bytes, mmap.PAGESIZE)

    def _span(self, offset_bytes: int, size_bytes: int) -> tuple[int, int]:
        """Where a mapping of some bytes begins and ends."""
        begin = offset_bytes // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        return begin, min(offset_bytes + size_bytes + OVERREAD_BYTES, self.size_bytes)

    def _mapped(self, offset_bytes: int, size_bytes: int) -> npt.NDArray[np.uint8]:
        begin, end = self._span(offset_bytes, size_bytes)
        flags = mmap.MAP_SHARED | _POPULATE
        try:
            window = mmap.mmap(self._file.fileno(), end - begin, flags=flags, prot=mmap.PROT_READ, offset=begin)
        except ValueError as error:  # Python compares with the file's size of now
            raise self._shortened(offset_bytes) from error
        return np.frombuffer(window, np.uint8, size_bytes, offset_bytes - begin)
