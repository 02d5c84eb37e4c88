"""A .bin as an index of arrays with lazy views, and a writer of the same layout.

A .bin has no table of contents: its arrays follow each other in layer order, and only the layers'
parameters say how many elements each has. `index_weights` computes all offsets up front and proves that
they end at the file's last byte, so that nothing later can read outside it.
"""

from __future__ import annotations

import enum
import mmap
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from param_tools.errors import ModelFormatError, UnsupportedLayerError
from param_tools.graph import Layer, Model
from param_tools.schema import LAYERS, array_specs

__all__ = ["TABLE_ENTRIES", "Encoding", "StoredArray", "WeightArray", "WeightFile", "WeightWriter", "index_weights"]

TABLE_ENTRIES = 256
_TAG_BYTES = 4
_CHUNK_BYTES = 4 * 1024 * 1024
_TABLE_BYTES = TABLE_ENTRIES * 4


class Encoding(enum.Enum):
    """How an array is stored, named by the tag before it."""

    FP32_UNTAGGED = None
    FP32 = 0
    FP32_RAW = 0x0002C056
    FP16 = 0x01306B47
    INT8 = 0x000D4B38
    TABLE = 0x00000100  # 256 floats, then an index byte per element; ncnn takes any other non-zero tag as this

    @classmethod
    def of_tag(cls, tag: int) -> Encoding:
        """The encoding a tag stands for, as ncnn decides it."""
        return _BY_TAG.get(tag, cls.TABLE)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored elements; those of TABLE are indices."""
        return _DTYPES[self]

    @property
    def tag_bytes(self) -> int:
        """Bytes of the tag before the payload."""
        return 0 if self is Encoding.FP32_UNTAGGED else _TAG_BYTES

    def payload_bytes(self, count: int) -> int:
        """Bytes of `count` elements, the table included, alignment excluded."""
        return count * self.dtype.itemsize + (_TABLE_BYTES if self is Encoding.TABLE else 0)


_BY_TAG = {encoding.value: encoding for encoding in Encoding if encoding.value is not None}
_DTYPES: dict[Encoding, np.dtype[Any]] = {
    Encoding.FP32_UNTAGGED: np.dtype("<f4"),
    Encoding.FP32: np.dtype("<f4"),
    Encoding.FP32_RAW: np.dtype("<f4"),
    Encoding.FP16: np.dtype("<f2"),
    Encoding.INT8: np.dtype("i1"),
    Encoding.TABLE: np.dtype("u1"),
}


def _aligned(size_bytes: int) -> int:
    return (size_bytes + 3) // 4 * 4


@dataclass(frozen=True, slots=True)
class WeightArray:
    """Where one weight array lies in a .bin.

    Attributes:
        layer_index: index of its layer in `Model.layers`.
        name: "weight", "bias", ... as in `param_tools.schema`.
        shape: dimensions, outermost first, C order.
        encoding: how the elements are stored.
        offset_bytes: position of the payload, after the tag.
        stored_bytes: bytes of the payload, alignment padding excluded.
    """

    layer_index: int
    name: str
    shape: tuple[int, ...]
    encoding: Encoding
    offset_bytes: int
    stored_bytes: int

    @property
    def count(self) -> int:
        """Number of elements."""
        product = 1
        for extent in self.shape:
            product *= extent
        return product

    @property
    def begin_bytes(self) -> int:
        """Position of the tag, or of the payload where there is none."""
        return self.offset_bytes - self.encoding.tag_bytes

    @property
    def end_bytes(self) -> int:
        """Position after the padding, where the next array begins."""
        return self.offset_bytes + _aligned(self.stored_bytes)


def index_weights(
    model: Model, size_bytes: int, read_tag: Callable[[int], int], path: str | PathLike[str] | None = None
) -> tuple[tuple[WeightArray, ...], ...]:
    """Finds every array of a .bin.

    A layer of unknown type is taken to have no weights; the file's length then proves or refutes that.

    Args:
        model: the layers, in file order.
        size_bytes: length of the .bin.
        read_tag: offset -> the little-endian uint32 there; called for offsets inside the file only.
        path: named in errors.

    Returns:
        Per layer its arrays.

    Raises:
        ModelFormatError: the .bin is too short or too long for the model.
        UnsupportedLayerError: it does not fit and a layer of unknown type may be why.
    """
    try:
        return tuple(_index(model, size_bytes, read_tag, path))
    except ModelFormatError as error:
        unknown = next((layer for layer in model.layers if layer.type not in LAYERS), None)
        if unknown is None:
            raise
        raise UnsupportedLayerError(
            f"layer {unknown.name!r} (line {unknown.line}) has the unknown type {unknown.type!r}, and the .bin does "
            f"not fit a layer without weights: {error}",
            hint="only custom layers that keep no weights in the .bin can be followed",
        ) from error


def _index(
    model: Model, size_bytes: int, read_tag: Callable[[int], int], path: str | PathLike[str] | None
) -> Iterator[tuple[WeightArray, ...]]:
    offset = 0
    for index, layer in enumerate(model.layers):
        found = []
        for spec in array_specs(layer) if layer.type in LAYERS else ():
            encoding = Encoding.FP32_UNTAGGED
            if spec.tagged:
                if offset + _TAG_BYTES > size_bytes:
                    raise _truncated(layer, spec.name, offset + _TAG_BYTES, size_bytes, path)
                encoding = Encoding.of_tag(read_tag(offset))
            stored_bytes = encoding.payload_bytes(spec.count)
            array = WeightArray(index, spec.name, spec.dims, encoding, offset + encoding.tag_bytes, stored_bytes)
            offset = array.end_bytes
            if offset > size_bytes:
                raise _truncated(layer, spec.name, offset, size_bytes, path)
            found.append(array)
        yield tuple(found)
    if offset != size_bytes:
        raise ModelFormatError(
            f"{size_bytes - offset} bytes follow the last weight",
            path=path,
            offset_bytes=offset,
            hint="the .param and the .bin do not belong together",
        )


def _truncated(
    layer: Layer, name: str, needed: int, size_bytes: int, path: str | PathLike[str] | None
) -> ModelFormatError:
    return ModelFormatError(
        f"ends inside {name!r} of layer {layer.name!r}, which reaches to byte {needed}",
        path=path,
        offset_bytes=size_bytes,
        hint="the file is truncated or does not belong to the .param",
    )


class WeightFile:
    """A .bin opened for reading: an index now, the weights when they are viewed.

    Attributes:
        path: the file.
        size_bytes: its length.
        arrays: per layer its arrays; with a missing .bin all empty.
    """

    def __init__(self, path: Path, size_bytes: int, file: IO[bytes] | None) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self.arrays: tuple[tuple[WeightArray, ...], ...] = ()
        self._file = file
        self._map: mmap.mmap | None = None

    @classmethod
    def open(cls, model: Model, path: str | PathLike[str], *, missing_ok: bool = False) -> WeightFile:
        """Opens and indexes the .bin of `model`."""
        where = Path(path)
        try:
            file = open(where, "rb")  # noqa: SIM115 - lives as long as the WeightFile
        except FileNotFoundError as error:
            if missing_ok:
                weights = cls(where, 0, None)
                weights.arrays = tuple(() for _ in model.layers)
                return weights
            raise ModelFormatError(
                "the weights are missing", path=where, hint="put the .bin there or name it"
            ) from error
        except OSError as error:
            raise ModelFormatError(f"cannot be read: {error.strerror}", path=where) from error
        try:
            weights = cls(where, os.fstat(file.fileno()).st_size, file)
            weights.arrays = index_weights(model, weights.size_bytes, weights._read_tag, where)
        except BaseException:
            file.close()
            raise
        return weights

    def _read_tag(self, offset: int) -> int:
        assert self._file is not None
        return int.from_bytes(os.pread(self._file.fileno(), _TAG_BYTES, offset), "little")

    def view(self, array: WeightArray) -> npt.NDArray[Any]:
        """The stored elements, read-only and without a copy: float32, float16, int8, or uint8 indices of a TABLE."""
        offset = array.offset_bytes + (_TABLE_BYTES if array.encoding is Encoding.TABLE else 0)
        return np.frombuffer(self._mapped(), array.encoding.dtype, array.count, offset).reshape(array.shape)

    def table(self, array: WeightArray) -> npt.NDArray[np.float32]:
        """The 256 values that a TABLE array's indices stand for, read-only."""
        return np.frombuffer(self._mapped(), "<f4", TABLE_ENTRIES, array.offset_bytes)

    def read_float32(self, array: WeightArray) -> npt.NDArray[np.float32]:
        """The values as ncnn would widen them: a copy, or the view itself where it is float32 already.

        int8 values become floats unscaled, as their scales are arrays of their own.
        """
        stored = self.view(array)
        if array.encoding is Encoding.TABLE:
            values: npt.NDArray[np.float32] = self.table(array)[stored]
            return values
        return stored.astype(np.float32, copy=False)

    def stored(self, array: WeightArray) -> StoredArray:
        """The array as a writer takes it, over views: nothing is read yet."""
        table = self.table(array) if array.encoding is Encoding.TABLE else None
        return StoredArray(self.view(array), array.encoding, table)

    def release_pages(self) -> None:
        """Gives the pages read so far back to the kernel; views stay valid and read them again."""
        if self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED)

    def _mapped(self) -> mmap.mmap:
        if self._map is None:
            if self._file is None:
                raise ModelFormatError("the weights are missing", path=self.path, hint="put the .bin there or name it")
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._map

    def close(self) -> None:
        """Closes the file; the mapping goes when the last view of it does."""
        self._map = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> WeightFile:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array as it is to be stored.

    Attributes:
        values: elements of the encoding's type or convertible to it; indices for TABLE.
        encoding: how to store them.
        table: the 256 values of a TABLE.
    """

    values: npt.NDArray[Any]
    encoding: Encoding
    table: npt.NDArray[np.float32] | None = None


class WeightWriter:
    """Writes arrays one after the other in ncnn's layout: tag, payload, padding to 4 bytes.

    Args:
        file: binary file, positioned at the start.
        after_chunk: called after every few MiB; pass `WeightFile.release_pages` of the source to keep its
            pages out of this process.
    """

    def __init__(self, file: IO[bytes], *, after_chunk: Callable[[], None] | None = None) -> None:
        self._file = file
        self._after_chunk = after_chunk

    def write(self, values: npt.NDArray[Any], encoding: Encoding) -> None:
        """Appends an array; TABLE needs `write_stored`."""
        self.write_stored(StoredArray(values, encoding))

    def write_stored(self, array: StoredArray) -> None:
        """Appends an array with all it is stored with."""
        if array.encoding.value is not None:
            self._file.write(array.encoding.value.to_bytes(_TAG_BYTES, "little"))
        size_bytes = 0
        if array.encoding is Encoding.TABLE:
            if array.table is None or array.table.shape != (TABLE_ENTRIES,):
                raise ValueError(f"a TABLE array needs its {TABLE_ENTRIES} values")
            self._file.write(np.ascontiguousarray(array.table, "<f4").tobytes())
        for chunk in _chunks(array.values, array.encoding.dtype):
            self._file.write(chunk.data)
            size_bytes += chunk.nbytes
            if self._after_chunk is not None:
                self._after_chunk()
        self._file.write(bytes(_aligned(size_bytes) - size_bytes))


def _chunks(values: npt.NDArray[Any], dtype: np.dtype[Any]) -> Iterator[npt.NDArray[Any]]:
    """`values` as contiguous one-dimensional pieces of the stored type, a few MiB each."""
    if values.nbytes <= _CHUNK_BYTES or values.ndim == 0:
        yield np.ascontiguousarray(values, dtype).reshape(-1)
    elif values.ndim == 1 or values.nbytes // len(values) <= _CHUNK_BYTES:
        step = max(1, _CHUNK_BYTES * len(values) // values.nbytes)
        for begin in range(0, len(values), step):
            yield np.ascontiguousarray(values[begin : begin + step], dtype).reshape(-1)
    else:
        for row in values:
            yield from _chunks(row, dtype)
