"""The shapes stock ncnn really makes, for comparison with inference."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping

import ncnn
import numpy as np
import numpy.typing as npt

__all__ = ["stock_shapes"]

_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


class _Zeros(ncnn.DataReader):
    """Weights without a file: every tag says fp32, every value is zero."""

    def read(self, buffer: object, size: int) -> int:
        ctypes.memset(_pointer(buffer, None), 0, size)
        return size


def stock_shapes(
    param: str, inputs: Mapping[str, npt.NDArray[np.generic]], blobs: Iterable[str]
) -> dict[str, tuple[int, ...] | None]:
    """Runs a .param in stock ncnn on zero weights; blob -> its shape, or None where ncnn reports an error."""
    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = net.opt.use_winograd_convolution = False
    net.opt.num_threads = 1
    if net.load_param_mem(param) != 0 or net.load_model(_Zeros()) != 0:
        raise RuntimeError("stock ncnn refuses the model")
    extractor = net.create_extractor()
    extractor.set_light_mode(False)
    for blob, values in inputs.items():
        extractor.input(blob, ncnn.Mat(values).clone())
    found: dict[str, tuple[int, ...] | None] = {}
    for blob in blobs:
        status, mat = extractor.extract(blob)
        found[blob] = np.array(mat).shape if status == 0 and mat.dims > 0 else None
    return found
