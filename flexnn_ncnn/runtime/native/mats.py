"""ncnn.Mat: views of memory of ours, layouts, conversions."""

from __future__ import annotations

import ctypes
import math
import mmap
from collections.abc import Callable
from typing import Any

import ncnn
import numpy as np
import numpy.typing as npt

from flexnn_ncnn.records.layout import OVERREAD_BYTES, BlobLayout
from param_tools.errors import FlexnnError

__all__ = [
    "Forget",
    "HandOut",
    "Mat",
    "NcnnError",
    "Option",
    "array_view",
    "blob_view",
    "channels_of",
    "convert",
    "copy_blob",
    "copy_of",
    "copy_out",
    "data_address",
    "empty_mat",
    "fill_blob",
    "layout_of",
    "mat_from_array",
    "mat_to_array",
    "padded",
    "repack",
    "rows_of",
    "same_memory",
    "with_allocator",
]

Mat = Any  # an ncnn.Mat
Option = Any  # an ncnn.Option
# told which addresses of a blob are not needed any more, from and to
Forget = Callable[[int, int], None]
HandOut = Callable[[Mat, bool, Forget | None], Any]
"""Makes of an output, and of whether its 16-bit lanes are bfloat16, what the caller gets; `mat_to_array` is one."""
Allocator = Any  # an ncnn.Allocator

_OWN_PAGES_FROM_BYTES = 64 * 1024
# a huge page: parts of one cannot be given back
COPIED_AT_ONCE_BYTES = 2 * 1024 * 1024
# Left to its default, ncnn starts a thread per core for a copy of a few kilobytes.
_SERIAL = ncnn.Option()
_SERIAL.num_threads = 1


class NcnnError(FlexnnError):
    """ncnn refused: a return code that is not 0, or nothing where something was asked for."""


def blob_view(
    buffer: npt.NDArray[np.uint8],
    offset_bytes: int,
    layout: BlobLayout,
    cstep: int | None = None,
    allocator: Allocator | None = None,
) -> Mat:
    """A Mat of `layout` over `buffer` from `offset_bytes` on; the caller keeps `buffer` alive.

    Args:
        buffer: contiguous bytes.
        offset_bytes: where the blob begins, a multiple of 16 (of 64 where elempack is 16).
        layout: the blob's layout.
        cstep: elements between channels, where the view is part of a larger blob.
        allocator: that of the Option layers compute with, or they would replace a blob they are to write to.

    Raises:
        NcnnError: the blob, with the bytes ncnn may read past it, does not fit into the buffer.
    """
    if offset_bytes < 0 or offset_bytes + layout.size_bytes + OVERREAD_BYTES > buffer.nbytes:
        raise NcnnError(f"a blob of {layout.size_bytes} bytes at {offset_bytes} does not fit {buffer.nbytes} bytes")
    mat = ncnn.Mat(buffer[offset_bytes : offset_bytes + layout.size_bytes])
    mat.dims, mat.w, mat.h, mat.d, mat.c = layout.dims, layout.w, layout.h, layout.d, layout.c
    mat.elemsize, mat.elempack = layout.elemsize, layout.elempack
    mat.cstep = layout.cstep if cstep is None else cstep
    mat.allocator = allocator
    return mat


def empty_mat() -> Mat:
    """A Mat that a layer gives memory of its own."""
    return ncnn.Mat()


def mat_from_array(array: npt.NDArray[Any]) -> Mat:
    """A Mat over `array`, which the caller keeps alive; a copy only where ncnn could not read it as it lies.

    ncnn begins every channel at a multiple of 16 bytes, and some layers count on it: Slice takes channels by that step,
    Eltwise loads aligned.

    Args:
        array: C-contiguous, 1 to 4 dimensions, outermost first (c, d, h, w); 1-, 2- or 4-byte items.
    """
    if not array.flags.c_contiguous or not 1 <= array.ndim <= 4:
        raise NcnnError(f"an array of {array.ndim} dimensions, contiguous or not, cannot be viewed as a Mat")
    mat = ncnn.Mat(array)
    return mat if mat.dims < 3 or mat.cstep == layout_of(mat).cstep else mat.clone()


def mat_to_array(mat: Mat, bf16: bool = False, forget: Forget | None = None) -> npt.NDArray[Any]:
    """A copy of a Mat's values as an unpacked numpy array (c, d, h, w without unused dimensions).

    Args:
        mat: any layout; 16-bit lanes are widened to float32.
        bf16: whether 16-bit lanes are bfloat16, not half precision.
        forget: called with each part of the blob that was copied.
    """
    if mat.elemsize // mat.elempack == 2:
        widen = ncnn.cast_bfloat16_to_float32 if bf16 else ncnn.cast_float16_to_float32
        mat = widen(mat, opt=_SERIAL)
        forget = None
    *extents, pack = array_view(mat).shape
    result = _caller_memory((extents[0] * pack, *extents[1:]), array_view(mat).dtype)
    copy_out(mat, result, forget)
    return result


def copy_out(mat: Mat, target: npt.NDArray[Any], forget: Forget | None = None) -> None:
    """Copy a blob's values, unpacked, a few megabytes at a time where somebody wants to know what is done.

    Args:
        mat: any layout.
        target: of the same type; its shape is the blob's without unused dimensions.
        forget: called with each part of the blob that was copied.
    """
    lanes = array_view(mat)
    extent, *_, pack = lanes.shape
    unpacked = target.reshape(extent, pack, *lanes.shape[1:-1])
    stride, address = lanes.strides[0], int(lanes.ctypes.data)
    rows = extent if forget is None else max(1, COPIED_AT_ONCE_BYTES // max(1, stride))
    for begin in range(0, extent, rows):
        end = min(begin + rows, extent)
        np.copyto(unpacked[begin:end], np.moveaxis(lanes[begin:end], -1, 1))
        if forget is not None:
            forget(address + begin * stride, address + end * stride)


def _caller_memory(shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Memory for what the caller keeps: in pages of its own where large, so as not to lie in the layers' way."""
    size_bytes = math.prod(shape) * dtype.itemsize
    if size_bytes < _OWN_PAGES_FROM_BYTES:
        return np.empty(shape, dtype)
    return np.frombuffer(mmap.mmap(-1, size_bytes), dtype).reshape(shape)


def layout_of(mat: Mat) -> BlobLayout:
    """The layout of a Mat."""
    return BlobLayout(mat.dims, mat.w, mat.h, mat.d, mat.c, mat.elemsize, mat.elempack)


def data_address(mat: Mat) -> int:
    """Address of a Mat's first byte, whatever its packing."""
    return ctypes.addressof(ctypes.c_char.from_buffer(_bytes_of(mat, 1)))  # a fifth of what numpy takes for it


def array_view(mat: Mat) -> npt.NDArray[Any]:
    """The memory of a Mat as numpy sees it, packed lanes as a last dimension; the Mat must outlive it.

    Returns:
        Shape (c, d, h, w, elempack) without unused dimensions, in the lane's dtype (int32 shows as float32).
    """
    elemsize, pack, w, h = mat.elemsize, mat.elempack, mat.w, mat.h
    channel_bytes, row_bytes, lane_bytes = mat.cstep * elemsize, w * elemsize, elemsize // pack
    # what numpy would find out by itself takes it ten times as long
    shape, strides = {
        1: ((w,), ()),
        2: ((h, w), (row_bytes,)),
        3: ((mat.c, h, w), (channel_bytes, row_bytes)),
        4: ((mat.c, mat.d, h, w), (channel_bytes, h * row_bytes, row_bytes)),
    }[mat.dims]
    all_bytes = mat.c * channel_bytes if mat.dims >= 3 else h * row_bytes
    strides = (*strides, elemsize, lane_bytes)
    view: npt.NDArray[Any] = np.ndarray((*shape, pack), _LANES[lane_bytes], _bytes_of(mat, all_bytes), 0, strides)
    return view


_LANES: dict[int, np.dtype[Any]] = {4: np.dtype(np.float32), 2: np.dtype(np.float16), 1: np.dtype(np.int8)}


def _bytes_of(mat: Mat, size_bytes: int) -> Mat:
    """The memory of a Mat as a row of bytes, whatever lies there; whoever has a buffer of it keeps it alive."""
    header = ncnn.Mat(mat)
    header.dims, header.w, header.h, header.d, header.c, header.cstep = 1, size_bytes, 1, 1, 1, size_bytes
    header.elemsize, header.elempack = 1, 1
    return header


def convert(source: Mat, target: Mat, option: Option) -> None:
    """Repack, cast or just copy `source` into `target`, which has the wanted layout already."""
    if layout_of(source) == layout_of(target):
        copy_blob(source, target)
        return
    target = with_allocator(target, None)
    packed = source
    if source.elemsize // source.elempack != target.elemsize // target.elempack:
        cast = _CASTS[(source.elemsize // source.elempack, bool(option.use_bf16_storage))]
        packed = target if source.elempack == target.elempack else ncnn.Mat()
        cast(source, packed, option)
    if packed.elempack != target.elempack:
        _repack(packed, target, option)


_CASTS = {
    (4, False): ncnn.cast_float32_to_float16,
    (4, True): ncnn.cast_float32_to_bfloat16,
    (2, False): ncnn.cast_float16_to_float32,
    (2, True): ncnn.cast_bfloat16_to_float32,
}


def channels_of(mat: Mat, begin: int, end: int) -> Mat:
    """The channels [begin, end) of a 3- or 4-d blob, in its memory; multiples of its elempack."""
    pack = mat.elempack
    if mat.dims < 3 or begin % pack or end % pack or not 0 <= begin < end <= mat.c * pack:
        raise NcnnError(f"a blob of {layout_of(mat)} has no channels [{begin}, {end}) of its own")
    return mat.channel_range(begin // pack, (end - begin) // pack)


def rows_of(mat: Mat, begin: int, end: int) -> Mat:
    """The rows [begin, end) of every channel of a 3-d blob, in its memory."""
    if mat.dims != 3 or not 0 <= begin < end <= mat.h:
        raise NcnnError(f"a blob of {layout_of(mat)} has no rows [{begin}, {end})")
    rows = ncnn.Mat(array_view(mat)[:, begin:end])
    rows.dims, rows.w, rows.h, rows.d, rows.c = 3, mat.w, end - begin, 1, mat.c
    rows.elemsize, rows.elempack, rows.cstep = mat.elemsize, mat.elempack, mat.cstep
    rows.allocator = mat.allocator
    return rows


def padded(mat: Mat, above: int, below: int, left: int, right: int, value: float, option: Option) -> Mat:
    """A copy of a 3-d blob with constant padding around every channel."""
    constant = 0  # BorderType: BORDER_CONSTANT
    return ncnn.copy_make_border(
        src=mat, top=above, bottom=below, left=left, right=right, type=constant, v=value, opt=option
    )


def copy_of(mat: Mat) -> Mat:
    """A copy in memory that the blob's allocator gives, every channel aligned."""
    return mat.clone(mat.allocator)


def same_memory(mat: Mat) -> Mat:
    """Another Mat over the same memory: ncnn may let go of the one it is given."""
    return ncnn.Mat(mat)


def with_allocator(mat: Mat, allocator: Allocator | None) -> Mat:
    """The same memory for an Option with this allocator, or none: ncnn would replace a target that has another one."""
    same = ncnn.Mat(mat)
    same.allocator = allocator
    return same


def _repack(source: Mat, target: Mat, option: Option) -> None:
    if source.dims > 1:
        target = with_allocator(target, None)
        ncnn.convert_packing(source, target, target.elempack, option)
        return
    # A vector is the same bytes however it is packed: ncnn would make the target another name for the source.
    np.copyto(array_view(target).reshape(-1), array_view(source).reshape(-1))


def repack(source: Mat, target: Mat) -> None:
    """Copy a blob into one of the same values that packs them differently."""
    _repack(source, target, _SERIAL)


def fill_blob(mat: Mat, values: npt.NDArray[Any]) -> None:
    """Write flat, unpacked values of 4 bytes into an unpacked blob."""
    view = array_view(mat)
    np.copyto(view, values.view(np.float32).reshape(view.shape))


def copy_blob(source: Mat, target: Mat) -> None:
    """Copy a blob's values into a Mat of the same layout."""
    np.copyto(array_view(target), array_view(source))
