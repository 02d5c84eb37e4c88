"""What the caller feeds, checked against what was planned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from flexnn_ncnn.errors import InputError
from flexnn_ncnn.records.layout import BlobLayout

__all__ = ["checked_inputs"]


def checked_inputs(
    planned: Iterable[tuple[str, BlobLayout]], inputs: Mapping[str, npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    """The arrays to feed, contiguous, in the planned order.

    Raises:
        InputError: an input is missing, unknown, or has another shape or dtype than planned.
    """
    arrays = {blob: _checked(blob, layout, inputs) for blob, layout in planned}
    for name in inputs:
        if name not in arrays:
            raise InputError(f"the network has no input blob {name!r}", hint=f"it has {', '.join(arrays)}")
    return arrays


def _checked(blob: str, layout: BlobLayout, inputs: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    if blob not in inputs:
        raise InputError(f"no input is given for blob {blob!r}")
    array = np.ascontiguousarray(inputs[blob])
    if array.shape != layout.numpy_shape or array.itemsize != 4:
        raise InputError(
            f"input {blob!r} is {array.dtype} {array.shape}, planned for 4-byte {layout.numpy_shape}",
            hint="give that shape, or plan for yours",
        )
    return array
