"""A .bin as an index of arrays with lazy views, and a writer of the same layout.

A .bin has no table of contents: its arrays follow each other in layer order, and only the layers'
parameters say how many elements each has. `index_weights` computes all offsets up front and proves that
they end at the file's last byte, so that nothing later can read outside it.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from param_tools.encoding import TABLE_ENTRIES, Encoding, widen
from param_tools.errors import ModelFormatError, UnsupportedLayerError
from param_tools.files import open_regular
from param_tools.graph import Layer, Model
from param_tools.schema import LAYERS, ArraySpec, array_specs
from param_tools.weight_writer import StoredArray, WeightWriter

__all__ = ["Encoding", "StoredArray", "WeightArray", "WeightFile", "WeightWriter", "index_weights"]

_TAG_BYTES = 4
_Path = str | PathLike[str]


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
        return math.prod(self.shape)

    @property
    def begin_bytes(self) -> int:
        """Position of the tag, or of the payload where there is none."""
        return self.offset_bytes - self.encoding.tag_bytes

    @property
    def end_bytes(self) -> int:
        """Position after the padding, where the next array begins."""
        return self.offset_bytes + self.stored_bytes + Encoding.padding_bytes(self.stored_bytes)


def index_weights(
    model: Model, size_bytes: int, read_tag: Callable[[int], int], path: _Path | None = None
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
            f"not fit a layer without weights: {error.message}",
            hint="only custom layers that keep no weights in the .bin can be followed",
        ) from error


def _index(
    model: Model, size_bytes: int, read_tag: Callable[[int], int], path: _Path | None
) -> Iterator[tuple[WeightArray, ...]]:
    offset = 0
    for index, layer in enumerate(model.layers):
        found = []
        for spec in array_specs(layer) if layer.type in LAYERS else ():
            if spec.tagged and offset + _TAG_BYTES > size_bytes:
                raise _truncated(layer, spec, offset + _TAG_BYTES, size_bytes, path)
            encoding = _encoding(spec, read_tag, offset)
            if encoding is Encoding.INT8 and not spec.int8:
                raise ModelFormatError(
                    f"{spec.name!r} of layer {layer.name!r} is int8, but the layer is not quantised",
                    path=path,
                    offset_bytes=offset,
                    hint="the .param and the .bin do not belong together",
                )
            stored_bytes = encoding.payload_bytes(spec.count)
            array = WeightArray(index, spec.name, spec.dims, encoding, offset + encoding.tag_bytes, stored_bytes)
            if array.end_bytes > size_bytes:
                raise _truncated(layer, spec, array.end_bytes, size_bytes, path)
            offset = array.end_bytes
            found.append(array)
        yield tuple(found)
    if offset != size_bytes:
        raise ModelFormatError(
            f"{size_bytes - offset} bytes follow the last weight",
            path=path,
            offset_bytes=offset,
            hint="the .param and the .bin do not belong together",
        )


def _encoding(spec: ArraySpec, read_tag: Callable[[int], int], offset: int) -> Encoding:
    if not spec.tagged:
        return Encoding.INT8_UNTAGGED if spec.packed else Encoding.FP32_UNTAGGED
    return Encoding.of_tag(read_tag(offset))


def _truncated(layer: Layer, spec: ArraySpec, needed: int, size_bytes: int, path: _Path | None) -> ModelFormatError:
    return ModelFormatError(
        f"ends inside {spec.name!r} of layer {layer.name!r}, which reaches to byte {needed}",
        path=path,
        offset_bytes=size_bytes,
        hint="the file is cut off or does not belong to the .param",
    )


class WeightFile:
    """A .bin opened for reading: an index now, the weights when they are viewed.

    Attributes:
        path: the file.
        size_bytes: its length.
        arrays: per layer its arrays; with a missing .bin all empty.
    """

    def __init__(
        self, path: Path, size_bytes: int, file: IO[bytes] | None, arrays: tuple[tuple[WeightArray, ...], ...]
    ) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self.arrays = arrays
        self._file = file
        self._map: mmap.mmap | None = None

    @classmethod
    def open(cls, model: Model, path: _Path, *, missing_ok: bool = False) -> WeightFile:
        """Opens and indexes the .bin of `model`.

        Args:
            model: its layers say what the file holds.
            path: the file.
            missing_ok: without a file, give a `WeightFile` of no arrays.

        Raises:
            ModelFormatError: no file, or one that does not fit the model.
            UnsupportedLayerError: see `index_weights`.
        """
        where = Path(path)
        try:
            file = open_regular(where)
        except FileNotFoundError as error:
            if missing_ok:
                return cls(where, 0, None, tuple(() for _ in model.layers))
            raise _missing(where) from error
        try:
            size_bytes = os.fstat(file.fileno()).st_size

            def read_tag(offset: int) -> int:
                file.seek(offset)
                return int.from_bytes(file.read(_TAG_BYTES), "little")

            return cls(where, size_bytes, file, index_weights(model, size_bytes, read_tag, where))
        except BaseException:
            file.close()
            raise

    def of_layers(self, indices: Sequence[int]) -> WeightFile:
        """The same file, which this object lets go of, as the weights of some of the layers.

        Args:
            indices: of the layers, in their new order; -1 for a layer without weights.
        """
        arrays = tuple(
            tuple(replace(array, layer_index=new) for array in self.arrays[old]) if old >= 0 else ()
            for new, old in enumerate(indices)
        )
        file, self._file = self._file, None
        return WeightFile(self.path, self.size_bytes, file, arrays)

    def seen_as(self, arrays: tuple[tuple[WeightArray, ...], ...]) -> WeightFile:
        """The same file, which stays this object's to close, as the weights of other layers.

        Args:
            arrays: per layer its arrays.
        """
        return WeightFile(self.path, self.size_bytes, self._file, arrays)

    def view(self, array: WeightArray) -> npt.NDArray[Any]:
        """The stored elements without a copy, read-only, in `array.encoding.dtype` and `array.shape`."""
        offset = array.offset_bytes + (TABLE_ENTRIES * 4 if array.encoding is Encoding.TABLE else 0)
        return np.frombuffer(self._mapped(), array.encoding.dtype, array.count, offset).reshape(array.shape)

    def table(self, array: WeightArray) -> npt.NDArray[np.float32]:
        """The 256 values that the indices of a TABLE stand for, read-only."""
        return np.frombuffer(self._mapped(), "<f4", TABLE_ENTRIES, array.offset_bytes)

    def read_float32(self, array: WeightArray) -> npt.NDArray[np.float32]:
        """The values as ncnn widens them: a copy, or the view itself where it is float32 already.

        int8 values become floats unscaled, as their scales are arrays of their own.
        """
        table = self.table(array) if array.encoding is Encoding.TABLE else None
        return widen(self.view(array), array.encoding, table)

    def stored(self, array: WeightArray) -> StoredArray:
        """The array as a writer takes it, over views: nothing is read yet."""
        if array.encoding is not Encoding.TABLE:
            return StoredArray(self.view(array), array.encoding)
        tag = int.from_bytes(self._mapped()[array.begin_bytes : array.offset_bytes], "little")
        return StoredArray(self.view(array), array.encoding, self.table(array), tag)

    def release_pages(self) -> None:
        """Gives the pages read so far back to the kernel; views stay valid and read them again."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def _mapped(self) -> mmap.mmap:
        if self._file is None:
            raise _missing(self.path)
        if os.fstat(self._file.fileno()).st_size != self.size_bytes:  # reading past its end would kill us
            raise ModelFormatError("the file changed its length while it was open", path=self.path)
        if self._map is None:
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


def _missing(path: Path) -> ModelFormatError:
    return ModelFormatError("the weights are missing", path=path, hint="put the .bin there, or name it")
