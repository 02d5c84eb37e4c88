"""The one door to ncnn: nothing else in the package imports it.

The stock bindings crash on wrong calls. What is known about that lives here, behind functions that
cannot be called wrongly:

* `Layer.forward` is called by keyword: a positional Mat picks the list overload and dereferences NULL.
* The list overload copies its lists, so outputs are preallocated Mats of exactly the right layout.
* `ncnn.Mat(ndarray)` borrows memory without keeping the array alive: arrays are held beside the layer.
* A Mat over borrowed memory has no reference count, and `Net` dereferences it before in-place layers:
  inputs of a `Net` are cloned.
* `destroy_pipeline` runs before a layer is dropped: some layers leak their weights otherwise.
* A float where a layer reads an integer is ignored, and an array of integers read as floats gives their bits:
  params come typed.
* Packing a vector otherwise makes the target another name for the source: `convert` and `repack` copy.
* `Mat.create` keeps a preallocated output only if its allocator is the Option's; an allocator in Python is called
  with the interpreter locked, so layers that allocate in OpenMP threads get none, and it must not raise.
* Some layers keep what they allocate while loading, so an Option with allocators is for computing only.
* The bindings keep the interpreter lock; `unlocked` calls layers without it, once a process of its own has proved that
  to work. Nothing may raise in an allocator then: no C++ code would catch it.
* A Mat over a numpy array has its channels side by side, where ncnn's layers count on gaps: such arrays are copied.
"""

from flexnn_ncnn.runtime.native.allocators import SCRATCH_ALIGNMENT_BYTES, ScratchAllocator, may_call_back
from flexnn_ncnn.runtime.native.api import (
    array_of,
    copy_with,
    extracted,
    is_layer_type,
    is_mat,
    is_reader,
    mat_of,
    options_of,
    plain_net,
    read_from,
    relayout,
)
from flexnn_ncnn.runtime.native.build import has_fp16_arithmetic, has_threads
from flexnn_ncnn.runtime.native.capabilities import capabilities
from flexnn_ncnn.runtime.native.custom import CustomLayer
from flexnn_ncnn.runtime.native.layers import (
    LANES,
    LoadedLayer,
    ParamDict,
    make_option,
    make_params,
    ncnn_version,
    wanted_layout,
)
from flexnn_ncnn.runtime.native.mats import (
    Forget,
    HandOut,
    Mat,
    NcnnError,
    Option,
    array_view,
    blob_view,
    channels_of,
    convert,
    copy_blob,
    copy_of,
    data_address,
    empty_mat,
    fill_blob,
    layout_of,
    mat_from_array,
    mat_to_array,
    padded,
    repack,
    rows_of,
    same_memory,
    with_allocator,
)
from flexnn_ncnn.runtime.native.net import StockNet
from flexnn_ncnn.runtime.native.transformed import TransformedLayer, matrix_count, save_transformed

__all__ = [
    "LANES",
    "SCRATCH_ALIGNMENT_BYTES",
    "CustomLayer",
    "Forget",
    "HandOut",
    "LoadedLayer",
    "Mat",
    "NcnnError",
    "Option",
    "ParamDict",
    "ScratchAllocator",
    "StockNet",
    "TransformedLayer",
    "array_of",
    "array_view",
    "blob_view",
    "capabilities",
    "channels_of",
    "convert",
    "copy_blob",
    "copy_of",
    "copy_with",
    "data_address",
    "empty_mat",
    "extracted",
    "fill_blob",
    "has_fp16_arithmetic",
    "has_threads",
    "is_layer_type",
    "is_mat",
    "is_reader",
    "layout_of",
    "make_option",
    "make_params",
    "mat_from_array",
    "mat_of",
    "mat_to_array",
    "matrix_count",
    "may_call_back",
    "ncnn_version",
    "options_of",
    "padded",
    "plain_net",
    "read_from",
    "relayout",
    "repack",
    "rows_of",
    "same_memory",
    "save_transformed",
    "wanted_layout",
    "with_allocator",
]
