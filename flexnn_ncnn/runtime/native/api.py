"""What people hold in their hands when they use ncnn: Net, Option, Mat and DataReader, taken and given as they are."""

from __future__ import annotations

import ctypes
from typing import Any

import ncnn
import numpy as np
import numpy.typing as npt

from flexnn_ncnn.errors import UsageError
from flexnn_ncnn.records.layout import BlobLayout
from flexnn_ncnn.records.options import SWITCHES, RunOptions
from flexnn_ncnn.runtime.memory import heap
from flexnn_ncnn.runtime.native.mats import (
    Forget,
    Mat,
    NcnnError,
    Option,
    array_view,
    convert,
    copy_out,
    layout_of,
    mat_from_array,
    mat_to_array,
)

__all__ = [
    "array_of",
    "copy_with",
    "extracted",
    "is_layer_type",
    "is_mat",
    "is_reader",
    "mat_of",
    "options_of",
    "plain_net",
    "read_from",
    "relayout",
]

_capsule_of = ctypes.pythonapi.PyCapsule_New
_capsule_of.restype, _capsule_of.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


def plain_net() -> Any:
    """A new, empty ncnn.Net."""
    return ncnn.Net()


def is_layer_type(name: str) -> bool:
    """Whether the installed ncnn has layers of this type."""
    return bool(ncnn.layer_to_index(name) != -1)


def is_mat(value: object) -> bool:
    """Whether `value` is an ncnn.Mat."""
    return isinstance(value, ncnn.Mat)


def is_reader(value: object) -> bool:
    """Whether `value` is an ncnn.DataReader."""
    return isinstance(value, ncnn.DataReader)


def read_from(reader: Any, size_bytes: int) -> npt.NDArray[np.uint8]:
    """The next bytes of an ncnn.DataReader; fewer where it ends.

    Raises:
        Exception: whatever a reader written in Python raises.
    """
    buffer = np.empty(size_bytes, np.uint8)
    if not size_bytes:
        return buffer
    count = reader.read(buf=_capsule_of(buffer.ctypes.data, None, None), size=size_bytes)
    if not 0 <= count <= size_bytes:
        raise NcnnError(f"the DataReader read {count} bytes where {size_bytes} were asked for")
    return buffer[:count]


def options_of(option: Option) -> RunOptions:
    """The part of an ncnn.Option that decides results, as ncnn reads it on a CPU.

    Half precision is a matter of `use_fp16_storage` and `use_fp16_arithmetic`, bfloat16 of `use_bf16_storage`; the
    fields for packed storage, int8 storage, subgroups and tensors are for GPUs.

    Args:
        option: an ncnn.Option.

    Raises:
        UsageError: it asks for a GPU, or for memory that is not planned.
    """
    if option.use_vulkan_compute:
        raise UsageError("a budget is about main memory, and no GPU is used under one", hint="use Net(budget=None)")
    if option.kvcache_allocator is not None:
        raise UsageError("a cache of keys and values cannot have an allocator of its own under a budget")
    off = tuple(name for name in SWITCHES if not getattr(option, name))
    fp16 = bool(option.use_fp16_storage)
    return RunOptions(
        num_threads=max(1, option.num_threads),
        fp16=fp16,
        bf16=bool(option.use_bf16_storage),
        packing=bool(option.use_packing_layout),
        off=off if fp16 else tuple(name for name in off if name != "use_fp16_arithmetic"),
    )


def array_of(mat: Mat, bf16: bool = False) -> npt.NDArray[Any]:
    """The values of a Mat as an unpacked numpy array: a view of its memory where that is one, else a copy.

    Args:
        mat: any layout; keep it alive as long as the array.
        bf16: whether 16-bit lanes are bfloat16, not half precision.
    """
    layout = layout_of(mat)
    whole = mat.dims < 3 or mat.cstep == layout.w * layout.h * layout.d
    if layout.elempack != 1 or layout.elemsize != 4 or not whole:
        return mat_to_array(mat, bf16)
    return array_view(mat).reshape(layout.numpy_shape)


def extracted(mat: Mat, bf16: bool = False, forget: Forget | None = None) -> Mat:
    """A blob as `Extractor.extract` gives it: a Mat of its own, unpacked, 16- and 8-bit values widened to float32.

    Args:
        mat: the blob.
        bf16: whether 16-bit values are bfloat16.
        forget: called with each part of the blob that was copied.
    """
    layout = layout_of(mat).with_elempack(1).with_lane_bytes(4)
    target = _new_mat(layout)
    if mat.elemsize == mat.elempack:  # int8
        np.copyto(array_view(target).reshape(layout.numpy_shape), mat_to_array(mat))
    elif forget is not None and mat.elemsize == 4 * mat.elempack:
        copy_out(mat, array_view(target).reshape(layout.numpy_shape), forget)
    else:
        convert(mat, target, _option(bf16))
    return target


def relayout(mat: Mat, layout: BlobLayout, bf16: bool = False) -> Mat:
    """A float32, unpacked blob in another layout of the same values: what `extracted` undid."""
    if layout.lane_bytes == 1:
        layout = layout.with_lane_bytes(4)
    target = _new_mat(layout)
    convert(mat, target, _option(bf16))
    return target


def mat_of(array: npt.NDArray[Any]) -> Mat:
    """A Mat of its own with the values of an array: 4-byte items stay as they are, others become float32."""
    held = np.ascontiguousarray(array, array.dtype if array.dtype in (np.float32, np.int32) else np.float32)
    return mat_from_array(held).clone()  # not before `held` is bound: a Mat does not keep its array


def copy_with(mat: Mat, allocator: Any) -> Mat:
    """A copy in memory of an ncnn.Allocator."""
    return mat.clone(allocator)


def _option(bf16: bool) -> Option:
    option = ncnn.Option()
    option.num_threads, option.use_bf16_storage = 1, bf16
    return option


def _new_mat(layout: BlobLayout) -> Mat:
    """A Mat of ncnn's own memory: in pages of its own where large, so as not to lie in the layers' way."""
    shape = {1: (layout.w,), 2: (layout.w, layout.h), 3: (layout.w, layout.h, layout.c)}.get(
        layout.dims, (layout.w, layout.h, layout.d, layout.c)
    )
    with heap.mapped_alone():
        mat = ncnn.Mat(shape, elemsize=layout.elemsize, elempack=layout.elempack)
    if mat.empty():
        raise NcnnError(f"no memory for a blob of {layout.size_bytes} bytes")
    return mat
