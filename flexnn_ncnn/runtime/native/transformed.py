"""Transformed weights in files: made once, used in place by every later load (patches/)."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from functools import cache
from itertools import zip_longest
from typing import Any

import ncnn
import numpy as np
import numpy.typing as npt

from flexnn_ncnn.runtime.native.layers import LoadedLayer, ParamDict
from flexnn_ncnn.runtime.native.mats import NcnnError, Option

__all__ = ["TransformedLayer", "matrix_count", "save_transformed"]

_SEVERAL_MATRICES = {"MultiHeadAttention": 4}
_SMALLEST_STAND_IN_BYTES = 1024 * 1024


def matrix_count(layer_type: str) -> int:
    """How many arrays of a layer, all as large as its first, are stored in one image."""
    return _SEVERAL_MATRICES.get(layer_type, 1)


def save_transformed(
    layer_type: str,
    params: ParamDict,
    arrays: Sequence[npt.NDArray[Any]],
    option: Option,
    path: str | os.PathLike[str],
) -> None:
    """Write what a kernel makes of a layer's weights.

    Args:
        layer_type, params, arrays: as for `LoadedLayer`.
        option: of `make_option`; it is used for nothing else afterwards.
        path: a new file.

    Raises:
        NcnnError: ncnn refuses the layer, stores nothing for it, or cannot write.
    """
    weights = option.transformed_weights = ncnn.TransformedWeights()
    LoadedLayer(layer_type, params, arrays, option).close()
    if weights.count != matrix_count(layer_type):
        raise NcnnError(f"ncnn stores no transformed weights of a {layer_type}")
    if weights.save(os.fspath(path)) != 0:
        raise NcnnError(f"{os.fspath(path)}: ncnn cannot write transformed weights", hint="is the disk full?")


class TransformedLayer(LoadedLayer):
    """A layer whose large weights are stored as its kernel wants them.

    Args:
        layer_type, params, option, name, run_option: as for `LoadedLayer`; the option is changed, and no other thread
            may load with it meanwhile.
        image: of `save_transformed`, for the same layer and option.
        count: elements of each array that the image stands for, the layer's first.
        rest: the other arrays.

    Raises:
        NcnnError: the image is not this layer's, or another machine's.
    """

    __slots__ = ()

    def __init__(
        self,
        layer_type: str,
        params: ParamDict,
        image: npt.NDArray[np.int8],
        count: int,
        rest: Sequence[npt.NDArray[Any]],
        option: Option,
        name: str = "",
        run_option: Option | None = None,
    ) -> None:
        weights = ncnn.TransformedWeights()
        if weights.load(ncnn.DataReaderFromBuffer(image)) != 0:
            raise NcnnError(f"layer {name!r}: its transformed weights are damaged", hint=_WAY_OUT)
        option.transformed_weights = weights
        try:
            matrices = [_stand_in(count)] * matrix_count(layer_type)
            # a bias follows each matrix
            arrays = [array for pair in zip_longest(matrices, rest) for array in pair if array is not None]
            super().__init__(layer_type, params, arrays, option, name, run_option)
        finally:
            option.transformed_weights = None
        if weights.reused != matrix_count(layer_type):
            self.close()
            raise NcnnError(f"layer {name!r}: its transformed weights are of another machine or option", hint=_WAY_OUT)
        self._keep_alive = [weights, image, *rest]

    def release_raw(self) -> None:
        """Nothing to do: there are none."""


_WAY_OUT = "clear the cache folder's plans: they are made again"


def _stand_in(count: int) -> npt.NDArray[np.float32]:
    """An array of the right size that nobody reads: address space without memory."""
    size_bytes = max(_SMALLEST_STAND_IN_BYTES, 1 << (4 * count - 1).bit_length())
    return _untouched(size_bytes)[:count]


@cache
def _untouched(size_bytes: int) -> npt.NDArray[np.float32]:
    return np.frombuffer(mmap.mmap(-1, size_bytes, prot=mmap.PROT_READ), np.float32)
