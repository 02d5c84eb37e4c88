"""Writing a .bin: arrays one after the other in ncnn's layout, streamed in small pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from param_tools.encoding import TABLE_ENTRIES, Encoding, narrow

__all__ = ["StoredArray", "WeightWriter"]

_CHUNK_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array as it is to be stored.

    Attributes:
        values: elements of the encoding's type, or floats a float encoding can narrow.
        encoding: how to store them.
        table: the 256 values that the indices of a TABLE stand for.
        tag: the tag to write where the encoding has several (TABLE); None for the encoding's own.
    """

    values: npt.NDArray[Any]
    encoding: Encoding
    table: npt.NDArray[np.float32] | None = None
    tag: int | None = None


class WeightWriter:
    """Appends arrays to a .bin: tag, payload, padding to 4 bytes.

    Args:
        file: binary file, positioned at the start.
        after_chunk: called after every few MiB; pass `WeightFile.release_pages` of the source to keep its
            pages out of this process.
    """

    def __init__(self, file: IO[bytes], *, after_chunk: Callable[[], None] | None = None) -> None:
        self._file = file
        self._after_chunk = after_chunk
        self.written_bytes = 0

    def write(self, values: npt.NDArray[Any], encoding: Encoding) -> None:
        """Appends `values`; a TABLE needs `write_stored`."""
        self.write_stored(StoredArray(values, encoding))

    def write_stored(self, array: StoredArray) -> None:
        """Appends an array with all that it is stored with.

        Raises:
            ValueError: values the encoding cannot hold, or a TABLE without its values.
            ModelFormatError: a float too large for the encoding.
        """
        encoding = array.encoding
        tag = encoding.tag if array.tag is None else array.tag
        if tag is not None:
            self._append(tag.to_bytes(encoding.tag_bytes, "little"))
        if encoding is Encoding.TABLE:
            if array.table is None or array.table.shape != (TABLE_ENTRIES,):
                raise ValueError(f"an array of table indices needs its {TABLE_ENTRIES} values")
            self._append(np.ascontiguousarray(array.table, "<f4").tobytes())
        for chunk in _chunks(array.values):
            self._append(narrow(chunk, encoding).reshape(-1).data)
            if self._after_chunk is not None:
                self._after_chunk()
        self._append(bytes(Encoding.padding_bytes(encoding.payload_bytes(array.values.size))))

    def _append(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self.written_bytes += data.nbytes if isinstance(data, memoryview) else len(data)


def _chunks(values: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """`values` in order, as pieces that span a few MiB of the memory they lie in: a column spans all rows."""
    row_bytes = max(values.strides[0], values.nbytes // len(values)) if values.ndim and len(values) else 0
    if row_bytes * (len(values) if values.ndim else 1) <= _CHUNK_BYTES:
        yield values
    elif row_bytes <= _CHUNK_BYTES:
        step = _CHUNK_BYTES // row_bytes
        for begin in range(0, len(values), step):
            yield values[begin : begin + step]
    else:
        for row in values:
            yield from _chunks(row)
